"""Whether the store is filled before students train or while the first one does: `targets.mode: auto`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raykd.pipeline.placement import Mode, Placement

WORTH_S = 30.0
"""A fill that takes less is done ahead: then the first student has no teachers beside it."""


@dataclass(frozen=True)
class FillEstimate:
    """What a fill will take, once the teachers are loaded.

    Attributes:
        samples: teacher -> answers that the store lacks, over samples and views.
        rates: teacher -> samples/s of all its replicas, measured on a batch.
    """

    samples: Mapping[str, int]
    rates: Mapping[str, float]

    @property
    def seconds(self) -> dict[str, float]:
        """Teacher -> how long it will take; teachers work side by side."""
        return {name: count / self.rates[name] for name, count in self.samples.items()}


def choose_mode(placement: Placement, outlook: FillEstimate) -> tuple[Mode, str]:
    """The mode, and why.

    Args:
        placement: what was decided before the teachers' speed was known.
        outlook: what a fill will take.
    """
    if placement.mode != "stored" or not placement.overlaps or not outlook.samples:
        return placement.mode, placement.reason
    seconds = outlook.seconds
    slowest = max(seconds, key=lambda name: seconds[name])
    cost = (
        f"scoring takes teacher {slowest!r} about {seconds[slowest]:.0f} s "
        f"({outlook.samples[slowest]:,} samples at {outlook.rates[slowest]:,.0f} a second)"
    )
    if seconds[slowest] < WORTH_S:
        return "stored", f"{placement.reason}; {cost}, less than {WORTH_S:.0f} s: done ahead"
    return (
        "write_through",
        f"{cost}; students and teachers have cores and GPUs of their own, so the first student trains "
        "meanwhile, and all others read",
    )
