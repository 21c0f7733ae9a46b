"""Read outputs that a user already has: a teacher without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from raykd.data import Samples
from raykd.data.decoding.csv_tables import read_texts
from raykd.data.decoding.layout import Ids
from raykd.data.joining import Match, match
from raykd.errors import InputError, Problem, TeacherError
from raykd.teachers.answers import as_logits, mapped
from raykd.types import OutputKind

_NAMES: dict[OutputKind, str] = {"value": "values", "embedding": "embeddings"}
"""How outputs that are no logits are called in a file."""
_ID = "id"
_WRITTEN = (".csv", ".tsv")
_NO_NUMBER = pa.array(["", "NA", "N/A", "NaN", "nan", "null", "None"])


def load_outputs(
    path: str,
    samples: Samples,
    *,
    key: str,
    answers: OutputKind = "logits",
    kind: str = "logits",
    label_map: Sequence[int | None] | None = None,
) -> tuple[np.ndarray, list[str]]:
    """Logits float32 [N, C] in the data's row order, −∞ for classes that a label map leaves out; what to know of them.

    Args:
        path: `.safetensors` with `ids` [M], integers, and `logits` or `probabilities` [M, C], in regression `values`
            in original units [M] or [M, 1], of embeddings `embeddings` [M, D]; or `.csv`, `.parquet` with a column `id`, then one column
            for each of the teacher's classes in order (of `top1` one of their numbers, in regression one of
            values, of embeddings one for each dimension).
        samples: the data whose ids are looked up: in a table by the texts that they are there, too.
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
    count = len(ids.texts)
    kind = written or kind
    classes = samples.class_count if label_map is None else len(label_map)
    columns = 1 if kind == "top1" else classes
    if answers == "embedding":
        columns = max(outputs.shape[1:], default=0)
    if outputs.ndim != 2 or outputs.shape[1] != columns or count != len(outputs):
        needed = "[M, dimension]" if answers == "embedding" else f"[M, {columns}]"
        raise InputError(
            Problem(own_key, f"{file} holds {[count]} ids and {list(outputs.shape)} outputs; [M] and "
                    f"{needed} are needed")
        )  # fmt: skip
    matched = _matched(file, ids, samples, own_key)
    found = _in_order(file, matched, outputs, samples, own_key)
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
    return logits.numpy(), matched.in_words(str(file))


def _matched(file: Path, ids: Ids, samples: Samples, key: str) -> Match:
    """Which output is which sample's: by the user's own id or, of older files, by the number made from it."""
    counts = pc.value_counts(ids.texts)
    if len(counts) < len(ids.texts):
        worst = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
        raise InputError.at(key, f"{file} holds a sample id twice, {worst!r}; ids are unique")
    found = match(samples.user_ids.cast(pa.string()), ids.texts)
    if ids.numbers is None or not (found.key_N < 0).all():
        return found
    return match(pa.array(samples.ids).cast(pa.string()), pa.array(ids.numbers).cast(pa.string()))


def _in_order(
    file: Path, matched: Match, outputs: np.ndarray, samples: Samples, key: str
) -> np.ndarray:
    """Outputs [N, O] in the data's row order; every sample has one."""
    found = np.full((len(samples), outputs.shape[1]), np.nan, np.float32)
    there = matched.key_N >= 0
    found[there] = outputs[matched.key_N[there]]
    lacking = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if not len(lacking):
        return found
    (sample,) = samples.named(lacking[:1])
    wrong_O = np.flatnonzero(~np.isfinite(found[lacking[0]]))
    which = f", its output {wrong_O[0]} from 0" if len(wrong_O) < found.shape[1] else ""
    others = (
        f"; of its ids no sample has e.g. {matched.strangers[0]!r}" if matched.strangers else ""
    )
    raise InputError(
        Problem(key, f"{file} has no output, or one that is not finite, for {len(lacking)} of {len(samples)} "
                f"samples (e.g. {sample!r}{which}); every sample needs one{others}")
    )  # fmt: skip


def _look_like_probabilities(outputs_NO: np.ndarray) -> bool:
    sums = outputs_NO.sum(axis=1, dtype=np.float64)
    return bool((outputs_NO >= 0).all() and np.allclose(sums, 1.0, atol=1e-2))


def _read(file: Path, key: str, answers: OutputKind) -> tuple[Ids, np.ndarray, str | None]:
    """Ids of M outputs, outputs [M, O], and their kind where the file names it."""
    try:
        suffix = file.suffix.lower()
        if suffix == ".safetensors":
            arrays = load_file(file)
            if answers in _NAMES:
                values = arrays[_NAMES[answers]].astype(np.float32)
                return _numbered(arrays["ids"]), values.reshape(len(values), -1), None
            ids = _numbered(arrays["ids"])
            if "probabilities" in arrays and "logits" not in arrays:
                return ids, arrays["probabilities"].astype(np.float32), "probabilities"
            return ids, arrays["logits"].astype(np.float32), None
        if suffix in (*_WRITTEN, ".parquet"):
            return (*_read_table(file), None)
    except (
        SafetensorError,
        pa.ArrowException,
        LookupError,
        ValueError,
        TypeError,
        OSError,
    ) as error:
        what = _NAMES.get(answers, "logits")
        raise InputError(
            Problem(key, f"{file} cannot be read as outputs ({error!r}); it needs ids and {what}: arrays `ids` and `{what}` of "
                    "a .safetensors, or a column `id` and one for each output of a table")
        ) from None  # fmt: skip
    raise InputError.at(key, f"{file}: allowed are .safetensors, .csv, .tsv and .parquet")


def _numbered(ids: np.ndarray) -> Ids:
    """Ids that are integers [M]."""
    if ids.ndim != 1:
        raise ValueError(f"`ids` is {list(ids.shape)}, not [M]")
    return Ids.of_values(pa.array(ids))


def _read_table(file: Path) -> tuple[Ids, np.ndarray]:
    """Ids of M outputs, and outputs [M, O] of a table; an empty cell, NA and NaN are none."""
    written = file.suffix.lower() in _WRITTEN
    table = read_texts(file) if written else pq.read_table(file)
    if _ID not in table.column_names:
        raise KeyError(f"no column {_ID!r} in {', '.join(table.column_names)}")
    own = table[_ID].combine_chunks()
    if own.null_count:
        raise ValueError(f"{own.null_count} rows have no id")
    cells = [table[name] for name in table.column_names if name != _ID]
    if written:
        cells = [pc.if_else(pc.is_in(one, _NO_NUMBER), None, one) for one in cells]
    outputs = [one.cast(pa.float32()).to_numpy() for one in cells]
    return (Ids.of_texts if written else Ids.of_values)(own), np.stack(outputs, axis=1)
