"""Runs that are cut off: by an error at a chosen call, or by SIGKILL of the driver; and what goes on from there."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time

from raykd.errors import TrainingError
from raykd.tracking.jsonl import METRICS, read_lines

_DRIVER = "import sys; from raykd.cli import main; sys.exit(main(sys.argv[1:]))"


def cut_off(patch, place, call):
    """Have the run fail at the given call of a function of the pipeline."""
    module, _, name = place.partition(":")
    owner = importlib.import_module(f"raykd.pipeline.{module}")
    *classes, name = name.split(".")
    for one in classes:
        owner = getattr(owner, one)
    original, calls = getattr(owner, name), []

    def cut(*args, **named):
        calls.append(1)
        if len(calls) == call:
            raise TrainingError("power cut")
        return original(*args, **named)

    patch.setattr(owner, name, cut)


def epochs_of(folder, fits):
    """How many epochs of a job's fits were told so far."""
    path = folder.path / METRICS
    lines = read_lines(path) if path.is_file() else []
    return sum(line["kind"] == "epoch" and str(line["fit"]).startswith(fits) for line in lines)


def killed(recipe, output, condition, *more):
    """Start `raykd run` and kill its driver as soon as the condition holds."""
    driver = subprocess.Popen(
        _command(recipe, output, *more), env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip
    try:
        until = time.monotonic() + 200
        while not condition():
            assert driver.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < until, "it never came that far"
            time.sleep(0.05)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait(60)


def run_to_the_end(recipe, output, *more, home=None):
    """`raykd run`, which must succeed."""
    ended = subprocess.run(
        _command(recipe, output, *more), env=_environment(home), capture_output=True, text=True, check=False
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]


def _command(recipe, output, *more):
    return [sys.executable, "-c", _DRIVER, "run", str(recipe), "--output", str(output), *more]


def _environment(home=None):
    own = {} if home is None else {"RAYKD_HOME": str(home)}
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | own
