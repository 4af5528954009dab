"""Measurements of the running suite, as ratios to floors taken in the same run: machines are noisy."""
