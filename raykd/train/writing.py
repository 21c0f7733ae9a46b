"""What a student writes: the beginnings of training texts, and how it goes on.

Shapes: M texts, L length.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from raykd.config.on_policy import OnPolicy
from raykd.data import Samples
from raykd.errors import TrainingError
from raykd.models.generation import continued
from raykd.targets.written import Texts
from raykd.types import CHUNKS

TOGETHER = 128
"""Texts that are written side by side."""


def prompts_of(tokens_M2L: np.ndarray, settings: OnPolicy) -> np.ndarray:
    """How many tokens of each chunk are given, int64 [M]; 0 of one that is too short to go on from."""
    length = tokens_M2L.shape[2]
    predicted = tokens_M2L[:, 1] > 0
    end_M = np.where(predicted, np.arange(1, length + 1), 0).max(axis=1)
    own_M = predicted.argmax(axis=1)  # all before the first that is predicted are given
    prompt_M = np.maximum(own_M, settings.prompt_of(length))
    usable_M = (prompt_M <= end_M) & (prompt_M < settings.written_of(length))
    found: np.ndarray = np.where(usable_M, prompt_M, 0)
    return found


def written_texts(
    model: nn.Module,
    samples: Samples,
    rows: np.ndarray,
    settings: OnPolicy,
    *,
    seed: int,
    count: int,
    device: torch.device,
) -> Texts:
    """What a model writes after the beginnings of some samples.

    Args:
        model: the student, as it is now.
        samples: the data.
        rows: int64, whose beginnings are prompts: in an order of this seed, from the start again where they are fewer.
        settings: how long, how hot.
        seed: of order and draws.
        count: texts.
        device: the model's.

    Raises:
        TrainingError: the model's logits are no numbers.
    """
    rng = np.random.default_rng(seed)
    given = prompts_of(samples.inputs[CHUNKS][rows], settings)
    order = rng.permutation(np.flatnonzero(given))
    places = np.resize(order, count)
    own, prompt_M = rows[places], given[places]
    length = samples.inputs[CHUNKS].shape[2]
    until = settings.written_of(length)
    draws_ML = rng.random((count, until))
    tokens = np.zeros((count, 2, length), np.int32)
    for start in range(0, count, TOGETHER):
        part = slice(start, start + TOGETHER)
        known = samples.inputs[CHUNKS][own[part], 0, :until].astype(np.int64)
        try:
            written = continued(
                model,
                torch.from_numpy(known).to(device),
                torch.from_numpy(prompt_M[part]).to(device),
                draws_ML[part],
                temperature=settings.temperature,
            )
        except FloatingPointError as error:
            raise TrainingError(
                f"the student cannot write: {error}; lower train.optimizer.lr or set train.clip_norm"
            ) from None
        tokens[part, 0, :until] = written.cpu().numpy()
    tokens[:, 1, :until] = np.arange(until) >= prompt_M[:, None]
    return Texts(tokens, own, rng.integers(0, 2**63 - 1, count))
