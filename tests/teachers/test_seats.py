"""Teachers in the processes of a crew: the bits of actors of their own, whatever dies."""

from __future__ import annotations

import os
import signal
import time
from threading import Thread

import numpy as np
import pytest
import ray

from raykd.config.root import TeacherCluster
from raykd.runtime import Crew
from raykd.targets import EntryKey, TargetStore, TeacherKeys
from raykd.targets.codec import decode
from raykd.targets.store import ORIGINAL
from raykd.teachers import ActorFleet, TeacherModel
from raykd.teachers.filling import fill, missing_parts
from raykd.teachers.pool import TeacherResources

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
VIEWS = range(6)


@pytest.mark.soak
def test_all_processes_fill_the_store_for_all_teachers_and_one_that_dies_loses_its_part_alone(
    samples, make_spec, tmp_path, heard
):
    specs = {"wide": make_spec("mlp"), "slow": make_spec("raykd_test_models:slow", name="slow")}
    keys = {name: (EntryKey(s.fingerprint, samples.view_key),) for name, s in specs.items()}
    places = {name: TeacherResources(1, 1, 0) for name in specs}
    train, crew = samples.splits["train"], Crew()
    settings = TeacherCluster(start_timeout_s=60)
    with ActorFleet(specs, places, ray.put(samples), settings, heard, crew, 2) as fleet:
        first, second = ray.get([a.ready.remote() for a in fleet.actors["wide"]], timeout=60)
        assert {first, second} == set(ray.get([a.ready.remote() for a in fleet.actors["slow"]]))
        direct = fleet.score(train[:5], -1)
        parts = list(missing_parts(tmp_path, keys, samples, train, list(VIEWS)))

        def kill():
            time.sleep(0.3)
            os.kill(first, signal.SIGKILL)

        killer = Thread(target=kill)
        killer.start()
        scored = fill(tmp_path, parts, fleet, heard)
        killer.join()
        assert scored == dict.fromkeys(specs, len(VIEWS) * len(train))
        assert ray.get(fleet.actors["wide"][0].ready.remote(), timeout=60) != first
    assert set(heard.decisions()) <= {"retry", "restart"}
    assert heard.decisions(), "somebody noticed"
    members = [crew.take({"CPU": 1.0}) for _ in range(2)]
    assert second in ray.get([member.ready.remote() for member in members]), "they go on to train"
    for member in members:
        ray.kill(member)
    of_each = {n: TeacherKeys(key, EntryKey(key.teacher, ORIGINAL)) for n, (key,) in keys.items()}
    hashes = samples.content_hash(np.arange(len(samples)))
    store = TargetStore.open(tmp_path, of_each, samples.ids, hashes)
    for name, spec in specs.items():
        alone = decode(TeacherModel(spec).score(samples, train[:5], np.full(5, -1)))
        assert direct[name].values_NC.equal(alone.values_NC)
        for view in VIEWS:
            kept = store.gather(train, view)[name]
            inside = decode(TeacherModel(spec).score(samples, train, np.full(len(train), view)))
            assert kept.values_NC.equal(inside.values_NC)
            assert kept.valid_N.all()
