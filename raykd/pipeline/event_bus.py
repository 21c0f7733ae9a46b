"""Where a job's events go, one at a time."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from raykd.teachers.utilization import SCORED, WORK
from raykd.tracking import Broadcast, Console, Event, Listener


class EventBus:
    """Passes events on, one at a time, and keeps the few numbers that the summary needs.

    Attributes:
        waits: fit id -> teacher wait fraction of each epoch.
        live: records of the students' epochs in which teachers were asked live.
        degraded: whether an answer lacked a teacher.
        lost: teachers that were left out, since their processes ended or never answered.
        retries: requests that were made again.
        scored: samples that teachers have scored in students' own processes, in this job.
    """

    def __init__(self, listeners: Sequence[Listener], console: Console) -> None:
        self._broadcast = Broadcast(listeners, notifier=console)
        self._lock = threading.Lock()
        self.waits: dict[str, list[float]] = {}
        self.live: list[dict[str, Any]] = []
        self.degraded = False
        self.lost: set[str] = set()
        self.retries = 0
        self.scored = 0

    def __call__(self, event: Event) -> None:
        """Tell everyone."""
        with self._lock:
            line = event.to_line()
            self.recall(line)
            self.scored += int(sum(line.get(SCORED, {}).values()))
            self._broadcast.on(event)

    def recall(self, line: Mapping[str, Any]) -> None:
        """Count one event, as its line in `metrics.jsonl`: of this run, or of the one that it resumes."""
        if line["kind"] == "epoch" and line["stage"] == "student":
            self.waits.setdefault(line["fit"], []).append(line["teacher_wait_fraction"])
            if WORK in line:
                self.live.append(dict(line))
        if line["kind"] == "failure":
            self.degraded |= line["decision"] in ("leave_out", "quarantine")
            if line["decision"] == "leave_out":
                self.lost.add(line["teacher"])
            self.retries += line["decision"] in ("retry", "restart")

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """The run is over."""
        self._broadcast.close(summary)

    def wait_fraction(self, role: str) -> float | None:
        """Mean teacher wait of a role's epochs."""
        found = [
            w for fit, waits in self.waits.items() if fit.startswith(f"{role}/") for w in waits
        ]
        return sum(found) / len(found) if found else None
