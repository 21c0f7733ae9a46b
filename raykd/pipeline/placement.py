"""What runs where, and how targets reach students: resources asked for against resources there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from raykd.config import Config
from raykd.config.peers import Codistillation
from raykd.config.roles import Teacher
from raykd.config.root import StudentCluster
from raykd.errors import InputError, Problem
from raykd.runtime import Resources
from raykd.teachers.pool import TeacherResources

Mode = Literal["stored", "write_through", "live"]
WORTH_S = 30.0
"""A fill that takes less is done ahead: then the first student has no teachers beside it."""
_ROUNDING = 1e-6
_OF_A_THREAD = 100e6
"""Multiply-adds of a batch's forward pass that make another thread worth its while: below, PyTorch gains little of it."""
_MOST_THREADS = 8
_MOST_LANES = 8  # each is a process of its own, of some 400 MB


@dataclass(frozen=True)
class Placement:
    """Resources of each teacher's actors, workers of the student, and how targets reach it.

    Attributes:
        mode: how targets reach the student, as far as is known before the teachers' speed is.
        reason: why, in words.
        teachers: name -> resources of its actors.
        lanes: student fits trained side by side.
        teacher_lanes: fits of teachers side by side; None = all, as the cluster has room.
        seats: processes of the crew, each of which answers for all teachers; 0 = they have actors of their own.
        shared: whether others may need the CPUs of processes that stand idle.
        overlaps: whether it is for us to say and teachers could fill the store beside the first student.
        student: its workers, of which this machine has room for the most.
        note: what there is to say about their number.
        beside: whether teachers stay while students train, to be asked about what these write.
        with_student: whether students ask teachers in their own processes; others host them before that alone.
    """

    mode: Mode
    reason: str
    teachers: Mapping[str, TeacherResources]
    lanes: int = 1
    teacher_lanes: int | None = None
    seats: int = 0
    shared: bool = False
    overlaps: bool = False
    student: StudentCluster = field(default_factory=StudentCluster)
    note: str | None = None
    beside: bool = False
    with_student: bool = False


def target_mode(config: Config, shortage: str | None = None) -> tuple[Mode, str]:
    """The mode, and why.

    Args:
        config: the recipe.
        shortage: why targets cannot be stored, where they cannot.
    """
    asked, count = config.targets.mode, config.data.views.count
    if config.cluster.with_student:
        return (
            "live",
            "cluster.teachers.where is student: each worker asks teachers in its own process, on its own device",
        )
    if asked != "auto":
        return asked, "targets.mode asks for it"
    if count is None:
        return (
            "live",
            "data.views.count is null: every epoch shows new views, which cannot be stored ahead",
        )
    if shortage is not None:
        return "live", shortage
    return (
        "stored",
        f"{count} view{'s' * (count > 1)} of each sample {'are' if count > 1 else 'is'} scored once and read ever after",
    )


def choose_mode(
    placement: Placement, samples: Mapping[str, int], rates: Mapping[str, float]
) -> tuple[Mode, str]:
    """The mode, and why, once the teachers are loaded; they work side by side.

    Args:
        placement: what was decided before the teachers' speed was known.
        samples: teacher -> answers that the store lacks, over samples and views.
        rates: teacher -> samples/s of all its replicas, measured on a batch.
    """
    if placement.mode != "stored" or not placement.overlaps or not samples:
        return placement.mode, placement.reason
    seconds, slowest = max((count / rates[name], name) for name, count in samples.items())
    cost = (
        f"scoring takes teacher {slowest!r} about {seconds:.0f} s "
        f"({samples[slowest]:,} samples at {rates[slowest]:,.0f} a second)"
    )
    if seconds < WORTH_S:
        return "stored", f"{placement.reason}; {cost}, less than {WORTH_S:.0f} s: done ahead"
    return (
        "write_through",
        f"{cost}; students and teachers have cores and GPUs of their own, so the first student trains "
        "meanwhile, and all others read",
    )


