"""One run and its resumption with the real wandb, offline, read back from its file."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import pytest

from raykd.config.root import Wandb
from raykd.report.page import wandb_command
from raykd.tracking import JsonLines, WandbSink, events

SENTINEL = "5e471e1" * 5 + "abcde"  # 40 characters, as a key has
FIT = "student/replica0"


def _run(run: Path, notifier, epochs: range, summary) -> WandbSink:
    sink = WandbSink(
        Wandb(mode="offline", project="p", group="g", tags=("one", "two")),
        run_dir=run,
        run_name="digits",
        config={
            "seed": 0,
            "note": f"key={SENTINEL}",
            "teachers": [{"name": "wide", "fit": {"optimizer": {"lr": 0.1, "type": "adamw"}}}],
        },
        job_type="run",
        notifier=notifier,
    )
    lines = JsonLines(run)
    for epoch in epochs:
        event = events.epoch(
            "student",
            FIT,
            epoch=epoch,
            step=10 * epoch,
            train_loss=1 / epoch,
            validation={"accuracy": 0.5 + epoch / 10},
            terms={"kl": 0.25},
            epochs=4,
        )
        sink.on(event)
        lines.on(event)
    sink.on(events.fit("student", FIT, state="finished", metrics={"accuracy": 0.8}))
    sink.close(summary)
    lines.close(summary)
    return sink


@pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb.*")
def test_offline_run_is_whole_resumes_and_holds_no_key(
    tmp_path: Path, notifier, read_wandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SENTINEL)
    run = tmp_path / "runs" / "digits here"
    run.mkdir(parents=True)

    sink = _run(run, notifier, range(1, 3), None)
    (first,) = run.glob("wandb/offline-run-*")
    assert notifier.warned == []
    assert sink.sync_command == shlex.join(["wandb", "sync", str(first)])
    assert notifier.printed == [], "the report says how it is uploaded"
    assert wandb_command(run) == "wandb sync wandb/offline-run-*"
    stored = read_wandb(next(first.glob("*.wandb")))
    assert stored.exit_code == 1  # no summary: the run failed
    assert (stored.run.project, stored.run.run_group, stored.run.display_name) == (
        "p",
        "g",
        "digits",
    )
    assert (list(stored.run.tags), stored.run.job_type) == (["one", "two"], "run")
    assert stored.config["teachers"] == {
        "wide": {"name": "wide", "fit": {"optimizer/lr": 0.1, "optimizer/type": "adamw"}}
    }
    assert stored.config["note"] == "key=***"
    rows = [{key: row[key] for key in row if not key.startswith("_")} for row in stored.history]
    assert rows[1] == {
        f"{FIT}/epoch": 2,
        f"{FIT}/step": 20,
        f"{FIT}/train_loss": 0.5,
        f"{FIT}/validation/accuracy": 0.7,
        f"{FIT}/terms/kl": 0.25,
    }
    assert {metric.glob_name: metric.step_metric for metric in stored.metrics} == {
        "": "",
        f"{FIT}/*": f"{FIT}/epoch",
    }

    time.sleep(1.1)  # W&B names folders by the second
    summary = {
        "status": "complete",
        "student": {"test": {"accuracy": {"mean": 0.8, "std": None, "values": [0.8]}}},
    }
    sink = _run(run, notifier, range(3, 5), summary)
    parts = sorted(str(path) for path in run.glob("wandb/offline-run-*"))
    assert len(parts) == 2
    assert sink.sync_command == shlex.join(["wandb", "sync", *parts])
    again = read_wandb(next(Path(parts[1]).glob("*.wandb")))
    assert (again.exit_code, again.run.run_id) == (0, stored.run.run_id)
    told = {key: value for key, value in again.summary.items() if not key.startswith("_")}
    assert told == {  # best, and nothing of the last epoch
        "failures": 0,
        "student/test/accuracy/mean": 0.8,
        "student/test/accuracy/values/0": 0.8,
        f"{FIT}/best/accuracy": 0.8,
    }

    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(files) > 6
    assert [path for path in files if SENTINEL.encode() in path.read_bytes()] == []
