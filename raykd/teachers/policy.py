"""What to do when a teacher does not answer: decisions only, no action and no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cause = Literal["timeout", "dead", "non_finite"]
Action = Literal["retry", "restart", "leave_out", "stop"]


@dataclass(frozen=True)
class Decision:
    """What to do, and why in words.

    Attributes:
        action: `retry` on the next replica; `restart` the actor, then retry; `leave_out` the teacher from
            now on; `stop` the run.
        reason: cause, count and limit.
    """

    action: Action
    reason: str


@dataclass(frozen=True)
class FailurePolicy:
    """Bounded retries, then the configured end.

    Attributes:
        on_failure: `stop` or `renormalise`, from `cluster.teachers.on_failure`.
        max_attempts: requests made for one batch before the teacher counts as lost.
    """

    on_failure: Literal["stop", "renormalise"]
    max_attempts: int

    def decide(self, teacher: str, cause: Cause, attempts: int) -> Decision:
        """The decision after `attempts` failed requests for one batch."""
        count = f"teacher {teacher!r}: {cause}, attempt {attempts} of {self.max_attempts}"
        if attempts < self.max_attempts:
            return Decision("restart" if cause == "timeout" else "retry", count)
        if self.on_failure == "renormalise":
            return Decision("leave_out", f"{count}; left out, the other weights are renormalised")
        return Decision("stop", f"{count}; cluster.teachers.on_failure is stop")
