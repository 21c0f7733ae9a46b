"""What can be found out of a recipe before anything starts: it is tried on its data, models and machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from raykd.config import Config
from raykd.config.engines import EngineModel
from raykd.config.places import check_places
from raykd.config.roles import Teacher
from raykd.data.input_checks import columns_in_words
from raykd.errors import InputError, Problem, TeacherError
from raykd.forecast.counts import count
from raykd.models.weights import count_parameters
from raykd.models.zoo.foreign import ForeignModel
from raykd.pipeline.choosing import extra_fits_of, menu_of
from raykd.pipeline.evaluation import slices_of_test, student_network
from raykd.pipeline.loading import Listen
from raykd.pipeline.placement import Placement, make_placement
from raykd.pipeline.preparation import Prepared, prepare, vary, with_external_baselines
from raykd.pipeline.recipe_store import RecipeStore, bucket_of, refuse_unreachable
from raykd.pipeline.runs import check_required
from raykd.pipeline.taught import student_rows
from raykd.pipeline.teacher_validation import judge_teacher
from raykd.runtime import check_machine, connect, machine
from raykd.targets import codec
from raykd.teachers.model import host
from raykd.types import ORIGINAL_VIEW

_SCORED = 256


def prepare_and_place(
    config: Config,
    address: str | None,
    variants: Sequence[Config] = (),
    *,
    listen: Listen | None = None,
    controls: Sequence[str] = (),
) -> tuple[Prepared, Placement]:
    """Load the data, run every model once, hold the resources asked for against those there.

    Args:
        config: the recipe.
        address: of a running cluster, which is only asked what it has; None = this machine.
        variants: other students and objectives on the same teachers.
        listen: is told how far decoding is.
        controls: those of a chain whose last stage it is.

    Raises:
        InputError: with every problem found.
    """
    check_places(config)
    if address is None:  # before any model is loaded
        check_machine()
        make_placement(config, machine())
    bucket = bucket_of(config)
    if bucket is not None:
        bucket.check()
    prepared = with_external_baselines(prepare(config, variants, address=address, listen=listen))
    slices_of_test(config.evaluate.slices, prepared.samples)
    for variant in variants:
        vary(prepared, variant)
    check_required(prepared, controls)
    shortage = RecipeStore(prepared).shortage()
    if address is None:
        return prepared, make_placement(prepared.config, machine(), shortage)
    with connect(address) as resources:
        return prepared, make_placement(prepared.config, resources, shortage)


def facts(prepared: Prepared, placement: Placement) -> dict[str, Any]:
    """Data, models, fits, targets and placement, as plain values."""
    config, samples = prepared.config, prepared.samples
    return {
        "samples": {name: len(rows) for name, rows in samples.splits.items()},
        "transfer": {name: len(rows) for name, rows in samples.transfer.items()},
        "student_samples": len(student_rows(config, samples)),
        "training_labels": len(samples.labelled_rows("train")),
        "columns": columns_in_words(samples),
        "notes": list(prepared.notes),
        "task": samples.task,
        "classes": list(samples.classes),
        "teachers": {name: _teacher(prepared, name, placement) for name in prepared.teachers},
        "student": _student(prepared, placement),
        "objective": config.objective.model_dump(mode="json", by_alias=True),
        "menu": list(menu_of(prepared)),
        "students": {name: _student(one, placement) for name, one in prepared.students.items()},
        "student_fits": config.seeds * (1 + len(config.evaluate.controls) + len(config.students))
        + extra_fits_of(prepared),
        "targets": count(prepared).to_json(),
    }


def _student(prepared: Prepared, placement: Placement) -> dict[str, Any]:
    workers = placement.student
    shape = prepared.preprocessing.output_shape(prepared.samples.input_shape)
    return {
        "model": prepared.config.student.model.type,
        "parameters": count_parameters(student_network(prepared).model),
        "input": list(shape),
        "taps": {tap: list(found) for tap, found in prepared.student_shapes.items()},
        "workers": workers.workers,
        "cpus": workers.cpus_each,
        "gpus": workers.gpus,
        "strategy": workers.strategy,
    }


def _teacher(prepared: Prepared, name: str, placement: Placement) -> dict[str, Any]:
    candidate, where = prepared.teachers[name], placement.teachers[name]
    spec = candidate.settings
    shape = candidate.preprocessing.output_shape(prepared.samples.input_shape)
    kind = "outputs" if spec.model is None else spec.model.type
    return {
        "model": kind,
        "from": _origin(spec, kind),
        "parameters": _teacher_parameters(prepared, name),
        "input": list(shape),
        "taps": {tap: list(found) for tap, found in candidate.shapes.items()},
        "where": "student" if placement.with_student else "actor",
        "replicas": where.replicas,
        "cpus": where.cpus,
        "gpus": where.gpus,
        **({} if spec.resources.device_map is None else {"device_map": spec.resources.device_map}),
    }


def _origin(teacher: Teacher, kind: str) -> str:
    """Where a teacher's weights come from; of an engine, which one it is."""
    if isinstance(teacher.model, EngineModel):
        return teacher.model.path
    return "stage" if teacher.stage else "fit" if teacher.fit else teacher.weights or kind


def _teacher_parameters(prepared: Prepared, name: str) -> int | None:
    """None for a teacher without a model, or with one whose parameters torch does not know."""
    teacher = prepared.teachers[name]
    if teacher.settings.model is None or teacher.engine is not None:
        return None
    model = teacher.network(prepared.samples).model
    return None if isinstance(model, ForeignModel) else count_parameters(model)


def judge_ready_teachers(prepared: Prepared) -> dict[str, float]:
    """The task's metric of the teachers that need no fit, on up to 256 labelled validation samples.

    Raises:
        InputError: one is an engine that cannot be asked, no better than chance, worse than its `expect`, or its classes look permuted.
    """
    samples = prepared.samples
    refuse_unreachable(prepared)
    rows = samples.labelled_rows("validation")[:_SCORED]
    ready = {
        name: one
        for name, one in prepared.teachers.items()
        if one.settings.fit is None and not (one.engine and one.engine.unreachable)
    }
    if not len(rows):
        return {}
    specs = replace(prepared, teachers=ready).specs(
        {n: one.weights or {} for n, one in ready.items()}
    )
    batch = samples.batch(rows, ORIGINAL_VIEW)
    problems: list[Problem] = []
    found = {}
    for name, spec in specs.items():
        try:
            scorer = host(spec, torch.device("cpu"))
            answer = codec.decode(scorer.score(samples, rows, batch.view_B.numpy()))
            found[name] = judge_teacher(prepared, name, answer.values_NC, batch.labels)
        except TeacherError as error:
            problems.append(Problem(f"teachers.{name}", str(error)))
        except Exception as error:  # noqa: BLE001 (of a model's own code, which may raise anything)
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            problems.append(Problem(f"teachers.{name}.model", f"raised {why}"))
    if problems:
        raise InputError(problems)
    return found
