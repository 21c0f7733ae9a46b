"""A folder to work in and a recipe in it."""

from __future__ import annotations

import sys

import pytest
import yaml

from raykd.runtime import Crew


class NoEngine:
    """In place of Ray, which a command starts ahead of what it finds wrong: nothing may wait for it."""

    def __init__(self, resources, count):
        self.crew = Crew()

    def wait(self):
        raise AssertionError("a cluster was asked for")

    def end(self):
        """Nothing was started."""


@pytest.fixture(autouse=True)
def engine_only_with_ray(request, monkeypatch):
    """Starting Ray and ending it again takes two and a half seconds of a core, in tests that never use it."""
    if request.node.get_closest_marker("ray") is None and "ray_cluster" not in request.fixturenames:
        monkeypatch.setattr(sys.modules["raykd.runtime.engine"], "Engine", NoEngine)


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
