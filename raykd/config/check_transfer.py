"""What a recipe's transfer sets do not go with; needs no data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raykd.config.explanations import nearest
from raykd.config.transfer import (
    OWN,
    BroughtSet,
    MixtureSet,
    Transfer,
    TransferSet,
    taught_sets,
)
from raykd.errors import Problem
from raykd.tasks import find_task

if TYPE_CHECKING:
    from raykd.config.root import Config

KEY = "data.transfer"
_BLENDS = ("mixup", "cutmix")


def transfer_problems(config: Config) -> Iterator[Problem]:
    """Every problem of `data.transfer` and `student.learns_from` with the rest of the recipe."""
    transfer, named = config.data.transfer, config.student.learns_from
    if transfer is None:
        if named is not None:
            yield Problem("student.learns_from", "chooses among the sets of data.transfer, and there is none; leave it "
                          "out")  # fmt: skip
        return
    if find_task(config.task).settings.chunks:
        yield Problem(KEY, f"is not for `task: {config.task}`, whose samples are chunks of texts; leave it out, and text to "
                      "the teachers alone by data.tokens.pool")  # fmt: skip
    yield from _names(transfer, named)
    for name, one in transfer.sets.items():
        yield from _set(config, one, f"{KEY}.sets.{name}")
    for teacher in config.teachers:
        if teacher.outputs is not None:
            yield Problem(f"teachers.{teacher.name}.outputs", "are of the samples of data.source, and there are none of those "
                          "of data.transfer; give the model, or leave data.transfer out")  # fmt: skip
    if OWN not in (taught_sets(transfer, named) or ()):
        yield from _without_own(config)


def _names(transfer: Transfer, named: tuple[str, ...] | None) -> Iterator[Problem]:
    if OWN in transfer.sets:
        yield Problem(
            f"{KEY}.sets.{OWN}",
            f"{OWN!r} is what the recipe's own samples are called; choose another name",
        )
    known = (OWN, *transfer.sets)
    for name in named or ():
        if name not in known:
            yield Problem(
                "student.learns_from",
                f"found {name!r}{nearest(name, known)}; there are {', '.join(known)}",
            )


def _set(config: Config, one: TransferSet, key: str) -> Iterator[Problem]:
    """What a set is made of is there."""
    if isinstance(one, BroughtSet):
        if one.source.type == "object":
            yield Problem(f"{key}.source", "objects of a process can be data.source alone; write them to a file, or give "
                          "a factory")  # fmt: skip
    elif config.data.labels == 0 and (isinstance(one, MixtureSet) or one.of == "labelled"):
        yield Problem(key, "is made of samples with a label, and `data.labels: 0` leaves none; raise it, or make the set of "
                      "all training samples")  # fmt: skip


def _without_own(config: Config) -> Iterator[Problem]:
    """What needs the own samples, where the student does not see them."""
    for index, step in enumerate(config.data.views.policy):
        if step.type in _BLENDS:
            yield Problem(f"data.views.policy.{index}", f"{step.type} blends in the recipe's own samples, which this student "
                          "is not to see (data.transfer.replace, student.learns_from); use a set of `type: mixup`, or leave it "
                          "out")  # fmt: skip
