"""An engine as a teacher: chunks of tokens go to it as rows of ids, what it says comes back as all answers do.

Shape suffixes: B chunks, L length, N units, K classes kept, E tokens of the engine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from raykd.config.engines import EngineModel
from raykd.data import Samples
from raykd.errors import TargetError, TeacherError
from raykd.models.units import offsets_of
from raykd.targets import codec
from raykd.targets.packing import Packing, encode_few
from raykd.targets.ragged import UNIT_OFFSETS
from raykd.teachers.engines import build_engine
from raykd.teachers.engines.protocol import Engine
from raykd.top_k import renumbered
from raykd.types import CHUNKS, OutputKind, TopK, on_units


@dataclass(frozen=True, eq=False, kw_only=True)
class EngineSpec:
    """All that it takes to ask an engine anywhere.

    Attributes:
        name: the teacher's name.
        key: dotted key of its model in the recipe, for errors.
        model: its settings.
        classes: V, tokens of the data.
        tokens: fingerprint of the data's tokenizer.
        packing: what is kept of its answers, to training views and to untransformed samples alike.
        batch_size: chunks of one request to the actor that asks it.
        own_E: the engine's id of each of the data's tokens, increasing int64 [V]; None where they are the same.
        says: what the engine says of itself, see `raykd.teachers.engines.described`.
        behaviour: hash of a few answers, of an engine that says nothing of itself.
        device: the kind of device that its actors run it on, from their placement.
    """

    name: str
    key: str
    model: EngineModel
    classes: int
    tokens: str
    packing: Packing
    batch_size: int
    own_E: np.ndarray | None = None
    says: Mapping[str, Any] = field(default_factory=dict)
    behaviour: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    taps: tuple[str, ...] = ()
    answers: OutputKind = "logits"

    @property
    def fingerprint(self) -> str:
        """Hash of its kind and name, of what it says of itself, and of the data's tokens; not of where it is asked.

        A local model's name is not part of it: its weights are. How much of an answer is kept is part of the codec.
        """
        own = {**self.model.identity(), "k": None, "same_tokenizer": False}
        if self.model.path == "transformers":
            own["model"] = None
        parts = {
            "engine": own,
            "says": self.says,
            "tokens": self.tokens,
            "own": None if self.own_E is None else hashlib.sha256(self.own_E.tobytes()).hexdigest(),
            "behaviour": self.behaviour,
            "device": self.device if self.model.path == "transformers" else None,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def engine(self, device: torch.device | None = None) -> Engine:
        """The engine, not asked yet.

        Args:
            device: where a local one runs; None = on a processor.

        Raises:
            InputError: its settings, or it cannot be loaded.
        """
        model, given = self.model, dict[str, Any]()
        assert self.packing.top_k is not None, "an engine keeps few classes"
        if model.path == "transformers":
            further = [t for t in self.packing.temperatures if t != 1.0]
            given = {"model": model.model, "k": self.packing.top_k, "temperatures": further,
                     "dtype": model.dtype, "device": str(device or "cpu")}  # fmt: skip
        elif model.is_server:
            given = {name: getattr(model, name) for name in
                     ("url", "model", "least", "key_from", "timeout_s", "tries", "requests")}  # fmt: skip
            given |= {"k": self.packing.top_k, "vocabulary": self.vocabulary}
        else:
            given = dict(model.kwargs)
        return build_engine(model.path, key=self.key, **given)

    @property
    def vocabulary(self) -> int:
        """Tokens that the engine has at least."""
        return self.classes if self.own_E is None else int(self.own_E[-1]) + 1


class EngineTeacher:
    """An engine that scores samples."""

    def __init__(
        self, spec: EngineSpec, engine: Engine | None = None, device: torch.device | None = None
    ) -> None:
        """An engine that is built for a device, or the one given."""
        self.spec = spec
        self.engine = spec.engine(device) if engine is None else engine
        size = max(self.engine.vocabulary, spec.vocabulary)
        own = torch.arange(spec.classes) if spec.own_E is None else torch.from_numpy(spec.own_E)
        self._own_V = own
        self._place_E = torch.full((size,), -1).scatter_(0, own, torch.arange(spec.classes))

    def score(self, samples: Samples, rows: np.ndarray, view: np.ndarray) -> codec.Arrays:
        """The encoded answer for rows [B] in views [B]; see `raykd.teachers.model.Scorer`."""
        return self.score_inputs(
            {CHUNKS: samples.batch(rows, view, labels="all").inputs[CHUNKS].numpy()}
        )

    def score_inputs(self, inputs: Mapping[str, np.ndarray], *, whole: bool = True) -> codec.Arrays:  # noqa: ARG002 - it always keeps few
        """The encoded answer for chunks of tokens; see `raykd.teachers.model.Scorer`.

        Raises:
            TeacherError: the engine gives no usable answer.
        """
        tokens_B2L = inputs[CHUNKS]
        answer = self._asked(tokens_B2L)
        try:
            arrays = encode_few(answer, self.spec.packing)
        except TargetError as error:
            raise TeacherError(f"teacher {self.spec.name!r}: its engine says too little: {error}") from None  # fmt: skip
        return {**arrays, UNIT_OFFSETS: offsets_of(tokens_B2L)}

    def _asked(self, tokens_B2L: np.ndarray) -> TopK:
        """What it says of the tokens that are predicted, over the data's tokens."""
        end_B = np.where(tokens_B2L[:, 1] > 0, np.arange(1, tokens_B2L.shape[2] + 1), 0).max(axis=1)
        offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(end_B)]))
        rows = [row[0, :end] for row, end in zip(tokens_B2L, end_B, strict=True)]
        answer = self.engine.score(self._own_V[np.concatenate(rows).astype(np.int64)], offsets)
        counts = [row[1, 1:end] > 0 for row, end in zip(tokens_B2L, end_B, strict=True)]
        wanted_N = torch.from_numpy(np.concatenate(counts))
        self._require(answer, wanted_N)
        if answer.classes == self.spec.classes and self.spec.own_E is None:
            few = answer
        else:
            few = renumbered(answer, self._place_E, self.spec.classes)
        return on_units(few, lambda values: values[wanted_N])

    def _require(self, answer: TopK, wanted_N: Tensor) -> None:
        """It has answered what it was asked, and every unit."""
        most = self.spec.packing.top_k
        assert most is not None, "an engine keeps few classes"
        if len(answer.ids_NK) != len(wanted_N) or answer.ids_NK.shape[1] > most:
            raise TeacherError(
                f"teacher {self.spec.name!r}: its engine answered {list(answer.ids_NK.shape)} for {len(wanted_N)} tokens, "
                f"of each of which at most {most} are kept; correct its score, or {self.spec.key}.k"
            )
        if not bool(answer.valid_N[wanted_N].all()) or answer.classes > len(self._place_E):
            raise TeacherError(
                f"teacher {self.spec.name!r}: its engine left tokens without an answer, or speaks of {answer.classes:,} "
                f"tokens where it said it has {self.engine.vocabulary:,}"
            )
