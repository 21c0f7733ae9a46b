"""The students of a run as a table, and on the picture of quality against size."""

from __future__ import annotations

import pytest

from raykd.report.figures import size
from raykd.report.folder import RunData
from raykd.report.students import students
from raykd.report.style import styled
from raykd.report.verdicts import result_table

pytestmark = pytest.mark.figures


def model(parameters, *values, **more):
    mean = sum(values) / len(values)
    numbers = {
        name: {"mean": mean, "std": 0.01, "n": len(values), "values": list(values)}
        for name in ("accuracy", "nll")
    }
    costs = {"parameters": parameters, "flops": 1, "bytes": 1, "latency_ms": {"1": 0.5, "256": 2.0}}
    return {"validation": numbers, "test": numbers, **costs, **more}


@pytest.fixture
def run():
    gain = {
        "mean": -0.1,
        "std": 0.01,
        "n": 2,
        "values": [-0.1, -0.1],
        "ci95": [-0.15, -0.05],
        "ci95_bootstrap": None,
    }
    alone = {
        "validation": None,
        "test": {"accuracy": 0.97, "nll": 0.1},
        "parameters": 90_000,
        "latency_ms": {"1": 1.0, "256": 9.0},
    }
    summary = {"task": "classification", "student": model(9000, 0.9, 0.92), "students": {"tiny": model(500, 0.8, 0.82, gain=gain)},
               "controls": {"labels": model(9000, 0.7, 0.72)}, "teachers": {"wide": alone}, "ensemble": alone}  # fmt: skip
    return RunData(name="run", summary=summary, config={}, epochs={}, events=(), cards={}, evaluation=None)  # fmt: skip


def test_every_student_has_a_row_and_its_distance_from_the_first(run):
    table = students(run)
    assert [row[0] for row in table.rows] == ["student", "tiny"]
    assert table.rows[0][1:6] == ("9.00 k", "91.0 % ± 1.0", "91.0 % ± 1.0", "–", "–")
    assert table.rows[1][4:6] == ("−10.00", "−15.00 to −5.00")
    record = dict(zip(table.fields, table.records[1], strict=True))
    assert (record["parameters"], record["difference"], record["replicas"]) == (500, -0.1, 2)
    del run.summary["students"]
    assert students(run) is None


def test_the_result_table_names_it_after_the_first(run):
    rows = result_table(run.summary)
    assert [(row.name, row.role) for row in rows[:3]] == [("student", "student"), ("tiny", "other student"), ("labels alone", "labels")]  # fmt: skip


def test_the_picture_of_size_has_a_line_through_the_students(run):
    with styled():
        found = size(run)
        assert "tiny" in found.svg
        assert "The line goes through the run's students" in found.caption
        del run.summary["students"]
        assert "The line" not in size(run).caption
