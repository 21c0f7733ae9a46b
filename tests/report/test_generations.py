"""The stages of a run as a table, in words, and in a picture of quality and size."""

from __future__ import annotations

import pytest

from raykd.report.folder import RunData
from raykd.report.generation_figures import generations as picture
from raykd.report.generations import generations, stage_cells
from raykd.report.style import styled

pytestmark = pytest.mark.figures


def spread(*values):
    mean = sum(values) / len(values)
    return {"accuracy": {"mean": mean, "std": 0.01, "n": len(values), "values": list(values)}}


def stage(name, teachers, parameters, **more):
    row = {"stage": name, "teachers": teachers, "before": [], "model": "mlp", "parameters": parameters, "epochs": 3, "test": None,
           "validation": spread(0.8, 0.9), "ensemble": {"validation": {"accuracy": 0.95}, "test": None},
           "teacher_samples_scored": 1200, "seconds": 7.0, "status": "complete", "path": ".", "replica": None}  # fmt: skip
    return {**row, **more}


@pytest.fixture
def run():
    first = stage("first", ["a", "b"], 3466, replica=1)
    last = stage("last", ["first"], 1482, validation=spread(0.7, 0.7), test=spread(0.6, 0.66))
    summary = {"task": "classification", "generations": [first, last]}
    return RunData(name="run", summary=summary, config={}, epochs={}, events=(), cards={}, evaluation=None)  # fmt: skip


def test_every_stage_has_a_row(run):
    table = generations(run)
    assert [row[0] for row in table.rows] == ["first", "last"]
    assert table.rows[0][1:6] == ("a, b", "3.47 k", "85.0 % ± 1.0", "95.0 %", "–")
    assert table.rows[1][5] == "63.0 % ± 1.0"
    record = dict(zip(table.fields, table.records[1], strict=True))
    assert (record["test"], record["validation"], record["teachers"]) == (0.63, 0.7, "first")
    assert "replica 1 of first is best on validation and teaches all replicas" in table.note
    assert [cells["stage"] for cells in stage_cells(run.summary)] == ["first", "last"]


def test_it_says_which_replicas_teach(run):
    first, last = run.summary["generations"]
    last |= {"teachers": ["first-0", "first-1", "a"], "taught_by": ["first", "a"]}
    for teach, row, note in (
        ("each", "first (each replica its own), a", "Of first each replica teaches the replica of its number"),
        ("ensemble", "first (all replicas), a", "Of first all replicas teach together."),
    ):  # fmt: skip
        first["teach"] = teach
        table = generations(run)
        assert table.rows[1][1] == row
        assert note in table.note
        assert "is best on validation" not in table.note


def test_a_run_without_stages_has_none(run):
    run.summary.pop("generations")
    assert generations(run) is None
    assert stage_cells(run.summary) == []
    with styled():
        assert picture(run) is None


def test_the_picture_shows_quality_and_size(run):
    with styled():
        found = picture(run)
    assert found.png.startswith(b"\x89PNG")
    assert found.svg.count("3.47 k") == found.svg.count("1.48 k") == 1, (
        "a comment of the text that is drawn"
    )
    for validation in (None, {}):  # unlabelled
        for one in run.summary["generations"]:
            one["validation"] = validation
        with styled():
            assert picture(run) is None
