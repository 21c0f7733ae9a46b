"""What a report is made from: a run's folder, read once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from raykd.data.chunking import tokenizer_of
from raykd.data.chunks import TextTokenizer
from raykd.errors import InputError
from raykd.evaluate import Evaluation
from raykd.evaluate.task import TaskMetrics
from raykd.folders import RunFolder, read_object, reading, refuse_links
from raykd.report.task import TaskText
from raykd.tasks import known_task

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class RunData:
    """A run as its folder tells it.

    Attributes:
        name: the folder's name.
        summary: summary.json.
        config: the resolved recipe; empty where the file is missing.
        epochs: fit id -> its epoch records, by epoch.
        events: failures, retries, degradations.
        cards: teacher -> card.
        evaluation: outputs of all models; None where the run did not get so far.
        frames: of one episode of the student and the best teacher, as `raykd.pipeline.returns.Frames` keeps them; None where
            they do not act, or cannot be shown.
        tokenizer: of a language model, what its tokens stand for; None of other tasks, and before a student is kept.
    """

    name: str
    summary: Record
    config: Record
    epochs: Mapping[str, Sequence[Record]]
    events: Sequence[Record]
    cards: Mapping[str, Record]
    evaluation: Evaluation | None
    frames: Mapping[str, NDArray[Any]] | None = None
    tokenizer: TextTokenizer | None = None

    @property
    def task(self) -> str:
        """What the run is about; a summary that names no task is of a classification."""
        return task_of(self.summary)


@dataclass(frozen=True)
class Curve:
    """A number over the epochs of a role's replicas.

    Attributes:
        epochs_E: epochs.
        values_RE: the number; NaN where a replica has none, for instance after it stopped early.
    """

    epochs_E: NDArray[np.int64]
    values_RE: NDArray[np.float64]


def task_of(summary: Mapping[str, Any]) -> str:
    """The task of a run; a summary that names none is of a classification."""
    return str(summary.get("task") or "classification")


def text_of(summary: Mapping[str, Any]) -> TaskText:
    """How a run's numbers are told."""
    return known_task(task_of(summary), where="summary.json").text


def metrics_of(summary: Mapping[str, Any]) -> TaskMetrics:
    """What is better in a run's numbers."""
    return known_task(task_of(summary), where="summary.json").metrics


def read_run(run: Path) -> RunData:
    """Read a run's folder; only summary.json has to be there.

    Raises:
        InputError: the folder has no summary, one of its files is damaged, or a link leads out of it.
    """
    folder = RunFolder(run)
    refuse_links(run)
    if not folder.summary.is_file():
        raise InputError.at(str(run), "is no finished run: it has no summary.json")
    evaluation = Evaluation.load(folder.evaluation) if folder.evaluation.is_file() else None
    with reading(run / "metrics.jsonl"):
        epochs = _epochs(_lines(run / "metrics.jsonl"))
    return RunData(
        name=run.absolute().name,
        summary=read_object(folder.summary),
        config=read_object(folder.config) if folder.config.is_file() else {},
        epochs=epochs,
        events=_lines(run / "events.jsonl"),
        cards={path.stem: read_object(path) for path in sorted((run / "teachers").glob("*.json"))},
        evaluation=evaluation,
        frames=_frames(folder.frames),
        tokenizer=_tokenizer(folder.student / "model.json"),
    )


def _frames(path: Path) -> Mapping[str, NDArray[Any]] | None:
    """The arrays of kept frames.

    Raises:
        InputError: the file is damaged.
    """
    if not path.is_file():
        return None
    with reading(path):
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, EOFError, BadZipFile) as error:
            raise ValueError(str(error)) from error


def _tokenizer(description: Path) -> TextTokenizer | None:
    """The tokenizer that a kept student is described with; None where it cannot be read here, so texts are not shown."""
    if not description.is_file():
        return None
    try:
        with reading(description):
            chunks = (read_object(description).get("preprocessing") or {}).get("chunks")
            if chunks is None:
                return None
            tokenizer = tokenizer_of(chunks["tokenizer"], chunks["content"])
            assert any(tokenizer.sizes), "a tokenizer whose tokens stand for nothing"
    except InputError:
        return None
    return tokenizer


def curve(run: RunData, role: str, *keys: str) -> Curve | None:
    """A number, such as `validation.accuracy`, over the epochs of all replicas of a role.

    Args:
        run: the run.
        role: `student`, a control, or `teacher`, whose "replicas" are the teachers.
        keys: path of the number in an epoch's record.

    Returns:
        None where no epoch has it.
    """
    fits = [
        records
        for fit, records in run.epochs.items()
        if fit.split("/")[0] == role and "/peers/" not in fit  # which has a table of its own
    ]
    found = [
        {
            int(record["epoch"]): value
            for record in records
            if (value := _number(record, keys)) is not None
        }
        for records in fits
    ]
    epochs = sorted({epoch for values in found for epoch in values})
    if not epochs:
        return None
    table = [[values.get(epoch, np.nan) for epoch in epochs] for values in found if values]
    return Curve(np.array(epochs), np.array(table, dtype=np.float64))


def mean_weights(run: RunData, teachers: Sequence[str]) -> NDArray[np.float64]:
    """How much each teacher counted while the student trained [T], over samples, epochs and replicas; sums to 1.

    Equal weights where no epoch has told any.
    """
    curves = [curve(run, "student", "weights", name) for name in teachers]
    found = np.array([0.0 if one is None else np.nanmean(one.values_RE) for one in curves])
    return found / found.sum() if found.sum() > 0 else np.full(len(found), 1 / max(1, len(found)))


def _number(record: Record, keys: Sequence[str]) -> float | None:
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def _epochs(lines: Sequence[Record]) -> dict[str, list[Record]]:
    """Epoch records by fit; an epoch that was done again after a resume counts the last time."""
    fits: dict[str, dict[int, Record]] = {}
    for line in lines:
        if (
            isinstance(line.get("fit"), str)
            and "train_loss" in line
            and line.get("epoch") is not None
        ):
            fits.setdefault(line["fit"], {})[int(line["epoch"])] = line
    return {
        fit: [records[epoch] for epoch in sorted(records)] for fit, records in sorted(fits.items())
    }


def _lines(path: Path) -> list[Record]:
    """The objects of a JSON-lines file; a line that a killed writer left unfinished is left out."""
    if not path.is_file():
        return []
    found: list[Record] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found
