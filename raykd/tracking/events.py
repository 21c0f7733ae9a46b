"""What happens in a run, told to whoever listens: plain numbers, one frozen record per happening.

The factories below are the only way events are made, so that every kind carries the same values:

- `stage`: `state` ("started" or "finished"), at the start `fits` (the fit ids, or how many units of
  work there are), at the end `seconds`.
- `epoch`: `train_loss`, `validation` {accuracy, nll, ...}, `lr`, `terms` {}, and of the teachers, where
  there are some, `weights` {}, `effective_teachers` (mean exp(H(w))) and `jsd_nats` (how far they disagree),
  `samples_per_s`, `teacher_wait_fraction` and `input_wait_fraction` (of the time of all steps), `epochs`
  (total); of teachers asked live also `student_s_per_step` and, by teacher, what `raykd.teachers.utilization.describe` names. An epoch is counted when it is done:
  the first one is 1, the last one is `epochs`.
- `fit`: `state` ("started", "finished", "reused", "resumed", or "stopped" before its end), `metrics` {}.
- `progress`: `done`, `total`, `unit`, `rate_per_s`. Shown, never stored.
- `failure`: `message`, and `decision` where one was taken. Failures, retries and degradations.
- `message`: `text`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["stage", "epoch", "fit", "progress", "failure", "message"]
Stage = Literal["data", "teachers", "fleet", "targets", "search", "student", "evaluate", "report"]
StageState = Literal["started", "finished"]
FitState = Literal["started", "finished", "reused", "resumed", "stopped"]
Clock = Callable[[], float]

_OWN_KEYS = frozenset({"time", "stage", "fit", "step", "epoch", "kind"})


@dataclass(frozen=True)
class Event:
    """One happening of a run.

    Attributes:
        time: seconds since 1970 (UTC).
        kind: decides what `values` holds; see the module.
        stage: the stage it belongs to.
        fit: the fit it belongs to, e.g. `teacher/wide`, `student/replica0`; None = the whole stage.
        step: optimizer steps done by that fit.
        epoch: epochs done by that fit.
        values: JSON-able values by name; none may be called like a field of an event.
    """

    time: float
    kind: Kind
    stage: Stage
    fit: str | None = None
    step: int | None = None
    epoch: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        clash = sorted(_OWN_KEYS.intersection(self.values))
        assert not clash, f"values of a {self.kind} event may not be called {', '.join(clash)}"

    def to_line(self) -> dict[str, Any]:
        """The event as one flat mapping: its line in `metrics.jsonl`."""
        return {
            "time": self.time,
            "stage": self.stage,
            "fit": self.fit,
            "step": self.step,
            "epoch": self.epoch,
            "kind": self.kind,
            **self.values,
        }


def stage(stage: Stage, *, state: StageState, clock: Clock = time.time, **values: Any) -> Event:
    """A stage starts (`fits`: fit ids or number of units) or finishes (`seconds`)."""
    return Event(clock(), "stage", stage, values={"state": state, **values})


def epoch(
    stage: Stage,
    fit: str,
    *,
    epoch: int,
    step: int | None = None,
    clock: Clock = time.time,
    **values: Any,
) -> Event:
    """A fit has done its `epoch`-th epoch, counted from 1."""
    return Event(clock(), "epoch", stage, fit, step, epoch, values)


def fit(
    stage: Stage,
    fit: str,
    *,
    state: FitState,
    metrics: Mapping[str, Any] | None = None,
    epoch: int | None = None,
    step: int | None = None,
    clock: Clock = time.time,
    **values: Any,
) -> Event:
    """A fit starts, finishes, is reused as it is, stops or goes on after its `epoch`-th epoch."""
    values = {"state": state, "metrics": dict(metrics or {}), **values}
    return Event(clock(), "fit", stage, fit, step, epoch, values)


def progress(
    stage: Stage,
    *,
    done: float,
    total: float | None,
    unit: str,
    rate_per_s: float | None = None,
    fit: str | None = None,
    clock: Clock = time.time,
) -> Event:
    """`done` of `total` units are done; `total` None = not known."""
    values = {"done": done, "total": total, "unit": unit, "rate_per_s": rate_per_s}
    return Event(clock(), "progress", stage, fit, values=values)


def failure(
    stage: Stage,
    message: str,
    *,
    fit: str | None = None,
    decision: str | None = None,
    clock: Clock = time.time,
    **values: Any,
) -> Event:
    """Something went wrong: what, and what was decided (retried, restarted, left out, stopped)."""
    values = {"message": message, "decision": decision, **values}
    return Event(clock(), "failure", stage, fit, values=values)


def message(
    stage: Stage, text: str, *, fit: str | None = None, clock: Clock = time.time, **values: Any
) -> Event:
    """Something a person should read."""
    return Event(clock(), "message", stage, fit, values={"text": text, **values})
