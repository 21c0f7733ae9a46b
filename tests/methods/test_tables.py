"""The tables in the documentation are those of the registries."""

from pathlib import Path

import pytest

import raykd
from raykd.methods import loss_table, weighting_table

ROOT = Path(raykd.__file__).parent


@pytest.mark.parametrize(
    ("folder", "table"), [("losses", loss_table), ("ensemble", weighting_table)]
)
def test_the_documented_table_is_the_one_of_the_registry(folder, table):
    text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    _, _, rest = text.partition("<!-- table:begin")
    shown = rest.partition("-->\n")[2].partition("<!-- table:end")[0]
    assert shown == table(), f"raykd/{folder}/README.md is not current"
