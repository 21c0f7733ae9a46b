"""A teacher as far as it is known before it is fitted or hosted: built once, and tried on a few samples."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raykd.config import Config
from raykd.config.check_targets import needed_temperatures
from raykd.config.data import Preprocess
from raykd.config.engines import EngineModel
from raykd.config.models import (
    FactoryModel,
    Model,
    NgramModel,
    PrivilegedModel,
    SklearnModel,
    brings_weights,
)
from raykd.config.objective import Objective
from raykd.config.roles import Teacher
from raykd.config.root import TeacherCluster
from raykd.data import Samples
from raykd.data.samples import Labels
from raykd.errors import InputError, Problem
from raykd.importing import load_callable
from raykd.models import build_model
from raykd.models.frozen import freeze, parameter_groups
from raykd.models.network import Network
from raykd.models.preprocess import IDENTITY, Preprocessing, preprocessing_for
from raykd.models.spreading import require_accelerate
from raykd.models.taps import probe, probe_answer, probe_output, run_model
from raykd.models.weights import apply_weights, load_weights, matching
from raykd.models.zoo.estimator import examples_of
from raykd.pipeline.box_teachers import boxes_of, used_of
from raykd.pipeline.engines import AskedEngine, engine_spec, resolve_engine
from raykd.pipeline.model_checks import (
    LabelMap,
    Shape,
    check_answer,
    check_gaps,
    check_last_batch,
    check_trainable,
    keeps_largest,
    known_classes,
    resolve_label_map,
)
from raykd.pipeline.object_teachers import held_object, is_raw, with_samples
from raykd.pipeline.policies import code_of_path
from raykd.pipeline.texts import counted_text, domain_numbers, teacher_rows
from raykd.seeding import derive
from raykd.targets import codec
from raykd.targets.packing import PLAIN, Arrays, Packing, packed_shape
from raykd.tasks import find_task
from raykd.teachers import AnySpec, Recorded, Spec
from raykd.teachers.recorded import load_outputs
from raykd.types import ORIGINAL_VIEW

Specs = Mapping[str, AnySpec]
_PROBED = 32


@dataclass(frozen=True, eq=False)
class ResolvedTeacher:
    """A teacher as far as it is known before it is fitted.

    Attributes:
        settings: its part of the recipe.
        preprocessing: with concrete numbers.
        weights: loaded or the factory's own; None when it is to be fitted from scratch.
        outputs: number of its own classes, which its network is made with.
        taps: features that the objective wants of it.
        shapes: their shapes, as students get them.
        head_shape: [K, C] of the last linear layer that it names, or None.
        recorded_NC: the logits of a teacher without a model.
        packing: what is kept of its answers to training views.
        label_map: its classes as numbers of the data's.
        known: the data's classes that it knows; None = all.
        behaviour: hash of a few answers, of a model that is not known by its weights.
        code: hash of the user's own code that it is written in, or None.
        answers: how many numbers it answers for a sample: one for each of the data's outputs, or the length of
            its embedding.
        engine: what is known of it, where it is one.
        notes: what a reader of a run should know of its answers, in plain words.
        used: so many first numbers of each answer say something, see `raykd.evaluate.task.TaskMetrics.used`; None = all.
    """

    settings: Teacher
    preprocessing: Preprocessing
    weights: Mapping[str, Tensor] | None
    outputs: int
    taps: tuple[str, ...] = ()
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    head_shape: tuple[int, int] | None = None
    recorded_NC: np.ndarray | None = None
    packing: Packing = PLAIN
    label_map: LabelMap | None = None
    known: tuple[int, ...] | None = None
    behaviour: str | None = None
    code: str | None = None
    answers: int = 0
    engine: AskedEngine | None = None
    notes: tuple[str, ...] = ()
    used: int | None = None

    def spec(
        self, weights: Mapping[str, Tensor] | None, samples: Samples, cluster: TeacherCluster
    ) -> AnySpec:
        """What its actor hosts.

        Args:
            weights: of its model; not needed where its outputs are recorded.
            samples: the data.
            cluster: the settings of all teachers' actors.
        """
        settings, answers = self.settings, find_task(samples.task).metrics.kind
        if self.recorded_NC is not None:
            return Recorded(
                name=settings.name,
                logits_NC=self.recorded_NC,
                answers=answers,
                packing=self.packing,
                known_as=self.behaviour,
                width=None if self.used is None else self.answers,
            )
        assert settings.model is not None, "a teacher without outputs has a model"
        gpus = cluster.gpus if settings.resources.gpus is None else settings.resources.gpus
        size = settings.resources.batch_size or cluster.batch_size
        if isinstance(settings.model, EngineModel):
            return engine_spec(settings, self.packing, samples, size, self.engine, on_gpu=gpus > 0)
        assert weights is not None, "a model is hosted with its weights"
        return Spec(
            name=settings.name,
            key=f"teachers.{settings.name}.model",
            model=settings.model,
            weights=weights,
            preprocessing=self.preprocessing,
            input_shape=samples.input_shape,
            outputs=self.outputs,
            classes=samples.class_count,
            label_map=self.label_map,
            kind=settings.kind,
            dtype=settings.dtype,
            batch_size=size,
            taps=self.taps,
            answers=answers,
            scale=samples.scale if settings.is_ours else None,
            packing=self.packing,
            behaviour=self.behaviour,
            vector=settings.embedding,
            device="cuda" if gpus else "cpu",
            device_map=settings.resources.device_map,
            object=held_object(settings.model, f"teachers.{settings.name}.model"),
        )

    def network(
        self,
        samples: Samples,
        *,
        key: str | None = None,
        examples: Mapping[str, Tensor] | None = None,
    ) -> Network:
        """Its model with fresh weights; an estimator is fitted on `examples`, where there are any."""
        assert self.settings.model is not None, "cross_check demands a model where no outputs are"
        key = key or f"teachers.{self.settings.name}.model"
        model, outputs = self.settings.model, self.outputs
        return network_of(model, self.preprocessing, samples, outputs, key, examples)

    def empty_answer(self, samples: Samples, rows: int = 1, *, held_out: bool = False) -> Arrays:
        """Its encoded answers of zeros for so many samples [rows, ...], untransformed (held out) or in a view."""
        packing = self.packing.whole() if held_out and self.engine is None else self.packing
        features = {} if held_out else {t: torch.zeros(1, *s) for t, s in self.shapes.items()}
        outputs, kind = torch.zeros(1, self.answers), find_task(samples.task).metrics.kind
        arrays = codec.encode(outputs, features, kind, packing)
        return {name: np.repeat(array, rows, axis=0) for name, array in arrays.items()}


def resolve_teacher(
    config: Config,
    teacher: Teacher,
    samples: Samples,
    objectives: Sequence[Objective],
    *,
    key: str | None = None,
) -> ResolvedTeacher:
    """A teacher built once and tried on two samples.

    Args:
        config: the recipe.
        teacher: its settings.
        samples: the data.
        objectives: whose feature terms may need taps of it; of none, its answers are kept as they are.
        key: what names it in errors; None = its key among the teachers.

    Raises:
        InputError: its model, weights, answers or taps are wrong.
    """
    key = key or f"teachers.{teacher.name}"
    teacher = with_samples(teacher, samples, key=key)
    domain_numbers(samples, teacher)  # an unknown one is refused before anything is built
    preprocessing = IDENTITY
    if not is_raw(teacher, samples) and not sees_states(config, teacher):
        preprocessing = preprocessing_for(teacher.preprocess, samples, key=f"{key}.preprocess")
    label_map = resolve_label_map(teacher, samples, key=f"{key}.label_map")
    resolved = ResolvedTeacher(
        teacher,
        preprocessing,
        weights=None,
        outputs=samples.class_count if label_map is None else len(label_map),
        label_map=label_map,
        known=known_classes(label_map, samples.class_count),
        answers=samples.class_count,
    )
    if isinstance(teacher.model, EngineModel):
        temperatures = kept_temperatures(config, teacher, objectives)
        packing, engine, notes = resolve_engine(config, teacher, samples, temperatures, key)
        return replace(resolved, weights={}, packing=packing, engine=engine, notes=notes)
    if isinstance(teacher.model, PrivilegedModel):
        resolved = replace(
            resolved,
            recorded_NC=recorded_of(teacher, samples, key),
            behaviour=_made_by(config, teacher.model, key),
        )
    elif teacher.outputs is None:
        resolved = _with_model(config, resolved, samples, objectives, key)
    elif find_task(config.task).settings.boxes:
        rows_NU, notes = boxes_of(config, teacher, samples, key)
        resolved = replace(resolved, recorded_NC=rows_NU, used=rows_NU.shape[1], notes=notes)
    else:
        logits_NC, told = load_outputs(
            teacher.outputs,
            samples,
            key=key,
            answers=find_task(config.task).metrics.kind,
            kind=teacher.kind,
            label_map=label_map,
        )
        notes = tuple(f"teacher {teacher.name!r}: {one}" for one in told)
        resolved = replace(resolved, recorded_NC=logits_NC, answers=logits_NC.shape[1], notes=notes)
    return _packed(config, resolved, samples, objectives) if objectives else resolved


def _made_by(config: Config, model: PrivilegedModel, key: str) -> str:
    """What decides a privileged teacher's answer to a sample: its code, and the simulators by name."""
    rolled = config.data.source.model_dump(mode="json", exclude={"visited", "planned"})
    code = code_of_path(model.path, f"{key}.model.path")
    return json.dumps([model.path, code, rolled], sort_keys=True)


