"""Episodes rolled side by side: groups of one fixed width on the processes of a crew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

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
_ROLLING = ("gymnasium", "torch")
"""Modules of a process that rolls, imported before the time of its first group counts."""
Result = TypeVar("Result")


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
    done = in_groups(
        crew,
        roll_group,
        [(one,) for one in wanted],
        resources=resources,
        runners=runners,
        patience_s=patience_s,
        limit_s=limit_s,
        tell=tell,
    )
    return [joined(parts) for parts in done]


def in_groups(
    crew: Crew,
    work: Callable[..., Result],
    given: Sequence[tuple[Any, ...]],
    *,
    resources: Mapping[str, float],
    runners: int,
    patience_s: float,
    limit_s: float,
    tell: Callable[[int, int], None] | None = None,
) -> list[list[Result]]:
    """What a piece of work makes of each group of episodes: for each of what is wanted its groups, in order.

    Args:
        crew: whose processes roll.
        work: a function of a module, `work(rolling, *more, seeds)`.
        given: what is wanted, a `Rolling` first and then whatever else the work takes.
        resources: as of `roll_side_by_side`, as all that follow.
        runners: processes at a time.
        patience_s: how long the first process may take to start.
        limit_s: how long a group may take.
        tell: is called with the groups done, and their number.

    Raises:
        RaykdError: as of `roll_side_by_side`.
    """
    groups = [(index, own) for index, one in enumerate(given) for own in groups_of(one[0].seeds)]
    pieces = [(*given[index], seeds) for index, seeds in groups]

    def late(piece: int, where: Any) -> RolloutError:
        rolling, seeds = pieces[piece][0], pieces[piece][-1]
        environment, seed, step = where or (rolling.environment.id, seeds[0], -1)
        least = "" if where else f" or another of the {len(seeds)} seeds of its group"
        what = f"its group had not ended after {limit_s:g} s, each time{least}; it hangs, or needs a larger "
        return RolloutError(environment, seed, step, f"{what}cluster.rollouts.group_timeout_s")

    done = crew.each(
        work,
        pieces,
        resources,
        runners,
        patience_s=patience_s,
        tell=None if tell is None else lambda count: tell(count, len(pieces)),
        limit=Limit(limit_s, under_way, late, (work.__module__, *_ROLLING)),
    )
    return [
        [part for (own, _), part in zip(groups, done, strict=True) if own == index]
        for index in range(len(given))
    ]


def groups_of(seeds: Sequence[int]) -> list[tuple[int, ...]]:
    """Seeds in groups of the one fixed width, in their order."""
    return [tuple(seeds[start : start + WIDTH]) for start in range(0, len(seeds), WIDTH)]


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
