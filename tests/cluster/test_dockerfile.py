"""The image: what it copies is there, its versions are those of constraints.txt, and what it runs works."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cluster" / "Dockerfile"
CONSTRAINTS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))  # fmt: skip


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", FILE.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def arguments() -> dict[str, str]:
    pairs = (rest.partition("=") for word, rest in instructions() if word == "ARG")
    return {name: value.strip('"') for name, _, value in pairs}


def commands() -> list[str]:
    given = arguments()
    found = (rest for word, rest in instructions() if word == "RUN")
    return [re.sub(r"\$\{(\w+)\}", lambda name: given[name[1]], command) for command in found]


def test_the_base_is_an_argument_and_root_is_left():
    words = [word for word, _ in instructions()]
    assert words[:2] == ["ARG", "FROM"]
    assert dict(instructions())["FROM"] == "${BASE}"
    assert [rest for word, rest in instructions() if word == "USER"][-1] != "root"
    assert set(words) <= {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV"}


def test_what_is_copied_is_there_and_sent_to_the_builder():
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}  # fmt: skip
    copied = [one for word, rest in instructions() if word == "COPY" for one in rest.split()[:-1]]
    assert copied
    assert all((ROOT / one).exists() for one in copied)
    assert set(copied) == sent


def test_its_versions_are_the_pinned_ones():
    text = FILE.read_text()
    assert arguments()["TORCH"] == f"torch=={CONSTRAINTS['torch']}"
    assert set(re.findall(r"ray(\d[\d.]*\d)", text)) == {CONSTRAINTS["ray"]}
    assert f"ray.__version__ == '{CONSTRAINTS['ray']}'" in text
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    assert set(arguments()["EXTRAS"].split(",")) <= extras


@pytest.mark.soak
def test_what_it_runs_installs_raykd(tmp_path):
    """In a fresh environment; the index that pip is set up with has to be reached."""
    for word, rest in instructions():
        for one in rest.split()[:-1] if word == "COPY" else ():
            (shutil.copytree if (ROOT / one).is_dir() else shutil.copy)(ROOT / one, tmp_path / one)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    own = {**os.environ, "PATH": f"{tmp_path / 'venv' / 'bin'}:/usr/bin:/bin"}
    own.pop("PYTHONPATH", None)
    done = [shlex.split(command) for command in commands() if "useradd" not in command]
    assert [command[0] for command in done] == ["pip", "pip", "pip", "python"]
    for command in done:
        subprocess.run(command, cwd=tmp_path, env=own, check=True)
    shown = subprocess.run(["raykd", "--version"], cwd=tmp_path, env=own, check=True, capture_output=True, text=True)  # fmt: skip
    assert "raykd" in shown.stdout
