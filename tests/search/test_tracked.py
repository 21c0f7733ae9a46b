"""One W&B run for each trial, read back from the offline files: group, job type, config, history, summary."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest

from raykd.config import load_config
from raykd.config.load import read_recipe
from raykd.search.tracked import TrialRuns
from raykd.tracking import events

SENTINEL = "5e471e1" * 5 + "abcde"
_READER = Path(__file__).parent.parent / "tracking" / "conftest.py"


def read_wandb(path):
    spec = importlib.util.spec_from_file_location("raykd_tracking_conftest", _READER)
    import sys

    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.read_wandb_file(path)


def epoch(name, number):
    values = {
        "train_loss": 1.0 / number,
        "validation": {"accuracy": 0.5 + number / 10},
        "terms": {},
        "epochs": 2,
    }
    return events.epoch("search", f"trial/{name}", epoch=number, step=10 * number, **values)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb.*")
def test_each_trial_has_its_own_run_in_the_group(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SENTINEL)
    tree = read_recipe("digits")
    config = load_config({**tree, "tracking": {"wandb": {"mode": "offline", "group": "my-sweep"}}})
    runs = TrialRuns(config, tmp_path / "trials")
    key = "student.model.width"
    for name, width in (("000", 0.25), ("001", 0.5)):
        runs.begin(
            name, load_config(config.model_dump(mode="json"), [f"{key}={width}"]), {key: width}
        )
    for number in (1, 2):
        runs.on(epoch("000", number))
    runs.on(epoch("001", 1))
    runs.on(events.epoch("student", "default/replica0", epoch=1, train_loss=9.0, epochs=2))
    record = {"trial": "000", "state": "finished", "value": 0.7, "validation": {"accuracy": 0.7}}
    runs.end("000", record)
    runs.close(None)
    stored = {}
    for name in ("000", "001"):
        (part,) = (tmp_path / "trials" / name / "wandb").glob("offline-run-*")
        stored[name] = read_wandb(next(part.glob("*.wandb")))
    first = stored["000"]
    assert (first.run.run_group, first.run.job_type, first.run.display_name) == (
        "my-sweep",
        "trial",
        "my-sweep-000",
    )
    assert first.config["searched"] == {key: 0.25}
    assert first.config["student"]["model"]["width"] == 0.25
    assert [row["student/validation/accuracy"] for row in first.history] == [0.6, 0.7]
    assert first.summary["value"] == 0.7
    assert (first.exit_code, stored["001"].exit_code) == (0, 1)
    assert len(stored["001"].history) == 1
    assert first.run.run_id != stored["001"].run.run_id
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if SENTINEL.encode() in path.read_bytes()]


def test_a_resumed_trial_goes_on_in_its_run_and_disabled_means_none(tmp_path):
    config = load_config({**read_recipe("digits"), "tracking": {"wandb": {"mode": "disabled"}}})
    runs = TrialRuns(config, tmp_path)
    runs.begin("000", config, {})
    runs.on(epoch("000", 1))
    begun = time.monotonic()
    runs.end("000", {"state": "finished"})
    runs.close(None)
    assert time.monotonic() - begun < 1
    assert not list(tmp_path.iterdir())
