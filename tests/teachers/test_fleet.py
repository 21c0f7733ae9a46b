"""The fleet on Ray: the same bits as in-process, and no wait for ever, whatever dies."""

from __future__ import annotations

import gc
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import ray
from ray import cloudpickle

from raykd.config.models import FactoryModel
from raykd.config.root import TeacherCluster
from raykd.errors import TargetTimeoutError, TeacherError
from raykd.targets import EntryKey, StoredTargets, TargetStore, TeacherKeys
from raykd.targets.codec import decode
from raykd.targets.store import ORIGINAL
from raykd.teachers import ActorFleet, LiveTargets, TeacherModel, TeacherResources, WriteThrough
from raykd.teachers.client import Client
from raykd.teachers.filling import fill, missing_parts
from raykd.teachers.utilization import WIDTH

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
SLOW = "raykd_test_models:slow"


@pytest.fixture
def start(samples, heard):
    """A fleet of the given specs on half a CPU per actor."""
    reference = ray.put(samples)

    def start(*specs, replicas=1, cpus=0.5, **settings):
        places = {spec.name: TeacherResources(replicas, cpus, 0) for spec in specs}
        cluster = TeacherCluster(**{"start_timeout_s": 60, "request_timeout_s": 30, **settings})
        return ActorFleet({spec.name: spec for spec in specs}, places, reference, cluster, heard)

    return start


def alone(spec, samples, rows, views):
    """What the teacher answers in this process."""
    return decode(TeacherModel(spec).score(samples, rows, np.broadcast_to(views, rows.shape)))


def same(one, other):
    return (
        one.values_NC.equal(other.values_NC)
        and one.valid_N.equal(other.valid_N)
        and one.features.keys() == other.features.keys()
        and all(one.features[tap].equal(other.features[tap]) for tap in one.features)
    )


def pids(fleet, name="wide"):
    return ray.get([actor.ready.remote() for actor in fleet.actors[name]], timeout=30)


def test_a_closed_fleet_leaves_no_object(start, make_spec):
    held = ray._private.worker.global_worker.core_worker.get_all_reference_counts
    before = set(held())
    with start(make_spec("mlp"), replicas=2) as fleet:
        fleet.score(np.arange(3), -1)
        assert len(set(held()) - before) >= 1, "the spec"
    del fleet
    gc.collect()
    assert not set(held()) - before


