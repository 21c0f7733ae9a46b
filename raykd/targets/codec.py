"""One encoding of a teacher's answer, for live answers and the store alike.

Because both go through it, a student cannot tell them apart. Logits become float16 after the row's
maximum is taken off (mean error of the tempered probabilities about 0.001, against 0.008 in bfloat16);
the maximum itself is kept in float32. Values of a regression stay float32. Label logits become float16
as they are: each one counts by itself, so no constant may be taken off. Features become float16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from raykd.types import Dense, OutputKind

VERSIONS: dict[OutputKind, str] = {
    "logits": "logits16-features16-v1",
    "value": "value32-features16-v1",
    "label_logits": "labels16-features16-v1",
}
VERSION = VERSIONS["logits"]
VALUES = "values"
OFFSET = "offset"
VALUE = "value"
LABEL_LOGITS = "label_logits"
FEATURE = "feature."
_LARGEST = float(np.finfo(np.float16).max)

Arrays = dict[str, np.ndarray]


def encode(
    values_NC: Tensor, features: Mapping[str, Tensor], kind: OutputKind = "logits"
) -> Arrays:
    """The arrays that travel and are stored.

    Args:
        values_NC: float [N, C].
        features: tap -> float [N, ...].
        kind: what the values are.

    Returns:
        Of logits `values` float16 [N, C] (minus their row maximum) and `offset` float32 [N] (the
        maximum); of values `value` float32; of label logits `label_logits` float16; and
        `feature.<tap>` float16 [N, ...].
    """
    arrays = _ENCODERS[kind](values_NC.float())
    for tap, feature in features.items():
        arrays[FEATURE + tap] = _half(feature)
    return arrays


def _half(values: Tensor) -> np.ndarray:
    halved: np.ndarray = values.clamp(-_LARGEST, _LARGEST).half().numpy()
    return halved


def _encode_logits(logits_NC: Tensor) -> Arrays:
    offset_N = logits_NC.amax(dim=1)
    shifted_NC = (logits_NC - offset_N[:, None]).clamp_(min=-_LARGEST)
    return {VALUES: shifted_NC.half().numpy(), OFFSET: offset_N.numpy()}


_ENCODERS: dict[OutputKind, Callable[[Tensor], Arrays]] = {
    "logits": _encode_logits,
    "value": lambda values: {VALUE: values.numpy()},
    "label_logits": lambda logits: {LABEL_LOGITS: _half(logits)},
}


def _decode_values(arrays: Mapping[str, np.ndarray]) -> tuple[OutputKind, Tensor]:
    """Of which kind an answer is shows in the names of its arrays."""
    for name, kind in _KINDS.items():
        if name in arrays:
            return kind, torch.from_numpy(arrays[name].astype(np.float32))
    values_NC = torch.from_numpy(arrays[VALUES].astype(np.float32))
    values_NC += torch.from_numpy(np.array(arrays[OFFSET]))[:, None]
    return "logits", values_NC


_KINDS: dict[str, OutputKind] = {VALUE: "value", LABEL_LOGITS: "label_logits"}


def decode(arrays: Mapping[str, np.ndarray]) -> Dense:
    """A teacher's answer from its arrays; every row counts as valid."""
    kind, values_NC = _decode_values(arrays)
    features = {
        name.removeprefix(FEATURE): torch.from_numpy(array.astype(np.float32))
        for name, array in arrays.items()
        if name.startswith(FEATURE)
    }
    return Dense(
        kind=kind,
        values_NC=values_NC,
        valid_N=torch.ones(len(values_NC), dtype=torch.bool),
        features=features,
    )


def absent(like: Dense) -> Dense:
    """The answer of a teacher that gave none: zeros, no row valid, no features."""
    return Dense(
        kind=like.kind,
        values_NC=torch.zeros_like(like.values_NC),
        valid_N=torch.zeros_like(like.valid_N),
    )
