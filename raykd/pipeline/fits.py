"""The list of fits: teachers to train, and the student and its controls over all replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raykd.config import Config
from raykd.config.models import Teacher
from raykd.config.objective import Labels, Objective
from raykd.config.training import Training
from raykd.errors import InputError, Problem
from raykd.objective import Lesson, Voice, lesson
from raykd.pipeline.prepare import Prepared
from raykd.seeding import derive
from raykd.train import Fit, Plan


def teacher_fit(prepared: Prepared, teacher: Teacher) -> Fit:
    """How a teacher is trained: on the labels it may see, with its own recipe and seed.

    Raises:
        InputError: it may see no label.
    """
    assert teacher.fit is not None and teacher.model is not None, "only for teachers to be fitted"
    samples, settings, key = prepared.samples, teacher.fit, f"teachers.{teacher.name}"
    rows = samples.labelled_rows("train")
    if teacher.labels == "all":
        train = samples.splits["train"]
        rows = train[samples.all_labels[train] >= 0]
    if not len(rows):
        raise InputError(
            Problem(f"{key}.labels", "there is no labelled training sample to fit it on")
        )
    seed = settings.seed
    if seed is None:
        seed = derive(prepared.config.seed, "teacher", teacher.name)
    views = prepared.config.data.views
    candidate = prepared.teachers[teacher.name]
    return Fit(
        fit_id=f"teacher/{teacher.name}",
        stage="teachers",
        key=f"{key}.model",
        model=teacher.model,
        preprocessing=candidate.preprocessing,
        weights=candidate.weights,
        objective=Objective(
            labels=Labels(weight=1.0, smoothing=settings.label_smoothing), soft_targets=None
        ),
        voices=(),
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
        labels=teacher.labels,
        data=prepared.data,
        freeze=settings.freeze,
        lr_factors=settings.lr_factors,
    )


def roles(config: Config) -> tuple[str, ...]:
    """The student and its controls."""
    return ("student", *config.evaluate.controls)


def student_fits(
    prepared: Prepared, temperatures: Mapping[str, float], best_teacher: str
) -> list[Fit]:
    """Every replica of the student and of each control, replica by replica.

    Args:
        prepared: the checked recipe.
        temperatures: teacher -> factor on the objective's temperature.
        best_teacher: the single teacher that is best on validation.
    """
    config = prepared.config
    lessons = [
        lesson(role, config.objective, list(prepared.teachers), best_teacher)  # type: ignore[arg-type]
        for role in roles(config)
    ]
    return [
        _student_fit(prepared, taught, replica, temperatures)
        for replica in range(config.seeds)
        for taught in lessons
    ]


def _student_fit(
    prepared: Prepared, taught: Lesson, replica: int, temperatures: Mapping[str, float]
) -> Fit:
    config, samples = prepared.config, prepared.samples
    seed = derive(config.seed, "student", replica)
    train = samples.splits["train"]
    needs_label = not taught.teachers
    rows = samples.labelled_rows("train") if needs_label else train
    if not len(rows):
        raise InputError(
            Problem(
                "evaluate.controls",
                "the control `labels` needs labelled training samples; leave it out",
            )
        )
    views = config.data.views
    return Fit(
        fit_id=f"{taught.role}/replica{replica}",
        stage="student",
        key="student.model",
        model=config.student.model,
        preprocessing=prepared.preprocessing,
        weights=prepared.student_weights,
        objective=taught.objective,
        voices=_voices(taught.teachers, temperatures),
        student_shapes=prepared.student_shapes,
        teacher_shapes=prepared.teacher_shapes,
        training=config.train,
        plan=Plan(
            rows=rows,
            epoch_rows=len(train),
            batch_size=config.train.batch_size,
            seed=derive(seed, "order"),
            views=views.count,
        ),
        seed=seed,
        labels="budget",
        data=prepared.data,
    )


def _voices(names: Sequence[str], temperatures: Mapping[str, float]) -> tuple[Voice, ...]:
    return tuple(Voice(name, temperatures.get(name, 1.0)) for name in names)