def sees_states(config: Config, teacher: Teacher) -> bool:
    """Whether a teacher is given states as the environment shows them: one that acts, and was trained elsewhere.

    What a rule or a policy was made for are an environment's own units; statistics of the samples at hand are none of it.
    """
    settings, given = find_task(config.task).settings, teacher.preprocess != Preprocess()
    return settings.acts and not (teacher.learns or teacher.stage is not None or given)


def recorded_of(teacher: Teacher, samples: Samples, key: str) -> np.ndarray:
    """What a privileged teacher said while the samples were rolled, float32 [N, C].

    Raises:
        InputError: they were not rolled, or it says something else than outputs of a policy.
    """
    found = samples.recorded.get(teacher.name)
    if found is None:
        raise InputError.at(f"{key}.model", "sees the simulator itself, and is asked while samples are rolled alone: needs "
                            "`data.source: {type: gymnasium}`")  # fmt: skip
    if found.ndim != 2 or found.shape[1] != samples.class_count:
        raise InputError.at(f"{key}.model", f"says {list(found.shape[1:])} numbers of a state; {samples.class_count} are needed, {', '.join(samples.classes)}")  # fmt: skip
    return found


def _with_model(
    config: Config,
    resolved: ResolvedTeacher,
    samples: Samples,
    objectives: Sequence[Objective],
    key: str,
) -> ResolvedTeacher:
    """The same with all that is known once its model was built and run."""
    teacher, outputs = resolved.settings, resolved.outputs
    metrics = find_task(samples.task).metrics
    assert teacher.model is not None, "cross_check demands a model where there are no outputs"
    if teacher.fit is not None and not outputs:
        raise InputError.at(f"{key}.fit", "the data has no label to be fitted on; give `weights`")
    if teacher.resources.device_map is not None:
        require_accelerate(f"{key}.resources.device_map")
    fitted_on = examples(config, teacher, resolved.preprocessing, samples)
    network = resolved.network(samples, key=f"{key}.model", examples=fitted_on)
    weights = fitted_on or _weights(teacher, network, key)
    inputs = samples.batch(samples.splits["train"][:2], ORIGINAL_VIEW).inputs
    answer = probe_output(network, inputs, key=f"{key}.model")
    check_gaps(network, samples, key)
    if not metrics.own_width or teacher.fit is not None:
        check_answer(teacher, answer, outputs, key)
    answers = resolved.answers
    if metrics.own_width:
        answers = vector_length(teacher, network, inputs, answer, key)
    used = None
    if metrics.used is not None:
        said_NC = probe_answer(network, inputs, key=f"{key}.model")
        used = used_of(metrics.used, said_NC, f"{key}.model")
    if teacher.fit is not None:
        _check_fit(teacher, network, inputs, samples, key)
    terms = [term for objective in objectives for term in objective.features]
    tapped = [term for term in terms if term.teacher == teacher.name]
    taps = tuple(dict.fromkeys(tap for term in tapped for tap in term.teacher_taps))
    return replace(
        resolved,
        weights=weights,
        taps=taps,
        shapes=probe(network, inputs, taps, key=tap_key(config, teacher.name, "teacher_tap")),
        behaviour=(
            behaviour(network, samples, key=f"{key}.model")
            if known_by_answers(teacher, weights)
            else None
        ),
        code=code_of(teacher.model, network),
        answers=answers,
        used=used,
        head_shape=None if teacher.head is None else _head_shape(network, teacher.head, key),
    )


