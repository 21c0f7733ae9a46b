"""What a recipe will cost, known before anything runs: teacher passes, bytes, hours; and whether it can run at all."""

from raykd.forecast.planning import Plan, plan

__all__ = ["Plan", "plan"]
