"""What teachers in the student's own process cannot do, and which of them may lie on several devices."""

from __future__ import annotations

from collections.abc import Iterator

from raykd.config.engines import EngineModel
from raykd.config.models import HfModel
from raykd.config.roles import Teacher
from raykd.config.root import Config, TeacherCluster
from raykd.errors import Problem

_ACTOR = "or set cluster.teachers.where to actor"
_SHARED = "they run where the student does, with its CPUs and GPUs (cluster.student)"


def hosting_problems(config: Config) -> Iterator[Problem]:
    """Every key that needs processes of the teachers' own, where they have none while students train."""
    if not config.cluster.with_student:
        return
    cluster = config.cluster.teachers
    for key, why in _OF_ACTORS.items():
        value = getattr(cluster, key)
        if value != TeacherCluster.model_fields[key].default:
            yield _refused(f"cluster.teachers.{key}", value, why)
    for teacher in config.teachers:
        for key, why in _OF_RESOURCES.items():
            if (value := getattr(teacher.resources, key)) is not None:
                yield _refused(f"teachers.{teacher.name}.resources.{key}", value, why)
        if isinstance(teacher.model, EngineModel):
            yield Problem(
                f"teachers.{teacher.name}.model.type",
                "found engine, which answers over a connection of its own and is no module that a student's process could "
                f"hold; take a model that is loaded, {_ACTOR}",
            )
    if config.targets.mode not in ("auto", "live"):
        yield Problem(
            "targets.mode",
            f"found {config.targets.mode}; teachers in the student's process answer live, and nothing that they say there is "
            f"stored; leave it at auto, {_ACTOR}",
        )
    if config.objective.on_policy is not None:
        yield Problem(
            "objective.on_policy",
            "asks teachers about texts that are in no data set, which only actors are asked; leave it out, "
            f"{_ACTOR}",
        )


def device_map_problems(config: Config) -> Iterator[Problem]:
    """What is wrong with the devices that teachers are to lie on."""
    for teacher in config.teachers:
        if teacher.resources.device_map is not None:
            yield from _of_a_map(config, teacher)


def _of_a_map(config: Config, teacher: Teacher) -> Iterator[Problem]:
    """What is wrong with the devices that a teacher is to lie on."""
    own, found = f"teachers.{teacher.name}.resources", teacher.resources.device_map
    key = f"{own}.device_map"
    if not isinstance(teacher.model, HfModel):
        kind = "outputs" if teacher.model is None else teacher.model.type
        yield Problem(key, f"found beside a teacher of type {kind}; only models of transformers (type: hf) are laid over several "
                      "devices, leave it out")  # fmt: skip
        return
    if teacher.fit is not None:
        yield Problem(key, "found beside fit, which trains on one device; leave one of the two out")
    if config.cluster.with_student:
        yield Problem(key, f"found with cluster.teachers.where: student, whose workers have one device each; leave it out, {_ACTOR}")  # fmt: skip
        return
    gpus = teacher.resources.gpus
    gpus = config.cluster.teachers.gpus if gpus is None else gpus
    if isinstance(found, str):
        if gpus < 2 or gpus % 1:
            yield Problem(key, f"found {found}, but its actor has {gpus:g} GPUs: give it a whole number from 2 on with {own}.gpus, or "
                          "leave the map out")  # fmt: skip
        return
    assert found is not None, "the caller has looked"
    most = max((place for place in found.values() if place != "cpu"), default=None)
    if most is None and gpus:
        yield Problem(
            key,
            f"found everything on the CPU, but its actor has {gpus:g} GPUs; set {own}.gpus to 0, or name them",
        )
    elif most is not None and (gpus < most + 1 or gpus % 1):
        yield Problem(key, f"names GPU {most}, but its actor has {gpus:g} of them, numbered from 0; give it a whole number of at "
                      f"least {most + 1} with {own}.gpus")  # fmt: skip


_ALONE = "each worker of the student has every teacher once"
_OF_ACTORS = {
    "replicas": _ALONE,
    "cpus": _SHARED,
    "gpus": _SHARED,
    "node_labels": _SHARED,
    "on_failure": "a teacher there fails with the student's process, which starts again from its last checkpoint",
}
_OF_RESOURCES = {
    "replicas": _ALONE,
    "cpus": _SHARED,
    "gpus": _SHARED,
    "node_labels": _SHARED,
    "runtime_env": "the student's process has one environment, that of the student",
}


def _refused(key: str, value: object, why: str) -> Problem:
    return Problem(
        key,
        f"found {value} with cluster.teachers.where: student, but {why}; leave it out, {_ACTOR}",
    )
