"""Packed answers over Ray: what actors answer, what they store and what this process computes agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import ray

from raykd.config.root import TeacherCluster
from raykd.errors import TargetError
from raykd.targets import EntryKey, StoredTargets, TargetStore, TeacherKeys
from raykd.targets.codec import decode, feature_version, version
from raykd.targets.packing import Packing
from raykd.targets.store import ORIGINAL
from raykd.teachers import ActorFleet, LiveTargets, TeacherModel, TeacherResources
from raykd.teachers.filling import fill, missing_parts

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster", "one_thread")]


def same(one, other):
    return one.values_NC.equal(other.values_NC) and all(
        one.features[tap].equal(other.features[tap]) for tap in (*one.features, *other.features)
    )


@pytest.mark.parametrize("form", ["int8", pytest.param("pooled", marks=pytest.mark.soak)])
def test_live_stored_and_here_the_same_bits(samples, make_spec, tmp_path, heard, form):
    packing = Packing(top_k=2, temperatures=(1.0, 6.0), features=form)
    spec = make_spec("cnn", taps=("blocks.0",), packing=packing)
    views = EntryKey(spec.fingerprint, samples.view_key, codec=version("logits", packing))
    feature = replace(views, tap="blocks.0", codec=feature_version(packing))
    keys = TeacherKeys(views, EntryKey(spec.fingerprint, ORIGINAL), (feature,))
    train, held_out = samples.splits["train"], samples.splits["test"]
    rng = np.random.default_rng(0)
    batch = samples.batch(rng.permutation(train)[:21], rng.integers(0, 2, 21))
    settings = TeacherCluster(start_timeout_s=60)
    with ActorFleet(
        {"wide": spec}, {"wide": TeacherResources(1, 0.5, 0)}, ray.put(samples), settings, heard
    ) as fleet:
        live = LiveTargets(fleet.client, ["wide"])
        fleet.client.temperatures = {"wide": 6.0}
        answer = live.collect(live.submit(batch), 600)["wide"]
        parts = list(missing_parts(tmp_path, {"wide": keys.augmented}, samples, train, [0, 1]))
        parts += missing_parts(tmp_path, {"wide": (keys.originals,)}, samples, held_out, [-1])
        fill(tmp_path, parts, fleet, heard)
    hashes = samples.content_hash(np.arange(len(samples)))
    store = TargetStore.open(tmp_path, {"wide": keys}, samples.ids, hashes, {"wide": 6.0})
    stored = StoredTargets(store)
    kept = stored.collect(stored.submit(batch), 600)["wide"]
    here = decode(TeacherModel(spec).score(samples, batch.rows.numpy(), batch.view_B.numpy()), 6.0)
    assert same(kept, answer)
    assert same(here, answer)
    assert store.verify().problems == ()
    original = store.gather_arrays("wide", held_out, -1)
    assert original.keys() == {"values", "offset"}, "all classes, no features: it is for evaluation"
    rows, both = np.array([train[0], held_out[0]]), np.array([0, -1])
    with pytest.raises(TargetError, match="encoded differently; ask for them apart"):
        store.gather_arrays("wide", rows, both)
    with pytest.raises(TargetError, match="at temperature 1, 6, not at 3"):
        replace(store, temperatures={"wide": 3.0}).gather(train[:3], 0)


def test_a_full_disk_while_actors_fill_loses_nothing(samples, make_spec, tmp_path, heard):
    """The actor's error reaches whoever fills, and what other actors finished is kept."""
    spec = make_spec()
    key = EntryKey(spec.fingerprint, samples.view_key)
    train = samples.splits["train"]
    settings = TeacherCluster(start_timeout_s=60)
    with ActorFleet(
        {"wide": spec}, {"wide": TeacherResources(1, 0.5, 0)}, ray.put(samples), settings, heard
    ) as fleet:
        fill(
            tmp_path,
            list(missing_parts(tmp_path, {"wide": (key,)}, samples, train, [0])),
            fleet,
            heard,
        )
        parts = list(missing_parts(tmp_path, {"wide": (key,)}, samples, train, [0, 1]))
        other = replace(key, teacher="x" * 16)
        blocked = [replace(part, lacking=(other,)) for part in parts]
        (tmp_path / other.folder).write_text("a file where the folder should be")
        with pytest.raises(TargetError, match="the target store cannot be written"):
            fill(tmp_path, blocked, fleet, heard)
    (part,) = missing_parts(tmp_path, {"wide": (key,)}, samples, train, [0, 1])
    assert part.view == 1
