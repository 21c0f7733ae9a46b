"""`stages:`: the settings of one stage; `raykd.config.chain` makes recipes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from raykd.config.base import Json, Name, Settings

DIRECT, LONGER = "direct", "longer"
STAGE_CONTROLS = (DIRECT, LONGER)
"""Controls of a chain: the last student without the stages before it, with its own updates and with those of all."""


Teach = Literal["best", "each", "ensemble"]


class Stage(Settings):
    """One stage: the recipe, with these of its keys replaced."""

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
    start: str | None = None
    """An earlier stage with the same student: replica r starts from the best weights of its replica r."""
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
    return isinstance(stages, list | tuple) and len(stages) > 1
