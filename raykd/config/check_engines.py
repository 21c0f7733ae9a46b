"""What cannot be asked of a teacher that is an engine."""

from __future__ import annotations

from collections.abc import Iterator

from raykd.config.data import Preprocess
from raykd.config.engines import EngineModel, engine_problems
from raykd.config.roles import Teacher
from raykd.config.root import Config
from raykd.config.schedules import values_of
from raykd.errors import Problem
from raykd.tasks import find_task


def engines_of(config: Config) -> dict[str, EngineModel]:
    """Name of a teacher -> the engine that it is."""
    return {one.name: one.model for one in config.teachers if isinstance(one.model, EngineModel)}


def check_engines(config: Config) -> Iterator[Problem]:
    """Every problem of engines that needs no data and none of them."""
    asked = {f"teachers.{one.name}": one for one in config.teachers}
    asked |= {f"evaluate.compare.{one.name}": one.as_teacher() for one in config.evaluate.compare}
    found = {key: one for key, one in asked.items() if isinstance(one.model, EngineModel)}
    for key, one in found.items():
        yield from _engine(config, one, key)
    names = engines_of(config)
    for index, term in enumerate(config.objective.features):
        if term.teacher in names:
            yield Problem(
                f"objective.features.{index}.teacher",
                f"teacher {term.teacher!r} is an engine, which answers tokens and has no features; name another teacher, "
                "or load the model itself: {type: hf, task: causal}",
            )
    yield from _temperatures(config, names)


def _engine(config: Config, teacher: Teacher, key: str) -> Iterator[Problem]:
    assert isinstance(teacher.model, EngineModel), "it was chosen for that"
    yield from engine_problems(teacher.model, f"{key}.model")
    if not find_task(config.task).settings.chunks:
        yield Problem(
            f"{key}.model.type",
            f"found engine, which predicts tokens: `task: language` only, found {config.task}",
        )
    given = {
        "kind": teacher.kind != "logits",
        "preprocess": teacher.preprocess != Preprocess(),
        "head": teacher.head is not None,
    }
    for field in (name for name, there in given.items() if there):
        yield Problem(
            f"{key}.{field}", "means nothing for an engine, which is given token ids and asked for probabilities; leave it out"
        )  # fmt: skip


def _temperatures(config: Config, names: dict[str, EngineModel]) -> Iterator[Problem]:
    """Servers give log-probabilities, of which only temperature 1 is known where some are left out."""
    soft = config.objective.soft_targets
    servers = [name for name, model in names.items() if model.is_server]
    if soft is None or not servers:
        return
    courses = {"objective.soft_targets.temperature": soft.temperature} | {
        f"objective.phases.{index}.soft_targets.temperature": phase.soft_targets.temperature
        for index, phase in enumerate(config.objective.phases)
    }
    for key, course in courses.items():
        if course is not None and {*values_of(course)} != {1.0}:
            yield Problem(
                key,
                f"found {', '.join(f'{value:g}' for value in values_of(course))}, but teacher {servers[0]!r} is a server, which "
                "does not say what the tokens that it leaves out amount to at other temperatures than 1; leave it out, "
                "or use the engine transformers",
            )
