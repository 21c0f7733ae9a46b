"""The page that distils by raykd's public pieces alone says what a run says."""

from __future__ import annotations

import json

import pytest

from jobs import anatomy

pytestmark = [pytest.mark.ray, pytest.mark.soak]


@pytest.mark.soak
def test_its_numbers_are_those_of_a_run(finished, monkeypatch, capsys):
    monkeypatch.setenv("RAYKD_HOME", str(finished.home))
    found = anatomy.main([str(finished.recipe), "seeds=2", "train.epochs=6"])
    summary = json.loads((finished.path / "summary.json").read_text())
    assert found["ensemble"]["accuracy"] == summary["ensemble"]["test"]["accuracy"]
    assert found["student"]["n"] == found["labels"]["n"] == 2
    assert min(found["student"]["values"]) > 0.5  # chance is 0.1
    assert found["student"]["values"] != found["labels"]["values"]
    shown = capsys.readouterr().out
    assert f"student       {found['student']['mean']:.1%}" in shown


def test_what_the_page_leaves_out_is_refused(finished, monkeypatch):
    from raykd.errors import InputError

    monkeypatch.setenv("RAYKD_HOME", str(finished.home))
    term = "{loss: {type: attention}, teacher: conv, student_tap: layers.0, teacher_tap: layers.0}"
    with pytest.raises(InputError):
        anatomy.main([str(finished.recipe), f"objective.features=[{term}]"])