def make_placement(config: Config, resources: Resources, shortage: str | None = None) -> Placement:
    """Where teachers and students run.

    A local cluster shares its cores among the teachers when they ask for more than there are. On a
    cluster at an address nothing is scaled.

    Args:
        config: the recipe.
        resources: of the cluster.
        shortage: why targets cannot be stored, where they cannot.

    Raises:
        InputError: the cluster lacks what is asked for; names which number to lower.
    """
    mode, reason = target_mode(config, shortage)
    inside = config.cluster.with_student
    stay = (mode == "live" and not inside) or teachers_stay(config)
    problems = [*_student_problems(config, resources), *_label_problems(config, resources)]
    if shortage is not None and mode != "live":
        problems.append(
            Problem("targets.store", f"{shortage}; set it to a folder on another disk, lower data.views.count or "
                    "targets.full_up_to, or use targets.mode=live")
        )  # fmt: skip
    resources_of = {teacher.name: _resources(config, teacher) for teacher in config.teachers}
    student = config.cluster.student
    workers = _beside_teachers(config, mode, stay)
    taken, taken_gpus = workers * student.cpus_each, workers * student.gpus
    cpus = sum(one.replicas * one.cpus for one in resources_of.values())
    gpus = sum(one.replicas * one.gpus for one in resources_of.values())
    whose, other = "teachers", "targets.mode=stored"
    if inside:
        whose, other = "student", "cluster.teachers.where=actor"
    if gpus + taken_gpus > resources.gpus and gpus and not inside:
        problems.append(
            Problem("cluster.teachers.gpus", f"asks for {gpus + taken_gpus:g} GPUs in all (teachers and, unless "
                    f"stored, students), there are {resources.gpus:g}; lower teachers' gpus or replicas, or use "
                    "targets.mode=stored")
        )  # fmt: skip
    free = max(0.0, resources.cpus - taken)
    seats = _seats(config, mode, resources, cpus)
    if cpus > free and resources.local:
        share = free / cpus
        resources_of = {
            name: replace(p, cpus=math.floor(p.cpus * share * 1e4) / 1e4)
            for name, p in resources_of.items()
        }
    elif cpus > free and not seats:
        problems.append(
            Problem(f"cluster.{whose}.cpus", f"teachers ask for {cpus:g} CPUs, {free:g} are free of "
                    f"{resources.cpus:g}; lower cpus (fractions share a core) or replicas, or use {other}")
        )  # fmt: skip
    if problems:
        raise InputError(problems)
    overlaps = (
        (not seats)
        and (not stay)
        and (
            (config.targets.mode, mode, student.most) == ("auto", "stored", 1)
            and not isinstance(config.peers, Codistillation)  # of which several begin at once
            and cpus + student.cpus_each <= resources.cpus
            and gpus + student.gpus <= resources.gpus
        )
    )
    beside = sum(p.replicas * p.cpus for p in resources_of.values()) if stay else 0.0
    student, note = _lowered(student, resources, beside, gpus if stay else 0.0)
    lanes = _lanes(config, stay, resources)
    teacher_lanes = max(1, int(resources.cpus)) if resources.local else None
    return Placement(
        mode=mode,
        reason=reason,
        teachers=resources_of,
        lanes=lanes,
        teacher_lanes=teacher_lanes,
        seats=seats,
        shared=not resources.local,
        overlaps=overlaps,
        student=student,
        note=note,
        beside=teachers_stay(config),
        with_student=inside,
    )


