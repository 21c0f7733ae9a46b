"""One teacher as a plain object: frozen, with its own preprocessing, scoring batches of one fixed shape.

Nothing here knows Ray. An actor only hosts it, so that what an actor answers and what this object
computes in-process are the same bits.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from threading import local
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from raykd.config.models import Model
from raykd.data import Samples
from raykd.errors import NonFiniteError, TeacherError
from raykd.models import build_model
from raykd.models.network import Network, placed, set_precision
from raykd.models.preprocess import Preprocessing
from raykd.models.taps import Taps
from raykd.models.units import buckets, cut, offsets_of, unit_numbers
from raykd.models.weights import apply_weights, fingerprint
from raykd.objects import Held
from raykd.seeding import derive
from raykd.targets import codec
from raykd.targets.packing import PLAIN, Packing, as_kept
from raykd.targets.ragged import joined, taken
from raykd.tasks import find_task
from raykd.teachers.answers import TINY, as_logits, mapped
from raykd.teachers.engines.teacher import EngineSpec, EngineTeacher
from raykd.teachers.joining import LEAST_SHAPE, Joining
from raykd.teachers.stages import AT_ONCE, Placed, Stages
from raykd.types import CHUNKS, ORIGINAL_VIEW, OutputKind, Scale

if TYPE_CHECKING:
    from raykd.models.spreading import DeviceMap

Inputs = Mapping[str, np.ndarray]
_OUTPUT, _FINITE, _TAP = "output", "finite", "tap."
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False, kw_only=True)
class Spec:
    """All that it takes to host a teacher anywhere.

    Attributes:
        name: the teacher's name.
        key: its dotted key in the recipe, for errors.
        model: the network.
        weights: its state dict.
        preprocessing: what it does to a sample first.
        input_shape: of one sample in source space.
        outputs: number of its own classes, which the network is made with.
        classes: number of the data's classes.
        label_map: data class of each of its own classes (None: of none of them), or None when they are the
            same.
        kind: what it returns: logits, probabilities, log_probabilities, top1.
        dtype: precision of its forward pass.
        batch_size: the one shape it is run with.
        taps: module paths whose features are wanted.
        answers: what its answers are stored as.
        scale: the unit that it computes in (regression), when it was fitted here; one that was not
            answers in original units by itself.
        packing: what is kept of its answers to training views.
        behaviour: hash of a few answers, of a model that is not known by its weights.
        vector: the module whose output [D] is its embedding; None = what the network returns.
        device: the kind of device that its actors run it on, from their placement.
        device_map: what of it lies on which GPU of its process, where that is not one alone; bits are the same.
        object: the user's own, of a model that is one; it comes along to every process that hosts it.
    """

    name: str
    key: str
    model: Model
    weights: Mapping[str, Tensor]
    preprocessing: Preprocessing
    input_shape: tuple[int, ...]
    outputs: int
    classes: int
    label_map: tuple[int | None, ...] | None
    kind: str
    dtype: str
    batch_size: int
    taps: tuple[str, ...] = ()
    answers: OutputKind = "logits"
    scale: Scale | None = None
    packing: Packing = PLAIN
    behaviour: str | None = None
    vector: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    device_map: DeviceMap | None = None
    object: Held | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of weights, preprocessing, label map, scale, dtype, shape of a batch, kind of device and spec."""
        parts = {
            "model": self.model.identity(),
            "weights": fingerprint(self.weights),
            "preprocessing": self.preprocessing.describe(),
            "outputs": [self.outputs, self.classes, self.label_map, self.kind],
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            "device": self.device,
        }
        if self.scale is not None:
            parts["scale"] = [self.scale.mean, self.scale.std]
        if self.behaviour is not None:
            parts["behaviour"] = self.behaviour
        if self.vector is not None:
            parts["vector"] = self.vector
        return _digest(parts)

    @property
    def joins(self) -> bool:
        """Whether a sample's answer has the same bits whoever else is in its batch, as far as is known."""
        return self.model.rows_apart and self.batch_size >= LEAST_SHAPE


