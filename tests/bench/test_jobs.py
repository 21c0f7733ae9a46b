"""The folder of jobs: short entry points, and helpers that are importable wherever a job's work runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = sorted(path.name for path in (ROOT / "jobs").glob("[!_]*.py"))


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_an_entry_point_has_at_most_120_lines(name):
    """But for the one that is a whole distillation on a page."""
    most = 150 if name == "anatomy.py" else 120
    assert len((ROOT / "jobs" / name).read_text().splitlines()) <= most


def test_the_wheel_leaves_the_jobs_out():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = find_packages(str(ROOT), include=options["packages"]["find"]["include"])
    assert "raykd.data" in found
    assert not [name for name in found if name.partition(".")[0] != "raykd"]


def started(folder, *command):
    """A process in another folder, in which nothing but the installed packages is on the path."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env=env,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["chaos.py", *(pytest.param(one, marks=pytest.mark.soak) for one in ("benchmark.py", "same_numbers.py"))])  # fmt: skip
def test_a_job_finds_its_helpers_from_any_folder(tmp_path, name):
    done = started(tmp_path, ROOT / "jobs" / name, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.slow
def test_workers_find_the_helpers_of_a_job_from_any_folder(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        f"import sys; sys.path.append({str(ROOT)!r})\n"
        "import ray\n"
        "from jobs.bench.synthetic import Sleeper, sleeper\n"
        "from raykd.importing import load_callable\n"
        "from raykd.runtime import connect\n"
        "@ray.remote\n"
        "def found(own, path):\n"
        "    return type(own) is type(load_callable(path, key='path')(3, 1.0))\n"
        "with connect(None):\n"
        "    print(ray.get(found.remote(sleeper(3, 1.0), 'jobs.bench.synthetic:sleeper')))\n"
    )
    done = started(tmp_path, own)
    assert done.stdout.strip() == "True", done.stderr
