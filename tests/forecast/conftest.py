"""A folder to work in and a recipe in it."""

from __future__ import annotations

import pytest
import yaml


@pytest.fixture
def recipe(tiny_recipe, tmp_path, monkeypatch):
    """In the working directory; no cluster is named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe))
    return path
