"""Read outputs that a user already has: a teacher without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from raykd.data import Samples
from raykd.data.dataset import ids_of_texts
from raykd.errors import InputError, Problem, TeacherError
from raykd.teachers.answers import as_logits, mapped
from raykd.types import OutputKind

_NAMES: dict[OutputKind, str] = {"value": "values", "embedding": "embeddings"}
"""How outputs that are no logits are called in a file."""


def load_outputs(
    path: str,
    samples: Samples,
    *,
    key: str,
    answers: OutputKind = "logits",
    kind: str = "logits",
    label_map: Sequence[int | None] | None = None,
) -> np.ndarray:
    """Logits float32 [N, C] in the data's row order, −∞ for classes that a label map leaves out.

    Args:
        path: `.safetensors` with `ids` [M] and `logits` or `probabilities` [M, C], in regression `values`
            in original units [M] or [M, 1], of embeddings `embeddings` [M, D]; or `.csv`, `.parquet` with a column `id`, then one column
            for each of the teacher's classes in order (of `top1` one of their numbers, in regression one of
            values, of embeddings one for each dimension).
        samples: the data whose ids are looked up.
        key: dotted key of the teacher in the recipe, for errors.
        answers: what the outputs are to be.
        kind: what the file says: logits, probabilities, log_probabilities, top1.
        label_map: data class of each of the teacher's classes, None = none; None = they are the same.

    Raises:
        InputError: the file is missing or damaged, or does not fit the data or `kind`.
    """
    own_key, file = f"{key}.outputs", Path(path).expanduser()
    if not file.is_file():
        raise InputError.at(own_key, f"no file at {file}; check the path")
    ids, outputs, written = _read(file, own_key, answers)
    kind = written or kind
    classes = samples.class_count if label_map is None else len(label_map)
    columns = 1 if kind == "top1" else classes
    if answers == "embedding":
        columns = max(outputs.shape[1:], default=0)
    if outputs.ndim != 2 or outputs.shape[1] != columns or ids.shape != (len(outputs),):
        needed = "[M, dimension]" if answers == "embedding" else f"[M, {columns}]"
        raise InputError(
            Problem(own_key, f"{file} holds {list(ids.shape)} ids and {list(outputs.shape)} outputs; [M] and "
                    f"{needed} are needed")
        )  # fmt: skip
    found = _in_order(file, ids, outputs, samples, own_key)
    if kind == "probabilities" and not ((found >= 0) & (found <= 1)).all():
        raise InputError(
            Problem(f"{key}.kind", f"is probabilities, but {file} holds numbers of {found.min():g} to {found.max():g}; "
                    "probabilities are 0 to 1")
        )  # fmt: skip
    if kind == "logits" and answers == "logits" and _look_like_probabilities(found):
        raise InputError(
            Problem(f"{key}.kind", f"is logits, but in {file} the numbers of every sample are 0 to 1 and add "
                    "up to 1; set it to probabilities")
        )  # fmt: skip
    try:
        logits = as_logits(torch.from_numpy(found), kind, answers, classes)
    except TeacherError as error:
        raise InputError.at(own_key, f"{file}: {error}") from None
    if label_map is not None:
        logits = mapped(logits, label_map, samples.class_count)
    return logits.numpy()


def _in_order(
    file: Path, ids: np.ndarray, outputs: np.ndarray, samples: Samples, key: str
) -> np.ndarray:
    """Outputs [N, O] in the data's row order; every sample has one."""
    if len(np.unique(ids)) < len(ids):
        raise InputError.at(key, f"{file} holds a sample id twice; ids are unique")
    row_of = {int(sample): row for row, sample in enumerate(samples.ids)}
    rows = np.array([row_of.get(int(sample), -1) for sample in ids], np.int64)
    found = np.full((len(samples), outputs.shape[1]), np.nan, np.float32)
    found[rows[rows >= 0]] = outputs[rows >= 0]
    if missing := int((~np.isfinite(found).all(axis=1)).sum()):
        raise InputError(
            Problem(key, f"{file} has no output, or one that is not finite, for {missing} of {len(samples)} "
                    "samples; every sample needs one")
        )  # fmt: skip
    return found


def _look_like_probabilities(outputs_NO: np.ndarray) -> bool:
    sums = outputs_NO.sum(axis=1, dtype=np.float64)
    return bool((outputs_NO >= 0).all() and np.allclose(sums, 1.0, atol=1e-2))


def _read(file: Path, key: str, answers: OutputKind) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Ids [M], outputs [M, O], and their kind where the file names it."""
    try:
        if file.suffix == ".safetensors":
            arrays = load_file(file)
            if answers in _NAMES:
                values = arrays[_NAMES[answers]].astype(np.float32)
                return arrays["ids"], values.reshape(len(values), -1), None
            if "probabilities" in arrays and "logits" not in arrays:
                return arrays["ids"], arrays["probabilities"].astype(np.float32), "probabilities"
            return arrays["ids"], arrays["logits"].astype(np.float32), None
        if file.suffix in (".csv", ".parquet"):
            import pandas as pd  # comes with Ray; slow to import, and needed here alone

            table = pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
            if "id" not in table:
                raise KeyError(f"no column 'id' in {', '.join(map(str, table.columns))}")
            own = table.pop("id")
            whole = pd.api.types.is_integer_dtype(own)
            ids = own.to_numpy(np.int64) if whole else ids_of_texts(own.astype(str))
            return ids, table.to_numpy(np.float32), None
    except (SafetensorError, LookupError, ValueError, TypeError, AttributeError, OSError) as error:
        what = _NAMES.get(answers, "logits")
        raise InputError(
            Problem(key, f"{file} cannot be read as outputs ({error!r}); it needs ids and {what}: arrays `ids` and `{what}` of "
                    "a .safetensors, or a column `id` and one for each output of a table")
        ) from None  # fmt: skip
    raise InputError.at(key, f"{file}: allowed are .safetensors, .csv and .parquet")
