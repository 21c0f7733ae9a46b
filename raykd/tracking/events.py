"""The events of a run, plain frozen records, and how listeners receive them.

The factories below are the only way events are made, so that every kind carries the same values:

- `stage`: `state` ("started" or "finished"), at the start `fits` (the fit ids, or how many units of
  work there are), at the end `seconds`.
- `epoch`: `train_loss`, `validation` {accuracy, nll, ...}, `lr`, `terms` {}, and of the teachers, where
  there are some, `weights` {}, `effective_teachers` (mean exp(H(w))) and `jsd_nats` (how far they disagree),
  `samples_per_s`, `teacher_wait_fraction` and `input_wait_fraction` (of the time of all steps), `epochs`
  (total); of peers `peers` {agreement, jsd_nats, validation {peer1 {...}, ...}}; of a student that writes itself `on_policy` {round, repetition, teacher_tokens: scored so far, by all teachers};
  with live teachers also `student_s_per_step` and, by teacher, what `raykd.teachers.utilization.describe` names. An epoch is counted when it is done:
  the first one is 1, the last one is `epochs`.
- `fit`: `state` ("started", "finished", "reused", "resumed", or "stopped" before its end), `metrics` {}.
- `progress`: `done`, `total`, `unit`, `rate_per_s`. Shown, never stored.
- `failure`: `message`, and `decision` where one was taken. Failures, retries and degradations.
- `message`: `text`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from raykd.errors import RaykdError

Kind = Literal["stage", "epoch", "fit", "progress", "failure", "message"]
Stage = Literal[
    "data", "teachers", "fleet", "targets", "search", "student", "evaluate", "report", "explain"
]
StageState = Literal["started", "finished"]
FitState = Literal["started", "finished", "reused", "resumed", "stopped"]

_LINE_KEYS = ("time", "stage", "fit", "step", "epoch", "kind")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """One event of a run.

    Attributes:
        time: seconds since 1970 (UTC).
        kind: decides what `values` holds; see the module.
        stage: the stage it belongs to.
        fit: the fit it belongs to, e.g. `teacher/wide`, `student/replica0`; None = the whole stage.
        step: optimizer steps done by that fit.
        epoch: epochs done by that fit.
        values: JSON-able values by name; no name may be that of a field of an event.
    """

    time: float
    kind: Kind
    stage: Stage
    fit: str | None = None
    step: int | None = None
    epoch: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        clash = sorted(self.values.keys() & set(_LINE_KEYS))
        assert not clash, f"values of a {self.kind} event may not be called {', '.join(clash)}"

    def to_line(self) -> dict[str, Any]:
        """The event as one flat mapping: its line in `metrics.jsonl`."""
        return {**{key: getattr(self, key) for key in _LINE_KEYS}, **self.values}


def stage(stage: Stage, *, state: StageState, **values: Any) -> Event:
    """A stage starts (`fits`: fit ids or number of units) or finishes (`seconds`)."""
    return Event(time.time(), "stage", stage, values={"state": state, **values})


def epoch(stage: Stage, fit: str, *, epoch: int, step: int | None = None, **values: Any) -> Event:
    """A fit has done its `epoch`-th epoch, counted from 1."""
    return Event(time.time(), "epoch", stage, fit, step, epoch, values)


def fit(
    stage: Stage,
    fit: str,
    *,
    state: FitState,
    metrics: Mapping[str, Any] | None = None,
    epoch: int | None = None,
    step: int | None = None,
    **values: Any,
) -> Event:
    """A fit starts, finishes, is reused as it is, stops or goes on after its `epoch`-th epoch."""
    values = {"state": state, "metrics": dict(metrics or {}), **values}
    return Event(time.time(), "fit", stage, fit, step, epoch, values)


def progress(
    stage: Stage,
    *,
    done: float,
    total: float | None,
    unit: str,
    rate_per_s: float | None = None,
    fit: str | None = None,
) -> Event:
    """`done` of `total` units are done; `total` None = not known."""
    values = {"done": done, "total": total, "unit": unit, "rate_per_s": rate_per_s}
    return Event(time.time(), "progress", stage, fit, values=values)


def failure(
    stage: Stage,
    message: str,
    *,
    fit: str | None = None,
    decision: str | None = None,
    **values: Any,
) -> Event:
    """Something went wrong: what, and what was decided (retried, restarted, left out, stopped)."""
    values = {"message": message, "decision": decision, **values}
    return Event(time.time(), "failure", stage, fit, values=values)


def message(stage: Stage, text: str, *, fit: str | None = None, **values: Any) -> Event:
    """Something a person should read."""
    return Event(time.time(), "message", stage, fit, values={"text": text, **values})


class Listener(Protocol):
    """Receives every event of a run, in order, from one thread at a time.

    A listener that wants to stop the run raises a `RaykdError`. Any other error counts as a fault of the
    listener itself: tracking may warn, it never stops a run.
    """

    def on(self, event: Event) -> None:
        """Receive one event; must return quickly."""
        ...

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """The run is over: `summary` is that of `summary.json`, None when the run failed."""
        ...


class Notifier(Protocol):
    """Where texts for the person who started the run go."""

    def print(self, text: str) -> None:
        """Show a text."""
        ...

    def warn(self, text: str) -> None:
        """Show a text even where only failures are shown."""
        ...


class LogNotifier:
    """The notifier where there is no console: the log."""

    def print(self, text: str) -> None:
        """Log at level info."""
        _log.info("%s", text)

    def warn(self, text: str) -> None:
        """Log at level warning."""
        _log.warning("%s", text)


class Broadcast:
    """A listener that passes everything on to several.

    One that raises is reported once and dropped. A `RaykdError` is raised to the caller, after every
    listener has received the event. Safe to call from several threads.

    Args:
        listeners: called in this order.
        notifier: where a dropped listener is reported; None = the log.
    """

    def __init__(self, listeners: Iterable[Listener], *, notifier: Notifier | None = None) -> None:
        self._listeners = list(listeners)
        self._notifier: Notifier = notifier or LogNotifier()
        self._lock = threading.RLock()

    def on(self, event: Event) -> None:
        """Pass the event on.

        Raises:
            RaykdError: a listener stops the run, e.g. because the disk is full.
        """
        self._call(lambda listener: listener.on(event))

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """Close every listener that is left; a second call does nothing.

        Raises:
            RaykdError: a listener could not store what it was given.
        """
        with self._lock:
            self._call(lambda listener: listener.close(summary))
            self._listeners = []

    def _call(self, call: Callable[[Listener], None]) -> None:
        fatal: RaykdError | None = None
        with self._lock:
            for listener in tuple(self._listeners):
                try:
                    call(listener)
                except RaykdError as error:
                    fatal = fatal or error
                except Exception as error:  # noqa: BLE001 - a listener's own fault, whatever it is
                    self._drop(listener, error)
        if fatal is not None:
            raise fatal

    def _drop(self, listener: Listener, error: Exception) -> None:
        self._listeners = [other for other in self._listeners if other is not listener]
        self._notifier.warn(
            f"{type(listener).__name__} failed and is left out from here on; the run goes on "
            f"({type(error).__name__}: {error})"
        )
