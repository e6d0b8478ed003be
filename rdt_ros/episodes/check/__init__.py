"""Tells good episodes from bad ones before they are trained on."""