def _head_shape(network: Network, path: str, key: str) -> tuple[int, int]:
    """[K, C] of a linear layer whose weights stand under its own name."""
    module = dict(network.model.named_modules()).get(path)
    if isinstance(module, nn.Linear) and f"{path}.weight" in network.model.state_dict():
        return module.out_features, module.in_features
    linear = [name for name, one in network.model.named_modules() if isinstance(one, nn.Linear)]
    known = f"; its linear layers: {', '.join(linear)}" if linear else "; it has none"
    found = "no module" if module is None else type(module).__name__
    raise InputError.at(f"{key}.head", f"{path!r} is {found}, not a linear layer{known}")


def _packed(
    config: Config, resolved: ResolvedTeacher, samples: Samples, objectives: Sequence[Objective]
) -> ResolvedTeacher:
    """The same with what is kept of its answers to training views, and the shapes of its features as students get them.

    Args:
        config: the recipe, without `data_problems`.
        resolved: the teacher.
        samples: the data.
        objectives: the recipe's objective, and those of its variants.
    """
    targets = config.targets
    packing = Packing(features=targets.features if resolved.taps else PLAIN.features)
    if targets.draws is not None:
        packing = replace(packing, draws=targets.draws)
    elif keeps_largest(config, samples):
        temperatures = kept_temperatures(config, resolved.settings, objectives)
        packing = Packing(targets.top_k, temperatures, packing.features, targets.mass)
    packing = replace(packing, first=resolved.used)
    shapes = {t: packed_shape(shape, packing.features) for t, shape in resolved.shapes.items()}
    return replace(resolved, packing=packing, shapes=shapes)


