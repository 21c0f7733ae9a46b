"""One encoding of a teacher's answer, for live answers and the store alike.

Because both go through it, a student cannot tell them apart. Logits become float16 after the row's
maximum is taken off (mean error of the tempered probabilities about 0.001, against 0.008 in bfloat16);
the maximum itself is kept in float32, up to ±65,504. Of very many classes the largest logits are kept, and what the
others amount to (`packing`). Values of a regression, and embeddings, stay float32. Label logits become float16 as they
are: each one counts by itself, so no constant may be taken off. Features become float16, or smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from raykd.targets.packing import (
    DRAWN,
    KEPT,
    OFFSET,
    PLAIN,
    Arrays,
    Packing,
    decode_features,
    decode_first,
    decode_top,
    drawn_of,
    encode_drawn,
    encode_features,
    encode_first,
    encode_top,
    half,
    on_host,
    shifted,
    top_of,
    widened,
)
from raykd.targets.ragged import UNIT_OFFSETS, joined, places_of
from raykd.types import Dense, Output, OutputKind, TopK, on_units

VALUES = "values"
VALUE = "value"
LABEL_LOGITS = "label_logits"
EMBEDDING = "embedding"
Parts = list[tuple[np.ndarray, Arrays]]
"""Indices of a batch, and the encoded answer for them."""


_OWN: dict[OutputKind, str] = {
    "label_logits": "labels16",
    "embedding": "embedding32",
}
"""What outputs that are no logits of classes are kept as."""


def version(kind: OutputKind, packing: Packing = PLAIN) -> str:
    """The name of an encoding of outputs; targets of one are never read as those of another."""
    if kind == "value":
        return f"{packing.of_values}-v1"
    return f"{_OWN.get(kind) or packing.of_classes}-v1"


def feature_version(packing: Packing) -> str:
    """The name of an encoding of features."""
    return f"{packing.of_features}-v1"


VERSIONS: dict[OutputKind, str] = {
    "logits": version("logits"),
    "value": version("value"),
    "label_logits": version("label_logits"),
    "embedding": version("embedding"),
}
VERSION = VERSIONS["logits"]


def encode(
    values_NC: Tensor,
    features: Mapping[str, Tensor],
    kind: OutputKind = "logits",
    packing: Packing = PLAIN,
    offsets: np.ndarray | None = None,
    numbers_N: np.ndarray | None = None,
) -> Arrays:
    """The arrays that travel and are stored.

    Args:
        values_NC: float [N, C], on any device: of very many classes only those kept leave it.
        features: tap -> float [N, ...].
        kind: what the values are.
        packing: what is kept of them.
        offsets: int64 [B + 1], where each sample's units begin and end; None where each sample is one unit.
        numbers_N: uint64 [N], a number of each unit; only for packings that draw classes, see `encode_drawn`.

    Returns:
        Of logits `values` float16 [N, C] (minus their row maximum) and `offset` float32 [N] (the
        maximum), or what `encode_top` or `encode_drawn` says; of values `value` float32, or what `encode_first` says; of embeddings `embedding` float32;
        of label logits `label_logits` float16; and `feature.<tap>` float16 [N, ...], or what `encode_features` says;
        `offsets` as they were given.
    """
    if kind == "logits" and packing.draws is not None:
        arrays = encode_drawn(values_NC.float(), packing.draws, numbers_N)
    elif kind == "logits" and packing.top_k is not None:
        arrays = encode_top(values_NC.float(), packing)
    elif kind == "value" and packing.first is not None:
        arrays = encode_first(values_NC.float(), packing.first)
    else:
        arrays = _ENCODERS[kind](values_NC.float())
    if offsets is not None:
        arrays[UNIT_OFFSETS] = offsets
    return arrays | encode_features(features, packing.features)


def _encode_logits(logits_NC: Tensor) -> Arrays:
    shifted_NC, offset_N = shifted(logits_NC)
    return {VALUES: on_host(shifted_NC), OFFSET: on_host(offset_N)}


_ENCODERS: dict[OutputKind, Callable[[Tensor], Arrays]] = {
    "logits": _encode_logits,
    "value": lambda values: {VALUE: on_host(values)},
    "label_logits": lambda logits: {LABEL_LOGITS: half(logits)},
    "embedding": lambda vectors: {EMBEDDING: on_host(vectors)},
}


def _decode_values(
    arrays: Mapping[str, np.ndarray], temperature: float
) -> tuple[OutputKind, Tensor]:
    """Of which kind an answer is shows in the names of its arrays."""
    for name, kind in _KINDS.items():
        if name in arrays:
            return kind, widened(arrays[name])
    if KEPT in arrays:
        return "logits", decode_top(arrays, temperature)
    whole_NC = decode_first(arrays)
    if whole_NC is not None:
        return "value", whole_NC
    values_NC = widened(arrays[VALUES])
    values_NC += torch.from_numpy(np.array(arrays[OFFSET]))[:, None]
    return "logits", values_NC


_KINDS: dict[str, OutputKind] = {
    VALUE: "value",
    LABEL_LOGITS: "label_logits",
    EMBEDDING: "embedding",
}


def decode(arrays: Mapping[str, np.ndarray], temperature: float = 1.0) -> Dense:
    """A teacher's answer from its arrays; every row counts as valid.

    Args:
        arrays: what `encode` made.
        temperature: at which the logits are going to be used; all are right at any of them, unless
            classes were left out.

    Raises:
        TargetError: classes were left out, and nothing is kept for this temperature.
    """
    kind, values_NC = _decode_values(arrays, temperature)
    offsets = arrays.get(UNIT_OFFSETS)
    return Dense(
        kind=kind,
        values_NC=values_NC,
        valid_N=torch.ones(len(values_NC), dtype=torch.bool),
        features=decode_features(arrays),
        offsets=None if offsets is None else torch.from_numpy(np.array(offsets)),
    )


def decode_few(arrays: Mapping[str, np.ndarray]) -> TopK:
    """A teacher's answer over the classes kept, from its arrays; every row counts as valid.

    Unlike `decode` it makes no row of all classes, and serves every temperature that is kept.

    Args:
        arrays: what `encode` made of logits with classes left out, or of classes drawn.

    Raises:
        TargetError: nothing is kept for temperature 1.
    """
    offsets = arrays.get(UNIT_OFFSETS)
    return replace(
        drawn_of(arrays) or top_of(arrays),
        features=decode_features(arrays),
        offsets=None if offsets is None else torch.from_numpy(np.array(offsets)),
    )


def decode_learnt(arrays: Mapping[str, np.ndarray], temperature: float = 1.0) -> Output:
    """As a student learns it: of tokens of which few were kept these alone, else over all classes; see `decode`."""
    few = KEPT in arrays or any(name.startswith(DRAWN) for name in arrays)
    if UNIT_OFFSETS in arrays and few:
        return decode_few(arrays)
    return decode(arrays, temperature)


def assemble(
    parts: Parts, size: int, temperature: float = 1.0, offsets: Tensor | None = None
) -> Output | None:
    """One teacher's answer for a batch from answers for parts of it; None where there is none.

    Args:
        parts: indices in the batch, and the encoded answer for them.
        size: of the batch; rows that no part has are zeros and not valid.
        temperature: at which the logits are going to be used.
        offsets: of the batch, int64 [B + 1]; None where each sample is one unit.

    Raises:
        TargetError: an answer has other units than the batch.
    """
    if not parts:
        return None
    if len(parts) == 1 and len(parts[0][0]) == size:
        return decode_learnt(parts[0][1], temperature)
    arrays = joined([part for _, part in parts])
    indices_B = np.concatenate([part for part, _ in parts])
    if offsets is not None:
        indices_B = places_of(offsets.numpy(), indices_B, arrays[UNIT_OFFSETS])
        size = int(offsets[-1])
    indices = torch.from_numpy(indices_B)
    answer = decode_learnt(arrays, temperature)

    def spread(tensor: torch.Tensor) -> torch.Tensor:
        whole = tensor.new_zeros((size, *tensor.shape[1:]))
        whole[indices] = tensor
        return whole

    return replace(
        on_units(answer, spread),
        features={tap: spread(feature) for tap, feature in answer.features.items()},
        offsets=offsets,
    )


def absent(like: Output) -> Output:
    """The answer of a teacher that gave none: zeros, no row valid, no features."""
    return replace(on_units(like, torch.zeros_like), features={})


def completed(found: Mapping[str, Output | None]) -> dict[str, Output] | None:
    """The answers of all teachers to one batch, those without one `absent`; None where none has any."""
    like = next((answer for answer in found.values() if answer is not None), None)
    if like is None:
        return None
    return {name: answer or absent(like) for name, answer in found.items()}


__all__ = [
    "PLAIN",
    "VERSION",
    "VERSIONS",
    "Arrays",
    "Packing",
    "Parts",
    "absent",
    "assemble",
    "completed",
    "decode",
    "decode_few",
    "encode",
    "feature_version",
    "version",
]
