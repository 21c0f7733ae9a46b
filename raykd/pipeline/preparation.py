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
from raykd.config.models import Model, Teacher, brings_weights
from raykd.config.objective import Objective
from raykd.data import Samples
from raykd.data.lengths import cut_texts
from raykd.errors import InputError, Problem
from raykd.evaluate import TASKS
from raykd.models import build_model
from raykd.models.frozen import freeze, parameter_groups
from raykd.models.network import Network
from raykd.models.preprocess import Preprocessing, preprocessing_for
from raykd.models.projectors import make_projector
from raykd.models.taps import probe, probe_output
from raykd.models.weights import apply_weights, load_weights
from raykd.objective.features import feature_problem
from raykd.pipeline.candidates import behaviour, examples, known_by_answers, vector_length
from raykd.pipeline.label_maps import (
    LabelMap,
    known_classes,
    partial_problems,
    resolve_label_map,
)
from raykd.pipeline.loading import Listen, load_samples
from raykd.pipeline.model_checks import (
    check_answer,
    check_classes,
    check_limits,
    check_trainable,
)
from raykd.pipeline.packing import keeps_largest, packing_of, packing_problems
from raykd.report.speech import SPEECH
from raykd.targets.packing import PLAIN, Packing, packed_shape
from raykd.teachers.recorded import load_outputs
from raykd.types import ORIGINAL_VIEW

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A teacher as far as it is known before it is fitted.

    Attributes:
        settings: its part of the recipe.
        preprocessing: with concrete numbers.
        weights: loaded or the factory's own; None when it is to be fitted from scratch.
        outputs: number of its own classes, which its network is made with.
        taps: features that the objective wants of it.
        shapes: their shapes, as students get them.
        recorded_NC: the logits of a teacher without a model.
        packing: what is kept of its answers to training views.
        label_map: its classes as numbers of the data's.
        known: the data's classes that it knows; None = all.
        behaviour: hash of a few answers, of a model that is not known by its weights.
        answers: how many numbers it answers for a sample: one for each of the data's outputs, or the length of
            its embedding.
    """

    settings: Teacher
    preprocessing: Preprocessing
    weights: Mapping[str, Tensor] | None
    outputs: int
    taps: tuple[str, ...] = ()
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    recorded_NC: np.ndarray | None = None
    packing: Packing = PLAIN
    label_map: LabelMap | None = None
    known: tuple[int, ...] | None = None
    behaviour: str | None = None
    answers: int = 0


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
        rivals: name -> a model that the student is held against, as a teacher that nothing is learnt from.
    """

    config: Config
    samples: Samples
    data: str
    teachers: Mapping[str, Candidate]
    preprocessing: Preprocessing
    student_weights: Mapping[str, Tensor] | None
    student_shapes: Mapping[str, Shape]
    rivals: Mapping[str, Candidate] = field(default_factory=dict)

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
        outputs = SPEECH[samples.task].outputs(samples.classes)
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
    if problems:
        raise InputError(problems)
    teachers = {}
    objectives = [recipe.objective for recipe in (config, *variants)]
    for teacher in config.teachers:
        make = partial(make_candidate, config, teacher, samples, objectives)
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
    preprocessing, weights, shapes = student
    prepared = Prepared(
        config, samples, _fingerprint(samples), teachers, preprocessing, weights, shapes
    )
    _check_features(prepared)
    return prepared


def _packed(candidate: Candidate, packing: Packing) -> Candidate:
    shapes = {t: packed_shape(shape, packing.features) for t, shape in candidate.shapes.items()}
    return replace(candidate, packing=packing, shapes=shapes)


