"""A teacher that two jobs want at once is fitted by one of them; entries that went from a store are named."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch

from raykd.folders import RunFolder, read_json, write_json
from raykd.models.weights import load_weights, save_weights
from raykd.pipeline.fitted import WEIGHTS, alone, card_of, keep_teacher
from raykd.pipeline.recipe_store import RecipeStore
from raykd.targets import EntryKey, TeacherKeys
from raykd.targets.entries import append

WIDE, DEEP = (
    SimpleNamespace(
        identities=(name,), fit_id=f"teacher/{name}", stop=None, kept="best", model=SimpleNamespace(model_dump=lambda mode: {"type": mode})
    )
    for name in ("wide", "deep")
)  # fmt: skip


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "home"))


def test_the_second_job_waits_and_finds_what_the_first_kept(tmp_path):
    run, waited, found, begins = RunFolder(tmp_path / "run"), [], [], threading.Event()
    save_weights({"w": torch.ones(2)}, run.checkpoints("teacher/wide") / "best.safetensors")

    def waiting(fit_id):
        waited.append(fit_id)
        begins.set()

    def second():
        with alone([WIDE], waiting):
            found.append(card_of(WIDE).is_file())

    thread = threading.Thread(target=second)
    with alone([WIDE], waited.append):
        thread.start()
        assert begins.wait(60)
        assert found == []
        keep_teacher(run, "wide", WIDE, {"best": {"accuracy": 0.5}})
    thread.join(60)
    assert (waited, found) == (["teacher/wide"], [True])
    assert read_json(card_of(WIDE)) == {"name": "wide", "model": {"type": "json"}, "best": {"accuracy": 0.5}}  # fmt: skip
    assert load_weights(card_of(WIDE).with_name(WEIGHTS), key="w")["w"].tolist() == [1, 1]


def test_jobs_that_fit_some_of_the_same_never_wait_for_each_other():
    done = []

    def job(fits):
        for _ in range(5):
            with alone(fits, lambda fit_id: None):
                done.append(len(fits))

    jobs = [threading.Thread(target=job, args=(fits,), daemon=True) for fits in ([WIDE, DEEP], [DEEP, WIDE])]  # fmt: skip
    for one in jobs:
        one.start()
    for one in jobs:
        one.join(60)
    assert done == [2] * 10


def test_a_home_that_cannot_be_locked_stops_nobody(tmp_path):
    (tmp_path / "home").write_text("a file")
    with alone([WIDE, DEEP], lambda fit_id: pytest.fail("there is nobody to wait for")):
        pass


def test_entries_that_a_run_had_used_and_that_went_are_named(tmp_path):
    views, originals = EntryKey("teacher", "shift"), EntryKey("teacher", "original")
    store = object.__new__(RecipeStore)
    store.root, store.keys = tmp_path / "store", {"wide": TeacherKeys(views, originals)}
    noted = tmp_path / "targets.json"
    assert store.gone(noted) == []
    entries = [{"folder": key.folder} for key in (views, originals, EntryKey("another", "shift"))]
    write_json(noted, {"store": str(store.root), "entries": entries})
    append(store.root, originals, [])
    assert store.gone(noted) == [views.folder]
    append(store.root, views, [])
    assert store.gone(noted) == []
    write_json(noted, {"store": str(tmp_path / "another"), "entries": entries[2:]})
    assert store.gone(noted) == []
