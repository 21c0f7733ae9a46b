"""What a console shows, as plain state and text: how far a stage is, and one line per event."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raykd.tracking.events import Event

LINES_PER_FIT = 5
LEAST_PAUSE_S = 2.0
LEAST_LEFT_S = 5.0
LONGEST_SILENCE_S = 60.0
SEPARATOR = "  "

_VALIDATION = (
    ("accuracy", "val acc", ".3f"),
    ("nll", "nll", ".2f"),
    ("rmse", "val rmse", ".4g"),
    ("r2", "r2", ".3f"),
)


def number(values: Mapping[str, Any], key: str) -> float | None:
    """The number under a key; None if there is none."""
    value = values.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass
class FitProgress:
    """One fit of a stage. `resumed`: the epochs done before this run."""

    finished: bool = False
    reused: bool = False
    resumed: int = 0
    epoch: int = 0
    epochs: int = 0

    @property
    def done(self) -> float:
        """The part that is done."""
        return 1.0 if self.finished else self._part(max(self.epoch, self.resumed))

    @property
    def skipped(self) -> float:
        """The part that was done before this run, which does not count for its rate."""
        return 1.0 if self.reused else self._part(self.resumed)

    def _part(self, epoch: int) -> float:
        return min(1.0, epoch / self.epochs) if self.epochs else 0.0


@dataclass
class StageProgress:
    """How far one stage is, in fits or, if it has none, in units of work.

    `units` holds the values of the last progress event of the stage, or of each of its fits.
    """

    name: str
    started: float
    total: float | None = None
    fits: dict[str, FitProgress] = field(default_factory=dict)
    units: dict[str | None, Mapping[str, Any]] = field(default_factory=dict)
    current: str | None = None
    quality: str | None = None
    wait: float | None = None
    first: tuple[float, float] | None = None
    """When the first epoch was told, and what had been worked off by then: before that processes were starting."""

    @classmethod
    def start(cls, event: Event, now: float) -> StageProgress:
        """The stage as its "started" event announces it."""
        listed = event.values.get("fits")
        if isinstance(listed, list | tuple):
            return cls(event.stage, now, len(listed), {str(name): FitProgress() for name in listed})
        return cls(event.stage, now, number(event.values, "fits"))

    def update(self, event: Event, now: float) -> None:
        """Take an event of this stage into account, which came now."""
        if event.kind == "progress":
            before = self.units.get(event.fit)
            if before is not None and before.get("unit") != event.values.get("unit"):
                self.started = now  # another piece of work, counted from 0
            self.units[event.fit] = event.values
        elif event.fit is not None and event.kind in {"epoch", "fit"}:
            self.current = event.fit
            fit = self.fits.setdefault(event.fit, FitProgress())
            if event.kind == "epoch":
                self._epoch(fit, event)
                self.first = self.first or (now, self._worked)
            else:
                _change(fit, event)

    @property
    def by_units(self) -> bool:
        """Whether work is counted in units because there are no fits."""
        return bool(self.units) and not self.fits

    @property
    def unit(self) -> str:
        """What is counted, in the plural."""
        if not self.by_units:
            return "fits"
        return str(next(iter(self.units.values())).get("unit") or "units")

    @property
    def rate_per_s(self) -> float:
        """Units per second, as reported; 0 = not reported."""
        return sum(number(values, "rate_per_s") or 0.0 for values in self.units.values())

    @property
    def done(self) -> float:
        """Fits or units done; a fit that is half through counts half."""
        if self.by_units:
            return sum(number(values, "done") or 0.0 for values in self.units.values())
        return sum(fit.done for fit in self.fits.values())

    @property
    def whole(self) -> float | None:
        """Fits or units in all; None = not known."""
        if not self.by_units:
            return max(self.total or 0, len(self.fits)) or None
        totals = [number(values, "total") for values in self.units.values()]
        known = [total for total in totals if total is not None]
        return sum(known) if len(known) == len(totals) else self.total

    def eta_s(self, now: float) -> float | None:
        """Seconds left at the rate measured so far; None = not known yet."""
        if self.whole is None:
            return None
        rate = self.rate_per_s if self.by_units else 0.0
        if not rate and now > self.started:
            rate = self._steady_rate(now) or self._worked / (now - self.started)
        return max(0.0, self.whole - self.done) / rate if rate > 0 else None

    @property
    def _worked(self) -> float:
        """Fits or units done by this run."""
        return self.done - sum(fit.skipped for fit in self.fits.values())

    def _steady_rate(self, now: float) -> float | None:
        """Fits a second since the first epoch; None until there is something to judge by."""
        if self.first is None or now - self.first[0] < LEAST_PAUSE_S:
            return None
        return (self._worked - self.first[1]) / (now - self.first[0])

    def left(self, now: float) -> str:
        """E.g. `student 4 min 10 s left`; nothing where the stage's work or its pace is not known, or it is nearly done."""
        if self.total is None or not self._steady_rate(now):
            return ""
        eta_s = self.eta_s(now) or 0.0
        return f"{self.name} {duration(eta_s)} left" if eta_s >= LEAST_LEFT_S else ""

    def count(self) -> str:
        """E.g. `3/20 fits` or `1,280/5,000 views`."""
        done = self.done if self.by_units else sum(fit.finished for fit in self.fits.values())
        whole = "" if self.whole is None else f"/{self.whole:,.0f}"
        return f"{done:,.0f}{whole} {self.unit}"

    def detail(self) -> str:
        """E.g. `student/replica0 12/40  val acc 0.953  wait 2 %`."""
        parts = []
        if self.current is not None:
            fit = self.fits[self.current]
            epochs = f" {fit.epoch}/{fit.epochs}" if fit.epochs else ""
            parts.append(f"{self.current}{epochs}")
        if self.quality is not None:
            parts.append(self.quality)
        if self.wait is not None:
            parts.append(f"wait {percent(self.wait)}")
        return SEPARATOR.join(parts)

    def _epoch(self, fit: FitProgress, event: Event) -> None:
        fit.epoch = event.epoch or 0
        fit.epochs = int(number(event.values, "epochs") or 0)
        self.quality = next(iter(metric_parts(event.values.get("validation"))), None)
        self.wait = number(event.values, "teacher_wait_fraction")


