"""Evaluation: a policy in closed loop with the simulated robot."""
