"""Ray Tune shell: one-worker trials as plain Tune functions."""
