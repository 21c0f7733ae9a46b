"""Policies and environments: how one acts in the other, on one process; see `raykd.pipeline.rollouts` for many."""

from raykd.control.environments import Spaces, fingerprint, make, spaces
from raykd.control.rolling import Episodes, Policy, RolloutError, roll

__all__ = [
    "Episodes",
    "Policy",
    "RolloutError",
    "Spaces",
    "fingerprint",
    "make",
    "roll",
    "spaces",
]
