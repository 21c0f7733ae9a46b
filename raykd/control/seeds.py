"""Seeds of episodes, derived from one seed by what the episodes are for: no two uses share one."""

from __future__ import annotations

from raykd.seeding import derive


def episode_seeds(seed: int, part: str, count: int, start: int = 0) -> tuple[int, ...]:
    """Seeds of the episodes `start` to `start + count − 1` of a part: `train`, `validation`, `test`, `evaluate`, ..."""
    return tuple(derive(seed, "episodes", part, index) for index in range(start, start + count))
