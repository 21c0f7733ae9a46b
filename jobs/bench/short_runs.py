"""Whole commands with little work in them, shell to shell: what starting costs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from jobs.bench.measuring import Row, Sizes, row_of

_TIMEOUT_S = 1200.0
_QUIET = ["tracking.wandb.mode=disabled", "--quiet"]
_SHORT = ["run", "digits", "seeds=1", "train.epochs=2", "evaluate.controls=[]"]
_REPEATS = 2
"""Of what takes a minute."""


def short(sizes: Sizes) -> list[Row]:
    """Seconds of commands, each a process of its own, beside the seconds that torch and a local Ray need to start and end.

    The first of each pair finds an empty `RAYKD_HOME`, the second what that one kept.
    """
    nothing, first, kept = [], [], []
    for _ in range(sizes.repeats):
        with TemporaryDirectory() as folder:
            nothing.append(_seconds(["-c", _NOTHING], folder))
            first.append(_raykd([*_SHORT, "--output", f"{folder}/first"], folder))
            kept.append(_raykd([*_SHORT, "--output", f"{folder}/kept"], folder))
    whole, swept = [], []
    for _ in range(_REPEATS):
        with TemporaryDirectory() as folder:
            whole.append(_raykd(["run", "digits", "--output", f"{folder}/run"], folder))
            swept.append(_raykd(["sweep", "digits", "--output", f"{folder}/sweep"], folder))
    return [
        row_of("torch and a local Ray, started and ended", "s", nothing),
        {**row_of("digits, two epochs, no control: first", "s", first), "bar": "<= 30"},
        {**row_of("the same, teachers and targets kept", "s", kept), "bar": "<= 18"},
        {**row_of("quickstart", "s", whole), "bar": "<= 60"},
        {**row_of("sweep of 12 trials, teachers and targets kept", "s", swept), "bar": "<= 60"},
    ]


_NOTHING = (
    "import torch, ray; ray.init(address='local', include_dashboard=False, log_to_driver=False)"
)


def _raykd(command: Sequence[str], home: str) -> float:
    return _seconds(["-m", "raykd", *command, *_QUIET], home)


def _seconds(command: Sequence[str], home: str) -> float:
    """Of one process, from its start to its end."""
    passed: Mapping[str, str] = {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        "RAYKD_HOME": str(Path(home) / "home"),
    }
    begun = time.perf_counter()
    done = subprocess.run(  # noqa: S603 (our own commands)
        [sys.executable, *command], env=passed, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}"
        )
    return seconds
