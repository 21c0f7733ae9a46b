"""What teachers in the student's own process cannot do."""

from __future__ import annotations

from collections.abc import Iterator

from raykd.config.engines import EngineModel
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
