"""A search on Ray: one set of targets, early stops that leave nothing behind, a killed driver, its results."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from raykd.cli import main
from raykd.config import load_config
from raykd.errors import InputError
from raykd.folders import read_json
from raykd.pipeline import Options
from raykd.report import write_report
from raykd.report.sweep import sweep_verdict
from raykd.report.wording import count
from raykd.search import sweep
from raykd.search.finals import lead_of
from raykd.search.sweeping import plan_sweep

pytestmark = [
    pytest.mark.ray,
    pytest.mark.own_processes,
    pytest.mark.figures,
    pytest.mark.e2e,
    pytest.mark.slow,
]
WIDTH, LR = "student.model.width", "train.optimizer.lr"


@pytest.fixture(scope="module")
def finished(ray_cluster, sweep_tree, tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYKD_HOME", str(root / "home"))
        config = load_config(sweep_tree())
        result = sweep(config, Options(output=root / "sweep"))
    return SimpleNamespace(config=config, path=root / "sweep", home=root / "home", result=result)


@pytest.fixture
def same_home(finished, monkeypatch):
    monkeypatch.setenv("RAYKD_HOME", str(finished.home))


def test_every_trial_ends_once_and_the_best_keeps_the_limits(finished):
    summary = finished.result.summary
    assert summary == read_json(finished.path / "summary.json")
    assert summary["kind"] == "sweep"
    trials = summary["trials"]
    assert [t["trial"] for t in trials] == [f"{i:03d}" for i in range(10)]
    states = {t["trial"]: t["state"] for t in trials}
    assert {"finished", "stopped", "over_limit"} <= set(states.values())
    for trial in trials:
        assert trial == read_json(finished.path / "trials" / trial["trial"] / "result.json")
        too_wide = trial["values"][WIDTH] == 4.0
        assert (
            (trial["state"] == "over_limit") == too_wide == (trial["cost"]["parameters"] > 10_000)
        )
        assert too_wide or trial["validation"]["accuracy"] == trial["value"]
    winners = {*summary["ranking"], *(n for names in summary["pareto"].values() for n in names)}
    assert all(states[name] != "over_limit" for name in winners)
    values = [next(t["value"] for t in trials if t["trial"] == name) for name in summary["ranking"]]
    assert values == sorted(values, reverse=True)


def test_the_teachers_are_asked_once_for_all(finished):
    targets = finished.result.summary["targets"]
    assert targets["teacher_samples_scored"] == 100 + 359 + 2 * 1338, "once per sample and view"
    ran = sum(t["epochs"] > 0 for t in finished.result.summary["trials"])
    assert targets["teacher_samples_alone"] == (ran + 1) * targets["teacher_samples_scored"]


def test_early_stopped_trials_leave_no_actor_and_no_placement_group(finished, left_behind):
    assert left_behind() == ([], 0)


def test_finalists_are_paired_and_tested_once(finished):
    summary = finished.result.summary
    final = summary["finalists"]
    top = f"trial-{summary['ranking'][0]}"
    assert set(final["methods"]) == {"default", top}
    assert summary["test_scored_times"] == 1
    tests = {
        name: np.array(m["test"]["accuracy"]["values"]) for name, m in final["methods"].items()
    }
    assert final["methods"][top]["gain"]["values"] == pytest.approx(tests[top] - tests["default"])
    (pair,) = final["pairs"]
    assert {pair["better"], pair["worse"]} == {"default", top}
    means = [final["methods"][n]["validation"]["accuracy"]["mean"] for n in final["ranking"]]
    assert means == sorted(means, reverse=True)
    lead = final["lead"]
    assert (lead is None) == (final["ranking"][0] == "default")
    sure = lead is not None and lead["mean"] > lead["standard_error"]
    assert summary["best"]["trial"] == (summary["ranking"][0] if sure else None)
    replica = read_json(finished.path / "checkpoints" / top / "replica0" / "result.json")
    own = next(t for t in summary["trials"] if t["trial"] == summary["ranking"][0])
    assert replica["best"] == own["validation"], "the trial itself is replica 0"


def test_a_finalist_leads_by_paired_differences_over_replicas(tiny_recipe):
    config = load_config(tiny_recipe)

    def methods(**accuracies):
        return {name: {"validation": {"accuracy": {"values": one}, "nll": {"values": [1 - a for a in one]}}}
                for name, one in accuracies.items()}  # fmt: skip

    found = {**methods(default=[0.8, 0.9, 0.7]), "trial-3": methods(x=[0.9, 0.9, 0.8])["x"]}
    for metric in ("accuracy", "nll"):  # of which less is better
        lead = lead_of(["trial-3", "default"], found, config, metric)
        assert lead["trial"] == "3"
        assert lead["mean"] == pytest.approx(0.2 / 3)
        assert lead["standard_error"] == pytest.approx(0.1 / 3)
    assert lead_of(["default", "trial-3"], found, config, "accuracy") is None


@pytest.mark.parametrize(("replicas", "words"), [(5, "surely better"), (2, "probably better")])
def test_a_difference_of_finalists_is_told_with_their_sizes(finished, replicas, words):
    """At 7d0af11: "surely better" by two replicas, of a finalist with 55 k parameters against one with 26 k."""
    summary = finished.result.summary
    top = f"trial-{summary['ranking'][0]}"
    size = next(t for t in summary["trials"] if f"trial-{t['trial']}" == top)["cost"]["parameters"]
    gain = {"mean": -0.03, "ci95": [-0.04, -0.02], "n": replicas}
    pair = {"better": "default", "worse": top, "gain": gain, "p_holm": 0.01}
    told = {**summary, "finalists": {**summary["finalists"], "pairs": [pair]}}
    (sentence,) = [one for one in sweep_verdict(told) if words in one]
    assert sentence.startswith(
        f"Trial {summary['ranking'][0]} ({count(size)} parameters) is {words}"
    )
    assert sentence.endswith("than the recipe itself, by 3.00 points.")


def test_a_lead_within_its_error_keeps_the_recipe_and_is_told(finished):
    summary = finished.result.summary
    own = {"trial": None, "values": {}, "value": None, "chosen_by": "finalists"}
    lead = {"trial": "004", "mean": 0.002, "standard_error": 0.003}
    kept = {**summary, "best": own, "finalists": {**summary["finalists"], "lead": lead}}
    first = sweep_verdict(kept)[0]
    assert "004 is best on validation, ahead of the recipe itself by 0.2 %" in first
    assert "not more than its standard error (0.3 %): best.yaml repeats the recipe" in first
    kept["finalists"]["lead"] = None
    assert sweep_verdict(kept)[0].startswith("None of 10 trials is better on validation")


def test_results_tables_recipes_and_page(finished, tmp_path):
    summary = finished.result.summary
    with (finished.path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == [t["trial"] for t in summary["trials"]]
    assert {WIDTH, LR, "value", "state", "cost.flops"} <= set(rows[0])
    frame = finished.result.dataframe
    assert list(frame["trial"]) == [row["trial"] for row in rows]
    import pyarrow.parquet as pq

    assert pq.read_table(finished.path / "results.parquet").num_rows == 10
    best = load_config(finished.path / "best.yaml")
    assert best == finished.result.best
    assert best.search is None
    front = sorted({n for names in summary["pareto"].values() for n in names})
    assert sorted(p.stem for p in (finished.path / "pareto").iterdir()) == front
    for name in front:
        made = yaml.safe_load((finished.path / "pareto" / f"{name}.yaml").read_text())
        assert made["student"]["model"]["width"] == next(
            t["values"][WIDTH] for t in summary["trials"] if t["trial"] == name
        )
    assert [t["trial"] for t in finished.result.pareto["parameters"]] == summary["pareto"][
        "parameters"
    ]
    (finished.path / "report" / "index.html").unlink()
    page = write_report(finished.path).read_text()
    figures = {path.stem for path in (finished.path / "report" / "figures").iterdir()}
    assert figures == {"parallel", "importance", "slices", "learning", "size", "gains"}
    for trial in summary["trials"]:
        assert f">{trial['trial']}<" in page


@pytest.mark.soak
@pytest.mark.usefixtures("same_home")
def test_best_yaml_runs_as_it_is_and_asks_no_teacher(finished, tmp_path):
    output = tmp_path / "run"
    few = ["evaluate.controls=[]", "train.epochs=1"]
    assert (
        main(["run", str(finished.path / "best.yaml"), *few, "--output", str(output), "--quiet"])
        == 0
    )
    assert read_json(output / "summary.json")["targets"]["teacher_samples_scored"] == 0


@pytest.mark.soak
@pytest.mark.usefixtures("same_home")
def test_resuming_a_finished_sweep_trains_nothing_and_another_space_is_refused(
    finished, sweep_tree
):
    options = Options(output=finished.path, resume=True)
    before = read_json(finished.path / "summary.json")
    written = {p: p.stat().st_mtime_ns for p in finished.path.glob("trials/*/result.json")}
    again = sweep(finished.config, options).summary
    assert {p: p.stat().st_mtime_ns for p in written} == written
    assert again["latency"] == before["latency"]
    assert before["latency"]["seconds"] > 0
    assert again["trials"] == before["trials"]
    assert again["finalists"]["methods"] == before["finalists"]["methods"]
    changed = load_config(sweep_tree(trials=11))
    with pytest.raises(InputError, match=r"--resume: .*another recipe: search differ"):
        sweep(changed, options)


def test_a_sweep_without_search_is_refused(sweep_tree, tmp_path):
    options = Options(output=tmp_path / "none")
    with pytest.raises(InputError, match=r"search: is null"):
        plan_sweep(load_config({**sweep_tree(), "search": None}), options)
    assert not options.output.exists()


_DRIVER = """
import sys
from raykd.cli import main
sys.exit(main(["sweep", sys.argv[1], "--output", sys.argv[2], "--quiet", *sys.argv[3:]]))
"""


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("same_home")
def test_a_killed_driver_is_resumed_with_every_trial_once(sweep_tree, tmp_path):
    path, output = _long_recipe(sweep_tree, tmp_path, trials=6), tmp_path / "killed"
    before = _kill(path, output, lambda: _ended(output) >= 1 and _checkpointed(output))
    assert 1 <= len(before) < 6
    _resume_to_the_end(path, output, before)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("same_home")
@pytest.mark.parametrize(("seed", "kills"), [(0, 5), (1, 3)])
def test_a_driver_killed_again_and_again(sweep_tree, tmp_path, record_property, seed, kills):
    path, output = _long_recipe(sweep_tree, tmp_path, trials=12), tmp_path / "killed"
    draw = random.Random(seed)
    kept = {}
    for kill in range(kills):
        goal = _epochs(output) + draw.randrange(1, 360 // kills)
        more = ["--resume"] if kill else []
        found = _kill(path, output, lambda goal=goal: _epochs(output) >= goal, *more)
        assert kept.items() <= found.items(), "those that had ended were left alone"
        kept = found
    assert len(kept) < 12, "some were left to do"
    record_property("kills of the driver", kills)
    _resume_to_the_end(path, output, kept)


def _long_recipe(sweep_tree, folder, trials):
    given = sweep_tree(
        trials=trials, max_concurrent=None, finalists=None, scheduler={"type": "none"}
    )
    given["train"] = {**given["train"], "epochs": 40, "checkpoint_every_epochs": 5}
    given["search"]["parameters"].pop(WIDTH)
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


def _kill(path, output, condition, *more):
    """Start a driver, kill it and its cluster when the condition holds; what each trial that had ended reached."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(path), str(output), *more],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        _wait_for(condition, driver)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait(timeout=30)
    time.sleep(2)  # its trials' processes notice
    ended = [p for p in output.glob("trials/*/result.json") if _state(p) != "running"]
    return {p: _reached(p) for p in ended}


