"""What every model of a run answers on validation and test, as arrays in one file.

Shapes: N samples, C classes, R replicas, E examples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from raykd.data.chunks import LABEL_COLUMNS
from raykd.data.texts import decode_texts, encode_texts
from raykd.disks import new_file
from raykd.errors import InputError
from raykd.evaluate.task import TaskMetrics
from raykd.tasks import find_task, known_task
from raykd.types import is_labelled

Split = Literal["validation", "test"]
_FORMAT = "raykd-evaluation-1"
_GROUPS = ("teachers", "students", "students_last", "rivals")


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitOutputs:
    """Answers of every model on one split.

    They are log-probabilities (nats, temperature 1); in regression values in original units, C = 1; in
    multilabel the log-odds of each label; of embeddings vectors, each model's of its own length; of a language
    columns of each token, see `raykd.evaluate.task.Columns`, of which students may have more.

    Attributes:
        labels_N: int64 [N], −1 where unlabelled; in regression float32 [N], NaN where unlabelled; in
            multilabel int64 [N, C], rows of −1 where unlabelled; of a language int64 [N, 4], a row for each token; of
            continuous actions float32 [N, C / 2], since outputs are a mean and a deviation of each number.
        ids_N: int64 [N], sample ids, as random numbers are made from them.
        user_ids: the same samples' ids as the user's data have them; none in runs of earlier versions.
        teachers: name -> float32 [N, C].
        ensemble: float32 [N, C].
        students: role (`student`, `labels`, `best_teacher`, `hard`) -> float32 [R, N, C], at the epoch
            that is best on validation.
        students_last: the same at the last epoch; may be empty.
        rivals: name -> float32 [N, C], of other models that the student is held against.
        task: what the answers are for.

    Raises:
        ValueError: shapes do not fit together.
    """

    labels_N: Tensor
    ids_N: Tensor
    teachers: Mapping[str, Tensor]
    ensemble: Tensor
    students: Mapping[str, Tensor]
    students_last: Mapping[str, Tensor] = field(default_factory=dict)
    rivals: Mapping[str, Tensor] = field(default_factory=dict)
    task: str = "classification"
    user_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = tuple(self.ensemble.shape)
        metrics = find_task(self.task).metrics
        same = 1 if metrics.own_width or metrics.columns is not None else 2
        if len(shape) != 2:
            raise ValueError(f"the ensemble's outputs must be [N, C], found {list(shape)}")
        _check_columns(metrics, shape[1])
        _check_labels(metrics, shape, self.labels_N)
        if tuple(self.ids_N.shape) != shape[:1]:
            raise ValueError(f"ids: expected [{shape[0]}], found {list(self.ids_N.shape)}")
        for name, tensor in (*self.teachers.items(), *self.rivals.items()):
            if tensor.ndim != len(shape) or tuple(tensor.shape)[:same] != shape[:same]:
                raise ValueError(f"model {name}: expected {shape}, found {tuple(tensor.shape)}")
        for group in (self.students, self.students_last):
            for role, tensor in group.items():
                found = tuple(tensor.shape[1:])
                if len(found) != len(shape) or found[:same] != shape[:same] or not len(tensor):
                    raise ValueError(
                        f"{role}: expected (replicas, {shape[0]}, {shape[1]}), "
                        f"found {tuple(tensor.shape)}"
                    )

    def only(self, keep_N: Tensor) -> SplitOutputs:
        """The answers for some of the samples (bool [N])."""
        return SplitOutputs(
            labels_N=self.labels_N[keep_N],
            ids_N=self.ids_N[keep_N],
            teachers={name: answers[keep_N] for name, answers in self.teachers.items()},
            ensemble=self.ensemble[keep_N],
            students={role: answers[:, keep_N] for role, answers in self.students.items()},
            students_last={
                role: answers[:, keep_N] for role, answers in self.students_last.items()
            },
            rivals={name: answers[keep_N] for name, answers in self.rivals.items()},
            task=self.task,
            user_ids=tuple(compress(self.user_ids, keep_N.tolist())),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """All outputs of a run, from which every number and figure follows.

    Attributes:
        splits: outputs on `validation` and on `test`.
        task: what the answers are for.
        classes: names of the outputs; empty means the labels themselves.
        examples_rows: int64 [E], positions in the test split's arrays of the samples kept to be shown.
        examples_inputs: [E, ...], those samples untransformed (images [E, H, W] or [E, C, H, W]).

    Raises:
        ValueError: only one of the two example arrays is given, or they do not fit the test split.
    """

    splits: Mapping[Split, SplitOutputs]
    task: str = "classification"
    classes: tuple[str, ...] = ()
    examples_rows: Tensor | None = None
    examples_inputs: Tensor | None = None

    def __post_init__(self) -> None:
        rows, inputs = self.examples_rows, self.examples_inputs
        if (rows is None) != (inputs is None):
            raise ValueError("examples need both their rows and their inputs")
        if rows is None or inputs is None or not len(rows):
            return
        count = len(self.splits["test"].labels_N)
        if len(rows) != len(inputs) or int(rows.min()) < 0 or int(rows.max()) >= count:
            raise ValueError(
                f"{len(rows)} example rows and {len(inputs)} inputs must pair up, and rows must be "
                f"positions in the test split, 0 to {count - 1}"
            )

    def save(self, path: Path) -> None:
        """Write everything as one safetensors file; a reader sees the old file or the new one.

        Raises:
            DiskError: the disk is full or cannot be written.
        """
        tensors = {}
        for split, outputs in self.splits.items():
            tensors.update({f"{split}/{name}": tensor for name, tensor in _flatten(outputs)})
        if self.examples_rows is not None and self.examples_inputs is not None:
            tensors["examples/rows"] = self.examples_rows
            tensors["examples/inputs"] = self.examples_inputs
        order = {
            split: {group: list(getattr(outputs, group)) for group in _GROUPS}
            for split, outputs in self.splits.items()
        }
        about = {_FORMAT: json.dumps(order), "classes": json.dumps(self.classes), "task": self.task}
        # safetensors refuses tensors that share memory, such as replicas sliced from one array.
        owned = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        needed = sum(tensor.nbytes for tensor in owned.values())
        with new_file(path, needed, (SafetensorError,)) as temporary:
            save_file(owned, temporary, metadata=about)

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, damaged, or something else.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            order, task = json.loads(about[_FORMAT]), about["task"]
            known_task(task, where=str(path))
            return cls(
                splits={split: _unflatten(split, tensors, order[split], task) for split in order},
                task=task,
                classes=tuple(json.loads(about["classes"])),
                examples_rows=tensors.get("examples/rows"),
                examples_inputs=tensors.get("examples/inputs"),
            )
        except (OSError, SafetensorError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:  # fmt: skip
            raise InputError.at(
                str(path), f"cannot be read as an evaluation ({error}); evaluate anew"
            ) from error


def best_teacher(validation: SplitOutputs, task: str = "classification") -> str:
    """The teacher with the best of the task's metric on validation, ties by the second, then by name.

    In classification and multilabel: the highest accuracy, ties by the lower NLL; in regression: the
    lowest RMSE, ties by the lower MAE; of embeddings the highest map_10, ties by recall_1, and without labels
    the one that the ensemble follows most closely.

    Raises:
        ValueError: there are no teachers, or no validation sample is labelled.
    """
    if not validation.teachers:
        raise ValueError("there is no teacher to choose from")
    metrics = find_task(task).metrics
    if metrics.closeness is not None and not is_labelled(validation.labels_N).any():
        close = metrics.closeness(validation.ensemble, validation.teachers)
        return max(sorted(close), key=lambda name: close[name])

    def rank(name: str) -> tuple[float, float, str]:
        numbers = metrics.numbers(validation.teachers[name], validation.labels_N)
        first, then = metrics.rank(numbers)
        return -first, -then, name

    return min(validation.teachers, key=rank)


def choose_examples(test: SplitOutputs, count: int = 12, task: str = "classification") -> Tensor:
    """Positions of test samples worth showing: those on which student and baseline differ.

    Labelled samples on which the first replicas of `student` and `labels` (else: the student and the
    ensemble) answer differently, the most telling differences first: of classes the most confident
    ones; of values the largest; of labels those with most labels decided otherwise.

    Args:
        test: outputs on the test split.
        count: how many, at most.
        task: what the outputs are for.

    Returns:
        int64 [E], E ≤ count.
    """
    student_NC = test.students["student"][0]
    other_NC = test.students["labels"][0] if "labels" in test.students else test.ensemble
    telling_N = find_task(task).metrics.difference(student_NC, other_NC)
    differ_N = (telling_N > -torch.inf) & is_labelled(test.labels_N)
    telling_N = torch.where(differ_N, telling_N, -torch.inf)
    return telling_N.argsort(descending=True, stable=True)[: min(count, int(differ_N.sum()))]


def _check_labels(metrics: TaskMetrics, shape: tuple[int, ...], labels_N: Tensor) -> None:
    allowed = [shape[:1], shape, (shape[0], LABEL_COLUMNS), (shape[0], shape[1] // 2)]
    if metrics.own_labels:
        allowed = [(shape[0], labels_N.shape[-1])]
    if tuple(labels_N.shape) not in allowed:
        raise ValueError(f"labels: expected [{shape[0]}], found {list(labels_N.shape)}")


def _check_columns(metrics: TaskMetrics, found: int) -> None:
    if metrics.columns is not None and found != metrics.columns.count:
        raise ValueError(
            f"{metrics.columns.count} columns are kept of each unit, found {found}, as an earlier version kept them"
        )


def _flatten(outputs: SplitOutputs) -> Iterator[tuple[str, Tensor]]:
    yield "labels", outputs.labels_N
    yield "ids", outputs.ids_N
    if outputs.user_ids:
        yield "user_ids", _as_rows(outputs.user_ids)
    yield "ensemble", outputs.ensemble
    for group in _GROUPS:
        for name, tensor in getattr(outputs, group).items():
            yield f"{group}/{name}", tensor


def _as_rows(texts: Sequence[str]) -> Tensor:
    """Texts in UTF-8, uint8 [N, length of the longest], padded with zeros."""
    longest = max(len(text.encode()) for text in texts)
    return torch.from_numpy(encode_texts(texts, max(1, longest)))


def _as_texts(rows: Tensor | None) -> tuple[str, ...]:
    """What `_as_rows` was given."""
    return () if rows is None else tuple(decode_texts(rows.numpy()))


def _unflatten(
    split: str, tensors: Mapping[str, Tensor], order: Mapping[str, list[str]], task: str
) -> SplitOutputs:
    groups: dict[str, Any] = {
        group: {name: tensors[f"{split}/{group}/{name}"] for name in order.get(group, ())}
        for group in _GROUPS
    }
    return SplitOutputs(
        labels_N=tensors[f"{split}/labels"],
        ids_N=tensors[f"{split}/ids"],
        user_ids=_as_texts(tensors.get(f"{split}/user_ids")),
        ensemble=tensors[f"{split}/ensemble"],
        task=task,
        **groups,
    )
