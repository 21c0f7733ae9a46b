"""`stages:`: the settings of one stage; `raykd.config.chain` makes recipes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from raykd.config.base import Count, Json, Name, Settings, Unit
from raykd.errors import InputError, Problem

DIRECT, LONGER = "direct", "longer"
STAGE_CONTROLS = (DIRECT, LONGER)
"""Controls of a chain: the last student without the stages before it, with its own updates and with those of all."""
CLONING = "cloning"
"""The last student of a chain that visits states, taught by as many episodes of the teachers instead."""
REINFORCED = "rl"
"""The student taught by rewards alone."""
CHAIN_CONTROLS = (*STAGE_CONTROLS, CLONING)
"""Controls of a chain that are trained in folders of their own."""
ELSEWHERE = (*CHAIN_CONTROLS, REINFORCED)
"""Controls that are not fits of the run itself."""
MOST_ROUNDS = 100


Teach = Literal["best", "each", "ensemble"]
Rounds = Annotated[Count, Field(le=MOST_ROUNDS)]


class Rollouts(Settings):
    """The students that a stage starts from act, and the stage learns from the states that they visit, too (DAgger)."""

    episodes: Count = 12
    """Of each replica, over all simulators; each replica learns from its own."""
    mix: Unit | Annotated[tuple[Unit, ...], Field(min_length=1)] = 0.0
    """β: at each step the teachers act together with this probability, else the student does (Ross et al. 2011). Several
    are those of `rounds`, one after the other; the last one goes on."""
    simulators: tuple[Name, ...] | None = None
    """Of `data.source.simulators`, and `nominal`; null = all of them."""
    take: Literal["best", "sample"] = "best"
    """The student takes its likeliest action (its mean), or draws one."""

    @property
    def betas(self) -> tuple[float, ...]:
        """β of each round that it is given for."""
        return self.mix if isinstance(self.mix, tuple) else (self.mix,)


class Stage(Settings):
    """One stage: the recipe, with these of its keys replaced."""

    added_later: ClassVar[frozenset[str]] = frozenset({"rollouts"})

    name: Name
    """Unique, also among the teachers: later stages name its student by it, as a teacher or to start from."""
    teachers: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of the recipe's teachers and of earlier stages, whose students then teach, as `teach` of theirs says. null =
    all of the recipe's own teachers."""
    teach: Teach = "best"
    """How its students teach later stages. best: the replica that is best on validation, so that all replicas learn from
    the same teacher. each: replica r teaches replica r, so that their spread holds that of their teachers. ensemble:
    all replicas teach together. With each and ensemble they are so many teachers, called `<stage>-<replica>`, and as
    many times the passes."""
    rounds: Rounds = 1
    """So often one after the other: its `teachers` teach the first round, each round's student the next one. The last round
    has the stage's name, those before it are called `<stage>_round<i>`."""
    join: bool = False
    """With `rounds`: its `teachers` teach beside the round before, in later rounds too."""
    start: str | None = None
    """An earlier stage with the same student: replica r starts from the best weights of its replica r."""
    rollouts: Rollouts | None = None
    """With `task: control` and `start`: states that the students of that stage visit are further training samples, which
    this stage's teachers are asked about. With `rounds` each round starts from the round before, under the same
    teachers, and what earlier rounds visited stays."""
    student: dict[str, Json] = Field(default_factory=dict)
    """Merged into the recipe's `student`; its `limits` hold for the last stage, unless given here."""
    objective: dict[str, Json] = Field(default_factory=dict)
    """Merged into the recipe's `objective`."""
    train: dict[str, Json] = Field(default_factory=dict)
    """Merged into the recipe's `train`."""


def with_last_student(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe that leaves out `student`, with that of its last stage."""
    stages = tree.get("stages")
    if "student" in tree or not isinstance(stages, list | tuple) or not stages:
        return tree
    last = stages[-1]
    if not isinstance(last, Mapping) or "student" not in last:
        return tree
    return {**tree, "student": last["student"]}


def is_chain(stages: Any) -> bool:
    """Whether there is a stage before the last one."""
    if not isinstance(stages, list | tuple):
        return False
    rounds = [one.get("rounds") for one in stages if isinstance(one, Mapping)]
    return len(stages) > 1 or any(isinstance(count, int) and count > 1 for count in rounds)


def in_rounds(stages: Sequence[Stage], teachers: Sequence[str]) -> tuple[Stage, ...]:
    """Stages with a stage of its own for every round.

    Args:
        stages: as a recipe has them.
        teachers: names of the recipe's own teachers.

    Raises:
        InputError: a stage of one round is to be joined.
    """
    lone = [stage.name for stage in stages if stage.join and stage.rounds == 1]
    if lone:
        why = "says how rounds go on, and `rounds` is 1; give more rounds, or leave this out"
        raise InputError([Problem(f"stages.{name}.join", why) for name in lone])
    teaching = {name for stage in stages for name in stage.teachers or ()}
    return tuple(one for stage in stages for one in _rounds_of(stage, teachers, teaching))


def _rounds_of(stage: Stage, teachers: Sequence[str], teaching: Set[str]) -> Iterator[Stage]:
    """One stage for each round; the last one teaches as they all do where a later stage names it."""
    if stage.rounds == 1:
        yield stage
        return
    names = [*(f"{stage.name}_round{i}" for i in range(1, stage.rounds)), stage.name]
    own = tuple(teachers) if stage.teachers is None else stage.teachers
    if stage.rollouts is not None:
        yield from _visiting_rounds(stage, stage.rollouts, names)
        return
    for name, before in zip(names, [None, *names[:-1]], strict=True):
        heard = stage.teachers if before is None else (*(own if stage.join else ()), before)
        silent = name == stage.name and name not in teaching
        one = {"name": name, "teachers": heard, "rounds": 1, "join": False}
        yield stage.model_copy(update={**one, **({"teach": "best"} if silent else {})})


def _visiting_rounds(stage: Stage, rollouts: Rollouts, names: Sequence[str]) -> Iterator[Stage]:
    """Rounds under the same teachers, each of which starts from the one before and visits with its own β."""
    betas = rollouts.betas
    for number, name in enumerate(names):
        beta = betas[min(number, len(betas) - 1)]
        start = stage.start if number == 0 else names[number - 1]
        visits = rollouts.model_copy(update={"mix": beta})
        one = {"name": name, "rounds": 1, "start": start, "rollouts": visits}
        yield stage.model_copy(update=one)
