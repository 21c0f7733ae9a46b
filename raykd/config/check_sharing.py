"""What workers that hold a student in parts (`cluster.student.strategy: fsdp`) cannot do."""

from __future__ import annotations

from collections.abc import Iterator

from raykd.config.root import Config
from raykd.errors import Problem

_KEY = "cluster.student.strategy"
_OUT = f"leave one of the two out, or set {_KEY} to ddp"


def sharing_problems(config: Config) -> Iterator[Problem]:
    """Every key that does not go together with a student in parts."""
    student = config.cluster.student
    if student.strategy == "ddp":
        return
    if student.fewest < 2:
        yield Problem(
            _KEY,
            f"found fsdp with cluster.student.workers={student.workers}: one worker has nobody to share a student with; set "
            "workers to at least 2, or leave it at ddp",
        )
    if config.peers is not None:
        yield Problem(
            "peers",
            f"found {config.peers.type} beside {_KEY}: fsdp, where the networks that learn from each other, or a copy that is "
            f"listened to, would each have to be whole; {_OUT}",
        )
    if config.train.compile:
        yield Problem(
            "train.compile",
            f"found true beside {_KEY}: fsdp, which gathers weights between the layers: what is compiled would be cut there; {_OUT}",
        )
