"""Searches with several metrics: what counts, which trials no other one beats, and what is left of them."""

from __future__ import annotations

import csv

import pytest

from raykd.config import load_config
from raykd.pipeline import Options
from raykd.search import sweep
from raykd.search.scores import pareto_front, scores_of
from raykd.tasks import find_task

WIDTH = "student.model.width"
TASK = find_task("classification").metrics


def record(accuracy, parameters, latency=1.0):
    validation = None if accuracy is None else {"accuracy": accuracy, "nll": 1 - accuracy}
    cost = {"parameters": parameters, "flops": 2 * parameters, "latency_ms": latency}
    return {"validation": validation, "cost": cost}


def test_more_is_better_of_every_merit():
    metrics = ("accuracy", "nll", "parameters", "latency_ms")
    assert scores_of(record(0.75, 10, 0.123), metrics, TASK) == (0.75, -0.25, -10, -0.12)
    assert scores_of(record(None, 10), metrics, TASK) is None


def test_the_front_is_what_nothing_else_beats():
    points = {
        "small": (0.5, -1), "large": (0.9, -9), "worse": (0.5, -2), "middle": (0.7, -4),
        "middle again": (0.7, -4), "beaten": (0.8, -9), "wasteful": (0.9, -10),
    }  # fmt: skip
    assert pareto_front(points) == ["small", "large", "middle"]
    assert pareto_front({name: one[:1] for name, one in points.items()}) == ["large"]
    assert pareto_front({}) == []


def test_a_brute_force_front_of_three_metrics_agrees():
    import random

    draw = random.Random(0)
    points = {str(i): tuple(draw.randrange(4) for _ in range(3)) for i in range(60)}
    front = pareto_front(points)
    values = [points[name] for name in front]
    assert len(set(values)) == len(values)
    for own in points.values():
        beaten = any(all(a >= b for a, b in zip(o, own, strict=True)) and o != own for o in points.values())  # fmt: skip
        assert (own in values) is not beaten


@pytest.mark.ray
@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("searcher", ["optuna", pytest.param("grid", marks=pytest.mark.soak)])
@pytest.mark.soak
def test_a_search_for_accuracy_and_size_leaves_its_front(sweep_tree, tmp_path, searcher):
    if searcher == "optuna":
        pytest.importorskip("optuna", reason="the extra optuna is not installed")
    given = {
        "metric": ["accuracy", "parameters"],
        "parameters": {WIDTH: {"space": "grid", "lower": 0.25, "upper": 1.0, "points": 4}},
        "scheduler": {"type": "none"},
        "searcher": {"type": searcher},
        "trials": 4 if searcher == "optuna" else None,
        "finalists": None,
    }
    output = tmp_path / "sweep"
    result = sweep(load_config(sweep_tree(**given)), Options(output=output))
    summary, trials = result.summary, {t["trial"]: t for t in result.summary["trials"]}
    assert (summary["metric"], summary["metrics"]) == ("accuracy", ["accuracy", "parameters"])
    points = {n: (t["value"], -t["cost"]["parameters"]) for n, t in trials.items()}
    assert summary["front"] == pareto_front(points)
    best = summary["best"]["trial"]
    assert points[best] == max(points.values())
    front = set(summary["front"])
    assert set(summary["ranking"][: len(front)]) == front
    with (output / "results.csv").open() as file:
        flagged = {row["trial"] for row in csv.DictReader(file) if row["pareto"] == "True"}
    assert front <= flagged
    assert {path.stem for path in (output / "pareto").iterdir()} == flagged
    for name in front:
        kept = load_config(output / "pareto" / f"{name}.yaml")
        assert kept.student.model.width == trials[name]["values"][WIDTH]
        told = (output / "pareto" / f"{name}.yaml").read_text().splitlines()[0]
        assert "accuracy and parameters" in told
    page = (output / "report" / "index.html").read_text()
    assert "On the front of accuracy and parameters" in page
