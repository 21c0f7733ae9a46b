"""The dashboard of teachers shows what is counted, under the names that runs have for it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from raykd.teachers import published
from raykd.teachers.utilization import TeacherLoad, describe

DASHBOARD = json.loads((Path(__file__).parents[2] / "cluster/grafana/teachers.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}


def test_panels_have_the_names_of_an_epoch_s_values():
    told = describe(TeacherLoad().take(), {"wide": 1}, 1.0)
    assert set(PANELS) <= set(told)
    assert {"samples_per_s", "queue", "batch_fill", "wait_s_per_step", "failures"} <= {
        title.removeprefix("teacher_") for title in PANELS
    }


def test_panels_ask_for_counters_that_there_are_and_for_all_of_them():
    asked = [target["expr"] for panel in PANELS.values() for target in panel["targets"]]
    found = {name for expr in asked for name in re.findall(r"\bray_(\w+)_total\b", expr)}
    assert found == {name for name, _ in published.COUNTERS.values()}
    inside = [re.findall(r"(rate|increase)\(ray_\w+_total\[\d+m\]\)", expr) for expr in asked]
    assert all(len(one) == expr.count("ray_") for one, expr in zip(inside, asked, strict=True))


def test_grafana_s_format():
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"
    places = [tuple(panel["gridPos"][side] for side in "xy") for panel in PANELS.values()]
    assert len(set(places)) == len({panel["id"] for panel in PANELS.values()}) == len(PANELS)
    for panel in PANELS.values():
        assert panel["type"] == "timeseries"
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert "{{teacher}}" in panel["targets"][0]["legendFormat"]


class Counted(dict):
    def inc(self, amount, tags):
        key = tuple(tags.values())
        self[key] = self.get(key, 0) + amount


@pytest.mark.parametrize("there", [True, False])
def test_amounts_are_added_by_teacher_and_cause_within_ray_alone(monkeypatch, there):
    counters = {what: Counted() for what in published.COUNTERS}
    monkeypatch.setattr(published.ray, "is_initialized", lambda: there)
    monkeypatch.setattr(published, "_counter", counters.__getitem__)
    for samples in (8, 5):
        published.publish("wide", samples=samples, places=8, busy_s=0.0)
    published.publish("wide", "dead", failures=1)
    found = {what: dict(counter) for what, counter in counters.items() if counter}
    wanted = {
        "samples": {("wide",): 13},
        "places": {("wide",): 16},
        "failures": {("wide", "dead"): 1},
    }
    assert found == (wanted if there else {})
