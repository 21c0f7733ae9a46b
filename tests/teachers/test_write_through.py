"""Write-through over real actors: the bits of live answers, each scored once, and the store of a fill."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import ray

from raykd.config.models import FactoryModel
from raykd.config.root import TeacherCluster
from raykd.errors import TeacherError
from raykd.pipeline.recipe_store import store_keys
from raykd.targets import StoredTargets, TargetStore
from raykd.targets.quarantine_log import read_quarantined
from raykd.teachers import ActorFleet, LiveTargets, TeacherResources, WriteThrough
from raykd.teachers.client import Client
from raykd.teachers.filling import missing_parts
from raykd.teachers.quarantine import Tolerance

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster", "one_thread")]
DEPTH, BATCH = 2, 13


def same(one, other):
    return (
        one.values_NC.equal(other.values_NC)
        and one.valid_N.equal(other.valid_N)
        and one.features.keys() == other.features.keys()
        and all(one.features[tap].equal(other.features[tap]) for tap in one.features)
    )


def batches(samples, rows, views):
    """Passes over `rows` in different orders, one view after the other, batches of odd sizes."""
    for number, view in enumerate(views):
        order = np.random.default_rng(number).permutation(rows)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            yield samples.batch(part, np.full(len(part), view))


def collect(source, asked):
    """The answers, asked for ahead as the trainer does."""
    asked, waiting = list(asked), []
    for batch in asked:
        waiting.append(source.submit(batch))
        if len(waiting) > DEPTH:
            yield source.collect(waiting.pop(0), 600)
    yield from (source.collect(ticket, 600) for ticket in waiting)


def fleet_of(specs, samples, heard, replicas=1, **settings):
    cluster = TeacherCluster(**{"start_timeout_s": 200, "request_timeout_s": 60, **settings})
    places = {name: TeacherResources(replicas, 0.3, 0) for name in specs}
    return ActorFleet(specs, places, ray.put(samples), cluster, heard)


def open_store(root, specs, samples):
    hashes = samples.content_hash(np.arange(len(samples)))
    return TargetStore.open(root, store_keys(specs, samples), samples.ids, hashes)


def lacking(root, specs, samples, rows, views):
    keys = {name: one.augmented for name, one in store_keys(specs, samples).items()}
    return list(missing_parts(root, keys, samples, rows, views))


@pytest.fixture
def specs(make_spec):
    conv = make_spec("cnn", name="conv", taps=("blocks.0",), seed=3)
    return {"wide": make_spec("mlp"), "conv": conv}


def test_the_bits_of_live_answers_each_scored_once(specs, samples, heard, tmp_path):
    rows = samples.splits["train"]
    asked = list(batches(samples, rows, [0, 1, 0, 1, 1]))
    with fleet_of(specs, samples, heard, replicas=2) as fleet:
        client = Client(fleet.actors, fleet.settings, heard)
        source = WriteThrough(client, open_store(tmp_path, specs, samples), rows)
        found = list(collect(source, asked))
        assert [s["samples_scored"] for s in fleet.statistics().values()] == [2 * len(rows)] * 2
        live = list(collect(LiveTargets(client, list(specs)), asked))
        load = source.describe(source.counters(), 1.0)
        assert load["teacher_samples_per_s"]["wide"] > 0
    assert not lacking(tmp_path, specs, samples, rows, [0, 1])
    store = open_store(tmp_path, specs, samples)
    assert store.verify().problems == ()
    assert store.verify().rows == 3 * 2 * len(rows), "two teachers' outputs and one tap, twice"
    stored = StoredTargets(store)
    for batch, one, other in zip(asked, found, live, strict=True):
        kept = stored.collect(stored.submit(batch), 600)
        for name in specs:
            assert same(one[name], other[name])
            assert same(one[name], kept[name])


@pytest.mark.soak
def test_what_is_stored_is_not_asked_for_and_a_new_tap_is(samples, make_spec, heard, tmp_path):
    rows = samples.splits["train"]
    plain, tapped = make_spec("cnn"), make_spec("cnn", taps=("blocks.0",))
    assert plain.fingerprint == tapped.fingerprint
    for spec, passes, scored in ((plain, [0], 1), (plain, [0, 1], 1), (tapped, [0, 1], 2)):
        with fleet_of({"wide": spec}, samples, heard) as fleet:
            client = Client(fleet.actors, fleet.settings, heard)
            store = open_store(tmp_path, {"wide": spec}, samples)
            list(collect(WriteThrough(client, store, rows), batches(samples, rows, passes)))
            assert fleet.statistics()["wide"]["samples_scored"] == scored * len(rows)
    store = open_store(tmp_path, {"wide": tapped}, samples)
    assert store.verify().rows == 2 * 2 * len(rows), "outputs are not written again"


@pytest.mark.soak
def test_an_actor_that_is_killed_loses_no_answer_and_repeats_none_in_the_store(
    specs, samples, heard, tmp_path
):
    rows = samples.splits["train"]
    asked = list(batches(samples, rows, [0, 0]))
    with fleet_of(specs, samples, heard, replicas=2) as fleet:
        client = Client(fleet.actors, fleet.settings, heard)
        source = WriteThrough(client, open_store(tmp_path, specs, samples), rows)
        answers = collect(source, asked)
        found = [next(answers), next(answers)]
        os.kill(ray.get(fleet.actors["wide"][0].ready.remote()), signal.SIGKILL)
        found += answers
    assert "retry" in heard.decisions()
    store = open_store(tmp_path, specs, samples)
    assert store.verify().rows == 3 * len(rows)
    stored = StoredTargets(store)
    for batch, one in zip(asked, found, strict=True):
        kept = stored.collect(stored.submit(batch), 600)
        assert all(same(one[name], kept[name]) for name in specs)


@pytest.mark.soak
def test_no_answer_of_a_teacher_that_is_left_out_is_stored(samples, make_spec, heard, tmp_path):
    file = tmp_path / "gone"
    mortal = FactoryModel(path="raykd_test_models:suicidal", kwargs={"file": str(file)})
    specs = {"wide": make_spec(mortal), "conv": make_spec("cnn", name="conv", seed=3)}
    rows = samples.splits["train"][:40]
    with fleet_of(specs, samples, heard, max_restarts=0, on_failure="renormalise") as fleet:
        client = Client(fleet.actors, fleet.settings, heard)
        source = WriteThrough(client, open_store(tmp_path / "store", specs, samples), rows)
        answers = collect(source, batches(samples, rows, [0, 1]))
        first = next(answers)
        file.touch()
        rest = list(answers)
    assert first["wide"].valid_N.all()
    assert not rest[-1]["wide"].valid_N.any()
    assert rest[-1]["conv"].valid_N.all()
    assert "leave_out" in heard.decisions()
    left = {part.teacher for part in lacking(tmp_path / "store", specs, samples, rows, [0, 1])}
    assert left == {"wide"}


@pytest.mark.soak
def test_a_sample_that_breaks_a_teacher_is_remembered_in_the_store(
    samples, make_spec, heard, tmp_path
):
    (name, array), *_ = samples.inputs.items()
    rows, bad = samples.splits["train"][:24], int(samples.splits["train"][5])
    broken = array.copy()
    broken[bad, :, 4, 4] = 1e4
    data = replace(samples, inputs={name: broken})
    poisoned = FactoryModel(path="raykd_test_models:poisoned", kwargs={"how": "raise"})
    specs = {"wide": make_spec(poisoned, data=data, batch_size=32)}
    asked = list(batches(data, rows, [0, 1, 0]))
    with fleet_of(specs, data, heard) as fleet:
        client = Client(fleet.actors, fleet.settings, heard, Tolerance(data, 0.01))
        store = open_store(tmp_path, specs, data)
        found = list(collect(WriteThrough(client, store, rows), asked))
        strict = Client(fleet.actors, fleet.settings, heard)
        again = WriteThrough(strict, open_store(tmp_path, specs, data), rows)
        for one, kept in zip(found, collect(again, asked), strict=True):
            assert same(one["wide"], kept["wide"])
        other = WriteThrough(strict, open_store(tmp_path, specs, data), rows)
        with pytest.raises(TeacherError, match=r"'wide': failed"):
            list(collect(other, batches(data, rows, [2])))
    for batch, answer in zip(asked, found, strict=True):
        assert answer["wide"].valid_N.tolist() == [row != bad for row in batch.rows.tolist()]
    folder = tmp_path / store_keys(specs, data)["wide"].views.folder
    assert {(i, v) for i, _, v in read_quarantined(folder)} == {
        (int(data.ids[bad]), v) for v in (0, 1)
    }
    assert not lacking(tmp_path, specs, data, rows, [0, 1])
