"""The real wandb, online with a key, before services that are not well: the run is kept, bounded, without the key."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from raykd.config.root import Wandb
from raykd.tracking import Limits, WandbSink, events

KEY = "5e471e1" * 5 + "abcde"
FIT = "student/replica0"


@pytest.mark.parametrize("sick", ["refused", "silent", "401", "500"], indirect=True)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb.*")
def test_the_run_is_kept_offline(
    tmp_path: Path, notifier, read_wandb, fresh_wandb, monkeypatch, sick: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", sick)
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    sink = WandbSink(
        Wandb(mode="online"),
        run_dir=tmp_path / "run",
        run_name="n",
        config={},
        notifier=notifier,
        limits=Limits(answer_timeout_s=0.5, patience_s=30.0),
    )
    for epoch in (1, 2):
        sink.on(events.epoch("student", FIT, epoch=epoch, train_loss=1.0, epochs=2))
    start = time.monotonic()
    sink.close({"status": "complete", "seed": 3})
    assert time.monotonic() - start < 30
    assert len(notifier.warned) == 1, notifier.warned
    assert "this run is kept offline" in notifier.warned[0]
    (part,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    stored = read_wandb(next(part.glob("*.wandb")))
    assert [row[f"{FIT}/epoch"] for row in stored.history] == [1, 2]
    assert (stored.exit_code, stored.summary["seed"]) == (0, 3)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in "".join(notifier.printed + notifier.warned)
