"""The list of fits: teachers to train, and the student and its controls over all replicas."""

from __future__ import annotations

from collections.abc import Mapping

from raykd.config import Config
from raykd.config.models import Teacher
from raykd.config.objective import Labels, Objective
from raykd.config.training import Training
from raykd.objective import TeacherInfo, TrainingRole, training_role
from raykd.objective.rule import OUTPUT
from raykd.pipeline.packing import known_by
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.serving import TeacherTargets
from raykd.seeding import derive
from raykd.tasks import find_task
from raykd.train import Fit, Plan


def teacher_fit(prepared: Prepared, teacher: Teacher) -> Fit:
    """How a teacher is trained: on the labels it may see, with its own recipe and seed."""
    assert teacher.fit is not None, "only for teachers to be fitted"
    assert teacher.model is not None, "cross_check demands a model where there are no outputs"
    samples, settings, key = prepared.samples, teacher.fit, f"teachers.{teacher.name}"
    rows = samples.labelled_rows("train", teacher.labels)
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
        labels=teacher.labels,
        data=prepared.data,
        task=find_task(samples.task).settings.fitted_as,
        freeze=settings.freeze,
        lr_factors=settings.lr_factors,
        code=candidate.code,
    )


def roles(config: Config) -> tuple[str, ...]:
    """The student and its controls."""
    return ("student", *config.evaluate.controls)


def shown_views(config: Config) -> int | None:
    """How many views of each sample its students see; None = a new one in each epoch."""
    count = config.data.views.count
    return None if count is None else min(count, config.train.epochs)


def student_fits(prepared: Prepared, served: TeacherTargets) -> list[Fit]:
    """Every replica of the student and of each control, replica by replica."""
    config = prepared.config
    names = list(prepared.teachers)
    lessons = [
        training_role(role, config.objective, names, served.best_teacher)  # type: ignore[arg-type]
        for role in roles(config)
    ]
    return [
        student_fit(prepared, served, taught, replica)
        for replica in range(config.seeds)
        for taught in lessons
    ]


def student_fit(
    prepared: Prepared,
    served: TeacherTargets,
    taught: TrainingRole,
    replica: int,
    *,
    name: str | None = None,
) -> Fit:
    """One replica of a student taught one lesson; called by its role where it has no other name."""
    config, samples = prepared.config, prepared.samples
    seed = derive(config.seed, "student", replica)
    train = samples.splits["train"]
    rows = samples.labelled_rows("train") if taught.labelled_only else train
    fingerprints = served.fingerprints
    return Fit(
        fit_id=f"{name or taught.role}/replica{replica}",
        stage="student",
        key="student.model",
        model=config.student.model,
        preprocessing=prepared.preprocessing,
        weights=prepared.student_weights,
        objective=taught.objective,
        teacher_infos=_teacher_infos(prepared, taught, served),
        student_shapes=prepared.student_shapes,
        teacher_shapes={**prepared.teacher_shapes, **_output_shapes(prepared)},
        training=config.train if taught.trained else config.train.model_copy(update={"epochs": 0}),
        plan=Plan(
            rows=rows,
            epoch_rows=len(train),
            batch_size=config.train.batch_size,
            seed=derive(seed, "order"),
            views=config.data.views.count,
        ),
        seed=seed,
        labels="budget",
        data=prepared.data,
        teachers={
            name: known_by(fingerprints[name], prepared.teachers[name].packing)
            for name in taught.teachers
        },
        facts=_facts(prepared, taught, served),
        outputs=config.student.dimension,
        code=prepared.student_code,
    )


def _teacher_infos(
    prepared: Prepared, taught: TrainingRole, served: TeacherTargets
) -> tuple[TeacherInfo, ...]:
    needs, judged = taught.objective.weighting.row.needs, served.judged
    errors = judged.errors if "errors" in needs else {}
    accuracies = judged.accuracies if "accuracies" in needs else {}
    return tuple(
        TeacherInfo(
            name,
            served.temperatures.get(name, 1.0),
            errors.get(name),
            accuracies.get(name),
            prepared.teachers[name].known,
        )
        for name in taught.teachers
    )


def _output_shapes(prepared: Prepared) -> dict[tuple[str, str], tuple[int, ...]]:
    return {(name, OUTPUT): (one.answers,) for name, one in prepared.teachers.items()}


def _facts(prepared: Prepared, taught: TrainingRole, served: TeacherTargets) -> Mapping[str, float]:
    """What the task's rule has to know of the teachers of a role before training."""
    validation = served.judged.validation
    answers = {name: validation.teachers[name] for name in taught.teachers}
    rule = find_task(prepared.samples.task).rule
    return rule.facts(taught.objective, answers, validation.labels_N, prepared.samples.scale)
