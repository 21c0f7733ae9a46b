"""Everything that can be known before a cluster starts: data, models, taps, weights, all checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raykd.config import Config
from raykd.config.choosing import every_recipe
from raykd.config.choosing import with_target as config_with_target
from raykd.config.heads import asks_head
from raykd.config.load import students_of
from raykd.config.objective import Candidate, FeatureTerm
from raykd.config.optimizers import with_choosing_samples, with_training_settings
from raykd.config.resolving import resolved
from raykd.config.roles import REPLICA
from raykd.config.scales import Scaled, scales_asked
from raykd.data import Samples
from raykd.data.input_checks import columns_in_words, cut_texts
from raykd.errors import InputError, Problem
from raykd.evaluate.costs import multiply_adds
from raykd.models.network import Network
from raykd.models.preprocess import Preprocessing, preprocessing_for
from raykd.models.projectors import make_projector
from raykd.models.taps import probe, probe_output
from raykd.models.weights import apply_weights, load_weights, matching
from raykd.models.zoo.foreign import ForeignModel
from raykd.objective.features import feature_problem
from raykd.pipeline.halves import choice_problems, choosing_samples, epoch_problems, not_halved
from raykd.pipeline.loading import Listen, fingerprints, load_samples
from raykd.pipeline.model_checks import (
    Shape,
    check_classes,
    check_gaps,
    check_last_batch,
    check_limits,
    check_trainable,
    data_problems,
    keeps_largest,
    partial_problems,
    structured_problems,
)
from raykd.pipeline.placement import threads_of
from raykd.pipeline.taught import labelled_student_rows, rows_to_score, student_rows
from raykd.pipeline.teachers import (
    ResolvedTeacher,
    Specs,
    code_of,
    network_of,
    resolve_teacher,
    tap_key,
)
from raykd.runtime.cluster import cpu_count
from raykd.tasks import find_task
from raykd.types import ORIGINAL_VIEW


@dataclass(frozen=True, eq=False)
class Prepared:
    """A recipe that was checked against its data and models.

    Attributes:
        config: the recipe.
        samples: the data.
        data: fingerprint of samples, labels and splits.
        teachers: name -> what is known of it.
        preprocessing: the student's.
        student_weights: what the student starts from, or None.
        student_shapes: shapes of its tapped features.
        student_code: hash of the user's own code that it is written in, or None.
        external_baselines: name -> a model that the student is held against, as a teacher that nothing is learnt from.
        asked: int64, training rows of which teachers are asked: for the student, and for variants of it.
        own_data: fingerprint of the samples without transfer sets, of which teachers that are fitted here know nothing.
        replica_weights: what each replica of the student starts from, where each has weights of its own.
        students: name -> the recipe of another student of the same run, as if it were alone.
        scaled: teachers' tokens that the recipe, or a variant of it, compares at a scale that is fitted to them.
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
    asked: np.ndarray = field(kw_only=True)
    own_data: str = field(kw_only=True)
    replica_weights: tuple[Mapping[str, Tensor], ...] = ()
    students: Mapping[str, Prepared] = field(default_factory=dict)
    scaled: tuple[Scaled, ...] = ()

    def student_weights_of(self, replica: int) -> Mapping[str, Tensor] | None:
        """What a replica of the student starts from, or None."""
        return self.replica_weights[replica] if self.replica_weights else self.student_weights

    @property
    def teacher_shapes(self) -> dict[tuple[str, str], Shape]:
        """(teacher, tap) -> shape of the feature."""
        return {
            (name, tap): shape
            for name, candidate in self.teachers.items()
            for tap, shape in candidate.shapes.items()
        }

    def specs(self, weights: Mapping[str, Mapping[str, Tensor]]) -> Specs:
        """What each teacher's actors host, once the weights of fitted teachers are known."""
        cluster = self.config.cluster.hosting
        return {
            name: one.spec(weights.get(name), self.samples, cluster)
            for name, one in self.teachers.items()
        }

    @property
    def in_words(self) -> str:
        """Sizes of the parts, labels and outputs, in a line; of a table also its columns, in lines of their own."""
        samples = self.samples
        sizes = ", ".join(f"{name} {len(rows):,}" for name, rows in samples.splits.items())
        labelled = len(samples.labelled_rows("train"))
        made = ", ".join(f"{name} {len(rows):,}" for name, rows in samples.transfer.items())
        if made:
            own = f"train {len(samples.own_training_rows):,} and transfer sets ({made}), of which the student learns from "
            sizes = f"{own}{len(student_rows(self.config, samples)):,}; {sizes.partition(', ')[2]}"
        outputs = find_task(samples.task).labels.counted(samples.classes)
        line = f"{sizes} samples; {labelled:,} training labels; {outputs}{cut_texts(samples)}"
        return "\n".join([line, *columns_in_words(samples)])

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the data, of recorded outputs and of a small validation part, in plain words."""
        teachers = (note for teacher in self.teachers.values() for note in teacher.notes)
        return (*self.samples.notes, *teachers, *not_halved(self.config, self.samples))


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
        raise InputError.at(
            "folds",
            f"found {config.folds}; only `raykd run` and its stages cross-validate: leave it out here",
        )
    if config.stages:
        raise InputError.at(
            "stages",
            f"found {len(config.stages)}; this is for `raykd run`: give the config.json of its folder, which is the recipe "
            "of the last stage, or leave them out here",
        )
    samples = load_samples(config, address=address, listen=listen)
    config, *variants = (with_data(recipe, samples) for recipe in (config, *variants))
    recipes = [
        with_data(one, samples)
        for recipe in (config, *variants)
        for one in every_recipe(recipe, fully_labelled=is_fully_labelled(recipe, samples))
    ]
    problems = choice_problems(config, samples)
    problems += [one for recipe in (config, *variants) for one in epoch_problems(recipe, samples)]
    if problems := [*dict.fromkeys(problems), *data_problems(recipes, samples)]:
        raise InputError(problems)
    objectives = [recipe.objective for recipe in recipes]
    made = {
        teacher.name: collect(
            problems, partial(resolve_teacher, config, teacher, samples, objectives)
        )
        for teacher in config.teachers
    }
    teachers = {name: resolved for name, resolved in made.items() if resolved is not None}
    problems += partial_problems(
        {name: resolved.known for name, resolved in teachers.items()},
        objectives,
        whole=not keeps_largest(config, samples),
        classes=samples.class_count,
    )
    boxes = [name for name, resolved in teachers.items() if resolved.used is not None]
    problems += dict.fromkeys(structured_problems(boxes, objectives))
    cpus = cpu_count() if address is None else None
    student = collect(problems, partial(_student, config, samples, cpus))
    if problems or student is None:
        raise InputError(problems)
    samples = samples.hashed()  # once: processes that get them need not do it again
    whole, own = fingerprints(samples)
    prepared = Prepared(
        samples=samples,
        data=whole,
        teachers=teachers,
        own_data=own,
        asked=rows_to_score([config, *variants], samples),
        scaled=_scaled(recipes),
        **student,
    )
    _check_features(prepared)
    return replace(prepared, students=_other_students(prepared))


def _scaled(recipes: Sequence[Config]) -> tuple[Scaled, ...]:
    """The scales that some recipes ask for, each once."""
    asked = (
        one
        for recipe in recipes
        for one in scales_asked(recipe.objective, [teacher.name for teacher in recipe.teachers])
    )
    return tuple(dict.fromkeys(asked))


def _other_students(prepared: Prepared) -> dict[str, Prepared]:
    """Each of the other students, tried as the first one was."""
    problems: list[Problem] = []
    found = {}
    for name, recipe in students_of(prepared.config).items():
        own: list[Problem] = []
        found[name] = collect(own, partial(vary, prepared, recipe))
        problems += [Problem(f"students.{name}: {one.key}", one.message) for one in own]
    if problems:
        raise InputError(problems)
    return found


def is_fully_labelled(config: Config, samples: Samples) -> bool:
    """Whether every sample that the student learns from has a label within the budget."""
    return len(labelled_student_rows(config, samples)) == len(student_rows(config, samples))


def with_target(prepared: Prepared, target: Candidate) -> Prepared:
    """The same data and models with one target of the recipe's menu."""
    config = with_data(config_with_target(prepared.config, target), prepared.samples)
    return replace(prepared, config=config)


