"""One fault, done for real: what is done, what is asked for, and what came of it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

_GRACE_S = 30.0
_RAY = {
    "RAY_health_check_period_ms": "1000",  # a lost node is noticed after 4 s, not after 17
    "RAY_health_check_failure_threshold": "3",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",  # logical GPUs are no devices
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Found:
    """What came of a fault.

    Attributes:
        measured: the figures, in words.
        passed: whether they are what is asked for.
    """

    measured: str
    passed: bool


Run = Callable[[Path, bool], Found]
"""An empty folder, and whether fewer faults will do -> what came of them."""


@dataclass(frozen=True)
class Scenario:
    """A row of the table.

    Attributes:
        what: the fault.
        bar: what is asked for.
        run: does the fault and measures.
        limit_s: after which it is ended and counts as failed.
    """

    what: str
    bar: str
    run: Run
    limit_s: float = 600.0


@dataclass(frozen=True)
class Record:
    """A row with its figures."""

    row: str
    what: str
    bar: str
    measured: str
    passed: bool
    seconds: float


def isolated(row: str, scenario: Scenario, *, quick: bool) -> Record:
    """Run a scenario in a process, a folder and Ray clusters of its own; whatever it does, it ends.

    Args:
        row: its name.
        scenario: what is run; the process looks it up by its name.
        quick: fewer faults.
    """
    begun = time.monotonic()
    with TemporaryDirectory(prefix="raykd-chaos-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        answer, log = folder / "found.json", folder / "log.txt"
        command = [sys.executable, "-m", "jobs.faults", row, str(answer)]
        with log.open("wb") as sink:
            process = subprocess.Popen(  # noqa: S603 (ourselves)
                [*command, *(["--quick"] if quick else [])],
                env=_environment(os.environ, folder),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                ended = _ends(process, scenario.limit_s)
            finally:
                _end(process)
        if answer.is_file():
            found = Found(**json.loads(answer.read_text(encoding="utf-8")))
        else:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            why = f"over {scenario.limit_s:g} s" if not ended else f"exit {process.returncode}"
            found = Found(f"{why}: {lines[-1] if lines else 'no word'}", passed=False)
    seconds = round(time.monotonic() - begun, 1)
    return Record(row, scenario.what, scenario.bar, **asdict(found), seconds=seconds)


def _environment(given: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Nothing of another Ray or W&B, a home and a token of its own; Ray reads these when it is imported."""
    kept = {name: value for name, value in given.items() if not name.startswith(("RAY_", "WANDB_"))}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return {**kept, **_RAY, **token, "RAYKD_HOME": str(folder / "home")}


def _ends(process: subprocess.Popen[bytes], limit_s: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(limit_s)
        return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and all that it started in its session, also when it ended by itself."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(_GRACE_S)
