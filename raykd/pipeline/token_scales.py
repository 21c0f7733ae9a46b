"""The scales of teachers' tokens: fitted once on training samples, kept by what they are of, noted in the cards.

They are of the answers that students learn from: view 0 of training samples, as they are stored, or as live teachers say
them, which is the same. They are kept in raykd's home under the store's entry, the tap and the samples, so that no other
run asks or fits again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raykd.config.scales import SUMMARY, Scaled
from raykd.errors import TargetError
from raykd.evaluate.statistics import spread
from raykd.folders import RunFolder, home, read_json, write_json
from raykd.models.scales import LEAST_TOKENS_PER_CHANNEL, TokenScale, fit_scale, tokens_of
from raykd.models.weights import load_weights, save_weights
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.recipe_store import Keys
from raykd.seeding import derive
from raykd.tracking.jsonl import METRICS, read_lines
from raykd.types import Dense, LearntOutputs

_LEAST_ROWS, _MOST_ROWS, _TOGETHER = 256, 16_384, 256
_TOLD = ("cosine", "smooth_l1")
Score = Callable[[np.ndarray], LearntOutputs]
"""Rows -> what the teachers say of them in view 0."""


def scale_rows(prepared: Prepared) -> np.ndarray:
    """The training rows that scales are fitted on, rising: ten tokens for each channel of the widest, where there are so many."""
    needed = _LEAST_ROWS
    for asked in prepared.scaled:
        width, each = _size(prepared, asked)
        needed = max(needed, math.ceil(LEAST_TOKENS_PER_CHANNEL * width / each))
    count = min(needed, _MOST_ROWS, len(prepared.asked))
    order = np.random.default_rng(derive(prepared.config.seed, "scale"))
    return np.sort(order.permutation(prepared.asked)[:count])


def _size(prepared: Prepared, asked: Scaled) -> tuple[int, int]:
    """Channels of a token, and tokens of a sample."""
    if asked.tap == SUMMARY:
        return prepared.teachers[asked.teacher].answers, 1
    shape = prepared.teacher_shapes[asked.teacher, asked.tap]
    width = shape[0] if len(shape) == 3 else shape[-1]
    return width, math.prod(shape) // width


def token_scales(prepared: Prepared, keys: Keys, score: Score) -> dict[Scaled, TokenScale]:
    """All scales that the recipe asks for, those that are kept and those that are fitted now.

    Args:
        prepared: the recipe with its data.
        keys: teacher -> its entries in the store.
        score: asks the teachers, or reads the store.

    Raises:
        TargetError: a teacher's tokens do not vary, or too few samples were answered.
    """
    rows = scale_rows(prepared)
    files = {asked: _file(keys[asked.teacher].views.folder, asked, rows) for asked in prepared.scaled}  # fmt: skip
    missing = [asked for asked, file in files.items() if not file.is_file()]
    tokens = _tokens(missing, rows, score) if missing else {}
    for asked, tokens_ND in tokens.items():
        try:
            fitted = fit_scale(tokens_ND, asked.kind)
        except ValueError as error:
            where = f" at {asked.tap}" if asked.tap else ""
            raise TargetError(f"no scale for teacher {asked.teacher!r}{where}: {error}") from error
        save_weights(fitted.tensors(), files[asked])
    return {
        asked: TokenScale.of_tensors(load_weights(file, key=f"teachers.{asked.teacher}"))
        for asked, file in files.items()
    }


def _file(entry: str, asked: Scaled, rows: np.ndarray) -> Path:
    named = f"{entry}\n{asked.tap}\n{asked.kind}\n".encode() + rows.astype("<i8").tobytes()
    return home() / "scales" / f"{hashlib.sha256(named).hexdigest()[:32]}.safetensors"


def _tokens(missing: Sequence[Scaled], rows: np.ndarray, score: Score) -> dict[Scaled, Tensor]:
    """The tokens of each that is missing [N, D]."""
    found: dict[Scaled, list[Tensor]] = {asked: [] for asked in missing}
    for first in range(0, len(rows), _TOGETHER):
        answers = score(rows[first : first + _TOGETHER])
        for asked, parts in found.items():
            answer = answers[asked.teacher]
            assert isinstance(answer, Dense), "vectors are kept whole"
            features = answer.values_NC if asked.tap == SUMMARY else answer.features.get(asked.tap)
            if features is not None:
                parts.append(tokens_of(features[answer.valid_N].double()))
    return {
        asked: torch.cat(parts) if parts else torch.zeros(0, 1) for asked, parts in found.items()
    }


def note_scales(cards: Callable[[str], Path], scales: Mapping[Scaled, TokenScale]) -> None:
    """Write into each teacher's card what its tokens are scaled by."""
    by_teacher: dict[str, dict[str, Any]] = {}
    for asked, scale in scales.items():
        numbers = {"kind": asked.kind, "phi": scale.phi, **_spreads(scale)}
        by_teacher.setdefault(asked.teacher, {})[asked.tap or "vector"] = numbers
    for teacher, numbers in by_teacher.items():
        card = read_json(cards(teacher))
        write_json(cards(teacher), {**card, "scales": numbers})


def head_numbers(run: RunFolder, replicas: int) -> dict[str, Any]:
    """How far the student's heads were from each teacher at the end of training, in units of the teacher's own spread.

    Returns:
        teacher -> `cosine`, `smooth_l1`: means over the last epoch, over replicas; 1 is as far as a head that always says
        the teacher's mean. Empty where no scale was fitted.
    """
    last: dict[str, Mapping[str, float]] = {}
    for line in read_lines(run.path / METRICS) if (run.path / METRICS).is_file() else []:
        if line["kind"] == "epoch":
            last[str(line["fit"])] = line.get("terms") or {}
    found: dict[str, dict[str, list[float | None]]] = {}
    for replica in range(replicas):
        for name, value in last.get(f"student/replica{replica}", {}).items():
            what, dot, teacher = name.partition(".")
            if dot and what in _TOLD:
                found.setdefault(teacher, {}).setdefault(what, []).append(value)
    return {
        teacher: {what: spread(values) for what, values in numbers.items()}
        for teacher, numbers in found.items()
    }


def _spreads(scale: TokenScale) -> dict[str, float]:
    return {"cosine_spread": scale.cosine_spread, "smooth_l1_spread": scale.smooth_l1_spread}
