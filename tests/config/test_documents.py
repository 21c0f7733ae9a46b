"""Every recipe, or part of one, that a page shows is one that loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from raykd.config import load_config
from raykd.config.load import merge, read_recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("raykd/*/README.md"))]
BLOCKS = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}-{place}")
    for page in PAGES
    for place, text in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.S))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_what_is_shown_loads(block):
    """What a part of a recipe leaves out is taken from a small whole one."""
    shown = yaml.safe_load(block)
    whole = {key: read_recipe("digits")[key] for key in ("data", "teachers", "student")}
    whole["teachers"][0]["name"] = "wide"
    assert load_config(merge(whole, shown))


def test_there_are_some():
    assert len(BLOCKS) >= 8