def _change(fit: FitProgress, event: Event) -> None:
    state = event.values.get("state")
    fit.finished = state in {"finished", "reused", "stopped"}
    fit.reused = state == "reused"
    if state == "resumed":
        fit.resumed = event.epoch or 0


class LineLimiter:
    """Decides which epochs get a line in a log: a few of a short fit, one a minute of a long one."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, float]] = {}

    def due(self, fit: str, epoch: int, epochs: int, now: float) -> bool:
        """Whether this epoch is printed; the first and the last one of a fit always are."""
        last = self._last.get(fit)
        if last is not None and epoch < epochs:
            pause = now - last[1]
            far = epoch - last[0] >= math.ceil(epochs / LINES_PER_FIT)
            if pause < LEAST_PAUSE_S or not (far or pause >= LONGEST_SILENCE_S):
                return False
        self._last[fit] = (epoch, now)
        return True


def percent(fraction: float) -> str:
    """A fraction in whole percent."""
    return f"{100 * fraction:.0f} %"


def counted(count: float, unit: str) -> str:
    """A count with its unit, which is given in the plural."""
    return f"{count:,.0f} {unit.removesuffix('s') if count == 1 else unit}"


def duration(seconds: float) -> str:
    """A time a person can read: `12.3 s`, `4 min 10 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def epoch_line(event: Event) -> str:
    """One epoch of one fit."""
    values = event.values
    epochs = number(values, "epochs")
    parts = [
        event.fit or event.stage,
        f"epoch {event.epoch}" + (f"/{epochs:.0f}" if epochs else ""),
    ]
    if (loss := number(values, "train_loss")) is not None:
        parts.append(f"loss {loss:.3f}")
    parts += metric_parts(values.get("validation"))
    if (rate := number(values, "samples_per_s")) is not None:
        parts.append(f"{rate:,.0f} samples/s")
    if (wait := number(values, "teacher_wait_fraction")) is not None:
        parts.append(f"wait {percent(wait)}")
    return SEPARATOR.join(parts)


def metric_parts(metrics: Any) -> list[str]:
    """Validation metrics as text; `metrics` may hold them directly or under "validation"."""
    if not isinstance(metrics, Mapping):
        return []
    inner = metrics.get("validation")
    metrics = inner if isinstance(inner, Mapping) else metrics
    found = [(label, number(metrics, key), form) for key, label, form in _VALIDATION]
    parts = [f"{label} {value:{form}}" for label, value, form in found if value is not None]
    if parts:
        return parts
    return [
        f"val {key} {value:.4g}" for key in metrics if (value := number(metrics, key)) is not None
    ]


def fit_line(event: Event) -> str:
    """What became of a fit."""
    state = str(event.values.get("state"))
    if event.epoch is not None:
        state += f" after epoch {event.epoch}"
    return SEPARATOR.join(
        [event.fit or event.stage, state, *metric_parts(event.values.get("metrics"))]
    )


def stage_line(event: Event, total: str) -> str:
    """A stage starts or ends; `total` is how much work it has."""
    if event.values.get("state") == "started":
        return f"{event.stage}: {total}" if total else event.stage
    seconds = number(event.values, "seconds")
    return f"{event.stage} done" + (f" in {duration(seconds)}" if seconds is not None else "")


def failure_line(event: Event) -> str:
    """What went wrong, and what was decided."""
    decision = event.values.get("decision")
    line = f"failure  {event.fit or event.stage}  {event.values.get('message')}"
    return f"{line}  ({decision})" if decision else line


def progress_line(stage: StageProgress, now: float) -> str:
    """How far a stage without fits has come."""
    parts = [stage.name, stage.count()]
    if stage.rate_per_s:
        parts.append(f"{stage.rate_per_s:,.0f} {stage.unit}/s")
    if eta := stage.eta_s(now):
        parts.append(f"{duration(eta)} left")
    return SEPARATOR.join(parts)
