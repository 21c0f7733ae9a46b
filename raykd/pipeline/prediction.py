"""The student on new data: files, tables or arrays in; classes, labels, values or embeddings out."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn

from raykd.data.steps import as_shown
from raykd.disks import new_file
from raykd.errors import InputError, Problem
from raykd.export.found_boxes import in_pixels
from raykd.export.task import Boxes, Predicted
from raykd.importing import load_callable
from raykd.pipeline.continuing import read_on
from raykd.pipeline.new_samples import NewSamples, given_new, read_new
from raykd.pipeline.student import GRAPH_SUFFIX, describe_student, load_graph, load_student
from raykd.shown import for_spreadsheet
from raykd.tasks import known_task

_BATCH = 256
_MOST_BYTE = 255


def read_for(run: Path, path: Path) -> NewSamples:
    """The samples of a file as the student of `run` takes them.

    Raises:
        InputError: no student there; the file is missing, of another kind, or damaged.
    """
    return read_new(describe_student(run)[1], path)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a student says of new samples.

    Attributes:
        ids: [N], the samples' own; of a table its `id`, its index, or the numbers of its rows.
        said: the student's answers; see `Predicted`.
        left_out: rows that are no sample, and why, in words.
    """

    ids: np.ndarray
    said: Predicted
    left_out: tuple[str, ...] = ()

    @property
    def labels(self) -> np.ndarray:
        """Each prediction [N]: a class or the labels that hold, in words; in regression the value, float32."""
        words = (self.said.probability_NC, self.said.vector_ND, self.said.bits_N, self.said.boxes)
        values = all(one is None for one in words)
        return self.said.label_N if values else np.array(self.said.words)

    @property
    def probabilities(self) -> np.ndarray | None:
        """Of each class or label, float32 [N, C], in the order of `classes`; None in other tasks."""
        return self.said.probability_NC

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes or labels."""
        return self.said.classes

    @property
    def boxes(self) -> tuple[Boxes, ...] | None:
        """What is found in each image, in pixels of its file; None in other tasks."""
        return self.said.boxes


def predict(path: str | os.PathLike[str], data: Any, *, model: str | None = None) -> Predictions:
    """What the student of a run says of new samples; as `raykd predict`.

    Args:
        path: a run's folder, its student's, or `model.onnx` or `model.int8.onnx` of its export.
        data: a file or folder, as the command takes it; or a table of pandas, polars, pyarrow or `datasets` with the
            columns that the student was trained on, arrays, texts, or a torch `Dataset`.
        model: `module:function` that makes the architecture, where the zoo has it not.

    Raises:
        InputError: no student there, or the data do not fit it.
    """
    about = describe_student(path)[1]
    is_path = isinstance(data, str | os.PathLike)
    new = read_new(about, Path(data)) if is_path else given_new(about, data)
    ids, said = ask_student(Path(path), (new.ids, new.values), model)
    return Predictions(ids, in_pixels(said, new.sizes, about.input.shape), new.left_out)


def ask_student(
    run: Path, samples: tuple[np.ndarray, np.ndarray], factory: str | None
) -> tuple[np.ndarray, Predicted]:
    """The ids again, and what the student of `run` says of the values.

    Args:
        run: a run's folder, its student's, or a graph of its export.
        samples: ids and values, in the space of the source that the student was trained on; uint8 is
            taken as 0..255 (as bytes where it takes texts), and so are whole numbers where it was trained
            on such; a flat row is reshaped.
        factory: `module:function` that makes the architecture, where the zoo has it not.

    Raises:
        InputError: no student there, or the values do not fit it.
    """
    ids, values = samples
    _, about = describe_student(run)
    shape = about.input.shape
    if values.shape[1:] != shape and values[0].size != np.prod(shape):
        raise InputError.at(
            "DATA", f"samples are {list(values.shape[1:])}, the student takes {list(shape)}"
        )
    wrong = np.isinf if about.preprocessing.table is not None else _is_not_finite
    if values.dtype.kind not in "uif" or wrong(values).any():
        raise InputError.at("DATA", f"found {values.dtype} or NaN; needs finite numbers")
    student = _loaded(run, factory)
    if about.preprocessing.chunks is not None:
        texts_NL = values.reshape(len(values), *shape)
        return ids, read_on(student, about.preprocessing.chunks, texts_NL, about.classes)
    name = about.input.name
    if about.input.bytes:
        values = _as_bytes(values)
    shown = as_shown({name: values.reshape(len(values), *shape)})[name]
    parts = []
    with torch.inference_mode():
        for start in range(0, len(shown), _BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(shown[start : start + _BATCH]))
            parts.append(student({name: batch}).float())
    outputs = torch.cat(parts)
    if about.temperature is not None:
        outputs = outputs / about.temperature
    return ids, known_task(about.task, where=str(run)).export.predict(outputs, about.classes)


def _loaded(run: Path, factory: str | None) -> nn.Module:
    if run.suffix != GRAPH_SUFFIX:
        model = load_callable(factory, key="--model")() if factory is not None else None
        return load_student(run, model=model)
    if factory is not None:
        raise InputError.at("--model", f"found {factory!r}; {run} has its architecture inside")
    return load_graph(run)


def _is_not_finite(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = ~np.isfinite(values)
    return found


def _as_bytes(values: np.ndarray) -> np.ndarray:
    """Whole numbers of 0 to 255 as uint8; 0 to 1 as they are.

    Raises:
        InputError: they are neither.
    """
    low, high = values.min(), values.max()
    whole = values.dtype.kind in "ui" or bool((values == np.round(values)).all() and high > 1)
    if low >= 0 and whole and high <= _MOST_BYTE:
        return values.astype(np.uint8)
    if low < 0 or high > 1 or whole:
        raise InputError(
            Problem("DATA", f"found numbers of {low:g} to {high:g}; the student was trained on bytes: give whole "
                    "numbers of 0 to 255, or fractions of 0 to 1")
        )  # fmt: skip
    return values


def write_csv(file: IO[str], ids: np.ndarray, predicted: Predicted) -> None:
    """`id`, `prediction` and, but for values, one probability for each class or label; `id` and the embedding.

    Ids and words go through `for_spreadsheet`; the other formats have them as they are.
    """
    keys, said = map(for_spreadsheet, ids.tolist()), map(for_spreadsheet, predicted.words)
    writer = csv.writer(file, lineterminator="\n")
    if predicted.vector_ND is not None:
        writer.writerow(["id", *(f"e_{name}" for name in predicted.classes)])
        for key, row_D in zip(keys, predicted.vector_ND, strict=True):
            writer.writerow([key, *(f"{value:.9g}" for value in row_D)])
        return
    probability_NC = predicted.probability_NC
    if predicted.bits_N is not None:
        writer.writerow(["id", "prediction", "bits_per_byte"])
        bits = (f"{one:.6g}" for one in predicted.bits_N.tolist())
        writer.writerows(zip(keys, said, bits, strict=True))
        return
    if probability_NC is None:
        writer.writerow(["id", "prediction"])
        writer.writerows(zip(keys, said, strict=True))
        return
    writer.writerow(["id", "prediction", *(f"p_{name}" for name in predicted.classes)])
    for key, words, row_C in zip(keys, said, probability_NC, strict=True):
        writer.writerow([key, words, *(f"{p:.6g}" for p in row_C)])


def write_npz(path: Path, ids: np.ndarray, predicted: Predicted) -> None:
    """The arrays of a task.

    `ids`, `classes` [C], and `labels` with `probabilities` float32 [N, C], or `values` float32 [N]; of embeddings
    `ids` and `embeddings` float32 [N, D]; of detectors `images` [M], places among the ids, `boxes` [M, 4], `labels` and
    `scores` [M]; of a language `ids`, `texts` that go on with the given ones, and
    `bits_per_byte` of these, float32 [N].
    """
    arrays: dict[str, Any] = {"ids": ids, "classes": np.array(predicted.classes)}
    if predicted.vector_ND is not None:
        arrays = {"ids": ids, "embeddings": predicted.vector_ND}
    elif predicted.bits_N is not None:
        arrays = {"ids": ids, "texts": np.array(predicted.words), "bits_per_byte": predicted.bits_N}
    elif predicted.boxes is not None:
        counts = [len(one.score_M) for one in predicted.boxes]
        arrays |= {
            "images": np.repeat(np.arange(len(ids)), counts),
            "boxes": np.concatenate([one.corners_M4 for one in predicted.boxes]),
            "labels": np.concatenate([one.class_M for one in predicted.boxes]),
            "scores": np.concatenate([one.score_M for one in predicted.boxes]),
        }
    elif predicted.probability_NC is None:
        arrays["values"] = predicted.label_N
    else:
        arrays |= {"labels": predicted.label_N, "probabilities": predicted.probability_NC}
    needed = sum(np.asarray(array).nbytes for array in arrays.values())
    with new_file(path, needed) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