def test_actors_store_and_this_process_give_the_same_bits(
    start, samples, make_spec, tmp_path, heard
):
    specs = {
        "wide": make_spec("mlp"),
        "conv": make_spec("cnn", name="conv", taps=("blocks.0",), seed=3),
    }
    keys = {
        name: (
            EntryKey(spec.fingerprint, samples.view_key),
            *(
                EntryKey(spec.fingerprint, samples.view_key, tap, "features16-v1")
                for tap in spec.taps
            ),
        )
        for name, spec in specs.items()
    }
    train = samples.splits["train"]
    rng = np.random.default_rng(0)
    batches = [samples.batch(rng.permutation(train)[:21], rng.integers(0, 2, 21)) for _ in range(6)]
    with start(*specs.values(), replicas=2) as fleet:
        direct = fleet.score(train[:5], -1)
        assert all(
            same(direct[n], alone(spec, samples, train[:5], -1)) for n, spec in specs.items()
        )
        live = LiveTargets(fleet.client, list(specs))
        assert len(live.counters()) == 2 * WIDTH
        tickets = [live.submit(batch) for batch in batches]
        answers = [live.collect(ticket, 600) for ticket in tickets]
        load = live.describe(live.counters(), 60.0)
        assert load["teacher_samples_per_s"] == {"wide": 6 * 21 / 60, "conv": 6 * 21 / 60}
        assert load["teacher_bytes_per_sample"] == {"wide": 3 * 2 + 4, "conv": 3 * 2 + 4 + 8**3 * 2}
        assert load["teacher_queue"]["wide"] == (0 + 1 + 2 + 3 + 4 + 5) / 6
        assert all(0 < part < 1 for part in load["teacher_busy_fraction"].values())
        assert load["teacher_batch_fill"] == {"wide": 21 / 24, "conv": 21 / 24}
        assert all(wait_s > 0 for wait_s in load["teacher_wait_s_per_step"].values())
        assert load["teacher_failures"] == {"wide": 0, "conv": 0}
        work_s = load["teacher_work_s_per_step"]["wide"]
        assert work_s == pytest.approx(load["teacher_busy_fraction"]["wide"] * 2 * 60 / 6)
        assert not any(live.describe(live.counters(), 1.0)["teacher_busy_fraction"].values())
        parts = list(missing_parts(tmp_path, keys, samples, train, [0, 1]))
        scored = fill(tmp_path, parts, fleet, heard)
        assert scored == dict.fromkeys(specs, 2 * len(train))
        assert not list(missing_parts(tmp_path, keys, samples, train, [0, 1]))
        partly = list(missing_parts(tmp_path, keys, samples, train, [1, 2]))
        assert {part.view for part in partly} == {2}
        statistics = fleet.statistics()
        assert statistics["wide"]["samples_scored"] == 5 + 6 * 21 + 2 * len(train)
    assert fill(tmp_path, [], fleet, heard) == dict.fromkeys(specs, 0)
    store = TargetStore.open(
        tmp_path,
        {
            name: TeacherKeys(views, replace(views, views=ORIGINAL), tuple(features))
            for name, (views, *features) in keys.items()
        },
        samples.ids,
        samples.content_hash(np.arange(len(samples))),
    )
    stored = StoredTargets(store)
    for batch, answer in zip(batches, answers, strict=True):
        kept = stored.collect(stored.submit(batch), 600)
        for name, spec in specs.items():
            inside = alone(spec, samples, batch.rows.numpy(), batch.view_B.numpy())
            assert same(answer[name], inside)
            assert same(kept[name], inside)
    assert heard.decisions() == []


def test_an_actor_that_is_killed_is_restarted_and_asked_again(start, samples, make_spec):
    spec = make_spec(SLOW)
    rows = samples.splits["train"][:32]
    with start(spec, max_restarts=1) as fleet:
        (pid,) = pids(fleet)
        requests = [fleet.client.submit(["wide"], rows, np.full(32, v)) for v in range(4)]
        time.sleep(0.15)
        os.kill(pid, signal.SIGKILL)
        answers = [fleet.client.collect(["wide"], request)["wide"] for request in requests]
        assert pids(fleet) != [pid]
    assert all(same(answers[v], alone(spec, samples, rows, v)) for v in range(4))


@pytest.mark.soak
def test_a_replica_that_stays_dead_is_left_to_the_other_and_logged(
    start, samples, make_spec, heard
):
    spec = make_spec(SLOW)
    rows = samples.splits["train"][:16]
    with start(spec, replicas=2, max_restarts=0) as fleet:
        first, _ = pids(fleet)
        requests = [fleet.client.submit(["wide"], rows, np.full(16, v)) for v in range(4)]
        assert fleet.client.pools["wide"].replicas.outstanding == [2, 2], (
            "the least busy one is asked"
        )
        time.sleep(0.1)
        os.kill(first, signal.SIGKILL)
        answers = [fleet.client.collect(["wide"], request)["wide"] for request in requests]
        assert all(same(answers[v], alone(spec, samples, rows, v)) for v in range(4))
        assert set(heard.decisions()) == {"retry"}
        assert heard[-1].values["teacher"] == "wide"
        assert "dead, attempt 1 of 2" in heard[-1].values["message"]
        before = len(heard)
        fleet.score(rows, 0)
        assert len(heard) == before, "a dead replica is not asked again"
        assert fleet.statistics()["wide"]["samples_scored"] > 0