def kept_temperatures(
    config: Config, teacher: Teacher, objectives: Sequence[Objective]
) -> tuple[float, ...]:
    """At which temperatures it is kept what the tokens or classes that are left out amount to, rising."""
    listed = config.targets.temperatures
    if listed is None:
        listed = tuple(needed_temperatures(config, objectives, teacher)) if objectives else ()
    return tuple(sorted({1.0, *listed}))


def _check_fit(
    teacher: Teacher,
    network: Network,
    inputs: Mapping[str, Tensor],
    samples: Samples,
    key: str,
) -> None:
    """What is to be trained can be, as its recipe says."""
    assert teacher.fit is not None, "only for teachers to be fitted"
    check_trainable(network.model, f"{key}.model")
    freeze(network.model, teacher.fit.freeze, key=f"{key}.fit.freeze")
    parameter_groups(network.model, 1.0, teacher.fit.lr_factors, 0.0, key=f"{key}.fit.lr_factors")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError.at(f"{key}.fit.freeze", "freezes every parameter; leave one free")
    rows = len(teacher_rows(samples, teacher))
    check_last_batch(network, inputs, rows, teacher.fit.batch_size, key=f"{key}.fit")


def network_of(
    spec: Model,
    preprocessing: Preprocessing,
    samples: Samples,
    outputs: int,
    key: str,
    examples: Mapping[str, Tensor] | None = None,
) -> Network:
    """A model on its preprocessing, with fresh weights unless an estimator is fitted on `examples`."""
    shape = preprocessing.output_shape(samples.input_shape)
    model = build_model(spec, input_shape=shape, classes=outputs, key=key, weights=examples)
    return Network(model, preprocessing, samples.scale)


