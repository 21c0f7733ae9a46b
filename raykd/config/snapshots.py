"""`teachers[].snapshots`: several teachers out of one fit (Wang et al. 2022, arXiv:2210.06458)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raykd.config.roles import Teacher
from raykd.errors import InputError, Problem
from raykd.seeding import derive


def with_snapshots(teachers: Sequence[Teacher], seed: int) -> tuple[Teacher, ...]:
    """The teachers with one for every snapshot: the same fit, ended where the snapshot is taken.

    Args:
        teachers: as a recipe has them.
        seed: the recipe's, from which a fit's is derived where it has none.

    Raises:
        InputError: a teacher has snapshots that it cannot have; all of them.
    """
    if problems := [one for teacher in teachers for one in _problems(teacher)]:
        raise InputError(problems)
    return tuple(one for teacher in teachers for one in _snapshots(teacher, seed))


def _problems(teacher: Teacher) -> Iterator[Problem]:
    key, parts = f"teachers.{teacher.name}.snapshots", teacher.snapshots
    if parts is None:
        return
    if teacher.fit is None:
        yield Problem(key, "are of a teacher that is fitted here; give `fit`, or leave them out")
    elif teacher.fit.stop_at is not None:
        yield Problem(key, "stand beside fit.stop_at; leave one of the two out")
    if sorted(set(parts)) != list(parts) or len({_percent(part) for part in parts}) < len(parts):
        found = ", ".join(f"{part:g}" for part in parts)
        yield Problem(key, f"found {found}; they have to rise, by a hundredth at least")


def _percent(part: float) -> int:
    return round(100 * part)


def _snapshots(teacher: Teacher, seed: int) -> Iterator[Teacher]:
    parts, fit = teacher.snapshots, teacher.fit
    if parts is None or fit is None:
        yield teacher
        return
    own = derive(seed, "teacher", teacher.name) if fit.seed is None else fit.seed
    for part in parts:
        if part == 1:
            yield teacher.model_copy(update={"snapshots": None})
            continue
        ended = fit.model_copy(update={"seed": own, "stop_at": part})
        name = f"{teacher.name}_at{_percent(part)}"
        yield teacher.model_copy(update={"name": name, "snapshots": None, "fit": ended})