def with_data(config: Config, samples: Samples) -> Config:
    """The recipe with what it leaves open: temperature and use of labels, optimizers, what chooses the best epoch."""
    objective = resolved(
        config.objective,
        labelled=len(labelled_student_rows(config, samples)),
        samples=len(student_rows(config, samples)),
        classes=find_task(config.task).settings.class_logits,
    )
    whole = with_choosing_samples(with_training_settings(config), choosing_samples(config, samples))
    return whole.model_copy(update={"objective": objective})


def with_external_baselines(prepared: Prepared) -> Prepared:
    """The recipe with the models of `evaluate.compare`, each built once and tried.

    Raises:
        InputError: with the problems of all of them.
    """
    problems: list[Problem] = []
    external_baselines = {}
    for one in prepared.config.evaluate.compare:
        make = partial(
            resolve_teacher,
            prepared.config,
            one.as_teacher(),
            prepared.samples,
            (),
            key=f"evaluate.compare.{one.name}",
        )
        external_baselines[one.name] = collect(problems, make)
    if problems:
        raise InputError(problems)
    return replace(prepared, external_baselines=external_baselines)


def vary(prepared: Prepared, config: Config) -> Prepared:
    """The same data and teachers with another student or objective, which `prepare` was told of.

    Raises:
        InputError: with the problems of the student and of its feature terms.
    """
    config = with_cpus_of(with_data(config, prepared.samples), prepared.config)
    teachers = {teacher.name: prepared.teachers[teacher.name] for teacher in config.teachers}
    student = _student(config, prepared.samples, None)
    varied = replace(prepared, teachers=teachers, students={}, **student)
    _check_features(varied)
    return varied


