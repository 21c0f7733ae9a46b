"""What teachers and those who ask them count for Prometheus, through Ray; `cluster/grafana` shows it.

Counters alone: a rate of them is right also when nobody asks, and however often Prometheus looks. Ray exports them as
`ray_<name>_total` at the port of each node's metrics.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ray
from ray.util.metrics import Counter

COUNTERS = {
    "samples": ("raykd_teacher_samples", "Samples that a teacher has scored"),
    "places": ("raykd_teacher_places", "Places of the batches that it was run with, padding among them"),
    "busy_s": ("raykd_teacher_busy_s", "Seconds with work at hand, of all its replicas"),
    "requests": ("raykd_teacher_requests", "Requests made, the repeated ones among them"),
    "queued": ("raykd_teacher_queued", "Requests of the same client that were under way when one was made"),
    "answers": ("raykd_teacher_answers", "Answers that were waited for"),
    "wait_s": ("raykd_teacher_wait_s", "Seconds that clients waited for answers"),
    "failures": ("raykd_teacher_failures", "Requests without an answer, by cause"),
}  # fmt: skip
"""What is counted -> name of the counter, and what it is."""


@cache
def _counter(what: str) -> Any:
    name, description = COUNTERS[what]
    tags = ("teacher", "cause") if what == "failures" else ("teacher",)
    return Counter(name, description, tag_keys=tags)


def publish(teacher: str, cause: str | None = None, **amounts: float) -> None:
    """Add to counters of a teacher, of this process; nothing outside of Ray.

    Args:
        teacher: its name.
        cause: of failures.
        **amounts: by the keys of `COUNTERS`; zeros are left out.
    """
    if not ray.is_initialized():
        return
    tags = {"teacher": teacher, **({} if cause is None else {"cause": cause})}
    for what, amount in amounts.items():
        if amount > 0:
            _counter(what).inc(amount, tags=tags)
