"""Targets for scenarios and tests: a table of what teachers say, and sources that die, pause and keep a record."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raykd.data import Samples
from raykd.errors import TeacherError
from raykd.targets import TargetSource, Ticket
from raykd.targets.source import Deadline
from raykd.types import Batch, Dense, LearntOutputs, TeacherOutputs

_SURE = 3.0


class TableTargets:
    """What teachers say as a pure function of (teacher, row, view): noise, and the label.

    Attributes:
        collected: answers so far.
        maps: tap -> shape of the features that are made up too.
    """

    def __init__(
        self,
        names: Sequence[str],
        samples: Samples,
        *,
        maps: dict[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.names, self.samples, self.maps = tuple(names), samples, maps or {}
        self.collected = 0

    def submit(self, batch: Batch) -> Ticket:
        """Nothing is asked yet."""
        return Ticket(batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> TeacherOutputs:
        """One answer of each teacher."""
        self.collected += 1
        deadline, answers = Deadline(timeout_s), {}
        pairs = list(zip(ticket.batch.rows.tolist(), ticket.batch.view_B.tolist(), strict=True))
        for number, name in enumerate(self.names):
            answers[name] = self._answer(number, pairs)
            deadline.check(f"teacher {name!r}")
        return answers

    def _answer(self, number: int, pairs: Sequence[tuple[int, int]]) -> Dense:
        classes = self.samples.class_count
        values = np.stack([np.random.default_rng((number, *p)).normal(size=classes) for p in pairs])
        labels = self.samples.all_labels[[row for row, _ in pairs]]
        values[np.arange(len(values)), labels] += _SURE
        features = {
            tap: torch.from_numpy(
                np.stack([np.random.default_rng((9, *p)).normal(size=shape) for p in pairs])
            ).float()
            for tap, shape in self.maps.items()
        }
        return Dense(
            kind="logits",
            values_NC=torch.from_numpy(values).float(),
            valid_N=torch.ones(len(pairs), dtype=torch.bool),
            features=features,
        )


@dataclass
class Killing:
    """Passes a source on; its process is killed at an answer, another one each time.

    Attributes:
        source: what answers.
        at: number of the answer, from 0, at which the process is killed the first time, the second time, ...
        file: a byte for each kill, seen by the process that comes after it.
        collected: answers so far, in this process.
    """

    source: TargetSource
    at: Sequence[int]
    file: Path
    collected: int = 0

    def submit(self, batch: Batch) -> Ticket:
        """As the source."""
        return self.source.submit(batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> LearntOutputs:
        """As the source, or the end of the process."""
        kills = self.file.stat().st_size if self.file.exists() else 0
        if kills < len(self.at) and self.collected == self.at[kills]:
            with self.file.open("ab") as file:
                file.write(b"x")
            os.kill(os.getpid(), signal.SIGKILL)
        self.collected += 1
        return self.source.collect(ticket, timeout_s)


@dataclass
class Failing:
    """Passes a source on, but for the answer that is to be the last.

    Attributes:
        source: what answers.
        left: answers until then; None = it never fails.
    """

    source: TargetSource
    left: int | None

    def submit(self, batch: Batch) -> Ticket:
        """As the source."""
        return self.source.submit(batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> LearntOutputs:
        """As the source, or a TeacherError."""
        if self.left == 0:
            raise TeacherError("no answer: it is to fail here")
        self.left = None if self.left is None else self.left - 1
        return self.source.collect(ticket, timeout_s)


@dataclass
class Recorded:
    """Passes a source on, a while later, and writes a line of JSON for each answer: pid, rank, rows and views."""

    source: TargetSource
    file: Path
    rank: int = 0
    pause_s: float = 0.0

    def submit(self, batch: Batch) -> Ticket:
        """As the source."""
        return self.source.submit(batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> LearntOutputs:
        """As the source."""
        deadline = Deadline(timeout_s)
        answers = self.source.collect(ticket, timeout_s)
        time.sleep(min(self.pause_s, deadline.left_s))
        deadline.check("the answers")
        batch = ticket.batch
        present = batch.present_B.numpy()
        rows, views = batch.rows.numpy()[present].tolist(), batch.view_B.numpy()[present].tolist()
        record = {"pid": os.getpid(), "rank": self.rank, "rows": rows, "views": views}
        line = json.dumps(record) + "\n"
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line)
        return answers


def record_of(file: Path) -> list[dict[str, Any]]:
    """The lines of a `Recorded`; one cut short by a kill is left out."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]
