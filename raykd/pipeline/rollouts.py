"""Episodes rolled side by side: groups of one fixed width on the processes of a crew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raykd.config.environments import Environment
from raykd.control.rolling import (
    Episodes,
    Policy,
    PrivilegedPolicy,
    RolloutError,
    joined,
    roll,
    under_way,
)
from raykd.runtime import Crew, Limit

WIDTH = 16
"""Episodes of a group: what one process rolls at a time, however many processes there are."""
_TRIES = 3


@dataclass(frozen=True, eq=False)
class Rolling:
    """Episodes that are wanted: the arguments of `roll`."""

    environment: Environment
    policy: Policy | PrivilegedPolicy
    seeds: tuple[int, ...]
    privileged: Mapping[str, str] = field(default_factory=dict)


def roll_side_by_side(
    crew: Crew,
    wanted: Sequence[Rolling],
    *,
    resources: Mapping[str, float],
    runners: int,
    patience_s: float,
    limit_s: float,
    tell: Callable[[int, int], None] | None = None,
) -> list[Episodes]:
    """What is wanted, in its order; the same episodes whatever the number of runners.

    A group whose environment raises is tried again, as is one whose process is lost or takes too long.

    Args:
        crew: whose processes roll.
        wanted: at least one seed each.
        resources: of each process, by Ray's names.
        runners: processes at a time.
        patience_s: how long the first process may take to start.
        limit_s: how long a group of at most `WIDTH` episodes may take.
        tell: is called with the groups done, and their number.

    Raises:
        InputError: an environment cannot be made.
        RolloutError: an environment or a policy failed each time; names environment, seed and step.
        TrainingError: no process started in time, or processes were lost again and again.
    """
    groups = [
        (index, one.seeds[start : start + WIDTH])
        for index, one in enumerate(wanted)
        for start in range(0, len(one.seeds), WIDTH)
    ]
    given = [(wanted[index], seeds) for index, seeds in groups]

    def late(piece: int, where: Any) -> RolloutError:
        rolling, seeds = given[piece]
        environment, seed, step = where or (rolling.environment.id, seeds[0], -1)
        least = "" if where else f" or another of the {len(seeds)} seeds of its group"
        what = f"its group had not ended after {limit_s:g} s, each time{least}; it hangs, or needs a larger "
        return RolloutError(environment, seed, step, f"{what}cluster.rollouts.group_timeout_s")

    done = crew.each(
        roll_group,
        given,
        resources,
        runners,
        patience_s=patience_s,
        tell=None if tell is None else lambda count: tell(count, len(given)),
        limit=Limit(limit_s, under_way, late, (__name__, "gymnasium")),
    )
    return [
        joined([part for (own, _), part in zip(groups, done, strict=True) if own == index])
        for index in range(len(wanted))
    ]


def roll_group(rolling: Rolling, seeds: Sequence[int]) -> Episodes:
    """One group, in this process; tried again where it fails.

    Raises:
        RolloutError: it failed each time.
    """
    for left in reversed(range(_TRIES)):
        try:
            return roll(
                rolling.environment,
                rolling.policy,
                seeds,
                width=WIDTH,
                privileged=rolling.privileged,
            )
        except RolloutError as error:
            if not left:
                told = f"{error.what} ({_TRIES} times)"
                raise RolloutError(error.environment, error.seed, error.step, told) from error
    raise AssertionError("the last try returns or raises")