def threads_of(config: Config, multiply_adds: float, cpus: int) -> int:
    """Threads of a student's worker where the recipe leaves them open: a fixed rule, never a matter of timing.

    Only large models gain from several threads; fits of small ones are trained side by side instead. What is trained or
    asked at the same time by design has its share of the CPUs.

    Args:
        config: the recipe.
        multiply_adds: of a sample's forward pass, as far as they need not wait for each other.
        cpus: of this machine.
    """
    student, peers = config.cluster.student, config.peers
    if student.gpus or target_mode(config)[0] != "stored" or teachers_stay(config):
        return 1
    beside = max(student.most, student.parallel_fits or 1)
    if isinstance(peers, Codistillation):
        beside = max(beside, peers.count)
    size = config.train.batch_size / student.most
    if config.train.micro_batch_size is not None:
        size = min(size, config.train.micro_batch_size)
    worth = int(multiply_adds * size / _OF_A_THREAD)
    return max(1, min(worth, cpus // beside, _MOST_THREADS))


def teachers_stay(config: Config) -> bool:
    """Whether teachers stay while students train, also where targets are stored: to be asked about what these write."""
    return config.objective.on_policy is not None


def _lowered(
    student: StudentCluster, resources: Resources, cpus: float, gpus: float
) -> tuple[StudentCluster, str | None]:
    """The student's workers beside teachers of so many CPUs and GPUs, and what there is to say of them.

    This machine does not grow, so that what it has no room for now is not waited for.
    """
    room = (resources.cpus - cpus + _ROUNDING) / student.cpus_each
    if student.gpus:
        room = min(room, (resources.gpus - gpus + _ROUNDING) / student.gpus)
    now = max(student.fewest, min(student.most, int(room)))
    if now == student.most:
        return student, None
    note = f"cluster.student.workers: {student.fewest} to {student.most}, there is room for {now} of them"
    if not resources.local:
        return student, f"{note} now; fits that start when there is more room get more"
    return student.model_copy(update={"workers": (student.fewest, now)}), note


def _beside_teachers(config: Config, mode: Mode, stay: bool) -> int:
    """Student workers that train while teachers are at work."""
    student = config.cluster.student
    if stay:
        return max(student.fewest, student.parallel_fits or 1)
    return 1 if mode == "write_through" else 0


def _lanes(config: Config, stay: bool, resources: Resources) -> int:
    """How many student fits train side by side."""
    student = config.cluster.student
    if student.parallel_fits is not None:
        return student.parallel_fits
    if student.uses_ray_train or stay or not resources.local:
        return 1
    room = resources.cpus / student.cpus_each
    if student.gpus:
        room = min(room, resources.gpus / student.gpus)
    return max(1, min(int(room), _MOST_LANES))


def _seats(config: Config, mode: Mode, resources: Resources, cpus: float) -> int:
    """Processes of the crew that fill the store: on this machine, and where teachers ask for more CPUs than there are.

    None where a teacher asks for resources of its own.
    """
    asked = [_resources(config, teacher) for teacher in config.teachers]
    special = any(
        one.replicas > 1 or one.cpus > 1 or one.gpus or one.runtime_env or one.node_labels
        for one in asked
    )
    if (
        special
        or (mode != "stored" and not config.cluster.with_student)
        or teachers_stay(config)
        or not (resources.local or cpus > resources.cpus)
    ):
        return 0
    return max(1, min(int(resources.cpus), _MOST_LANES))


def _student_problems(config: Config, resources: Resources) -> list[Problem]:
    student, problems = config.cluster.student, []
    name, workers = "workers", student.fewest
    if student.parallel_fits is not None and student.most == 1:
        name, workers = "parallel_fits", student.parallel_fits
    if workers * student.cpus_each > resources.cpus:
        problems.append(
            Problem(f"cluster.student.{name}", f"{workers} workers of {student.cpus_each:g} CPUs ask for "
                    f"{workers * student.cpus_each:g}, there are {resources.cpus:g}; lower {name} or cpus")
        )  # fmt: skip
    if workers * student.gpus > resources.gpus:
        problems.append(
            Problem("cluster.student.gpus", f"{workers} workers of {student.gpus:g} GPUs ask for "
                    f"{workers * student.gpus:g}, there are {resources.gpus:g}; set it to 0 or use --address")
        )  # fmt: skip
    return problems


def _label_problems(config: Config, resources: Resources) -> Iterator[Problem]:
    """A cluster of this process's own has one node, without labels: what asks for some would wait for ever."""
    if not resources.local:
        return
    asked: dict[str, Mapping[str, str] | None] = {
        "cluster.student": config.cluster.student.node_labels,
        "cluster.teachers": config.cluster.teachers.node_labels,
        **{f"teachers.{one.name}.resources": one.resources.node_labels for one in config.teachers},
    }
    for key, labels in asked.items():
        if labels:
            yield Problem(f"{key}.node_labels", f"found {labels}, but this machine's own cluster has no labelled "
                          "nodes; leave it out, or name a cluster by --address")  # fmt: skip


def _share(gpus: float, parts: int) -> float:
    """A part of one GPU, in ten-thousandths; Ray gives out parts of one, or several whole ones."""
    return gpus if parts == 1 else math.floor(min(1.0, gpus) / parts * 1e4) / 1e4


def _resources(config: Config, teacher: Teacher) -> TeacherResources:
    cluster, own = config.cluster.hosting, teacher.resources
    if teacher.outputs is not None:
        return TeacherResources(1, 0.0, 0.0)
    if (
        config.cluster.with_student
    ):  # before students train: all teachers where one worker of theirs will be
        models = sum(one.outputs is None for one in config.teachers)
        gpus = _share(cluster.gpus, models)
        return TeacherResources(1, cluster.cpus, gpus, node_labels=cluster.node_labels)
    return TeacherResources(
        replicas=own.replicas if own.replicas is not None else cluster.replicas,
        cpus=own.cpus if own.cpus is not None else cluster.cpus,
        gpus=own.gpus if own.gpus is not None else cluster.gpus,
        runtime_env=own.runtime_env,
        node_labels=cluster.node_labels if own.node_labels is None else own.node_labels,
    )
