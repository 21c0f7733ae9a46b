"""On-policy distillation: rounds in which the student writes and its teachers score that, to be learnt from.

GKD (Agarwal et al. 2024, Algorithm 1) with λ the part of a batch. What a student writes follows from its weights at the
beginning of the round, the fit's seed and the round alone; it is kept in the fit's own folder, and read again by whoever
goes on.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from raykd.data import Samples
from raykd.errors import CheckpointError
from raykd.models.generation import repetition
from raykd.models.weights import fingerprint
from raykd.seeding import derive
from raykd.targets.ragged import UNIT_OFFSETS
from raykd.targets.source import Asking
from raykd.targets.written import (
    FOLDER,
    Origin,
    WrittenSet,
    keys_of,
    manifests,
    read_texts,
    write_texts,
)
from raykd.tracking import Event, events
from raykd.train.fit import Fit
from raykd.train.mixed_batches import Round
from raykd.train.writing import written_texts
from raykd.types import CHUNKS

_PIECE = 128
"""Texts that a teacher is asked about at a time."""
_AHEAD = 2
"""Questions to each teacher under way beside those that are waited for."""


class Rounds:
    """The rounds of one fit: what is there is read, what is missing is written, and scored once.

    Args:
        fit: what is trained.
        samples: the data.
        asking: the teachers.
        folder: the fit's own.
        model: the student; as it is when a round begins.
        device: the student's.
        report: is told of each round.
    """

    def __init__(
        self,
        fit: Fit,
        samples: Samples,
        asking: Asking,
        folder: Path,
        model: nn.Module,
        *,
        device: torch.device,
        report: Callable[[Event], None],
    ) -> None:
        settings = fit.objective.on_policy
        assert settings is not None, "only fits with on-policy texts have rounds"
        self.settings = settings
        self.now: Round | None = None
        self._fit, self._samples, self._asking, self._model = fit, samples, asking, model
        self._folder = folder / FOLDER / fit.identity[:16]
        self._device, self._report = device, report
        self._saved = 0

    def enter(self, epoch: int, *, within: bool) -> int:
        """Make ready what an epoch draws from, `now`; the first epoch that draws from something else.

        Args:
            epoch: that is to come.
            within: whether it has begun before.

        Raises:
            CheckpointError: what the student had written before the epoch's round began is gone.
            TargetError: it, or what teachers said of it, is damaged.
            TeacherError: a teacher was lost and the policy is to stop; answers so far are kept.
        """
        number = self.settings.round_of(epoch)
        if number is None:
            self.now = None
            return self.settings.from_epoch
        begins = self.settings.begins(number)
        written = self._written(number, may_write=epoch == begins and not within)
        names = tuple(teacher.name for teacher in self._fit.teacher_infos)
        scored, silent = self._score(written, names)
        repeated = repetition(written.texts.tokens[:, 0], written.texts.tokens[:, 1] > 0)
        written.finish(self._seed(number), silent, {"epoch": begins, "repetition": repeated})
        store = written.store(self._asking.temperatures)
        self.now = Round(number, written.texts, store, frozenset(silent), repeated)
        self._tell(scored)
        return begins + self.settings.every

    def values(self) -> dict[str, Any]:
        """What the end of an epoch tells of the round, by name; nothing before the first."""
        if self.now is None:
            return {}
        scored = self.result()["teacher_tokens"]
        told = {"round": self.now.number, "repetition": self.now.repetition}
        return {"on_policy": {**told, "teacher_tokens": sum(scored.values())}}

    def result(self) -> dict[str, Any]:
        """Rounds, texts and tokens written so far, and the tokens that each teacher has scored of them."""
        scored: Counter[str] = Counter()
        every = list(manifests(self._folder))
        for one in every:
            scored.update({name: told["tokens"] for name, told in one["teachers"].items()})
        return {
            "rounds": len(every),
            "sequences": sum(one["sequences"] for one in every),
            "teacher_tokens": dict(scored),
            "repetition": every[-1]["repetition"] if every else None,
        }

    def saved(self, epoch: int) -> None:
        """A state was written: of rounds that no state goes back to, the teachers' answers are deleted."""
        first, self._saved = self.settings.round_of(self._saved), epoch
        for number in range(first or 0):
            self._forget(number)

    def restored(self, epoch: int) -> None:
        """A state was read."""
        self._saved = epoch

    def _seed(self, number: int) -> int:
        return derive(self._fit.seed, "on_policy", number)

    def _path(self, number: int) -> Path:
        return self._folder / f"round-{number:04}"

    def _forget(self, number: int) -> None:
        if (found := self._opened(number)) is not None:
            found.forget()

    def _opened(self, number: int) -> WrittenSet | None:
        """What is there of a round."""
        found = read_texts(self._path(number), self._fit.fit_id, self._fit.identity, number)
        if found is None:
            return None
        texts, origin = found
        return WrittenSet(self._path(number), origin, texts, keys_of(origin, self._asking.keys))

    def _written(self, number: int, *, may_write: bool) -> WrittenSet:
        """The texts of a round, which are written now where they are not there."""
        if (found := self._opened(number)) is not None:
            return found
        if not may_write:
            raise CheckpointError(
                f"{self._path(number)} is gone: what the student wrote there before cannot be written again from later "
                "weights; delete the fit's folder to train it anew"
            )
        plan, seed = self._fit.plan, self._seed(number)
        count = self.settings.sequences or self.settings.of_epoch(plan.epoch_rows, plan.batch_size)
        rows = np.unique(plan.rows)
        texts = written_texts(
            self._model, self._samples, rows, self.settings,
            seed=seed, count=count, device=self._device,
        )  # fmt: skip
        student = fingerprint(dict(self._model.state_dict()))
        origin = Origin(self._fit.fit_id, self._fit.identity, number, student)
        write_texts(self._path(number), texts, origin)
        return WrittenSet(self._path(number), origin, texts, keys_of(origin, self._asking.keys))

    def _score(self, written: WrittenSet, names: Sequence[str]) -> tuple[int, list[str]]:
        """Ask each teacher about what it has not answered; tokens that were scored now, and teachers that were lost."""
        questions = [
            (name, places[start : start + _PIECE])
            for name in names
            for places in [written.lacking(name)]
            for start in range(0, len(places), _PIECE)
        ]
        questions.sort(key=lambda one: int(one[1][0]))  # so that all teachers are at work
        due: deque[tuple[str, np.ndarray, Any]] = deque()
        scored, silent = 0, set[str]()

        def keep() -> int:
            name, places, pending = due.popleft()
            arrays = self._asking.answer(name, pending)
            if arrays is None:
                silent.add(name)
                return 0
            written.put(name, places, arrays)
            return int(arrays[UNIT_OFFSETS][-1])

        for name, places in questions:
            tokens = written.texts.tokens[places].astype(np.int64)
            due.append((name, places, self._asking.ask(name, {CHUNKS: tokens})))
            if len(due) > _AHEAD * len(names):
                scored += keep()
        while due:
            scored += keep()
        return scored, sorted(silent)

    def _tell(self, scored: int) -> None:
        assert self.now is not None, "a round has begun"
        number, texts = self.now.number, self.now.texts
        whence = f"its teachers scored {scored:,} tokens" if scored else "read, scored before"
        text = f"{self._fit.fit_id}: round {number} of on-policy texts, {len(texts):,} of {texts.written:,} tokens, "
        text += f"{self.now.repetition:.1%} of their grams repeated; {whence}"
        self._report(events.message(self._fit.stage, text, fit=self._fit.fit_id))


def added(results: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What several fits have written and had scored, together.

    Args:
        results: of `Rounds.result`.

    Returns:
        `fits`, `rounds`, `sequences`, `teacher_tokens` in all, and of each of the `teachers`.
    """
    every = list(results)
    teachers: Counter[str] = Counter()
    for one in every:
        teachers.update(one["teacher_tokens"])
    return {
        "fits": len(every),
        "rounds": sum(one["rounds"] for one in every),
        "sequences": sum(one["sequences"] for one in every),
        "teacher_tokens": sum(teachers.values()),
        "teachers": dict(teachers),
    }
