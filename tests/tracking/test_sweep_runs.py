"""The W&B runs of a sweep, read back from the offline files, from events alone; and one without any."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from raykd.config import load_config
from raykd.config.load import read_recipe
from raykd.folders import RunFolder
from raykd.report.page import wandb_command
from raykd.search.wandb_runs import SweepRuns
from raykd.tracking import events

SENTINEL = "5e471e1" * 5 + "abcde"
KEY = "student.model.width"


def config_of(mode: str, **more):
    tracking = {"wandb": {"mode": mode, "group": "my-sweep"}}
    return load_config({**read_recipe("digits"), "tracking": tracking, **more})


def epoch(name: str, number: int):
    values = {
        "train_loss": 1.0 / number,
        "validation": {"accuracy": 0.5 + number / 10},
        "terms": {},
        "epochs": 2,
    }
    return events.epoch("search", f"trial/{name}", epoch=number, step=10 * number, **values)


def stored_at(read_wandb, place: Path):
    (part,) = (place / "wandb").glob("offline-run-*")
    return read_wandb(next(part.glob("*.wandb")))


def begin(runs: SweepRuns, config, name: str, width: float) -> None:
    recipe = load_config(config.model_dump(mode="json"), [f"{KEY}={width}"])
    runs.begin(name, recipe, {KEY: width})


@pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb.*")
def test_each_trial_has_its_own_run_in_the_group(tmp_path, notifier, read_wandb, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SENTINEL)
    config = config_of("offline")
    runs = SweepRuns(config, RunFolder(tmp_path), notifier)
    for name, width in (("000", 0.25), ("001", 0.5)):
        begin(runs, config, name, width)
    for number in (1, 2):
        runs.on(epoch("000", number))
    runs.on(epoch("001", 1))
    runs.on(events.failure("fleet", "died", decision="restart"))
    record = {"trial": "000", "state": "finished", "value": 0.7, "validation": {"accuracy": 0.7}}
    runs.end("000", record)
    runs.close(None)
    stored = {name: stored_at(read_wandb, tmp_path / "trials" / name) for name in ("000", "001")}
    first = stored["000"]
    assert (first.run.run_group, first.run.job_type, first.run.display_name) == (
        "my-sweep",
        "trial",
        "my-sweep-000",
    )
    assert first.config["searched"] == {KEY: 0.25}
    assert first.config["student"]["model"]["width"] == 0.25
    assert [row["student/validation/accuracy"] for row in first.history] == [0.6, 0.7]
    assert first.summary["value"] == 0.7
    assert (first.exit_code, stored["001"].exit_code) == (0, 1)
    assert len(stored["001"].history) == 1
    sweep = stored_at(read_wandb, tmp_path)
    assert (sweep.run.job_type, sweep.run.display_name) == ("sweep", "my-sweep")
    assert (sweep.exit_code, sweep.summary["failures"], sweep.history) == (1, 1, [])
    assert len({one.run.run_id for one in (first, stored["001"], sweep)}) == 3
    assert notifier.warned == []
    assert notifier.printed == []
    assert wandb_command(tmp_path) == "wandb sync wandb/offline-run-* */*/wandb/offline-run-*"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if SENTINEL.encode() in path.read_bytes()]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb.*")
def test_a_resumed_trial_goes_on_in_its_run(tmp_path, notifier, read_wandb):
    config = config_of("offline")
    for number in (1, 2):
        runs = SweepRuns(config, RunFolder(tmp_path), notifier)
        begin(runs, config, "000", 0.25)
        runs.on(epoch("000", number))
        runs.end("000", {"state": "finished"})
        runs.close(None)
        time.sleep(1.1 if number == 1 else 0)  # W&B names folders by the second
    parts = sorted((tmp_path / "trials" / "000" / "wandb").glob("offline-run-*"))
    stored = [read_wandb(next(part.glob("*.wandb"))) for part in parts]
    assert [[row["student/epoch"] for row in one.history] for one in stored] == [[1], [2]]
    assert stored[0].run.run_id == stored[1].run.run_id


def test_disabled_means_none(tmp_path, notifier):
    config = config_of("disabled")
    runs = SweepRuns(config, RunFolder(tmp_path), notifier)
    begin(runs, config, "000", 0.25)
    runs.on(epoch("000", 1))
    runs.end("000", {"state": "finished"})
    runs.close(None)
    assert not list(tmp_path.iterdir())
    assert (notifier.printed, notifier.warned) == ([], [])