def with_views(prepared: Prepared, config: Config) -> Prepared:
    """The same samples and teachers with the view policy of another recipe; their splits and labels stay."""
    samples = replace(prepared.samples, policy=config.data.views.policy)
    whole, own = fingerprints(samples)
    return replace(prepared, config=config, samples=samples, data=whole, own_data=own)


def collect(problems: list[Problem], make: Callable[[], Any]) -> Any:
    """What a call makes; None with its problems noted."""
    try:
        return make()
    except InputError as error:
        problems.extend(error.problems)
        return None


def with_cpus_of(config: Config, other: Config) -> Config:
    """The recipe with the CPUs of another one's student, where it leaves them open."""
    if config.cluster.student.cpus is not None:
        return config
    return _with_cpus(config, other.cluster.student.cpus)


def _with_cpus(config: Config, cpus: float | None) -> Config:
    student = config.cluster.student.model_copy(update={"cpus": cpus})
    return config.model_copy(
        update={"cluster": config.cluster.model_copy(update={"student": student})}
    )


def _student(config: Config, samples: Samples, cpus: int | None) -> dict[str, Any]:
    """What `Prepared` says of it: its recipe, preprocessing, first weights, shapes of features, and code.

    Args:
        config: the recipe.
        samples: the data.
        cpus: of the machine that trains it, of which it is decided how many a worker has; None = one.
    """
    student = config.student
    preprocessing = preprocessing_for(student.preprocess, samples, key="student.preprocess")
    torch.manual_seed(config.seed)
    outputs = student_outputs(config, samples)
    network = network_of(student.model, preprocessing, samples, outputs, "student.model")
    check_trainable(network.model, "student.model")
    starts = _first_weights(config, network)
    inputs = samples.batch(samples.splits["train"][:2], ORIGINAL_VIEW).inputs
    check_classes(probe_output(network, inputs, key="student.model"), outputs, "student.model")
    check_gaps(network, samples, "student")
    check_limits(config, network.model)
    rows, workers = len(student_rows(config, samples)), config.cluster.student.most
    check_last_batch(network, inputs, rows, config.train.batch_size, key="train", workers=workers)
    taps = tuple(
        dict.fromkeys(tap for term in config.objective.features for tap in term.student_taps)
    )
    shapes = probe(network, inputs, taps, key=tap_key(config, None, "student_tap"))
    if config.cluster.student.cpus is None:
        known = cpus is not None and not isinstance(network.model, ForeignModel)
        work = _work_at_once(network, inputs) if known else 0.0
        config = _with_cpus(config, threads_of(config, work, cpus or 1))
    return {
        "config": config,
        "preprocessing": preprocessing,
        **starts,
        "student_shapes": shapes,
        "student_code": code_of(student.model, network),
    }


