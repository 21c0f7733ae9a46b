"""A search on Ray: one set of targets, early stops that leave nothing behind, a killed driver, its results."""

from __future__ import annotations

import csv
import os
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
from raykd.search import sweep
from raykd.search.sweeping import plan_sweep

pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.slow]
WIDTH, LR = "student.model.width", "train.optimizer.lr"


def recipe(tiny, **search):
    parameters = {
        "objective.soft_targets.temperature": {"space": "loguniform", "lower": 1, "upper": 16},
        WIDTH: {"space": "choice", "categories": [0.25, 1.0, 4.0]},
        LR: {"space": "loguniform", "lower": 1e-4, "upper": 3e-2},
    }
    given = {"parameters": parameters, "trials": 10, "max_concurrent": 2, "scheduler": {"type": "asha", "grace_epochs": 1, "reduction": 2},
             "finalists": {"top": 1, "seeds": 2}}  # fmt: skip
    student = {**tiny["student"], "limits": {"parameters": 10_000}}
    train = {**tiny["train"], "epochs": 4}
    return {**tiny, "student": student, "train": train, "search": {**given, **search}}


TINY_FIT = {"epochs": 6, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 0.01}}
TINY = {
    "seed": 0,
    "data": {
        "source": {"type": "digits"},
        "splits": {"validation": 100, "test": 0.2},
        "labels": 200,
        "views": {"count": 2, "policy": [{"type": "shift", "pixels": 1}]},
    },
    "teachers": [
        {"name": "wide", "model": {"type": "mlp", "width": 1.0, "depth": 1}, "fit": TINY_FIT}
    ],
    "student": {"model": {"type": "mlp", "width": 0.25, "depth": 1}},
    "train": {"epochs": 2, "batch_size": 128, "optimizer": {"type": "adamw", "lr": 0.01}},
    "cluster": {"student": {"parallel_fits": 2}},
    "tracking": {"wandb": {"mode": "disabled"}},
}


RAYS_OWN = (
    "_AutoscalingCoordinatorActor"  # of Ray Train, one for each cluster, kept for the next trainer
)


def actors_and_groups():
    """Living actors but for Ray's own, and placement groups that hold resources."""
    from ray._private.state import actors
    from ray.util import placement_group_table

    living = ("ALIVE", "PENDING_CREATION", "RESTARTING")
    alive = [
        a["ActorClassName"]
        for a in actors().values()
        if a["State"] in living and a["ActorClassName"] != RAYS_OWN
    ]
    groups = [g for g in placement_group_table().values() if g["state"] != "REMOVED"]
    return alive, groups


@pytest.fixture(scope="module")
def finished(ray_cluster, tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYKD_HOME", str(root / "home"))
        config = load_config(recipe(TINY))
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


def test_early_stopped_trials_leave_no_actor_and_no_placement_group(finished):
    deadline = time.monotonic() + 20
    while any(actors_and_groups()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert actors_and_groups() == ([], [])


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
    chosen = summary["best"]["trial"]
    assert final["ranking"][0] == ("default" if chosen is None else f"trial-{chosen}")
    replica = read_json(finished.path / "checkpoints" / top / "replica0" / "result.json")
    own = next(t for t in summary["trials"] if t["trial"] == summary["ranking"][0])
    assert replica["best"] == own["validation"], "the trial itself is replica 0"


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


@pytest.mark.usefixtures("same_home")
def test_best_yaml_runs_as_it_is_and_asks_no_teacher(finished, tmp_path):
    output = tmp_path / "run"
    few = ["evaluate.controls=[]", "train.epochs=1"]
    assert (
        main(["run", str(finished.path / "best.yaml"), *few, "--output", str(output), "--quiet"])
        == 0
    )
    assert read_json(output / "summary.json")["targets"]["teacher_samples_scored"] == 0


@pytest.mark.usefixtures("same_home")
def test_resuming_a_finished_sweep_trains_nothing_and_another_space_is_refused(finished):
    options = Options(output=finished.path, resume=True)
    before = read_json(finished.path / "summary.json")
    written = {p: p.stat().st_mtime_ns for p in finished.path.glob("trials/*/result.json")}
    again = sweep(finished.config, options).summary
    assert {p: p.stat().st_mtime_ns for p in written} == written
    assert again["trials"] == before["trials"]
    assert again["finalists"]["methods"] == before["finalists"]["methods"]
    changed = load_config(recipe(TINY, trials=11))
    with pytest.raises(InputError, match=r"--resume: .*another recipe: search differ"):
        sweep(changed, options)


def test_a_sweep_without_search_or_with_several_workers_is_refused(tmp_path):
    options = Options(output=tmp_path / "none")
    with pytest.raises(InputError, match=r"search: is null"):
        plan_sweep(load_config(TINY), options)
    together = load_config(
        recipe(TINY), ["cluster.student.workers=2", "cluster.student.parallel_fits=null"]
    )
    with pytest.raises(
        InputError, match=r"workers: found 2: a trial of a sweep trains in one process"
    ):
        plan_sweep(together, options)
    assert not options.output.exists()


_DRIVER = """
import sys
from raykd.cli import main
sys.exit(main(["sweep", sys.argv[1], "--output", sys.argv[2], "--quiet"]))
"""


@pytest.mark.usefixtures("same_home")
def test_a_killed_driver_is_resumed_with_every_trial_once(finished, tmp_path):
    path, output = tmp_path / "sweep.yaml", tmp_path / "killed"
    given = recipe(TINY, trials=6, finalists=None, scheduler={"type": "none"})
    given["train"] = {**given["train"], "epochs": 40, "checkpoint_every_epochs": 5}
    given["search"]["parameters"].pop(WIDTH)
    path.write_text(yaml.safe_dump(given))
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(path), str(output)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        _wait_for(lambda: _ended(output) >= 1 and _checkpointed(output), driver)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait(timeout=30)
    time.sleep(2)  # its trials' processes notice
    before = {
        p: p.stat().st_mtime_ns
        for p in output.glob("trials/*/result.json")
        if _state(p) != "running"
    }
    assert 1 <= len(before) < 6
    summary = sweep(load_config(path), Options(output=output, resume=True)).summary
    assert [t["trial"] for t in summary["trials"]] == [f"{i:03d}" for i in range(6)]
    assert {t["state"] for t in summary["trials"]} == {"finished"}
    assert {p: p.stat().st_mtime_ns for p in before} == before, (
        "those that had ended were left alone"
    )
    for trial in summary["trials"]:
        told = [
            line
            for line in (output / "trials" / trial["trial"] / "metrics.jsonl")
            .read_text()
            .splitlines()
            if '"state": "finished"' in line
        ]
        # Epochs since its last checkpoint are told again by a trial that was killed, its end is not.
        assert len(told) == 1, "trained to its end once"
    assert summary["targets"]["teacher_samples_scored"] == 0
    assert summary["test_scored_times"] == 0


def _state(path):
    return read_json(path)["state"]


def _ended(output):
    return sum(_state(path) != "running" for path in output.glob("trials/*/result.json"))


def _checkpointed(output):
    return any(
        (path.parent / "checkpoint" / "state.pt").is_file() and _state(path) == "running"
        for path in output.glob("trials/*/result.json")
    )


def _wait_for(condition, process, limit_s=150):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, "the driver ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.02)
