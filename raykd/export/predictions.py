"""Predictions as a table that joins to the user's own: `RUN/predictions.parquet`, and what `raykd predict` writes.

Shapes: N samples, C classes or labels, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raykd.disks import write_whole
from raykd.evaluate import Evaluation, SplitOutputs
from raykd.evaluate.outputs import Split
from raykd.export.task import Predicted
from raykd.tasks import find_task
from raykd.types import is_labelled

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

_DIMENSIONS = 2
Columns = dict[str, "pa.Array"]


def evaluation_table(evaluation: Evaluation, temperature: float | None) -> pa.Table:
    """What every model of a run says of each sample of validation and test.

    Args:
        evaluation: the answers.
        temperature: by which the exported student's outputs are divided; None = 1.

    Returns:
        `id`, `split`, `label`; then of `student` (replica 0, at its epoch best on validation: the one that is exported),
        `ensemble` and `teachers.NAME` the columns of `answer_columns`.
    """
    import pyarrow as pa  # it takes a while to import

    parts = [
        pa.table(_split_columns(evaluation, split, temperature)) for split in evaluation.splits
    ]
    table = pa.concat_tables(parts)
    return table.set_column(0, "id", id_column(table["id"].to_pylist()))


def _split_columns(evaluation: Evaluation, split: Split, temperature: float | None) -> Columns:
    import pyarrow as pa

    outputs, export = evaluation.splits[split], find_task(evaluation.task).export
    predicted = {
        name: export.predict(answers_NC, _names(evaluation.classes, answers_NC))
        if export.of_columns is None
        else export.of_columns(answers_NC)
        for name, answers_NC in _answers(outputs, temperature).items()
    }
    said = next(iter(predicted.values()))
    labels_N, classes = outputs.labels_N, evaluation.classes
    if export.label_of is not None:
        labels_N, classes = export.label_of(labels_N), ()
    columns: Columns = {
        "id": pa.array(outputs.user_ids, pa.string()),
        "split": pa.array([split] * len(outputs.user_ids)),
        "label": _label_column(labels_N.numpy(), classes, said),
    }
    for name, one in predicted.items():
        columns |= answer_columns(one, name)
    return columns


def _answers(outputs: SplitOutputs, temperature: float | None) -> dict[str, Tensor]:
    """Column -> answers [N, C] of the model that it is of."""
    exported_NC = outputs.students["student"][0]
    return {
        "student": exported_NC if temperature is None else exported_NC / temperature,
        "ensemble": outputs.ensemble,
        **{f"teachers.{name}": answers_NC for name, answers_NC in outputs.teachers.items()},
    }


def _names(classes: tuple[str, ...], answers_NC: Tensor) -> tuple[str, ...]:
    """Of a model's outputs; of an embedding, which are no classes, and where there are none, numbers."""
    count = answers_NC.shape[1]
    return classes if len(classes) == count else tuple(str(i) for i in range(count))


def answer_columns(predicted: Predicted, name: str) -> Columns:
    """The columns of one model.

    Returns:
        `NAME`, its answer: the name of a class, a list of the labels that hold, a value, or the embedding as a list;
        and where there are probabilities `NAME.p_CLASS` of each class or label, float32.
    """
    columns = {name: _answer_column(predicted)}
    if predicted.probability_NC is not None:
        columns |= probability_columns(predicted, f"{name}.")
    return columns


def probability_columns(predicted: Predicted, prefix: str = "") -> Columns:
    """`p_CLASS` for each class or label, float32."""
    import pyarrow as pa

    assert predicted.probability_NC is not None, "the caller has looked"
    return {
        f"{prefix}p_{name}": pa.array(np.ascontiguousarray(probability_N, np.float32))
        for name, probability_N in zip(predicted.classes, predicted.probability_NC.T, strict=True)
    }


def _answer_column(predicted: Predicted) -> pa.Array:
    import pyarrow as pa

    if predicted.vector_ND is not None:
        vectors_ND = np.ascontiguousarray(predicted.vector_ND, np.float32)
        return pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.ravel()), vectors_ND.shape[1])
    if predicted.label_N.ndim == _DIMENSIONS:
        return _lists(predicted.label_N, predicted.classes)
    if predicted.label_N.dtype.kind == "f":
        return pa.array(predicted.label_N)
    return pa.array(predicted.words, pa.string())


def _lists(label_NC: np.ndarray, names: Sequence[str]) -> pa.Array:
    """The names of the labels that hold; none at all where a sample is unlabelled."""
    import pyarrow as pa

    known_N = is_labelled(label_NC)
    return pa.array(
        [
            [name for name, holds in zip(names, row, strict=True) if holds] if known else None
            for row, known in zip(label_NC.tolist(), known_N.tolist(), strict=True)
        ],
        pa.list_(pa.string()),
    )


def _label_column(labels: np.ndarray, classes: tuple[str, ...], said: Predicted) -> pa.Array:
    """True labels, of the type that answers have: names of classes or labels, or values; null where unlabelled.

    Args:
        labels: [N], or of several labels [N, C].
        classes: their names, which may be none.
        said: what some model says.
    """
    import pyarrow as pa

    known_N = is_labelled(labels)
    if labels.ndim == _DIMENSIONS and labels.dtype.kind == "f":
        rows = zip(labels.tolist(), known_N.tolist(), strict=True)
        return pa.array([row if known else None for row, known in rows], pa.list_(pa.float32()))
    if labels.ndim == _DIMENSIONS:
        return _lists(labels, said.classes)
    if labels.dtype.kind == "f" or said.label_N.dtype.kind == "f":
        return pa.array(labels, mask=~known_N)
    words = [
        (classes[label] if classes else str(label)) if known else None
        for label, known in zip(labels.tolist(), known_N.tolist(), strict=True)
    ]
    return pa.array(words, pa.string())


def id_column(ids: Sequence[Any]) -> pa.Array:
    """Ids as they join to the table that they are from.

    int64 where each one is a whole number as it is usually written, as a reader of tables makes of such a column;
    else texts, as they are: `007` and `7` are two.
    """
    import pyarrow as pa

    texts = [str(one) for one in ids]
    try:
        numbers = pa.array([int(text) for text in texts], pa.int64())
    except (ValueError, OverflowError, pa.ArrowInvalid):
        return pa.array(texts, pa.string())
    same = all(str(n) == text for n, text in zip(numbers.to_pylist(), texts, strict=True))
    return numbers if same else pa.array(texts, pa.string())


def predicted_table(ids: Sequence[Any], predicted: Predicted) -> pa.Table:
    """What `raykd predict` writes: `id`, `prediction` and, where there are any, `p_CLASS` of each class or label."""
    import pyarrow as pa

    columns = {"id": id_column(ids), "prediction": _answer_column(predicted)}
    if predicted.probability_NC is not None:
        columns |= probability_columns(predicted)
    if predicted.bits_N is not None:
        columns["bits_per_byte"] = pa.array(predicted.bits_N)
    return pa.table(columns)


def folds_table(files: Sequence[Path]) -> pa.Table:
    """The tables of all folds, one after the other, with a column `fold`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts, ids = [], []
    for fold, file in enumerate(files):
        part = pq.read_table(file)
        ids += part["id"].to_pylist()
        number = pa.array([fold] * len(part), pa.int32())
        parts.append(part.drop_columns("id").add_column(0, "fold", number))
    return pa.concat_tables(parts).add_column(1, "id", id_column(ids))


def write_table(path: Path, table: pa.Table) -> None:
    """Write Parquet; a reader sees the old file or the new one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_whole(path, [sink.getvalue().to_pybytes()], durable=False)
