"""Everything that can be known before a cluster starts: data, models, taps, weights, all checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raykd.config import Config
from raykd.data import Samples
from raykd.data.input_checks import cut_texts
from raykd.errors import InputError, Problem
from raykd.models.preprocess import Preprocessing, preprocessing_for
from raykd.models.projectors import make_projector
from raykd.models.taps import probe, probe_output
from raykd.models.weights import apply_weights, load_weights
from raykd.objective.features import feature_problem
from raykd.pipeline.candidates import (
    ResolvedTeacher,
    Shape,
    code_of,
    network_of,
    resolve_teacher,
    tap_key,
)
from raykd.pipeline.label_maps import partial_problems
from raykd.pipeline.loading import Listen, load_samples
from raykd.pipeline.model_checks import (
    check_classes,
    check_last_batch,
    check_limits,
    check_trainable,
)
from raykd.pipeline.packing import keeps_largest, packing_of, packing_problems
from raykd.targets.packing import Packing, packed_shape
from raykd.tasks import find_task
from raykd.types import ORIGINAL_VIEW


@dataclass(frozen=True, eq=False)
class Prepared:
    """A recipe that was checked against its data and models.

    Attributes:
        config: the recipe.
        samples: the data.
        data: fingerprint of samples, labels and splits.
        teachers: name -> candidate.
        preprocessing: the student's.
        student_weights: what the student starts from, or None.
        student_shapes: shapes of its tapped features.
        student_code: hash of the user's own code that it is written in, or None.
        external_baselines: name -> a model that the student is held against, as a teacher that nothing is learnt from.
    """

    config: Config
    samples: Samples
    data: str
    teachers: Mapping[str, ResolvedTeacher]
    preprocessing: Preprocessing
    student_weights: Mapping[str, Tensor] | None
    student_shapes: Mapping[str, Shape]
    student_code: str | None = None
    external_baselines: Mapping[str, ResolvedTeacher] = field(default_factory=dict)

    @property
    def teacher_shapes(self) -> dict[tuple[str, str], Shape]:
        """(teacher, tap) -> shape of the feature."""
        return {
            (name, tap): shape
            for name, candidate in self.teachers.items()
            for tap, shape in candidate.shapes.items()
        }

    @property
    def in_words(self) -> str:
        """Sizes of the parts, labels and outputs, in a line."""
        samples = self.samples
        sizes = ", ".join(f"{name} {len(rows):,}" for name, rows in samples.splits.items())
        labelled = len(samples.labelled_rows("train"))
        outputs = find_task(samples.task).labels.counted(samples.classes)
        return f"{sizes} samples; {labelled:,} training labels; {outputs}{cut_texts(samples)}"


def student_outputs(config: Config, samples: Samples) -> int:
    """How many numbers a student answers: one for each class or label, one value, or the length of its embedding."""
    return config.student.dimension or samples.class_count


def prepare(
    config: Config,
    variants: Sequence[Config] = (),
    *,
    address: str | None = None,
    listen: Listen | None = None,
) -> Prepared:
    """Load the data, build every model once, probe every tap; starts nothing but the decoding of new files.

    Args:
        config: the recipe.
        variants: others that will use the same teachers' answers; their taps are probed too.
        address: of the cluster that decodes; None = a local one.
        listen: is told how far decoding is.

    Raises:
        InputError: with the problems of data, or else of all models together.
    """
    if config.folds is not None:
        raise InputError(
            Problem(
                "folds",
                f"found {config.folds}; only `raykd run` and its stages cross-validate: leave it out here",
            )
        )
    samples = load_samples(config, address=address, listen=listen)
    problems = packing_problems([config, *variants], samples)
    problems += _class_weights([config, *variants], samples)
    if problems:
        raise InputError(problems)
    teachers = {}
    objectives = [recipe.objective for recipe in (config, *variants)]
    for teacher in config.teachers:
        make = partial(resolve_teacher, config, teacher, samples, objectives)
        candidate = collect(problems, make)
        if candidate is not None:
            packing = packing_of(config, objectives, teacher, candidate.taps, samples)
            teachers[teacher.name] = _packed(candidate, packing)
    problems += partial_problems(
        {name: candidate.known for name, candidate in teachers.items()},
        objectives,
        whole=not keeps_largest(config, samples),
        classes=samples.class_count,
    )
    student = collect(problems, partial(_student, config, samples))
    if problems or student is None:
        raise InputError(problems)
    prepared = Prepared(config, samples, _fingerprint(samples), teachers, *student)
    _check_features(prepared)
    return prepared


def _class_weights(recipes: Sequence[Config], samples: Samples) -> list[Problem]:
    """There is a factor for each class."""
    given = [recipe.objective.labels.class_weights for recipe in recipes]
    counts = {len(weights) for weights in given if isinstance(weights, tuple)}
    return [
        Problem("objective.labels.class_weights", f"has {count} factors; the data has {samples.class_count} classes, "
                "and needs one for each")
        for count in counts - {samples.class_count}
    ]  # fmt: skip


def _packed(candidate: ResolvedTeacher, packing: Packing) -> ResolvedTeacher:
    shapes = {t: packed_shape(shape, packing.features) for t, shape in candidate.shapes.items()}
    return replace(candidate, packing=packing, shapes=shapes)


def vary(prepared: Prepared, config: Config) -> Prepared:
    """The same data and teachers with another student or objective, which `prepare` was told of.

    Raises:
        InputError: with the problems of the student and of its feature terms.
    """
    preprocessing, weights, shapes, code = _student(config, prepared.samples)
    names = [teacher.name for teacher in config.teachers]
    varied = replace(
        prepared,
        config=config,
        teachers={name: prepared.teachers[name] for name in names},
        preprocessing=preprocessing,
        student_weights=weights,
        student_shapes=shapes,
        student_code=code,
    )
    _check_features(varied)
    return varied


def with_views(prepared: Prepared, config: Config) -> Prepared:
    """The same samples and teachers with the view policy of another recipe; their splits and labels stay."""
    samples = replace(prepared.samples, policy=config.data.views.policy)
    return replace(prepared, config=config, samples=samples, data=_fingerprint(samples))


def collect(problems: list[Problem], make: Callable[[], Any]) -> Any:
    """What a call makes; None with its problems noted."""
    try:
        return make()
    except InputError as error:
        problems.extend(error.problems)
        return None


def _student(
    config: Config, samples: Samples
) -> tuple[Preprocessing, Mapping[str, Tensor] | None, dict[str, Shape], str | None]:
    """Its preprocessing, first weights, shapes of features, and code."""
    student = config.student
    preprocessing = preprocessing_for(student.preprocess, samples, key="student.preprocess")
    torch.manual_seed(config.seed)
    outputs = student_outputs(config, samples)
    network = network_of(student.model, preprocessing, samples, outputs, "student.model")
    check_trainable(network.model, "student.model")
    weights = None
    if student.weights is not None:
        weights = load_weights(student.weights, key="student.weights")
        apply_weights(network.model, weights, key="student.weights")
    inputs = samples.batch(samples.splits["train"][:2], ORIGINAL_VIEW).inputs
    check_classes(probe_output(network, inputs, key="student.model"), outputs, "student.model")
    check_limits(config, network.model)
    rows, workers = len(samples.splits["train"]), config.cluster.student.most
    check_last_batch(network, inputs, rows, config.train.batch_size, key="train", workers=workers)
    taps = tuple(
        dict.fromkeys(tap for term in config.objective.features for tap in term.student_taps)
    )
    shapes = probe(network, inputs, taps, key=tap_key(config, None, "student_tap"))
    return preprocessing, weights, shapes, code_of(student.model, network)


def _check_features(prepared: Prepared) -> None:
    """Every feature term's shapes can be brought together."""
    problems: list[Problem] = []
    for index, term in enumerate(prepared.config.objective.features):
        key = f"objective.features.{index}"
        student = [prepared.student_shapes[tap] for tap in term.student_taps]
        teacher = [prepared.teacher_shapes[term.teacher, tap] for tap in term.teacher_taps]
        if term.loss.row.layout == "projected":
            make = partial(make_projector, student[0], teacher[0], always=True, key=key)
            collect(problems, make)
        elif why := feature_problem(term, student, teacher):
            problems.append(Problem(key, why))
    if problems:
        raise InputError(problems)


def _fingerprint(samples: Samples) -> str:
    digest = hashlib.sha256(samples.view_key.encode())
    every = np.arange(len(samples))
    arrays = [samples.ids, samples.content_hash(every), samples.labels, samples.all_labels]
    if samples.weights is not None:
        arrays.append(samples.weights)
    for array in [*arrays, *(samples.splits[name] for name in sorted(samples.splits))]:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]
