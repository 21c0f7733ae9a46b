"""The state of every trial: decided here, in the driver, and kept in the trials' own folders.

    trials/<name>/config.yaml      the recipe of the trial, which `raykd run` accepts
                  result.json      values, state, numbers; written when it starts, again when it ends
                  metrics.jsonl    its epochs, written by the trial itself
                  checkpoint/      its weights

A search that was killed goes on from these files alone: a trial that has ended is never run again, one
that was running goes on from its checkpoint, and all epochs are replayed to the pruners.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from raykd.config import Config
from raykd.config.optimizers import with_training_settings
from raykd.config.training import LAST
from raykd.config.trusting import named_code, remember
from raykd.disks import write_whole
from raykd.errors import InputError, RaykdError
from raykd.evaluate import TaskMetrics
from raykd.folders import read_object, write_json
from raykd.search.scores import Scores, pareto_front, pruners_for, scores_of
from raykd.search.space import CHECKPOINT, Proposal, Values, propose, trial_name
from raykd.tasks import find_task
from raykd.tracking.jsonl import METRICS, read_lines
from raykd.train import Fit
from raykd.train.checkpoint import FitFolder

Record = dict[str, Any]
RUNNING = "running"
RANKED = ("finished", "stopped", "cut")
"""States in which a trial has numbers: trained to its end, stopped by a pruner, ended with the search."""


class Sampler(Protocol):
    """Proposes values, and is told every outcome so that it may learn."""

    def ask(self, index: int) -> Values:
        """The values of the trial of this number; called once for each, in order."""
        ...

    def tell(self, index: int, values: Values, scores: Scores | None) -> None:
        """The outcome of a trial, also of an earlier start; None where it failed."""
        ...


@dataclass(frozen=True)
class FixedSampler:
    """Values that were all known beforehand."""

    values: Sequence[Values]

    def ask(self, index: int) -> Values:
        """The values of this number."""
        return self.values[index]

    def tell(self, index: int, values: Values, scores: Scores | None) -> None:
        """Nothing to learn."""


@dataclass(frozen=True, eq=False)
class BuiltTrial:
    """What is known of a trial before it starts.

    Attributes:
        fit: what to train.
        cost: parameters, FLOPs, bytes and latency of its student.
        over: the limits that it exceeds, in words; empty for most.
    """

    fit: Fit
    cost: Mapping[str, Any]
    over: Sequence[str] = ()


@dataclass
class Ledger:
    """The trials of one search.

    Attributes:
        config: the recipe with its search.
        folder: of all trials.
        total: how many there will be.
        sampler: proposes the values to try.
        build: makes a trial's fit and measures its student.
        notify: called with (name, record, proposal) when a trial starts, and without a proposal when it ends.
        records: name -> its result.json.
    """

    config: Config
    folder: Path
    total: int
    sampler: Sampler
    build: Callable[[Proposal], BuiltTrial]
    notify: Callable[[str, Record, Proposal | None], None]
    records: dict[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        search = self.config.search
        assert search is not None, "only for recipes with a search"
        self._stop = search.stop
        self._pruners = pruners_for(search.scheduler, search.stop.patience_epochs)
        self._task: TaskMetrics = find_task(self.config.task).metrics
        self.metrics = search.judged_by(self._task.metric)
        self.metric = self.metrics[0]
        self._history: dict[str, dict[int, dict[str, float]]] = {}
        self._trial_started: dict[str, float] = {}
        self._started = time.monotonic()
        self._why_over: str | None = None
        self._halted: str | None = None
        self._restore()
        self._waiting = [n for n, record in self.records.items() if record["state"] == RUNNING]

    def __deepcopy__(self, memo: Any) -> Ledger:
        """Itself: Tune copies whatever its callbacks refer to."""
        return self

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Nothing: Tune pickles whatever its callbacks refer to into checkpoints that nobody reads."""
        return type(None), ()

    def _restore(self) -> None:
        """Read what an earlier start has left."""
        for index in range(self.total):
            name = trial_name(index)
            path = self.folder / name / "result.json"
            if not path.is_file():
                return
            self.records[name] = record = read_object(path)
            _refuse_other_code(path, record, self.config)
            lines = self.folder / name / METRICS
            for line in read_lines(lines) if lines.is_file() else []:
                if line["kind"] == "epoch":
                    self._note(name, int(line["epoch"]), line["validation"])
            if record["state"] != RUNNING:
                self.sampler.tell(index, record["values"], self.scores(record))

    @property
    def left(self) -> int:
        """How many trials have not ended."""
        ended = [name for name, record in self.records.items() if record["state"] != RUNNING]
        return self.total - len(ended)

    @property
    def started(self) -> list[str]:
        """Names of the trials that were started, or gone on with, in this process."""
        return list(self._trial_started)

    @property
    def ranking(self) -> list[str]:
        """Names of the trials that have numbers and keep to all limits, best first.

        With several metrics the trials on their Pareto front come before all others; within both groups the
        first metric ranks.
        """
        ranked = [name for name, record in self.records.items() if record["state"] in RANKED]
        front = set(self.front) if len(self.metrics) > 1 else set()

        def rank(name: str) -> tuple[bool, float, float]:
            numbers = self.records[name]["validation"]
            return (name in front, *self._task.rank(numbers, self.metric))

        return sorted(ranked, key=rank, reverse=True)

    @property
    def front(self) -> list[str]:
        """Names of the trials on the Pareto front of all metrics, in the order of proposal."""
        ranked = {n: self.scores(r) for n, r in self.records.items() if r["state"] in RANKED}
        return pareto_front({name: scores for name, scores in ranked.items() if scores is not None})

    def scores(self, record: Record) -> Scores | None:
        """A trial's metrics, more being better; None where it has no numbers."""
        return scores_of(record, self.metrics, self._task)

    def launch(self) -> tuple[str, Fit] | None:
        """Name and fit of the next trial; None when there is none left. Trials over a limit are skipped."""
        while not self.over():
            if self._waiting:
                index = int(self._waiting.pop(0))
                values = self.records[trial_name(index)]["values"]
            elif len(self.records) < self.total:
                index = len(self.records)
                values = self.sampler.ask(index)
            else:
                return None
            fit = self._begin(index, values)
            if fit is not None:
                return trial_name(index), fit
        return None

    def _begin(self, index: int, values: Values) -> Fit | None:
        """Record the start of a trial; None for one that does not run."""
        name = trial_name(index)
        path = self.folder / name
        record = self.records[name] = _new_record(name, values, self.metric)
        self._trial_started[name] = time.monotonic()
        try:
            proposal = propose(self.config, index, values)
            built = self.build(proposal)
        # Only where a sampler learns: all other trials were built once before the start.
        except InputError as error:
            self._end(name, "failed", why=str(error))
            return None
        record.update(epochs_planned=proposal.config.train.epochs, cost=dict(built.cost))
        write_recipe(path / "config.yaml", proposal.config, f"Trial {name} of a sweep.")
        if built.over:
            self._end(name, "over_limit", why="; ".join(built.over))
            return None
        write_json(path / "result.json", record)
        self.notify(name, record, proposal)
        return built.fit

    def on_epoch(self, name: str, epoch: int, validation: Mapping[str, float]) -> bool:
        """A trial has done an epoch, counted from 1; whether it stops here. Its last epoch is its end anyway."""
        stopping = self._note(name, epoch, validation)
        record = self.records[name]
        if record["state"] != RUNNING:
            return True
        if not stopping or epoch >= record["epochs_planned"]:
            self._check_target(validation[self.metric])
            return False
        self._end(name, "stopped", why=stopping[0], **self._best_epoch(name))
        return True

    def _note(self, name: str, epoch: int, validation: Mapping[str, float]) -> list[str]:
        """Show an epoch to every pruner; the names of those that would stop the trial."""
        self._history.setdefault(name, {})[epoch] = dict(validation)
        score = self._task.merit(validation[self.metric], self.metric)
        return [which for which, one in self._pruners.items() if one.stops(name, epoch, score)]

    def _check_target(self, value: float) -> None:
        target = self._stop.target
        if target is not None:
            reached = self._task.merit(value, self.metric) >= self._task.merit(target, self.metric)
            if reached and self._why_over is None:
                self._why_over = f"a trial reached the target {target:g}"

    def on_finished(self, name: str, result: Mapping[str, Any]) -> None:
        """A trial has trained to its end, or to its own early stopping."""
        self._end(
            name,
            "finished",
            validation=dict(result["best"]),
            value=result["best"][self.metric],
            epochs=result["epochs"],
            best_epoch=result["best_epoch"] + 1,
            seconds=result["seconds"],
        )

    def on_failed(self, name: str, why: str) -> None:
        """The training of a trial diverged, or its process was lost more often than allowed."""
        self._end(name, "failed", why=why)

    def halt(self, why: str) -> None:
        """A disk is full: no trial begins any more, and none of those that have not ended counts as failed."""
        self._halted = self._halted or why

    def check_room(self) -> None:
        """Whether no disk was full.

        Raises:
            RaykdError: one was.
        """
        if self._halted is not None:
            raise RaykdError(self._halted)

    def over(self) -> bool:
        """Whether all trials are to end now: time is up, the target is reached, or a disk is full."""
        if self._halted is not None:
            return True
        limit = self._stop.time_s
        late = limit is not None and time.monotonic() - self._started >= limit
        if late and self._why_over is None:
            self._why_over = f"{limit:g} s are over"
        return self._why_over is not None

    def close(self) -> None:
        """After the last trial: those that were cut off with the search keep what they reached."""
        for name in self.records:
            if self._history.get(name):
                self._end(name, "cut", why=self._why_over, **self._best_epoch(name))
            else:
                self._end(name, "failed", why="it never reported")

    def _best_epoch(self, name: str) -> Record:
        """The numbers of the best epoch so far, chosen as the training itself would."""
        history, select = self._history[name], self.config.train.select
        if select == LAST:
            best = max(history)
        else:
            best = max(
                history, key=lambda epoch: (*self._task.rank(history[epoch], select), -epoch)
            )
        return {
            "validation": history[best],
            "value": history[best][self.metric],
            "epochs": max(history),
            "best_epoch": best,
            "seconds": time.monotonic() - self._trial_started.get(name, self._started),
        }

    def measured(self, latency_ms: Mapping[str, float | None]) -> None:
        """Latencies of the trials' students, measured again: name -> milliseconds of one sample; None = unknown."""
        for name, value in latency_ms.items():
            record = self.records[name]
            record["cost"] = {**record["cost"], "latency_ms": value}
            write_json(self.folder / name / "result.json", record)

    def _end(self, name: str, state: str, **numbers: Any) -> None:
        record = self.records[name]
        if record["state"] != RUNNING:
            return
        record.update(state=state, **numbers)
        write_json(self.folder / name / "result.json", record)
        if state != "finished":  # it does not go on: only its numbers and weights are kept
            FitFolder(self.folder / name / CHECKPOINT).forget()
        self.sampler.tell(int(name), record["values"], self.scores(record))
        self.notify(name, record, None)


def _refuse_other_code(path: Path, record: Record, config: Config) -> None:
    """A trial is gone on with as the recipe searches it, whoever wrote the folder.

    Raises:
        InputError: its values name code that the recipe does not.
    """
    own = {code for _, code in named_code(config.model_dump(mode="json"))}
    other = [code for _, code in named_code(record.get("values")) if code not in own]
    if other:
        raise InputError.at(
            str(path),
            f"names {other[0]}, which the recipe does not search; delete the trial's folder",
        )


def _new_record(name: str, values: Values, metric: str) -> Record:
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
    """Write a resolved recipe as YAML, with a line that describes it."""
    resolved = with_training_settings(config).model_dump(mode="json")
    text = yaml.safe_dump(resolved, sort_keys=False, width=100)
    whole = f"# {about} Run it with: raykd run {path.name}\n{text}"
    write_whole(path, [whole.encode()], durable=False)
    remember(path, resolved)
