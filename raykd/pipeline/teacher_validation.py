"""The teachers' answers to the validation samples: whether they are what they should be, and what they tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from raykd.config.scales import Scaled
from raykd.data import Samples
from raykd.ensemble import (
    TEMPERATURE_BOUNDS,
    calibration_half,
    labels_of_known,
    mean_entropy,
    temperature_of_entropy,
)
from raykd.ensemble.stacking import label_log_probs, stacked_weights
from raykd.errors import TargetError
from raykd.evaluate import SplitOutputs, TaskMetrics, best_teacher
from raykd.models.scales import TokenScale
from raykd.pipeline.kept_answers import kept_in, kept_of, kept_outputs
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.teachers import Specs
from raykd.targets import TargetStore
from raykd.targets.codec import decode
from raykd.targets.remote import is_uri
from raykd.tasks import find_task
from raykd.teachers import EngineSpec, Spec
from raykd.teachers.model import host
from raykd.tracking import Event, events
from raykd.train.lanes import worker_device
from raykd.types import ORIGINAL_VIEW, Scale, TeacherOutputs, is_labelled

PROBES = 8
"""Samples that a teacher is tried on."""
_LEAST_LABELS = 2
_SHARE_OF_ENTROPY = 0.1
"""Of the largest entropy, what teachers have whose temperatures all go by entropy."""
_DRIFT = 0.02  # other machines, GPUs and the codec make less than a tenth of it
_ROUNDING = {"float32": 1.0, "float16": 1.0, "bfloat16": 3.0}
"""By how much more a teacher's own precision may differ from one device to another."""


@dataclass(frozen=True, eq=False)
class TeacherValidation:
    """What is known of the teachers once they have answered the validation samples.

    Attributes:
        task: what the answers are for.
        validation: their answers.
        scale: the unit of a regression, None in other tasks.
        fingerprints: teacher -> what its answers are kept under.
        temperatures: teacher -> factor on the objective's temperature.
        best_teacher: the single teacher that is best on validation.
        scales: of the teachers' tokens, where they are compared at some.
    """

    task: TaskMetrics
    validation: SplitOutputs
    scale: Scale | None
    fingerprints: Mapping[str, str]
    temperatures: Mapping[str, float]
    best_teacher: str
    scales: Mapping[Scaled, TokenScale] = field(default_factory=dict)

    def best_of(self, names: Sequence[str]) -> str:
        """The single one of some teachers that is best on validation."""
        answers = {name: self.validation.teachers[name] for name in names}
        return best_teacher(replace(self.validation, teachers=answers), self.validation.task)

    def stacked(self, names: Sequence[str], prior: float) -> dict[str, float]:
        """The weight of each of some teachers by `stacked_weights`, on the half of validation that fits temperatures.

        At their own temperatures, as a student hears them. Samples of a class that one of them does not know say nothing.

        Args:
            names: of the teachers.
            prior: n₀.
        """
        half_N = calibration_half(self.validation.ids_N)
        labels_N = self.validation.labels_N[half_N]
        answers = [self.validation.teachers[name][half_N] for name in names]
        temperatures = [self.temperatures[name] for name in names]
        log_probs_TN = label_log_probs(answers, labels_N, temperatures)
        return dict(zip(names, stacked_weights(log_probs_TN, prior).tolist(), strict=True))

    @property
    def errors(self) -> dict[str, float]:
        """Teacher -> its error: mean squared in regression (squared original units), else the NLL.

        Of a teacher that knows only some classes: on the samples of those.
        """
        return {name: self.task.error(numbers) for name, numbers in self._numbers.items()}

    @property
    def accuracies(self) -> dict[str, float]:
        """Teacher -> its accuracy, on the samples of classes that it knows; in multilabel of single labels."""
        return {name: numbers["accuracy"] for name, numbers in self._numbers.items()}

    @property
    def _numbers(self) -> dict[str, dict[str, float]]:
        return {
            name: self.task.numbers(answers, self._of_known(answers))
            for name, answers in self.validation.teachers.items()
        }

    def _of_known(self, answers: Tensor) -> Tensor:
        """The labels, those of classes that a teacher does not know taken for unlabelled."""
        labels_N = self.validation.labels_N
        if self.task.kind != "logits" or self.task.columns is not None:
            return labels_N
        return labels_of_known(answers, labels_N)