def _weights(teacher: Teacher, network: Network, key: str) -> Mapping[str, Tensor] | None:
    """Those that it starts from; None = fresh ones."""
    if teacher.weights is not None:
        where = f"{key}.weights"
        weights = load_weights(teacher.weights, key=where, prefix=teacher.prefix)
        weights = matching(network, weights, key=where)
        apply_weights(network.model, weights, key=where)
        return weights
    if teacher.fit is not None:
        return None
    assert brings_weights(teacher.model), "cross_check demands fit or weights"
    return {name: tensor.detach().clone() for name, tensor in network.model.state_dict().items()}


def tap_key(config: Config, teacher: str | None, side: str) -> str:
    """Key of the first feature term that asks for taps of a teacher, or of the student (None)."""
    for index, term in enumerate(config.objective.features):
        if teacher is None or term.teacher == teacher:
            return f"objective.features.{index}.{side}"
    return f"objective.features.{side}"


def examples(
    config: Config, teacher: Teacher, preprocessing: Preprocessing, samples: Samples
) -> dict[str, Tensor] | None:
    """What an estimator is fitted on: the untransformed samples whose labels it may see; None for networks."""
    if isinstance(teacher.model, NgramModel):
        return counted_text(teacher, teacher.model, samples)
    if not isinstance(teacher.model, SklearnModel):
        return None
    rows = teacher_rows(samples, teacher)
    batch = samples.batch(rows, ORIGINAL_VIEW, labels=seen_labels(teacher))
    (inputs,) = batch.inputs.values()
    labels = batch.labels if samples.scale is None else samples.scale.standardised(batch.labels)
    seed = derive(config.seed, "teacher", teacher.name)
    return examples_of(preprocessing(inputs), labels, batch.weight_B, seed=seed)


def seen_labels(teacher: Teacher) -> Labels:
    """Whether the labels of the rows that a teacher is fitted on are within the budget, or all there are."""
    return "budget" if teacher.labels == "budget" else "all"


def vector_length(
    teacher: Teacher, network: Network, inputs: Mapping[str, Tensor], answer: Shape, key: str
) -> int:
    """Length of a teacher's embedding."""
    where = f"{key}.embedding"
    found = answer
    if teacher.embedding is not None:
        found = probe(network, inputs, (teacher.embedding,), key=where)[teacher.embedding]
    if len(found) != 1:
        what = teacher.embedding or "the model"
        raise InputError(
            Problem(where, f"{what} puts out {list(found)} for a sample; name a module that puts out a vector [D], "
                    "such as the one before the classifier (`raykd inspect` prints shapes)")
        )  # fmt: skip
    return found[0]


def known_by_answers(teacher: Teacher, weights: Mapping[str, Tensor] | None) -> bool:
    """Whether what it has of weights does not decide its answers: a function, or a version of scikit-learn does."""
    if isinstance(teacher.model, SklearnModel):
        return True
    return not weights and teacher.fit is None


def code_of(spec: Model, network: Network) -> str | None:
    """Hash of what a user's own network is written in: the function of `path`, and its package's module classes.

    None for models that are known by name. What is fitted with other code is fitted again; what the
    function calls besides is not seen.
    """
    if not isinstance(spec, FactoryModel):
        return None
    package = spec.path.partition(":")[0].partition(".")[0]
    kinds = {type(module) for module in network.model.modules()}
    own = [kind for kind in kinds if kind.__module__.partition(".")[0] == package]
    written: list[Callable[..., Any]] = sorted(own, key=lambda kind: kind.__qualname__)
    digest = hashlib.sha256()
    for one in [load_callable(spec.path, key="model.path"), *written]:
        with suppress(OSError, TypeError):  # not written in Python, or its file is gone
            digest.update(inspect.getsource(one).encode())
    return digest.hexdigest()[:16]


@torch.no_grad()
def behaviour(network: Network, samples: Samples, *, key: str) -> str:
    """Hash of the answers to a few samples, to the digits that other machines agree on."""
    rows = samples.splits["train"][:_PROBED]
    answers = run_model(network.eval(), samples.batch(rows, ORIGINAL_VIEW).inputs, key=key)
    rounded = np.round(answers.double().numpy(), 3) + 0.0
    return hashlib.sha256(rounded.tobytes()).hexdigest()[:32]
