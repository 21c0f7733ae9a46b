"""What `check`, `plan` and `--dry-run` find out before anything starts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from raykd.cli.forecasts import forecast
from raykd.cli.options import print_json
from raykd.config import Config
from raykd.config.variants import first_fold
from raykd.errors import InputError, Problem, TeacherError
from raykd.models import build_model
from raykd.models.weights import count_parameters
from raykd.models.zoo.foreign import ForeignModel
from raykd.pipeline import Options
from raykd.pipeline.candidates import ResolvedTeacher
from raykd.pipeline.external_baselines import with_external_baselines
from raykd.pipeline.placement import Placement, place
from raykd.pipeline.preparation import Prepared, prepare, student_outputs, vary
from raykd.pipeline.require_check import check_required
from raykd.pipeline.serving import make_specs, remote_store
from raykd.pipeline.session import run_folder
from raykd.pipeline.slicing import slices_of_test
from raykd.pipeline.storage_estimate import storage_shortage
from raykd.runtime import connect, machine
from raykd.targets import codec
from raykd.tasks import find_task
from raykd.teachers.model import host
from raykd.tracking import Console
from raykd.types import ORIGINAL_VIEW

_SCORED = 256


def prepare_and_place(
    config: Config, address: str | None, variants: Sequence[Config] = ()
) -> tuple[Prepared, Placement]:
    """Load the data, run every model once, hold the resources asked for against those there.

    Args:
        config: the recipe.
        address: of a running cluster, which is only asked what it has; None = this machine.
        variants: other students and objectives on the same teachers.

    Raises:
        InputError: with every problem found.
    """
    if address is None:  # before any model is loaded
        place(config, machine())
    remote = remote_store(config)
    if remote is not None:
        remote.check()
    listen = Console(quiet=False, stream=sys.stderr).on
    prepared = with_external_baselines(prepare(config, variants, address=address, listen=listen))
    slices_of_test(config.evaluate.slices, prepared.samples)
    for variant in variants:
        vary(prepared, variant)
    check_required(prepared)
    if address is None:
        return prepared, place(config, machine(), storage_shortage(prepared))
    with connect(address) as resources:
        return prepared, place(config, resources, storage_shortage(prepared))


def facts(prepared: Prepared, placement: Placement) -> dict[str, Any]:
    """Data, models, fits, targets and placement, as plain values."""
    config, samples = prepared.config, prepared.samples
    student = placement.student
    return {
        "samples": {name: len(rows) for name, rows in samples.splits.items()},
        "training_labels": len(samples.labelled_rows("train")),
        "task": samples.task,
        "classes": list(samples.classes),
        "teachers": {name: _teacher(prepared, name, placement) for name in prepared.teachers},
        "student": {
            "model": config.student.model.type,
            "parameters": _student_parameters(prepared),
            "input": list(prepared.preprocessing.output_shape(samples.input_shape)),
            "taps": {tap: list(shape) for tap, shape in prepared.student_shapes.items()},
            "workers": student.workers,
            "cpus": student.cpus,
            "gpus": student.gpus,
        },
        "student_fits": config.seeds * (1 + len(config.evaluate.controls)),
        "targets": forecast(prepared).to_json(),
    }


def _teacher(prepared: Prepared, name: str, placement: Placement) -> dict[str, Any]:
    candidate, where = prepared.teachers[name], placement.teachers[name]
    spec = candidate.settings
    shape = candidate.preprocessing.output_shape(prepared.samples.input_shape)
    kind = "outputs" if spec.model is None else spec.model.type
    return {
        "model": kind,
        "from": "fit" if spec.fit else spec.weights or kind,
        "parameters": _teacher_parameters(prepared, name),
        "input": list(shape),
        "taps": {tap: list(found) for tap, found in candidate.shapes.items()},
        "replicas": where.replicas,
        "cpus": where.cpus,
        "gpus": where.gpus,
    }


def _student_parameters(prepared: Prepared) -> int:
    samples, spec = prepared.samples, prepared.config.student.model
    seen = prepared.preprocessing.output_shape(samples.input_shape)
    return count_parameters(
        build_model(
            spec,
            input_shape=seen,
            classes=student_outputs(prepared.config, samples),
            key="student.model",
        )
    )


def _teacher_parameters(prepared: Prepared, name: str) -> int | None:
    """None for a teacher without a model, or with one whose parameters torch does not know."""
    candidate = prepared.teachers[name]
    spec, seen = candidate.settings.model, candidate.preprocessing
    if spec is None:
        return None
    shape = seen.output_shape(prepared.samples.input_shape)
    key = f"teachers.{name}.model"
    model = build_model(spec, input_shape=shape, classes=candidate.outputs, key=key)
    return None if isinstance(model, ForeignModel) else count_parameters(model)


def judge_ready_teachers(prepared: Prepared) -> dict[str, float]:
    """The task's metric of the teachers that need no fit, on up to 256 labelled validation samples.

    Raises:
        InputError: one is no better than chance, worse than its `expect`, or its classes look permuted.
    """
    ready = {
        name: candidate
        for name, candidate in prepared.teachers.items()
        if candidate.settings.fit is None
    }
    problems: list[Problem] = []
    accuracies = {}
    for name, accuracy in _accuracies(prepared, ready):
        if isinstance(accuracy, float):
            accuracies[name] = accuracy
        else:
            problems.append(Problem(f"teachers.{name}", str(accuracy)))
    if problems:
        raise InputError(problems)
    return accuracies


def _accuracies(
    prepared: Prepared, ready: dict[str, ResolvedTeacher]
) -> Iterator[tuple[str, float | TeacherError]]:
    samples = prepared.samples
    rows = samples.labelled_rows("validation")[:_SCORED]
    if not ready or not len(rows):
        return
    weights = {name: one.weights for name, one in ready.items() if one.weights is not None}
    specs = make_specs(replace(prepared, teachers=ready), weights)
    batch = samples.batch(rows, ORIGINAL_VIEW)
    for name, spec in specs.items():
        try:
            scorer = host(spec, torch.device("cpu"))
            answer = codec.decode(scorer.score(samples, rows, batch.view_B.numpy()))
            candidate = ready[name]
            expected, label_map = candidate.settings.expect, candidate.label_map
            check = find_task(samples.task).selftest
            yield name, check(name, answer.values_NC, batch.labels, expected, label_map)
        except TeacherError as error:
            yield name, error


def dry_run(config: Config, options: Options) -> int:
    """Check everything and print it; start nothing."""
    folder = run_folder(config, options)
    prepared, placement = prepare_and_place(first_fold(config), options.address)
    found = facts(prepared, placement)
    if config.folds is not None:  # what else is said is of the first one
        found |= {"folds": config.folds, "student_fits": config.folds * found["student_fits"]}
    print_json({"output": str(folder.path), **found, "config": config.model_dump(mode="json")})
    return 0