def validate(
    prepared: Prepared,
    again: Mapping[str, Tensor],
    specs: Specs,
    store: TargetStore,
    emit: Callable[[Event], None],
) -> TeacherValidation:
    """Hold what the store has of the validation samples against the teachers and their settings.

    Args:
        prepared: the recipe with its data.
        again: teacher -> what it says of the first of them now.
        specs: the teachers.
        store: what they said.
        emit: where it is told.

    Raises:
        TargetError: a teacher no longer matches its stored outputs.
        TeacherError: one is no better than chance, or worse than its `expect`.
    """
    samples = prepared.samples
    check_drift(prepared, again, specs, store)
    task, text = find_task(samples.task).metrics, find_task(samples.task).text
    rows = samples.splits["validation"]
    outputs: TeacherOutputs = {}
    if task.columns is None:
        outputs = store.gather(rows, ORIGINAL_VIEW)
        kept = kept_of(samples, rows, outputs)
        values = judge_teachers(prepared, outputs)
    else:
        kept = kept_in(samples, store, rows, list(prepared.teachers))
        values = judge_columns(prepared, kept.teachers)
    fitted = temperatures(prepared, outputs, emit)
    if all(map(math.isfinite, values.values())):
        named = ", ".join(f"{name} {text.value(value)}" for name, value in values.items())
        emit(events.message("teachers", f"validation {text.metric.name}: {named}"))
    validation = kept_outputs(samples, "validation", kept, {}, {})
    return TeacherValidation(
        task=task,
        validation=validation,
        scale=samples.scale,
        fingerprints={name: spec.fingerprint for name, spec in specs.items()},
        temperatures=fitted,
        best_teacher=best_teacher(validation, samples.task),
    )


def score_probes(samples: Samples, spec: Spec | EngineSpec) -> Tensor:
    """What a teacher says of a few validation samples now [P, C]; they are not padded to its fixed shape."""
    rows = samples.splits["validation"][:PROBES]
    model = host(replace(spec, batch_size=len(rows)), worker_device())
    return decode(model.score(samples, rows, np.full(len(rows), ORIGINAL_VIEW))).values_NC


def check_drift(
    prepared: Prepared, again: Mapping[str, Tensor], specs: Specs, store: TargetStore
) -> None:
    """Hold a few answers of now against those that are stored: the code of a teacher's model is part of no fingerprint.

    Args:
        prepared: the recipe with its data.
        again: teacher -> what it says of the probes now.
        specs: the teachers.
        store: what they said.

    Raises:
        TargetError: names the teacher that no longer matches its stored outputs.
    """
    samples = prepared.samples
    comparable, unit = (
        find_task(samples.task).metrics.comparable,
        samples.scale.std if samples.scale else 1.0,
    )
    rows = samples.splits["validation"][:PROBES]
    for name, now in again.items():
        stored = decode(store.gather_arrays(name, rows, ORIGINAL_VIEW)).values_NC
        worst = (comparable(now) - comparable(stored)).abs().max().item() / unit
        dtype = getattr(specs[name], "dtype", "float32")
        if not worst < _DRIFT * _ROUNDING[dtype]:
            folders = (store.originals[name].folder, store.entries[name].folder)
            bucket = ", in the bucket too," if is_uri(prepared.config.targets.store) else ""
            raise TargetError(
                f"teacher {name!r} no longer matches its stored outputs (probabilities, or values in standard "
                f"deviations, differ by up to {worst:.2g}): its code, or the model behind its address, was changed since; delete {folders[0]} and "
                f"{folders[1]}{bucket} to score it anew"
            )


