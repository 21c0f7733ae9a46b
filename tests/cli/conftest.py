"""A folder to work in and a recipe in it."""

from __future__ import annotations

import pytest
import yaml


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
