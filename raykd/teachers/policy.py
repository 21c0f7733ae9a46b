"""What to do when a teacher does not answer: decisions only, no action and no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cause = Literal["dead", "hung", "slow", "non_finite", "failed"]
"""dead: its process ended. hung: no answer in time, nor a sign of life. slow: no answer in time, but alive.
non_finite: NaN or infinity. failed: the model raised."""
Action = Literal["wait", "retry", "restart", "isolate", "leave_out", "stop"]

BREAKS: frozenset[Cause] = frozenset({"dead", "non_finite", "failed"})
"""What a sample can do to a model."""
_SUSPECT = 2


@dataclass(frozen=True)
class Decision:
    """What to do, and why in words.

    Attributes:
        action: `wait` once more for the same answer; `retry` on the next replica; `restart` the actor, then
            retry; `isolate` the samples that break it; `leave_out` the teacher from now on; `stop` the run.
        reason: cause, count and limit.
    """

    action: Action
    reason: str


@dataclass(frozen=True)
class FailurePolicy:
    """Bounded attempts, then the configured end.

    Attributes:
        on_failure: `stop` or `renormalise`, from `cluster.teachers.on_failure`.
        max_attempts: requests made for one batch before the teacher counts as lost.
        replicas: actors of the teacher.
        isolates: whether a batch that broke the teacher twice is searched for the samples that do it.
    """

    on_failure: Literal["stop", "renormalise"]
    max_attempts: int
    replicas: int = 1
    isolates: bool = False

    def decide(
        self,
        teacher: str,
        cause: Cause,
        attempts: int,
        *,
        breaks: int = 0,
        detail: str = "",
        searched: int | None = None,
        living: int | None = None,
    ) -> Decision:
        """The decision after `attempts` failed requests for one batch.

        Args:
            teacher: its name.
            cause: of the last failure.
            attempts: failed requests so far.
            breaks: how many of them are something that a sample can do (see `BREAKS`).
            detail: what the model raised.
            searched: samples of a part of a batch that is searched already, where a single break is an answer;
                None = it is not.
            living: replicas that live or come back; None = all.
        """
        if searched is not None and cause in BREAKS:
            text = f"{cause} on {searched} samples of a batch that is searched"
            return Decision("isolate", f"teacher {teacher!r}: {text}")
        what = f"{cause} ({detail})" if detail else cause
        count = f"teacher {teacher!r}: {what}, attempt {attempts} of {self.max_attempts}"
        if living == 0:
            return self.end(
                f"{count}; it died more often than cluster.teachers.max_restarts allows"
            )
        if self.isolates and cause in BREAKS and breaks >= _SUSPECT:
            return Decision("isolate", f"{count}; the batch is searched for samples that break it")
        if attempts >= self.max_attempts:
            return self.end(count)
        return Decision(self._next(cause, attempts), count)

    def _next(self, cause: Cause, attempts: int) -> Action:
        """Another replica first, then a restart; a dead one is restarted anyway, a hung one at once."""
        if cause == "dead":
            return "retry"
        if cause == "hung":
            return "restart"
        if attempts == 1 and self.replicas == 1:
            return "wait" if cause == "slow" else "retry"
        return "retry" if attempts < self.replicas else "restart"

    def refuse(self, why: str, *, sick: bool) -> Decision:
        """The end of a search that found too many bad samples.

        Args:
            why: in words.
            sick: whether nothing was answered: then the teacher is at fault, else the data are.
        """
        return self.end(why) if sick else Decision("stop", why)

    def end(self, why: str) -> Decision:
        """The end of a teacher that is lost."""
        if self.on_failure == "renormalise":
            return Decision("leave_out", f"{why}; left out, the other weights are renormalised")
        return Decision("stop", f"{why}; cluster.teachers.on_failure is stop")