def judge_teachers(prepared: Prepared, outputs: TeacherOutputs) -> dict[str, float]:
    """The task's metric of each teacher on validation, held against `expect` and chance.

    Raises:
        TeacherError: names the teacher and what is wrong with it.
    """
    labels_N = _validation_labels(prepared)
    known_N = is_labelled(labels_N)
    return {
        name: judge_teacher(prepared, name, answer.values_NC[known_N], labels_N[known_N])
        for name, answer in outputs.items()
    }


def judge_columns(prepared: Prepared, columns: Mapping[str, Tensor]) -> dict[str, float]:
    """As `judge_teachers`, of what is kept of their answers.

    Raises:
        TeacherError: names the teacher and what is wrong with it.
    """
    kept = find_task(prepared.samples.task).metrics.columns
    assert kept is not None, "the caller has looked"
    labels_N, found = _validation_labels(prepared), {}
    known_N, classes = is_labelled(labels_N), prepared.samples.class_count
    for name, columns_NA in columns.items():
        expect = prepared.teachers[name].settings.expect
        found[name] = kept.check(name, columns_NA[known_N], labels_N[known_N], expect, classes)
    return found


def judge_teacher(prepared: Prepared, name: str, values_NC: Tensor, labels_N: Tensor) -> float:
    """The task's metric of one teacher's answers to labelled samples.

    Raises:
        TeacherError: it is no better than chance, worse than its `expect`, or its classes look permuted.
    """
    candidate = prepared.teachers[name]
    check = find_task(prepared.samples.task).selftest
    return check(name, values_NC, labels_N, candidate.settings.expect, candidate.label_map)


def _validation_labels(prepared: Prepared) -> Tensor:
    return torch.from_numpy(prepared.samples.unit_labels(prepared.samples.splits["validation"]))


def temperatures(
    prepared: Prepared, outputs: TeacherOutputs, emit: Callable[[Event], None]
) -> dict[str, float]:
    """Each teacher's own temperature; `fit` calibrates it on half of validation, and says so where it cannot."""
    rows = prepared.samples.splits["validation"]
    ids = prepared.samples.per_unit(rows, prepared.samples.ids[rows])
    half_N = calibration_half(torch.from_numpy(ids.copy()))
    labels_N = _validation_labels(prepared)[half_N]
    found: dict[str, float] = {}
    for name, candidate in prepared.teachers.items():
        given = candidate.settings.temperature
        if given == "entropy":
            continue
        if given != "fit":
            found[name] = given
            continue
        values_NC = outputs[name].values_NC[half_N]
        own_N = labels_N if candidate.known is None else labels_of_known(values_NC, labels_N)
        fitted = _calibrated(prepared.samples.task, values_NC, own_N)
        if fitted is None:
            emit(events.message("teachers", f"teachers.{name}.temperature is 1: the validation labels cannot calibrate "
                                "it (fewer than two, all answered rightly, or none better than by chance)"))  # fmt: skip
        found[name] = 1.0 if fitted is None else fitted
    return _of_equal_entropy(prepared, outputs, found)


def _of_equal_entropy(
    prepared: Prepared, outputs: TeacherOutputs, known: Mapping[str, float]
) -> dict[str, float]:
    """The temperatures, with those of teachers that are to be as sure in the mean as the others are."""
    others = [mean_entropy(outputs[name].values_NC / value) for name, value in known.items() if len(known) < len(prepared.teachers)]  # fmt: skip
    largest = math.log(max(2, prepared.samples.class_count))
    wanted = sum(others) / len(others) if others else _SHARE_OF_ENTROPY * largest
    return {
        name: known[name]
        if name in known
        else temperature_of_entropy(outputs[name].values_NC, wanted)
        for name in prepared.teachers
    }


def _calibrated(task: str, values_NC: Tensor, labels_N: Tensor) -> float | None:
    """The temperature of least loss; None where the loss has no minimum to be found."""
    calibrate = find_task(task).metrics.calibrate
    assert calibrate is not None, "cross_check refuses it where outputs have no temperature"
    if int(is_labelled(labels_N).sum()) < _LEAST_LABELS:
        return None
    found = calibrate(values_NC, labels_N)
    return None if found in TEMPERATURE_BOUNDS else found
