"""Continuous actions: a Gaussian of them in each state."""
