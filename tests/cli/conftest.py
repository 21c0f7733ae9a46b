"""A folder to work in, a recipe in it, and one finished run for all who look at one."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from raykd.cli import main


@dataclass(frozen=True)
class Ended:
    """A command's exit code and what it printed."""

    code: int
    out: str
    err: str


def call(*argv: str | Path) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in argv])
    return Ended(code, out.getvalue(), err.getvalue())


@pytest.fixture(name="call", scope="session")
def _call():
    return call


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory; modules in it can be named in recipes."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(work)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAYKD_DEBUG", raising=False)
    return work


@pytest.fixture
def recipe(folder, tiny_recipe):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe))
    return path


@pytest.fixture
def session_module():
    """`raykd.pipeline.session`, to put fakes in."""
    import raykd.pipeline.session

    return raykd.pipeline.session


TINY = {
    "data": {
        "source": {"type": "digits"},
        "splits": {"validation": 100, "test": 0.2},
        "labels": 200,
        "views": {"count": 2, "policy": [{"type": "shift", "pixels": 1}]},
    },
    "teachers": [
        {
            "name": name,
            "model": {"type": "mlp", "width": width, "depth": 1},
            "fit": {"epochs": 5, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 0.01}},
        }
        for name, width in (("wide", 1.0), ("narrow", 0.5))
    ],
    "student": {"model": {"type": "mlp", "width": 0.25, "depth": 1}},
    "train": {"epochs": 2, "batch_size": 128, "optimizer": {"type": "adamw", "lr": 0.01}},
    "evaluate": {"controls": ["labels"]},
    "tracking": {"wandb": {"mode": "disabled"}},
}


@dataclass(frozen=True)
class Finished:
    """A run that went through."""

    path: Path
    recipe: Path
    home: Path
    ended: Ended


@pytest.fixture(scope="session")
def finished(ray_cluster, tmp_path_factory):
    """One whole run, made by the command line; nobody may change it."""
    root = tmp_path_factory.mktemp("cli")
    recipe = root / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(TINY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYKD_HOME", str(root / "home"))
        patch.delenv("RAY_ADDRESS", raising=False)
        require = 'evaluate.require=["student.test.accuracy >= 0", "student.test.accuracy > 1"]'
        ended = call("run", recipe, "--output", root / "run", require, "seeds=2")
    return Finished(root / "run", recipe, root / "home", ended)
