"""The list of fits: teachers to train, and the student and its controls over all replicas; teachers fitted before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raykd.config import Config
from raykd.config.heads import teachers_asked
from raykd.config.objective import Labels, Objective, restricted
from raykd.config.peers import Peers
from raykd.config.roles import Teacher
from raykd.config.scales import Scaled, scales_asked
from raykd.config.training import Training
from raykd.data import Samples
from raykd.folders import home
from raykd.losses.heads import Head
from raykd.models.scales import TokenScale, unfitted
from raykd.models.weights import load_weights
from raykd.objective import Role, TeacherInfo, TrainingRole, training_role
from raykd.objective.rule import OUTPUT, Validated
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.taught import student_rows
from raykd.pipeline.teacher_validation import TeacherValidation
from raykd.pipeline.teachers import seen_labels
from raykd.pipeline.texts import domain_numbers, teacher_rows
from raykd.seeding import derive
from raykd.targets.packing import PLAIN
from raykd.tasks import find_task
from raykd.train import Fit, Plan


def teacher_fit(prepared: Prepared, teacher: Teacher) -> Fit:
    """How a teacher is trained: on the labels it may see, with its own recipe and seed."""
    assert teacher.fit is not None, "only for teachers to be fitted"
    assert teacher.model is not None, "cross_check demands a model where there are no outputs"
    samples, settings, key = prepared.samples, teacher.fit, f"teachers.{teacher.name}"
    rows = teacher_rows(samples, teacher)
    seed = settings.seed
    if seed is None:
        seed = derive(prepared.config.seed, "teacher", teacher.name)
    views = prepared.config.data.views
    resolved = prepared.teachers[teacher.name]
    return Fit(
        fit_id=f"teacher/{teacher.name}",
        stage="teachers",
        key=f"{key}.model",
        model=teacher.model,
        preprocessing=resolved.preprocessing,
        weights=resolved.weights,
        objective=Objective(
            labels=Labels(weight=1.0, smoothing=settings.label_smoothing), soft_targets=None
        ),
        teacher_infos=(),
        student_shapes={},
        teacher_shapes={},
        training=Training(**{name: getattr(settings, name) for name in Training.model_fields}),
        plan=Plan(
            rows=rows,
            epoch_rows=len(rows),
            batch_size=settings.batch_size,
            seed=derive(seed, "order"),
            views=None if views.policy else 0,
        ),
        seed=seed,
        labels=seen_labels(teacher),
        data=prepared.own_data,
        task=find_task(samples.task).settings.fitted_as,
        freeze=settings.freeze,
        lr_factors=settings.lr_factors,
        code=resolved.code,
        stop=settings.last_epoch,
    )


def kept_folder(fit: Fit) -> Path:
    """Where a fitted teacher's weights and card are kept for other runs; an earlier version's where there are any."""
    folders = [home() / "teachers" / identity for identity in fit.identities]
    return next((folder for folder in folders if (folder / "card.json").is_file()), folders[0])


def known_weights(prepared: Prepared) -> dict[str, Mapping[str, Tensor]]:
    """Weights of the teachers that are not to be fitted, or were before; none where outputs are recorded."""
    found = {}
    for name, teacher in prepared.teachers.items():
        weights = _known_weights(prepared, name)
        if weights is not None or teacher.recorded_NC is not None:
            found[name] = weights or {}
    return found


def _known_weights(prepared: Prepared, name: str) -> Mapping[str, Tensor] | None:
    """A teacher's weights; None where it is still to be fitted, or has none."""
    teacher = prepared.teachers[name]
    if teacher.settings.fit is None:
        return teacher.weights
    kept = kept_folder(teacher_fit(prepared, teacher.settings))
    if not (kept / "card.json").is_file():
        return None
    return load_weights(kept / "weights.safetensors", key=f"teachers.{name}")