@pytest.mark.soak
def test_a_hanging_actor_is_restarted_within_its_timeout(start, samples, make_spec, heard):
    spec = make_spec("mlp")
    rows = samples.splits["train"][:8]
    with start(spec, request_timeout_s=1, max_restarts=2) as fleet:
        (pid,) = pids(fleet)
        os.kill(pid, signal.SIGSTOP)
        begun = time.monotonic()
        try:
            answer = fleet.score(rows, 1)["wide"]
        finally:
            stop_for_good(pid)
        assert time.monotonic() - begun < 60
        assert same(answer, alone(spec, samples, rows, 1))
    assert heard.decisions() == ["restart"]


def stop_for_good(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.mark.soak
def test_a_hanging_replica_is_passed_over(start, samples, make_spec, heard):
    spec = make_spec("mlp")
    rows = samples.splits["train"][:8]
    with start(spec, replicas=2, request_timeout_s=1) as fleet:
        first, _ = pids(fleet)
        os.kill(first, signal.SIGSTOP)
        ask, collect = fleet.client.submit, fleet.client.collect
        begun = time.monotonic()
        try:
            asked = [ask(["wide"], rows, np.full(8, v)) for v in range(6)]
            answers = [collect(["wide"], one)["wide"] for one in asked]
        finally:
            stop_for_good(first)
        assert time.monotonic() - begun < 20
        assert all(same(answers[v], alone(spec, samples, rows, v)) for v in range(6))
    assert heard.decisions()[0] == "restart"
    causes = [event.values["cause"] for event in heard]
    assert "dead" not in causes, "what else it was asked is not waited for until Ray has killed it"


@pytest.mark.soak
def test_an_actor_that_is_late_is_waited_for_or_passed_over_but_not_hung(
    start, samples, make_spec, heard, tmp_path
):
    kwargs = {"file": str(tmp_path / "late"), "seconds": 1.5}
    spec = make_spec(FactoryModel(path="raykd_test_models:ponderous", kwargs=kwargs))
    rows = samples.splits["train"][:8]
    with start(spec, replicas=2, request_timeout_s=1) as fleet:
        before = pids(fleet)
        alone_at_it = Client({"wide": fleet.actors["wide"][:1]}, fleet.settings, heard)
        (tmp_path / "late").touch()
        answers = [alone_at_it.collect(["wide"], alone_at_it.submit(["wide"], rows, np.full(8, 0)))]
        assert heard.decisions() == ["wait"]
        requests = fleet.client.submit(["wide"], rows, np.full(8, 1))
        time.sleep(0.2)  # the first replica is at work by now
        (tmp_path / "late").unlink()
        answers.append(fleet.client.collect(["wide"], requests))
        assert heard.decisions() == ["wait", "retry"]
        assert {event.values["cause"] for event in heard} == {"slow"}
        assert pids(fleet) == before, "no process was ended"
    assert all(same(a["wide"], alone(spec, samples, rows, v)) for v, a in enumerate(answers))


@pytest.mark.parametrize("request_timeout_s", [pytest.param(30, marks=pytest.mark.soak), 0.3])
def test_whoever_collects_waits_no_longer_than_it_says(
    start, samples, make_spec, heard, tmp_path, request_timeout_s
):
    """A teacher takes too long: one request outlasts the deadline, or many that are tried one after the other."""
    kwargs = {"file": str(tmp_path / "late"), "seconds": 60}
    spec = make_spec(FactoryModel(path="raykd_test_models:ponderous", kwargs=kwargs))
    rows = samples.splits["train"][:8]
    batch = samples.batch(rows, np.zeros(8, np.int64))
    views = EntryKey(spec.fingerprint, samples.view_key)
    keys = {"wide": TeacherKeys(views, EntryKey(spec.fingerprint, ORIGINAL))}
    hashes = samples.content_hash(np.arange(len(samples)))
    store = TargetStore.open(tmp_path / "store", keys, samples.ids, hashes)
    settings = {"request_timeout_s": request_timeout_s, "max_restarts": 99}
    (tmp_path / "late").touch()
    with start(spec, **settings) as fleet:
        for source in (
            LiveTargets(fleet.client, ["wide"]),
            WriteThrough(Client(fleet.actors, fleet.settings, heard), store, rows),
        ):
            begun = time.monotonic()
            with pytest.raises(TargetTimeoutError, match=r"'wide': no answer within 1 s"):
                source.collect(source.submit(batch), 1)
            assert time.monotonic() - begun < 5
    assert bool(heard.decisions()) is (request_timeout_s < 1)


def test_nothing_big_goes_through_whoever_asks(start, samples, make_spec):
    """A step sends rows and views; a worker is sent handles: neither data nor weights."""
    spec, rows = make_spec("cnn"), samples.splits["train"]
    weights = sum(tensor.nbytes for tensor in spec.weights.values())
    with start(spec, replicas=2) as fleet:
        client = len(cloudpickle.dumps(Client(fleet.actors, fleet.settings, print)))
        sent = {n: len(cloudpickle.dumps((rows[:n], np.zeros(n, np.int64)))) for n in (16, 64)}
    assert client < 8_000 < weights + samples.inputs["inputs"].nbytes
    assert sent[64] - sent[16] <= 48 * (8 + 8) + 16, "16 bytes a row"
    assert sent[64] < 64 * 16 + 500 < samples.inputs["inputs"][:64].nbytes


@pytest.mark.parametrize(
    "on_failure", [pytest.param("stop", marks=pytest.mark.soak), "renormalise"]
)
def test_a_lost_teacher_stops_the_run_or_is_left_out(start, samples, make_spec, heard, on_failure):
    specs = [make_spec("mlp"), make_spec("mlp", name="other", seed=1)]
    rows = samples.splits["train"][:8]
    with start(*specs, max_restarts=0, on_failure=on_failure) as fleet:
        os.kill(pids(fleet)[0], signal.SIGKILL)
        if on_failure == "stop":
            with pytest.raises(
                TeacherError, match=r"'wide': dead, attempt 1 of 1.*on_failure is stop"
            ):
                fleet.score(rows, 0)
            assert heard.decisions() == ["stop"]
            return
        for view in range(2):
            answers = fleet.score(rows, view)
            assert not answers["wide"].valid_N.any()
            assert same(answers["other"], alone(specs[1], samples, rows, view))
        assert heard.decisions() == ["leave_out"], "said once"
        assert fleet.statistics()["other"]["samples_scored"] == 16
        os.kill(pids(fleet, "other")[0], signal.SIGKILL)
        with pytest.raises(TeacherError, match="no teacher is left of wide, other"):
            fleet.score(rows, 0)


def test_a_teacher_that_answers_nan_or_raises(start, samples, make_spec, heard, tmp_path):
    rows = samples.splits["train"][:8]
    nan = make_spec("raykd_test_models:broken")
    bad = make_spec("raykd_test_models:raising", name="bad")
    key = {"wide": (EntryKey(nan.fingerprint, samples.view_key),)}
    with start(nan, bad, max_restarts=1) as fleet:
        with pytest.raises(TeacherError, match="'wide': non_finite, attempt 2 of 2"):
            fleet.score(rows, 0)
        with pytest.raises(
            TeacherError,
            match=r"'bad': failed \(RuntimeError\('no kernel for this'\)\), attempt 2 of 2",
        ):
            fleet.client.collect(["bad"], fleet.client.submit(["bad"], rows, np.zeros(8, np.int64)))
        parts = list(missing_parts(tmp_path, key, samples, rows, [0]))
        with pytest.raises(TeacherError, match="'wide': non_finite, attempt 2 of 2"):
            fill(tmp_path, parts, fleet, heard)
    assert list(missing_parts(tmp_path, key, samples, rows, [0])), "nothing of it is kept"


@pytest.mark.soak
def test_a_teacher_that_dies_while_the_store_is_filled(start, samples, make_spec, heard, tmp_path):
    file = tmp_path / "gone"
    model = FactoryModel(path="raykd_test_models:suicidal", kwargs={"file": str(file)})
    spec = make_spec(model)
    key = {"wide": (EntryKey(spec.fingerprint, samples.view_key),)}
    rows = samples.splits["train"]
    with start(spec, max_restarts=0, replicas=2) as fleet:
        os.kill(pids(fleet)[0], signal.SIGKILL)
        fill(tmp_path, list(missing_parts(tmp_path, key, samples, rows, [0])), fleet, heard)
        assert heard.decisions() == ["retry"], "the other replica took its part"
        file.touch()
        with pytest.raises(TeacherError, match=r"'wide': .* died more often than"):
            fill(tmp_path, list(missing_parts(tmp_path, key, samples, rows, [0, 1])), fleet, heard)
    (part,) = missing_parts(tmp_path, key, samples, rows, [0, 1])
    assert part.view == 1, "what was finished before is kept"


def slow_spec(tmp_path, make_spec):
    """One sample takes 30 ms, so that the 8 after which an actor shows progress take 0.24 s."""
    (tmp_path / "late").touch()
    kwargs = {"file": str(tmp_path / "late"), "seconds": 0.03}
    return make_spec(FactoryModel(path="raykd_test_models:ponderous", kwargs=kwargs), batch_size=1)


@pytest.mark.soak
def test_a_teacher_that_hangs_while_the_store_is_filled(start, samples, make_spec, heard, tmp_path):
    """Stopped in the middle of its part: it gives no sign of life, is ended, and does the part anew."""
    spec, rows = slow_spec(tmp_path, make_spec), samples.splits["train"]
    views = EntryKey(spec.fingerprint, samples.view_key)
    parts = list(missing_parts(tmp_path, {"wide": (views,)}, samples, rows, [0]))
    with start(spec, request_timeout_s=2) as fleet, ThreadPoolExecutor() as pool:
        (pid,) = pids(fleet)
        filled = pool.submit(fill, tmp_path, parts, fleet, heard)
        (actor,) = fleet.actors["wide"]
        while not ray.get(actor.statistics.remote(), timeout=60)["samples_scored"]:
            time.sleep(0.02)
        os.kill(pid, signal.SIGSTOP)
        (tmp_path / "late").unlink()
        try:
            assert filled.result(timeout=120) == {"wide": len(rows)}
        finally:
            stop_for_good(pid)
    assert set(heard.decisions()) == {"restart"}
    assert {e.values["cause"] for e in heard if e.kind == "failure"} == {"hung"}
    keys = {"wide": TeacherKeys(views, EntryKey(spec.fingerprint, ORIGINAL))}
    hashes = samples.content_hash(np.arange(len(samples)))
    store = TargetStore.open(tmp_path, keys, samples.ids, hashes)
    assert same(store.gather(rows, 0)["wide"], alone(spec, samples, rows, 0))


@pytest.mark.soak
def test_a_part_that_takes_longer_than_a_request_may_is_not_hung(
    start, samples, make_spec, heard, tmp_path
):
    spec, rows = slow_spec(tmp_path, make_spec), np.arange(len(samples))
    key = {"wide": (EntryKey(spec.fingerprint, samples.view_key),)}
    with start(spec, request_timeout_s=1) as fleet:
        before = pids(fleet)
        parts = list(missing_parts(tmp_path, key, samples, rows, [0]))
        assert fill(tmp_path, parts, fleet, heard) == {"wide": len(rows)}, "in over 4 s"
        assert pids(fleet) == before
    assert not heard.decisions()


def test_a_fleet_that_cannot_start_says_why(start, make_spec):
    with pytest.raises(
        TeacherError, match="'wide' did not start within 1 s: the cluster lacks its CPUs"
    ):
        start(make_spec(), cpus=99, start_timeout_s=1).__enter__()
    with pytest.raises(
        TeacherError,
        match=r"could not load its model: .*placed on a GPU, but its process was given 0",
    ):
        start(make_spec(device="cuda")).__enter__()
    wrong = make_spec()
    wrong = replace(wrong, weights={n: t[:1] for n, t in wrong.weights.items()})
    with pytest.raises(
        TeacherError, match=r"'wide' could not load its model: .*InputError: .*of another shape"
    ):
        start(wrong).__enter__()