def _work_at_once(network: Network, inputs: Mapping[str, Tensor]) -> float:
    """Multiply-adds of a sample that need not wait for others of it: tokens of recurrent layers follow one another."""
    found = float(multiply_adds(network, inputs))
    if not any(isinstance(module, nn.RNNBase) for module in network.modules()):
        return found
    return found / max(math.prod(tensor.shape[1:2]) for tensor in inputs.values())


def _first_weights(config: Config, network: Network) -> dict[str, Any]:
    """What `Prepared` says of what the student starts from: one file for all replicas, or one for each."""
    given, where = config.student.weights, "student.weights"
    found: list[Mapping[str, Tensor]] = []
    each = given is not None and REPLICA in given
    for replica in range(0 if given is None else config.seeds if each else 1):
        assert given is not None, "there is a range of none then"
        file = given.replace(REPLICA, str(replica))
        weights = load_weights(file, key=where, prefix=config.student.prefix)
        found.append(matching(network, weights, key=where))
        apply_weights(network.model, found[-1], key=where)
    if each:
        return {"student_weights": None, "replica_weights": tuple(found)}
    return {"student_weights": found[0] if found else None, "replica_weights": ()}


def _check_features(prepared: Prepared) -> None:
    """Every feature term's shapes can be brought together."""
    problems: list[Problem] = []
    for index, term in enumerate(prepared.config.objective.features):
        key = f"objective.features.{index}"
        student = [prepared.student_shapes[tap] for tap in term.student_taps]
        teacher = [prepared.teacher_shapes[term.teacher, tap] for tap in term.teacher_taps]
        if asks_head(prepared.config.objective, term) and (
            why := _head_problem(prepared, term, teacher[0])
        ):
            problems.append(Problem(f"{key}.teacher_tap", why))
        elif why := feature_problem(term, student, teacher):
            problems.append(Problem(key, why))
        elif term.loss.row.projects:
            make = partial(make_projector, student[0], teacher[0], always=True, key=key)
            collect(problems, make)
    if problems:
        raise InputError(problems)


def _head_problem(prepared: Prepared, term: FeatureTerm, found: Shape) -> str | None:
    """Why a teacher's head cannot read the feature of a term, or None."""
    shape = prepared.teachers[term.teacher].head_shape
    assert shape is not None, "cross_check demands a head"
    if len(found) == 2 or found[0] != shape[1]:
        return (
            f"the head of teacher {term.teacher!r} reads {shape[1]} numbers, or a map of as many channels; found "
            f"{list(found)} at {term.teacher_tap!r}: tap what stands in front of it"
        )
    classes = prepared.samples.class_count
    if prepared.config.objective.feature_weighting == "heads" and shape[0] != classes:
        return (
            f"the head of teacher {term.teacher!r} answers {shape[0]} numbers for {classes} classes"
        )
    return None