@dataclass(frozen=True, eq=False, kw_only=True)
class Recorded:
    """A teacher without a model: its outputs for untransformed samples, by row of the data.

    Attributes:
        name: the teacher's name.
        logits_NC: float32 [N, C] in the data's row order (values in original units [N, 1], label
            logits, embeddings); NaN rows where it said nothing, −∞ for classes that it does not know.
        answers: what its answers are stored as.
        packing: what is kept of them.
        known_as: hash of what made the outputs, where that is known: more samples then leave the fingerprint as it is.
        width: of its outputs, where `logits_NC` has only the first numbers of each and all behind are 0; None = these are all.
    """

    name: str
    logits_NC: np.ndarray
    taps: tuple[str, ...] = ()
    answers: OutputKind = "logits"
    packing: Packing = PLAIN
    known_as: str | None = None
    width: int | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of what made the outputs, or of these."""
        if self.known_as is not None:
            return _digest({"recorded_by": self.known_as})
        parts: dict[str, Any] = {"recorded": hashlib.sha256(self.logits_NC.tobytes()).hexdigest()}
        return _digest(parts if self.width is None else parts | {"width": self.width})


AnySpec = Spec | Recorded | EngineSpec
"""A teacher with a model, one without, or one that is asked elsewhere."""


def kept_of_originals(spec: AnySpec) -> Packing:
    """What is kept of its answers to untransformed samples: all, but of an engine, which says no more of them."""
    return spec.packing if isinstance(spec, EngineSpec) else spec.packing.whole()


def _digest(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def count(inputs: Inputs) -> int:
    """Samples of a batch."""
    return len(next(iter(inputs.values())))


class Scorer(Protocol):
    """What an actor hosts."""

    def score(self, samples: Samples, rows: np.ndarray, view: np.ndarray) -> codec.Arrays:
        """The encoded answer for rows [B] in views [B].

        Raises:
            TeacherError: an output is NaN or infinite, or there is none.
        """
        ...

    def score_inputs(self, inputs: Inputs, *, whole: bool = True) -> codec.Arrays:
        """The encoded answer for samples of no data set: name -> [B, ...] in source space, untransformed.

        Args:
            inputs: the samples.
            whole: whether all classes are kept, as of samples that are evaluated on; else as many as of training views.

        Raises:
            TeacherError: as `score`, or there is no model to ask.
        """
        ...


class TeacherModel:
    """A frozen network that scores samples; several threads may ask it, of which each step of a batch takes one at a time.

    Attributes:
        stages: where these steps take turns.
    """

    def __init__(self, spec: Spec, device: torch.device | None = None) -> None:
        self.spec = spec
        self.device = device or torch.device("cpu")
        shape = spec.preprocessing.output_shape(spec.input_shape)
        model = build_model(
            spec.model,
            input_shape=shape,
            classes=spec.outputs,
            key=spec.key,
            weights=spec.weights,
        )
        apply_weights(model, spec.weights, key=spec.key)
        network = Network(model, spec.preprocessing, spec.scale)
        if spec.device_map is None:
            network = placed(network, self.device, tf32=False).to(DTYPES[spec.dtype])
        else:
            from raykd.models.spreading import spread  # few teachers need it

            if self.device.type == "cuda":
                set_precision(tf32=False)
            own = network.to(DTYPES[spec.dtype])
            key = f"{spec.key.rpartition('.')[0]}.resources.device_map"
            network = spread(own, spec.device_map, self.device, key=key)
        self.network = network.eval()
        self.network.requires_grad_(False)
        vector = () if spec.vector is None else (spec.vector,)
        self._taps = Taps(self.network, (*spec.taps, *vector), key=spec.key)
        assert not any(p.requires_grad for p in self.network.parameters()), "a teacher is frozen"
        assert not any(m.training for m in self.network.modules()), "a teacher is in eval mode"
        self.stages = Stages(self.device)
        self._joining = Joining(spec.batch_size, AT_ONCE, joins=spec.joins)
        self._own = local()
        # Teachers draw independently of each other: the errors of their draws are averaged, too.
        self._own_number = np.uint64(derive(0, "draws", spec.name))

    @property
    def places(self) -> int:
        """Of the batches that were run for this thread since `taken_places`, padding among them."""
        found: int = getattr(self._own, "places", 0)
        return found

    def taken_places(self) -> int:
        """The same; counting starts anew."""
        found, self._own.places = self.places, 0
        return found

    def score(self, samples: Samples, rows: np.ndarray, view: np.ndarray) -> codec.Arrays:
        """The encoded answer; short batches are padded with their first row to the one fixed shape."""

        def inputs(places: np.ndarray) -> Mapping[str, Tensor]:
            some = rows[places], view[places]
            return samples.batch(*some, labels="all", device=self.device).inputs

        if samples.is_tokens:
            chunks = inputs(np.arange(len(rows)))[CHUNKS]
            return self._scored_chunks(chunks, _packing_for(self.spec.packing, view), joins=True)
        packing = _packing_for(self.spec.packing, view)
        return self._scored(len(rows), inputs, packing, (packing, id(samples)))

    def score_inputs(self, inputs: Inputs, *, whole: bool = True) -> codec.Arrays:
        """The encoded answer for samples of no data set, as they are; see `Scorer`."""
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        packing = self.spec.packing.whole() if whole else self.spec.packing
        if CHUNKS in tensors:
            return self._scored_chunks(tensors[CHUNKS], packing)

        def taken(places: np.ndarray) -> Mapping[str, Tensor]:
            return {name: tensor[places] for name, tensor in tensors.items()}

        return self._scored(count(inputs), taken, packing)

    def _scored(
        self,
        samples: int,
        inputs: Callable[[np.ndarray], Mapping[str, Tensor]],
        packing: Packing,
        kind: Hashable = None,
    ) -> codec.Arrays:
        """The answer for so many samples.

        Args:
            samples: how many.
            inputs: gives those at places [B].
            packing: what is kept of it.
            kind: of short batches that may be joined; None = of none.
        """

        def score(batch: tuple[np.ndarray, int]) -> tuple[codec.Arrays, int]:
            places, own = batch
            alone = own == self.spec.batch_size or kind is None
            return self._joining.answer(
                object() if alone else kind,
                own,
                lambda some: inputs(places[some]),
                lambda made: self._staged(made, packing),
            )

        arrays, places = zip(*self.stages.each(score, list(self._batches(samples))), strict=True)
        self._own.places = self.places + sum(places)
        return joined(arrays)

    def _batches(self, samples: int) -> Iterator[tuple[np.ndarray, int]]:
        """Places of each batch of the one fixed shape, and how many of them are no padding."""
        size = self.spec.batch_size
        for start in range(0, samples, size):
            places = np.arange(start, start + size)
            places[places >= samples] = start
            yield places, min(size, samples - start)

    def _scored_chunks(
        self, tokens_B2L: Tensor, packing: Packing, *, joins: bool = False
    ) -> codec.Arrays:
        """The answer for chunks of tokens, those of one bucket together, and with those of others where that may be."""
        bucket_B, parts, order = buckets(tokens_B2L.numpy()), [], []
        for length in np.unique(bucket_B).tolist():
            places = np.flatnonzero(bucket_B == length)
            short = cut(tokens_B2L[places], length)

            def inputs(some: np.ndarray, short: Tensor = short) -> Mapping[str, Tensor]:
                return {CHUNKS: short[some]}

            kind = (packing, length) if joins else None
            parts.append(self._scored(len(places), inputs, packing, kind))
            order.append(places)
        return taken(joined(parts), np.argsort(np.concatenate(order)))

    def here(
        self, inputs: Mapping[str, Tensor], view: np.ndarray
    ) -> tuple[codec.Arrays, dict[str, Tensor]]:
        """As `score`, for whoever is in this process: features never leave the device.

        Args:
            inputs: name -> [B, ...], samples in their views, as `Samples.batch` has them.
            view: int64 [B], which views these are.

        Returns:
            The encoded answer without features, and tap -> float32 [B, ...] on the device, as they would be decoded.
            Of chunks of tokens the features are in the answer.

        Raises:
            TeacherError: as `score`.
        """
        packing = _packing_for(self.spec.packing, view)
        if CHUNKS in inputs:
            return self._scored_chunks(inputs[CHUNKS], packing), {}
        parts: list[codec.Arrays] = []
        tapped: dict[str, list[Tensor]] = {tap: [] for tap in self.spec.taps}
        for places, own in self._batches(len(next(iter(inputs.values())))):
            self._own.places = self.places + len(places)
            index = torch.from_numpy(places)
            given = Placed({n: tensor[index].to(self.device) for n, tensor in inputs.items()})
            logits_BC, features = self._checked(self._computed(given).tensors)
            parts.append(codec.encode(logits_BC[:own], {}, self.spec.answers, packing))
            for tap, feature in features.items():
                tapped[tap].append(as_kept(feature[:own], packing.features))
        return joined(parts), {tap: torch.cat(some) for tap, some in tapped.items()}

    def _staged(self, inputs: Callable[[], Mapping[str, Tensor]], packing: Packing) -> codec.Arrays:
        """The encoded answer for one batch of the fixed shape; other threads may be at the other steps of others."""
        with self.stages.inputs:
            given = inputs()
            placed = self.stages.put(given)
        with self.stages.forward:
            computed = self._computed(placed)
        with self.stages.encode:
            return self._encoded(given, computed, packing)

    @torch.inference_mode()
    def _encoded(
        self, inputs: Mapping[str, Tensor], computed: Placed, packing: Packing
    ) -> codec.Arrays:
        with self.stages.beside(computed) as tensors:
            logits_BC, features = self._checked(tensors)
            offsets = numbers_N = None
            if CHUNKS in inputs:
                tokens_B2L = inputs[CHUNKS].numpy()
                offsets = offsets_of(tokens_B2L)
                if packing.draws is not None:
                    numbers_N = unit_numbers(tokens_B2L) ^ self._own_number
            return codec.encode(logits_BC, features, self.spec.answers, packing, offsets, numbers_N)

    @torch.inference_mode()
    def _computed(self, placed: Placed) -> Placed:
        """Its own outputs, whether all is finite, and tap -> feature, as the device is computing them."""
        output_BC = self.network(self.stages.taken(placed)).float()
        tapped = self._taps.take()
        if self.spec.vector is not None:
            output_BC = tapped[self.spec.vector].float().to(self.device)
        if self.spec.kind == "log_probabilities":
            output_BC = output_BC.masked_fill(output_BC == -torch.inf, math.log(TINY))
        features = {_TAP + tap: tapped[tap].float().to(self.device) for tap in self.spec.taps}
        finite = [tensor.isfinite().all() for tensor in (output_BC, *features.values())]
        return self.stages.computed(
            {_OUTPUT: output_BC, _FINITE: torch.stack(finite).all(), **features}
        )

    @torch.inference_mode()
    def _checked(self, computed: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits over the data's classes [N, C], and tap -> float32 [N, ...]; the device is waited for once."""
        output_BC = computed[_OUTPUT]
        features = {tap: computed[_TAP + tap] for tap in self.spec.taps}
        if not bool(computed[_FINITE]):
            raise NonFiniteError(
                f"teacher {self.spec.name!r} answered {_not_finite(output_BC, features)}"
            )
        return self._aligned(output_BC), features

    def _aligned(self, output_BC: Tensor) -> Tensor:
        """Logits over the data's classes: several own classes added up, −∞ for those it does not know."""
        spec = self.spec
        try:
            logits_BC = as_logits(output_BC, spec.kind, spec.answers, spec.outputs)
        except TeacherError as error:
            raise TeacherError(f"teacher {spec.name!r}: {error}") from None
        if spec.label_map is None:
            return logits_BC
        return mapped(logits_BC, spec.label_map, spec.classes)