def _heads(prepared: Prepared, objective: Objective) -> dict[str, Head]:
    """The last layers that the terms of an objective ask; zeros of a teacher that is not fitted yet, to plan with."""
    found = {}
    for name in teachers_asked(objective):
        path, shape = prepared.teachers[name].settings.head, prepared.teachers[name].head_shape
        assert path is not None, "cross_check demands it"
        assert shape is not None, "it was found in the model"
        weights = _known_weights(prepared, name) or {f"{path}.weight": torch.zeros(shape)}
        bias = weights.get(f"{path}.bias")
        found[name] = Head(
            weights[f"{path}.weight"].float(), None if bias is None else bias.float()
        )
    return found


def weights_file(prepared: Prepared, name: str) -> str | None:
    """Where a teacher's weights or outputs lie, if they are in a file."""
    settings = prepared.teachers[name].settings
    if settings.fit is not None:
        return str(kept_folder(teacher_fit(prepared, settings)) / "weights.safetensors")
    return settings.weights or settings.outputs


def roles(config: Config) -> tuple[Role, ...]:
    """The student and its controls."""
    return ("student", *config.evaluate.own_controls)


def shown_views(config: Config) -> int | None:
    """How many views of each sample its students see; None = a new one in each epoch."""
    count = config.data.views.count
    return None if count is None else min(count, config.train.epochs)


def student_fits(prepared: Prepared, teachers: TeacherValidation) -> list[Fit]:
    """Every replica of the student, of each control and of each other student, replica by replica."""
    config, names = prepared.config, list(prepared.teachers)
    training_roles = [
        training_role(
            role,
            config.objective,
            names,
            teachers.best_teacher,
            always_labelled=find_task(config.task).settings.chunks,
        )
        for role in roles(config)
    ]
    own, *_ = training_roles
    found = []
    for replica in range(config.seeds):
        together = f"replica{replica}" if prepared.students else None
        first = replace(student_fit(prepared, teachers, own, replica), together=together)
        found += [
            first,
            *(student_fit(prepared, teachers, role, replica) for role in training_roles[1:]),
        ]
        for name, other in prepared.students.items():
            fit = student_fit(other, teachers, own, replica, name=name)
            found.append(replace(fit, key=f"students.{name}.model", together=together))
    return found


def student_fit(
    prepared: Prepared,
    teachers: TeacherValidation,
    role: TrainingRole,
    replica: int,
    *,
    name: str | None = None,
) -> Fit:
    """One replica of a student in one role; named after the role where it has no other name."""
    config, samples = prepared.config, prepared.samples
    peers = peers_of(config, role)
    role = replace(role, teachers=teachers_of(config, role))
    role = _heard(prepared, teachers, role, replica)
    own = config.seed if config.student.seed is None else config.student.seed
    seed = derive(own, "student", replica)
    train = student_rows(config, samples, replica)
    return Fit(
        fit_id=f"{name or role.role}/replica{replica}",
        stage="student",
        key="student.model",
        model=config.student.model,
        preprocessing=prepared.preprocessing,
        weights=prepared.student_weights_of(replica),
        objective=role.objective,
        teacher_infos=_teacher_infos(prepared, role, teachers),
        student_shapes=prepared.student_shapes,
        teacher_shapes={**prepared.teacher_shapes, **_output_shapes(prepared)},
        training=config.train if role.trained else config.train.model_copy(update={"epochs": 0}),
        plan=Plan(
            rows=_rows(samples, role) if role.labelled_only else train,
            epoch_rows=len(train),
            batch_size=config.train.batch_size,
            seed=derive(seed, "order"),
            views=config.data.views.count,
        ),
        seed=seed,
        labels="all" if role.all_labels else "budget",
        data=prepared.data,
        teachers={name: _identity(prepared, name, teachers) for name in role.teachers},
        facts=_facts(prepared, role, teachers),
        heads=_heads(prepared, role.objective),
        scales=_scales(prepared, role, teachers),
        outputs=config.student.dimension,
        code=prepared.student_code,
        peers=peers,
        threads=config.cluster.student.threads,
    )


def _rows(samples: Samples, role: TrainingRole) -> np.ndarray:
    """The training rows with a label that a control on labels sees."""
    return samples.labelled_rows("train", "all" if role.all_labels else "budget")


