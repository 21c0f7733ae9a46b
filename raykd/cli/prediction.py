"""The student on new data: arrays in, classes and probabilities out."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from raykd.data.steps import to_float
from raykd.errors import InputError, Problem
from raykd.importing import load_callable
from raykd.pipeline.student import describe_student, load_student

_BATCH = 256


@dataclass(frozen=True)
class Predicted:
    """What the student says.

    Attributes:
        classes: names in label order.
        label_N: int64, the most probable class.
        probability_NC: float32, rows sum to 1.
    """

    classes: tuple[str, ...]
    label_N: np.ndarray
    probability_NC: np.ndarray


def read_samples(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(ids, values) of a file; values are [N, ...], of a CSV [N, values].

    Raises:
        InputError: the file is missing, of another kind, damaged, or holds objects (pickles).
    """
    readers = {".npz": _read_npz, ".npy": _read_npy, ".csv": _read_csv}
    if path.suffix not in readers:
        raise InputError(Problem("DATA", f"found {path}; needs {', '.join(readers)}"))
    if not path.is_file():
        raise InputError(Problem("DATA", f"no file at {path}; check the path"))
    try:
        ids, values = readers[path.suffix](path)
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise InputError(
            Problem("DATA", f"{path} cannot be read as plain arrays: {error}")
        ) from error
    if values.ndim < 2 or not len(values) or len(ids) != len(values):
        found = f"{list(values.shape)} values and {list(ids.shape)} ids"
        raise InputError(Problem("DATA", f"{path} holds {found}; needs [N, ...] and [N]"))
    return ids, values


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        if "inputs" not in archive:
            raise KeyError(f"no array 'inputs' in {archive.files}")
        values = archive["inputs"]
        return (archive["ids"] if "ids" in archive else np.arange(len(values))), values


def _read_npy(path: Path) -> tuple[np.ndarray, np.ndarray]:
    values = np.load(path, allow_pickle=False)
    return np.arange(len(values)), values


def _read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        names = next(reader, [])
        rows = [row for row in reader if row]
    uneven = [number for number, row in enumerate(rows, start=2) if len(row) != len(names)]
    if uneven:
        raise ValueError(f"line {uneven[0]} has not {len(names)} columns as the first one")
    at = names.index("id") if "id" in names else None
    ids = np.array([row[at] for row in rows]) if at is not None else np.arange(len(rows))
    columns = [place for place in range(len(names)) if place != at]
    values = np.array([[float(row[place]) for place in columns] for row in rows], np.float32)
    return ids, values


def predict(
    run: Path, samples: tuple[np.ndarray, np.ndarray], factory: str | None
) -> tuple[np.ndarray, Predicted]:
    """The ids again, and what the student of `run` says of the values.

    Args:
        run: a run's folder, or its student's.
        samples: ids and values, in the space of the source that the student was trained on; uint8 is
            taken as 0..255, a flat row is reshaped.
        factory: `module:function` that makes the architecture, where the zoo has it not.

    Raises:
        InputError: no student there, or the values do not fit it.
    """
    ids, values = samples
    _, about = describe_student(run)
    shape = tuple(about["input"]["shape"])
    if values.shape[1:] != shape and values[0].size != np.prod(shape):
        raise InputError(
            Problem(
                "DATA", f"samples are {list(values.shape[1:])}, the student takes {list(shape)}"
            )
        )
    if values.dtype.kind not in "uif" or not np.isfinite(values).all():
        raise InputError(Problem("DATA", f"found {values.dtype} or NaN; needs finite numbers"))
    model = load_callable(factory, key="--model")() if factory is not None else None
    student = load_student(run, model=model)
    shown = to_float(values.reshape(len(values), *shape))
    parts = []
    with torch.inference_mode():
        for start in range(0, len(shown), _BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(shown[start : start + _BATCH]))
            parts.append(student({about["input"]["name"]: batch}).float().softmax(dim=1))
    probability_NC = torch.cat(parts)
    label_N = probability_NC.argmax(dim=1)
    return ids, Predicted(tuple(about["classes"]), label_N.numpy(), probability_NC.numpy())


def write_csv(file: IO[str], ids: np.ndarray, predicted: Predicted) -> None:
    """`id`, `prediction` (the class's name) and one probability for each class."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["id", "prediction", *(f"p_{name}" for name in predicted.classes)])
    rows = zip(ids.tolist(), predicted.label_N.tolist(), predicted.probability_NC, strict=True)
    for key, label, row_C in rows:
        writer.writerow([key, predicted.classes[label], *(f"{p:.6g}" for p in row_C)])


def write_npz(path: Path, ids: np.ndarray, predicted: Predicted) -> None:
    """`ids`, `labels` int64 [N], `probabilities` float32 [N, C] and `classes` [C]."""
    arrays: dict[str, Any] = {
        "ids": ids,
        "labels": predicted.label_N,
        "probabilities": predicted.probability_NC,
        "classes": np.array(predicted.classes),
    }
    np.savez(path, **arrays)