class RecordedTeacher:
    """Answers from outputs that somebody computed before."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded

    def score(self, samples: Samples, rows: np.ndarray, view: np.ndarray) -> codec.Arrays:
        """The recorded outputs of untransformed samples; found boxes are carried to views that move them."""
        shown, follow = self.recorded.logits_NC[rows], find_task(samples.task).labels.answers_follow
        if (view != ORIGINAL_VIEW).any() and samples.policy:
            if follow is None:
                raise TeacherError(
                    f"teacher {self.recorded.name!r} has outputs of untransformed samples only"
                )
            shown = follow(shown, samples.places(rows, view), samples.visible)
        logits = torch.from_numpy(shown)
        if (silent := logits.isnan().any(dim=1)).any():
            (sample,) = samples.named(rows[[int(silent.nonzero()[0])]])
            raise TeacherError(
                f"teacher {self.recorded.name!r} has no outputs for sample id {sample}"
            )
        if self.recorded.width is not None:
            logits = functional.pad(logits, (0, self.recorded.width - logits.shape[1]))
        packing = _packing_for(self.recorded.packing, view)
        return codec.encode(logits, {}, self.recorded.answers, packing)

    def score_inputs(self, inputs: Inputs, *, whole: bool = True) -> codec.Arrays:  # noqa: ARG002 - one protocol
        """There is no model to ask."""
        raise TeacherError(
            f"teacher {self.recorded.name!r} has outputs of its own samples only, and no model"
        )


def _not_finite(output_BC: Tensor, features: Mapping[str, Tensor]) -> str:
    """What of an answer is no finite number, in words."""
    wrong_BC = ~output_BC.isfinite()
    if not bool(wrong_BC.any()):
        tap = next(tap for tap, feature in features.items() if not bool(feature.isfinite().all()))
        return f"NaN or infinity at the tap {tap!r}"
    found = wrong_BC.flatten(1).any(dim=0).nonzero().flatten().tolist()
    if len(found) == wrong_BC.flatten(1).shape[1]:
        return "NaN or infinity for every class"
    some = ", ".join(map(str, found[:5])) + (f" and {len(found) - 5} more" if found[5:] else "")
    return f"NaN or infinity for its output{'s' * (len(found) > 1)} {some} (from 0, in the order of its classes)"


def _packing_for(packing: Packing, view: np.ndarray) -> Packing:
    """Untransformed samples are evaluated on: all their logits are kept."""
    return packing.whole() if (view == ORIGINAL_VIEW).all() else packing


def host(spec: AnySpec, device: torch.device | None = None) -> Scorer:
    """The scorer that a spec describes."""
    if isinstance(spec, EngineSpec):
        return EngineTeacher(spec, device=device)
    return TeacherModel(spec, device) if isinstance(spec, Spec) else RecordedTeacher(spec)
