"""Small machines: little address space, a small object store, few open files, a clock that is set back."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from jobs.faults.scenario import Found
from jobs.faults.small_runs import RECIPE, Small, lines, outcome, reached

_ADDRESS_KIB = 6_000_000
_TOO_LITTLE_KIB = 3_000_000
_STORE_BYTES = 100_000_000
_ROWS, _WIDE_BYTES = 2000, 160_000_000
_FILES, _ENOUGH = 64, 128
_CLOCK = """
import os
import time

_mark, _now, _now_ns = os.environ["RAYKD_CHAOS_CLOCK"], time.time, time.time_ns
time.time = lambda: _now() - 3600 * os.path.exists(_mark)
time.time_ns = lambda: _now_ns() - 3600 * 10**9 * os.path.exists(_mark)
"""
"""Python runs it when it starts, in every process of a run: an hour is taken off once a file is there.

The C libraries below go on as before: their waits end by the kernel's clock, which is every process's of this machine.
"""


def small_limits(folder: Path, quick: bool) -> Found:
    """Each ends well, or says in one line what it needs before it starts."""
    small = Small(folder)
    if (first := small.run(folder / "plain", "--quiet", home=folder / "home")).code != 0:
        return Found(
            f"the undisturbed run ended with {first.code}: {first.said[-1:]}", passed=False
        )
    wanted, good, bad = outcome(folder / "plain"), [], []

    def ends_well(name: str, limited: Small) -> None:
        run = folder / name.replace(" ", "-")
        ended = limited.run(run, "--quiet", home=folder / f"home-{run.name}")
        if ended.code == 0 and outcome(run) == wanted:
            good.append(f"{name}: ends well")
        else:
            bad.append(f"{name}: exit {ended.code}: {ended.said[-2:]}")

    def is_refused(name: str, limited: Small, word: str) -> None:
        ended = limited.run(folder / "refused", "--quiet", home=folder / "home")
        if ended.code == 2 and ended.clear and word in ended.errors[0]:
            good.append(f"{name}: refused within {ended.seconds:.0f} s")
        else:
            bad.append(f"{name}: exit {ended.code}: {ended.said[-2:]}")

    is_refused(f"{_FILES} open files", _limited(small, "n", _FILES), "ulimit -n")
    little = _limited(small, "v", _TOO_LITTLE_KIB)
    is_refused(f"{_TOO_LITTLE_KIB // 1_000_000} GB of address space", little, "ulimit -v")
    enough = _limited(small, "v", _ADDRESS_KIB)
    ends_well(f"{_ADDRESS_KIB // 1_000_000} GB of address space", enough)
    if not quick:
        ends_well(f"{_ENOUGH} open files", _limited(small, "n", _ENOUGH))
        bad += _of_small_store(folder)
        good.append(
            f"data of {_WIDE_BYTES // 1_000_000} MB in an object store of 100 MB: ends well"
        )
    return Found("; ".join([*bad, *good]), passed=not bad)


def _limited(small: Small, which: str, most: int) -> Small:
    return replace(small, before=f"ulimit -{which} {most}")


def _of_small_store(folder: Path) -> list[str]:
    """A run on data that are larger than the object store; what went wrong."""
    draw, path = np.random.default_rng(0), folder / "wide.npz"
    labels = draw.integers(0, 2, _ROWS)
    inputs = draw.standard_normal((_ROWS, _WIDE_BYTES // (4 * _ROWS)), dtype=np.float32)
    inputs += (0.1 * (2 * labels - 1)).astype(np.float32)[:, None]
    np.savez(path, inputs=inputs, labels=labels)
    own = folder / "wide"
    own.mkdir()
    data = {"source": {"type": "arrays", "path": str(path)}, "labels": 200}
    data |= {"splits": {"validation": 100, "test": 0.2}}
    store = {"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(_STORE_BYTES)}
    small = Small(own, store, recipe={**RECIPE, "data": data})
    ended = small.run(own / "run", "--quiet", home=own / "home")
    return [] if ended.code == 0 else [f"small store: exit {ended.code}: {ended.said[-2:]}"]


def clock_set_back(folder: Path, quick: bool) -> Found:  # noqa: ARG001 (it is done once)
    """The time of day of all processes of a run goes back by an hour once its teachers are fitted."""
    site, mark = folder / "site", folder / "an-hour-back"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_CLOCK, encoding="utf-8")
    plain, run = folder / "plain", folder / "run"
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    given = {"PYTHONPATH": paths, "RAYKD_CHAOS_CLOCK": str(mark)}
    first = Small(folder).run(plain, "--quiet", home=folder / "home")

    def set_back() -> None:
        if not mark.exists() and reached(run, "teachers"):
            mark.touch()

    ended = Small(folder, given).run(run, "--quiet", home=folder / "home-2", during=set_back)
    if first.code or ended.code:
        return Found(f"exit {first.code}, set back {ended.code}: {ended.said[-2:]}", passed=False)
    times = [float(one["time"]) for one in lines(run)]
    back = max(a - b for a, b in pairwise(times))
    same = outcome(run) == outcome(plain)
    said = f"the events' clock went back by {back:,.0f} s; ended in {ended.seconds:.0f} s (undisturbed {first.seconds:.0f} s), "
    said += "weights and numbers as undisturbed" if same else "OTHER numbers"
    return Found(said, passed=same and back > 3000)
