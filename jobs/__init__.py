"""Thin jobs on top of raykd, the same locally and under `ray job submit`."""
