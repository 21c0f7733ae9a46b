"""What becomes of every trial: decided here, in the driver, and kept in the trials' own folders.

    trials/<name>/config.yaml      the recipe of the trial, which `raykd run` takes
                  result.json      values, state, numbers; written when it starts, again when it ends
                  metrics.jsonl    its epochs, written by the trial itself
                  checkpoint/      its weights

A search that was killed goes on from these files alone: a trial that has ended is never run again, one
that was running goes on from its checkpoint, and the stopping rules are told all epochs again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from raykd.config import Config
from raykd.errors import InputError
from raykd.evaluate import TaskMetrics
from raykd.folders import read_json, write_json
from raykd.search.pruners import pruners_for
from raykd.search.scores import Scores, pareto_front, scores_of
from raykd.search.single_worker import CHECKPOINT
from raykd.search.space import Proposal, Values, propose, trial_name
from raykd.tasks import find_task
from raykd.tracking.jsonl import METRICS, read_lines
from raykd.train import Fit
from raykd.train.checkpoint import FitFolder

Record = dict[str, Any]
RUNNING = "running"
RANKED = ("finished", "stopped", "cut")
"""States in which a trial has numbers: at its end, ended by a rule, ended with the search."""


class Asking(Protocol):
    """Says what to try; told of every outcome, so that it may learn."""

    def ask(self, index: int) -> Values:
        """The values of the trial of that number; asked once for each, in order."""
        ...

    def tell(self, index: int, values: Values, merits: Scores | None) -> None:
        """What came of it, more being better; None where it failed. Also of trials of an earlier start."""
        ...


@dataclass(frozen=True)
class Listed:
    """Values that were all known beforehand."""

    values: Sequence[Values]

    def ask(self, index: int) -> Values:
        """Those of that number."""
        return self.values[index]

    def tell(self, index: int, values: Values, merits: Scores | None) -> None:
        """Nothing to learn."""


@dataclass(frozen=True, eq=False)
class BuiltTrial:
    """A trial as far as it is known before it starts.

    Attributes:
        fit: what to train.
        cost: parameters, FLOPs, bytes and latency of its student.
        over: the limits that it breaks, in words; empty for most.
    """

    fit: Fit
    cost: Mapping[str, Any]
    over: Sequence[str] = ()


@dataclass
class Ledger:
    """The trials of one search; a `raykd.search.tune.Control`.

    Attributes:
        config: the recipe with its search.
        folder: of all trials.
        total: how many there will be.
        asking: says what to try.
        ready: makes a trial's fit and measures its student.
        told: called with (name, record) when a trial starts, with its proposal, and when it ends.
        records: name -> its result.json.
    """

    config: Config
    folder: Path
    total: int
    asking: Asking
    ready: Callable[[Proposal], BuiltTrial]
    told: Callable[[str, Record, Proposal | None], None]
    records: dict[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        search = self.config.search
        assert search is not None, "only for recipes with a search"
        self._stop = search.stop
        self._rules = pruners_for(search.scheduler, search.stop.patience_epochs)
        self._task: TaskMetrics = find_task(self.config.task).metrics
        self.metrics = search.judged_by(self._task.metric)
        self.metric = self.metrics[0]
        self._history: dict[str, dict[int, dict[str, float]]] = {}
        self._begun: dict[str, float] = {}
        self._started = time.monotonic()
        self._why_over: str | None = None
        self._recall()
        self._waiting = [n for n, record in self.records.items() if record["state"] == RUNNING]

    def _recall(self) -> None:
        """Take in what an earlier start has left."""
        for index in range(self.total):
            name = trial_name(index)
            path = self.folder / name / "result.json"
            if not path.is_file():
                return
            self.records[name] = record = read_json(path)
            lines = self.folder / name / METRICS
            for line in read_lines(lines) if lines.is_file() else []:
                if line["kind"] == "epoch":
                    self._note(name, int(line["epoch"]), line["validation"])
            if record["state"] != RUNNING:
                self.asking.tell(index, record["values"], self.merits(record))

    @property
    def left(self) -> int:
        """Trials that have not ended."""
        ended = [name for name, record in self.records.items() if record["state"] != RUNNING]
        return self.total - len(ended)

    @property
    def ranking(self) -> list[str]:
        """Names of the trials that have numbers and keep to all limits, best first.

        With several metrics those of their front come before all others; the first metric ranks either.
        """
        ranked = [name for name, record in self.records.items() if record["state"] in RANKED]
        front = set(self.front) if len(self.metrics) > 1 else set()

        def rank(name: str) -> tuple[bool, float, float]:
            numbers = self.records[name]["validation"]
            return (name in front, *self._task.rank(numbers, self.metric))

        return sorted(ranked, key=rank, reverse=True)

    @property
    def front(self) -> list[str]:
        """Names of the trials that no other one beats in one metric without losing in another, as proposed."""
        points = {}
        for name, record in self.records.items():
            merits = self.merits(record) if record["state"] in RANKED else None
            if merits is not None:
                points[name] = merits
        return pareto_front(points)

    def merits(self, record: Record) -> Scores | None:
        """A trial's metrics, more being better; None where it has no numbers."""
        return scores_of(record, self.metrics, self._task)

    def launch(self) -> tuple[str, Fit] | None:
        """The next trial that is to run; those that break a limit are noted and passed over."""
        while not self.over():
            if self._waiting:
                index = int(self._waiting.pop(0))
                values = self.records[trial_name(index)]["values"]
            elif len(self.records) < self.total:
                index = len(self.records)
                values = self.asking.ask(index)
            else:
                return None
            fit = self._begin(index, values)
            if fit is not None:
                return trial_name(index), fit
        return None

    def _begin(self, index: int, values: Values) -> Fit | None:
        """Write down that a trial starts; None for one that is not to run."""
        name = trial_name(index)
        path = self.folder / name
        record = self.records[name] = _blank(name, values, self.metric)
        self._begun[name] = time.monotonic()
        try:
            proposal = propose(self.config, index, values)
            readied = self.ready(proposal)
        except (
            InputError
        ) as error:  # only where a searcher learns: other trials were tried before the start
            self._end(name, "failed", why=str(error))
            return None
        record.update(epochs_planned=proposal.config.train.epochs, cost=dict(readied.cost))
        write_recipe(path / "config.yaml", proposal.config, f"Trial {name} of a sweep.")
        if readied.over:
            self._end(name, "over_limit", why="; ".join(readied.over))
            return None
        write_json(path / "result.json", record)
        self.told(name, record, proposal)
        return readied.fit

    def heard(self, name: str, epoch: int, validation: Mapping[str, float]) -> bool:
        """Ask every rule; the last epoch of a trial is its end anyway."""
        stopping = self._note(name, epoch, validation)
        record = self.records[name]
        if record["state"] != RUNNING:
            return True
        if not stopping or epoch >= record["epochs_planned"]:
            self._check_target(validation[self.metric])
            return False
        self._end(name, "stopped", why=stopping[0], **self._best_heard(name))
        return True

    def _note(self, name: str, epoch: int, validation: Mapping[str, float]) -> list[str]:
        """Tell an epoch to every rule; the names of those that would stop the trial."""
        self._history.setdefault(name, {})[epoch] = dict(validation)
        merit = self._task.merit(validation[self.metric], self.metric)
        return [which for which, rule in self._rules.items() if rule.stops(name, epoch, merit)]

    def _check_target(self, value: float) -> None:
        target = self._stop.target
        if target is not None:
            reached = self._task.merit(value, self.metric) >= self._task.merit(target, self.metric)
            if reached and self._why_over is None:
                self._why_over = f"a trial reached the target {target:g}"

    def finished(self, name: str, result: Mapping[str, Any]) -> None:
        """It has trained to its end, or to its own early stopping."""
        self._end(
            name,
            "finished",
            validation=dict(result["best"]),
            value=result["best"][self.metric],
            epochs=result["epochs"],
            best_epoch=result["best_epoch"] + 1,
            seconds=result["seconds"],
        )

    def failed(self, name: str, why: str) -> None:
        """Its training diverged, or its process was lost more often than allowed."""
        self._end(name, "failed", why=why)

    def over(self) -> bool:
        """Whether time is up or the target reached."""
        limit = self._stop.time_s
        late = limit is not None and time.monotonic() - self._started >= limit
        if late and self._why_over is None:
            self._why_over = f"{limit:g} s are over"
        return self._why_over is not None

    def settle(self) -> None:
        """After the last trial: those that were cut off with the search keep what they reached."""
        for name, record in self.records.items():
            if record["state"] == RUNNING:
                heard = bool(self._history.get(name))
                numbers = self._best_heard(name) if heard else {}
                state, why = ("cut", self._why_over) if heard else ("failed", "it never reported")
                self._end(name, state, why=why, **numbers)

    def _best_heard(self, name: str) -> Record:
        """The numbers of the best epoch so far, chosen as the training itself would."""
        history, select = self._history[name], self.config.train.select
        best = max(history, key=lambda epoch: (*self._task.rank(history[epoch], select), -epoch))
        return {
            "validation": history[best],
            "value": history[best][self.metric],
            "epochs": max(history),
            "best_epoch": best,
            "seconds": time.monotonic() - self._begun.get(name, self._started),
        }

    def _end(self, name: str, state: str, **numbers: Any) -> None:
        record = self.records[name]
        if record["state"] != RUNNING:
            return
        record.update(state=state, **numbers)
        write_json(self.folder / name / "result.json", record)
        if state != "finished":  # it is not gone on with: only its numbers and weights are kept
            FitFolder(self.folder / name / CHECKPOINT).forget()
        self.asking.tell(int(name), record["values"], self.merits(record))
        self.told(name, record, None)


def _blank(name: str, values: Values, metric: str) -> Record:
    """The record of a trial of which nothing is known yet."""
    return {
        "trial": name,
        "state": RUNNING,
        "why": None,
        "values": dict(values),
        "metric": metric,
        "value": None,
        "validation": None,
        "epochs": 0,
        "epochs_planned": None,
        "best_epoch": None,
        "seconds": None,
        "cost": {},
    }


def write_recipe(path: Path, config: Config, about: str) -> None:
    """A resolved recipe as YAML, with a line of what it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=100)
    path.write_text(f"# {about} Run it with: raykd run {path.name}\n{text}", encoding="utf-8")