def _heard(
    prepared: Prepared, teachers: TeacherValidation, role: TrainingRole, replica: int
) -> TrainingRole:
    """A role with those teachers alone that a replica learns from: all, but for students of a stage that teach each one.

    A control on the best teacher takes the best of these.
    """
    heard = {n for n, one in prepared.teachers.items() if one.settings.is_heard_by(replica)}
    if heard.issuperset(role.teachers):
        return role
    if role.role == "best_teacher":
        best = teachers.best_of([name for name in prepared.teachers if name in heard])
        return training_role("best_teacher", prepared.config.objective, [*heard], best)
    objective = restricted(role.objective, [t.teacher in heard for t in role.objective.features])
    own = tuple(name for name in role.teachers if name in heard)
    return replace(role, objective=objective, teachers=own)


def peers_of(config: Config, role: TrainingRole) -> Peers | None:
    """How a role learns together with others of its kind; controls learn alone."""
    return config.peers if role.role == "student" else None


def teachers_of(config: Config, role: TrainingRole) -> tuple[str, ...]:
    """Whom a role listens to: no teacher where peers are the whole target, and no feature term asks one."""
    peers = peers_of(config, role)
    if peers is not None and peers.alone and not role.objective.features:
        return ()
    return role.teachers


def _scales(
    prepared: Prepared, role: TrainingRole, teachers: TeacherValidation
) -> dict[Scaled, TokenScale]:
    """The scales of a role's teachers; such that change nothing where there are none yet, to plan with."""
    shapes = {**prepared.teacher_shapes, **_output_shapes(prepared)}
    found = {}
    for asked in scales_asked(role.objective, role.teachers):
        shape = shapes[asked.teacher, asked.tap]
        width = shape[0] if len(shape) == 3 else shape[-1]
        found[asked] = teachers.scales.get(asked) or unfitted(width)
    return found


def _identity(prepared: Prepared, name: str, teachers: TeacherValidation) -> str:
    """What a student knows a teacher by: another packing of its answers makes another student."""
    fingerprint, packing = teachers.fingerprints[name], prepared.teachers[name].packing
    if packing == PLAIN:
        return fingerprint
    return f"{fingerprint}-{packing.of_classes}-{packing.of_features}"


def _teacher_infos(
    prepared: Prepared, role: TrainingRole, teachers: TeacherValidation
) -> tuple[TeacherInfo, ...]:
    needs = role.objective.weighting.row.needs
    errors = teachers.errors if "errors" in needs else {}
    accuracies = teachers.accuracies if "accuracies" in needs else {}
    stacked: Mapping[str, float] = {}
    if "stacked" in needs:
        stacked = teachers.stacked(role.teachers, role.objective.weighting.knob("prior"))
    return tuple(
        TeacherInfo(
            name,
            teachers.temperatures.get(name, 1.0),
            errors.get(name),
            accuracies.get(name),
            prepared.teachers[name].known,
            _domains(prepared, name),
            stacked.get(name),
        )
        for name in role.teachers
    )


def _domains(prepared: Prepared, name: str) -> tuple[int, ...] | None:
    """The domains that a teacher is for, where it is for some."""
    found = domain_numbers(prepared.samples, prepared.teachers[name].settings)
    return tuple(found) or None


def _output_shapes(prepared: Prepared) -> dict[tuple[str, str], tuple[int, ...]]:
    return {(name, OUTPUT): (one.answers,) for name, one in prepared.teachers.items()}


def _facts(
    prepared: Prepared, role: TrainingRole, teachers: TeacherValidation
) -> Mapping[str, float]:
    """What the task's rule has to know of the teachers of a role before training."""
    validation = teachers.validation
    validated = Validated(
        teacher_infos=_teacher_infos(prepared, role, teachers),
        answers={name: validation.teachers[name] for name in role.teachers},
        labels_N=validation.labels_N,
        ids_N=validation.ids_N,
        scale=prepared.samples.scale,
    )
    return find_task(prepared.samples.task).rule.facts(role.objective, validated)
