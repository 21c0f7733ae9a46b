"""Names that are markup, escape sequences, right-to-left marks or formulas stay names wherever they are shown."""

from __future__ import annotations

import csv
import io
from types import SimpleNamespace

import numpy as np
import pytest

from raykd.cli.options import print_error, print_text
from raykd.export.task import Predicted
from raykd.pipeline.prediction import write_csv
from raykd.report.tables import Table
from raykd.search import results
from raykd.shown import for_markdown, for_spreadsheet, for_terminal
from raykd.tracking import Console, events

_FORMULAS = ["=HYPERLINK(\"http://x\")", "=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1"]  # fmt: skip
_NUMBERS = ["-1.5", "+3", "-1e-5", "=".strip("="), "0995", "1e3", "-inf"]
_ESCAPES = "a\x1b[31m\x1b]0;t\x07\x9b2J\u202eb\u2066\u200f\r\u2028"


@pytest.mark.parametrize("text", _FORMULAS)
def test_a_formula_is_a_text_to_a_spreadsheet(text):
    assert for_spreadsheet(text) == f"'{text}"


@pytest.mark.parametrize("value", [*_NUMBERS, -1, -0.5, None, True, "a=b", "cat-dog", "'=1", "é"])
def test_numbers_and_other_texts_stay_as_they_are(value):
    assert for_spreadsheet(value) is value


def _cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def test_predictions_hold_no_formula_as_id_or_class():
    """At 7d0af11 the id and the class were written as they are."""
    said = Predicted(("=1+1", "b"), ("=1+1", "b"), np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]))  # fmt: skip
    file = io.StringIO()
    write_csv(file, np.array(["@x", "-7"]), said)
    head, first, second = _cells(file.getvalue())
    assert head == ["id", "prediction", "p_=1+1", "p_b"]
    assert first[:2] == ["'@x", "'=1+1"]
    assert second[:2] == ["-7", "b"]


def test_tables_of_a_report_hold_no_formula(tmp_path):
    """At 7d0af11 slices and classes were written as they are."""
    table = Table(name="slices", title="", columns=("a", "b"), rows=(), records=[("=1+1", -0.5), ("cat", "-2")], fields=("+slice", "n"))  # fmt: skip
    table.write(tmp_path)
    found = _cells((tmp_path / "slices.csv").read_text())
    assert found == [["'+slice", "n"], ["'=1+1", "-0.5"], ["cat", "-2"]]


def test_results_of_a_sweep_hold_no_formula(tmp_path, monkeypatch):
    """At 7d0af11 a searched value was written as it is."""
    rows = [{"trial": 0, "student.model.name": "=1+1", "value": -0.25}]
    monkeypatch.setattr(results, "rows_of", lambda _: rows)
    monkeypatch.setattr(results, "plain_recipe", lambda _: None)
    monkeypatch.setattr(results, "write_recipe", lambda *_: None)
    summary = {"trials": [], "pareto": {}, "front": None, "best": {"trial": None}}
    results.write(tmp_path, SimpleNamespace(), summary)
    assert _cells((tmp_path / "results.csv").read_text())[1] == ["0", "'=1+1", "-0.25"]


def test_no_name_reaches_the_terminal_as_control_codes():
    """At 7d0af11 the escape character and the marks went through."""
    shown = for_terminal(f"é 日本 👩\u200d🔬\n\t{_ESCAPES}")
    assert shown.startswith("é 日本 👩\u200d🔬\n\ta\\x1b[31m\\x1b]0;t\\x07\\x9b2J\\u202eb")
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\u200f", "\r", "\u2028"} & set(shown)


@pytest.mark.parametrize("terminal", [False, True])
def test_the_console_shows_markup_and_escapes_as_they_are_written(terminal):
    """At 7d0af11 the console passed escape characters on; rich's markup was inert already."""
    stream = io.StringIO()
    console = Console(quiet=False, stream=stream, is_terminal=terminal)
    name = "[bold red]x[/] \x1b]0;t\x07 \u202e"
    console.print(name)
    console.warn(name)
    console.table([{name: name}], title=name)
    console.on(events.stage(name, state="started", fits=["a"]))
    console.on(events.message(name, name))
    console.on(events.failure("student", name, decision="restarted"))
    console.close(None)
    text = stream.getvalue()
    assert text.count("[bold red]x[/]") >= 6
    assert "\x1b]0" not in text
    assert "\x07" not in text
    assert "\u202e" not in text


def test_commands_print_names_and_errors_without_control_codes(call, capsys):
    print_text(_ESCAPES)
    print_error(_ESCAPES)
    found = capsys.readouterr()
    assert "\x1b" not in found.out + found.err
    ended = call("config", "validate", "a\x1b[31m\u202e")
    assert ended.code == 2
    assert "\x1b" not in ended.err
    assert "\u202e" not in ended.err


def test_markup_is_text_in_markdown():
    text = "<script>x</script> [a](b) | `c` **b**\n# head &lt; \\"
    assert for_markdown(text) == (
        r"&lt;script&gt;x&lt;/script&gt; \[a\](b) \| \`c\` \*\*b\*\* # head &amp;lt; \\"
    )