def _resume_to_the_end(path, output, before):
    config = load_config(path)
    summary = sweep(config, Options(output=output, resume=True)).summary
    names = [f"{i:03d}" for i in range(config.search.trials)]
    assert [t["trial"] for t in summary["trials"]] == names
    assert {t["state"] for t in summary["trials"]} == {"finished"}
    assert {p: _reached(p) for p in before} == before, "those that ended were left alone"
    for name in names:
        lines = (output / "trials" / name / "metrics.jsonl").read_text().splitlines()
        told = [line for line in lines if '"state": "finished"' in line]
        # Epochs since its last checkpoint are told again by a trial that was killed, its end is not.
        assert len(told) == 1, "trained to its end once"
    assert summary["targets"]["teacher_samples_scored"] == 0
    assert summary["test_scored_times"] == 0


def _state(path):
    return read_json(path)["state"]


def _reached(path):
    """All that is told of a trial, its seconds too, but its student's latency, which is measured again at a sweep's end."""
    record = read_json(path)
    return {**record, "cost": {**record["cost"], "latency_ms": None}}


def _ended(output):
    return sum(_state(path) != "running" for path in output.glob("trials/*/result.json"))


def _epochs(output):
    """Epochs that trials have told of, those told again counted again."""
    return sum(
        path.read_bytes().count(b'"kind": "epoch"')
        for path in output.glob("trials/*/metrics.jsonl")
    )


def _checkpointed(output):
    return any(
        (path.parent / "checkpoint" / "state.pt").is_file() and _state(path) == "running"
        for path in output.glob("trials/*/result.json")
    )


def _wait_for(condition, process, limit_s=400):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, "the driver ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.02)
