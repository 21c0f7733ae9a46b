"""The search: a space (pure), rules for stopping (pure), Ray Tune (a shell), and what comes of it."""

from raykd.search.sweeping import SweepResult, sweep

__all__ = ["SweepResult", "sweep"]
