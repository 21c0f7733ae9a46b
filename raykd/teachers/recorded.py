"""Read outputs that a user already has: a teacher without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from raykd.data import Samples
from raykd.errors import InputError, Problem
from raykd.teachers.answers import log_odds
from raykd.types import OutputKind

_NAMES: dict[OutputKind, str] = {"value": "values", "embedding": "embeddings"}
"""How outputs that are no logits are called in a file."""


def load_outputs(
    path: str, samples: Samples, *, key: str, answers: OutputKind = "logits"
) -> np.ndarray:
    """Logits float32 [N, C] in the data's row order, NaN for samples without an output.

    Args:
        path: `.safetensors` with `ids` [M] and `logits` or `probabilities` [M, C], in regression `values`
            in original units [M] or [M, 1], of embeddings `embeddings` [M, D]; or `.csv`, `.parquet` with a column `id`, then one column
            of logits for each class in label order (in regression one of values, of embeddings one for
            each dimension).
        samples: the data whose ids are looked up.
        key: dotted key of the recipe, for errors.
        answers: what the outputs are to be.

    Raises:
        InputError: the file is missing or damaged, or does not fit the data.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(Problem(key, f"no file at {file}; check the path"))
    ids, logits = _read(file, key, answers)
    classes = samples.class_count if answers != "embedding" else max(logits.shape[1:], default=0)
    if logits.ndim != 2 or logits.shape[1] != classes or ids.shape != (len(logits),):
        wanted = "[M, dimension]" if answers == "embedding" else f"[M, {classes}]"
        raise InputError(
            Problem(key, f"{file} holds {list(ids.shape)} ids and {list(logits.shape)} outputs; [M] and "
                    f"{wanted} are needed")
        )  # fmt: skip
    if len(np.unique(ids)) < len(ids):
        raise InputError(Problem(key, f"{file} holds a sample id twice; ids are unique"))
    place = {int(sample): row for row, sample in enumerate(samples.ids)}
    rows = np.array([place.get(int(sample), -1) for sample in ids], np.int64)
    found = np.full((len(samples), classes), np.nan, np.float32)
    found[rows[rows >= 0]] = logits[rows >= 0]
    if missing := int((~np.isfinite(found).all(axis=1)).sum()):
        raise InputError(
            Problem(key, f"{file} has no output, or one that is not finite, for {missing} of {len(samples)} "
                    "samples; every sample needs one")
        )  # fmt: skip
    return found


def _read(file: Path, key: str, answers: OutputKind) -> tuple[np.ndarray, np.ndarray]:
    try:
        if file.suffix == ".safetensors":
            arrays = load_file(file)
            if answers in _NAMES:
                values = arrays[_NAMES[answers]].astype(np.float32)
                return arrays["ids"], values.reshape(len(values), -1)
            if "probabilities" in arrays and "logits" not in arrays:
                probs = arrays["probabilities"].astype(np.float32)
                return arrays["ids"], log_odds(torch.from_numpy(probs), answers).numpy()
            return arrays["ids"], arrays["logits"].astype(np.float32)
        if file.suffix in (".csv", ".parquet"):
            import pandas as pd  # comes with Ray; slow to import, and needed here alone

            table = pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
            return table.pop("id").to_numpy(np.int64), table.to_numpy(np.float32)
    except (SafetensorError, LookupError, ValueError, TypeError, AttributeError, OSError) as error:
        raise InputError(
            Problem(key, f"{file} cannot be read as outputs ({error!r}); it needs ids and "
                    f"{_NAMES.get(answers, 'logits')}")
        ) from None  # fmt: skip
    raise InputError(Problem(key, f"{file}: allowed are .safetensors, .csv and .parquet"))
