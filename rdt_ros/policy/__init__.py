"""Policies: from the last Observations to the next 64 actions."""