def vary(prepared: Prepared, config: Config) -> Prepared:
    """The same data and teachers with another student or objective, which `prepare` was told of.

    Raises:
        InputError: with the problems of the student and of its feature terms.
    """
    preprocessing, weights, shapes = _student(config, prepared.samples)
    names = [teacher.name for teacher in config.teachers]
    varied = replace(
        prepared,
        config=config,
        teachers={name: prepared.teachers[name] for name in names},
        preprocessing=preprocessing,
        student_weights=weights,
        student_shapes=shapes,
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


def _network(
    spec: Model,
    preprocessing: Preprocessing,
    samples: Samples,
    outputs: int,
    key: str,
    examples: Mapping[str, Tensor] | None = None,
) -> Network:
    shape = preprocessing.output_shape(samples.input_shape)
    model = build_model(spec, input_shape=shape, classes=outputs, key=key, weights=examples)
    return Network(model, preprocessing, samples.scale)


def make_candidate(
    config: Config,
    teacher: Teacher,
    samples: Samples,
    objectives: Sequence[Objective],
    *,
    key: str | None = None,
) -> Candidate:
    """A teacher built once and tried on two samples.

    Args:
        config: the recipe.
        teacher: its settings.
        samples: the data.
        objectives: whose feature terms may want taps of it.
        key: what names it in errors; None = its place among the teachers.

    Raises:
        InputError: its model, weights, answers or taps are wrong.
    """
    key = key or f"teachers.{teacher.name}"
    preprocessing = preprocessing_for(teacher.preprocess, samples, key=f"{key}.preprocess")
    if teacher.outputs is not None:
        kind = TASKS[config.task].kind
        logits_NC = load_outputs(teacher.outputs, samples, key=f"{key}.outputs", answers=kind)
        return Candidate(
            teacher,
            preprocessing,
            None,
            samples.class_count,
            recorded_NC=logits_NC,
            answers=logits_NC.shape[1],
        )
    assert teacher.model is not None, "cross_check demands a model where there are no outputs"
    label_map = resolve_label_map(teacher, samples, key=f"{key}.label_map")
    outputs = samples.class_count if label_map is None else len(label_map)
    if teacher.fit is not None and not outputs:
        raise InputError(
            Problem(f"{key}.fit", "the data has no label to be fitted on; give `weights`")
        )
    fitted_on = examples(config, teacher, preprocessing, samples)
    network = _network(teacher.model, preprocessing, samples, outputs, f"{key}.model", fitted_on)
    weights = fitted_on or _weights(teacher, network, key)
    inputs = samples.batch(samples.splits["train"][:2], ORIGINAL_VIEW).inputs
    answer = probe_output(network, inputs, key=f"{key}.model")
    if samples.task != "embedding" or teacher.fit is not None:
        check_answer(teacher, answer, outputs, key)
    answers = samples.class_count
    if samples.task == "embedding":
        answers = vector_length(teacher, network, inputs, answer, key)
    if teacher.fit is not None:
        check_trainable(network.model, f"{key}.model")
        freeze(network.model, teacher.fit.freeze, key=f"{key}.fit.freeze")
        parameter_groups(
            network.model, 1.0, teacher.fit.lr_factors, 0.0, key=f"{key}.fit.lr_factors"
        )
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise InputError(
                Problem(f"{key}.fit.freeze", "freezes every parameter; leave one free")
            )
    terms = [term for objective in objectives for term in objective.features]
    wanted = [term for term in terms if term.teacher == teacher.name]
    taps = tuple(dict.fromkeys(tap for term in wanted for tap in term.teacher_taps))
    shapes = probe(network, inputs, taps, key=_tap_key(config, teacher.name, "teacher_tap"))
    return Candidate(
        teacher,
        preprocessing,
        weights,
        outputs,
        taps,
        shapes,
        label_map=label_map,
        known=known_classes(label_map, samples.class_count),
        behaviour=behaviour(network, samples) if known_by_answers(teacher, weights) else None,
        answers=answers,
    )


def _weights(teacher: Teacher, network: Network, key: str) -> Mapping[str, Tensor] | None:
    """Those that it starts from; None = fresh ones."""
    if teacher.weights is not None:
        weights = load_weights(teacher.weights, key=f"{key}.weights")
        apply_weights(network.model, weights, key=f"{key}.weights")
        return weights
    if teacher.fit is not None:
        return None
    assert brings_weights(teacher.model), "cross_check demands fit or weights"
    return {name: tensor.detach().clone() for name, tensor in network.model.state_dict().items()}


def _tap_key(config: Config, teacher: str | None, side: str) -> str:
    for index, term in enumerate(config.objective.features):
        if teacher is None or term.teacher == teacher:
            return f"objective.features.{index}.{side}"
    return f"objective.features.{side}"


def _student(
    config: Config, samples: Samples
) -> tuple[Preprocessing, Mapping[str, Tensor] | None, dict[str, Shape]]:
    student = config.student
    preprocessing = preprocessing_for(student.preprocess, samples, key="student.preprocess")
    torch.manual_seed(config.seed)
    outputs = student_outputs(config, samples)
    network = _network(student.model, preprocessing, samples, outputs, "student.model")
    check_trainable(network.model, "student.model")
    weights = None
    if student.weights is not None:
        weights = load_weights(student.weights, key="student.weights")
        apply_weights(network.model, weights, key="student.weights")
    inputs = samples.batch(samples.splits["train"][:2], ORIGINAL_VIEW).inputs
    check_classes(probe_output(network, inputs, key="student.model"), outputs, "student.model")
    check_limits(config, network.model)
    taps = tuple(
        dict.fromkeys(tap for term in config.objective.features for tap in term.student_taps)
    )
    shapes = probe(network, inputs, taps, key=_tap_key(config, None, "student_tap"))
    return preprocessing, weights, shapes


def _check_features(prepared: Prepared) -> None:
    """Every feature term's shapes can be brought together."""
    problems: list[Problem] = []
    for index, term in enumerate(prepared.config.objective.features):
        key = f"objective.features.{index}"
        student = [prepared.student_shapes[tap] for tap in term.student_taps]
        teacher = [prepared.teacher_shapes[term.teacher, tap] for tap in term.teacher_taps]
        if term.loss.layout == "projected":
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
