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
EVERY = [*PAGES, ROOT / "raykd/README.md", ROOT / "cluster/README.md", ROOT / "jobs/README.md"]
BLOCKS = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}-{place}")
    for page in PAGES
    for place, text in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.S))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_what_is_shown_loads(block):
    """What a part of a recipe leaves out is taken from a small whole one."""
    shown = yaml.safe_load(block)
    base = read_recipe("lm_domains" if shown.get("task") == "language" else "digits")
    whole = {key: base[key] for key in ("data", "teachers", "student")}
    whole["teachers"][0]["name"] = "wide"
    assert load_config(merge(whole, shown))


def _slug(heading: str) -> str:
    """A heading as the anchor that GitHub makes of it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", EVERY, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        other = page.parent / path if path else page
        assert other.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", other.read_text("utf-8"), re.M)
            assert anchor in map(_slug, headings), target


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 200


def test_there_are_some():
    assert len(BLOCKS) >= 8
