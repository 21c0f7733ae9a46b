"""Samples that break a teacher: the search for them, their quarantine, and the store beside it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import ray

from raykd.config.models import FactoryModel
from raykd.config.root import TeacherCluster
from raykd.errors import TargetError, TeacherError
from raykd.targets import EntryKey, StoredTargets, TargetStore, TeacherKeys
from raykd.targets.codec import assemble, decode
from raykd.targets.quarantine_log import (
    QUARANTINE,
    add_quarantined,
    quarantined_rows,
    read_quarantined,
)
from raykd.targets.store import ORIGINAL
from raykd.teachers import ActorFleet, LiveTargets, TeacherModel, TeacherResources
from raykd.teachers.client import Client
from raykd.teachers.executor import finish
from raykd.teachers.filling import fill, missing_parts
from raykd.teachers.quarantine import Quarantine, Tolerance, isolate

uses_ray = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


class Model:
    """Breaks on some places."""

    def __init__(self, *bad, accidents=0):
        self.bad, self.accidents, self.asked, self.broke = set(bad), accidents, 0, 0

    def __call__(self, part):
        """Steps that wait for nothing."""
        self.asked += 1
        self.accidents -= 1
        if self.accidents >= 0 or self.bad.intersection(part.tolist()):
            self.broke += 1
            return None
        return part.tolist()
        yield


def search(indices, model, room):
    """What a search finds."""
    (found,) = finish([isolate(indices, model, room)])
    return found


@pytest.mark.parametrize("bad", [(), (0,), (63,), (17, 18), (5, 40, 41)])
@pytest.mark.parametrize("size", [64, 51])
def test_the_search_finds_exactly_the_bad_samples(bad, size):
    bad = tuple(place for place in bad if place < size)
    model = Model(*bad)
    found = search(np.arange(size), model, room=3)
    assert sorted(found.bad) == sorted(bad)
    answered = [place for part, said in found.answered for place in part.tolist()]
    assert sorted([*answered, *bad]) == list(range(size)), "each sample is answered once, or is bad"
    if len(bad) == 1:
        assert model.asked <= 2 + 2 * math.ceil(math.log2(size))
        assert model.broke <= 2 + math.ceil(math.log2(size))


def test_an_accident_on_the_way_condemns_nobody():
    for accidents in range(1, 7):
        assert not search(np.arange(8), Model(accidents=accidents), room=0).bad or accidents > 3
    assert search(np.array([4]), Model(accidents=1), room=0).bad == []


def test_the_search_ends_where_more_are_bad_than_allowed():
    model = Model(*range(64))
    found = search(np.arange(64), model, room=1)
    assert found.bad == [0, 1], "one more than allowed"
    assert model.asked < 16, "a sick teacher is not asked about every sample"
    assert not found.answered


def test_quarantine_holds_for_a_view_and_makes_other_views_suspect():
    quarantine = Quarantine()
    rows, view = np.array([7, 8, 9]), np.zeros(3, np.int64)
    together, alone = quarantine.sort(rows, view)
    assert (together.tolist(), alone.tolist()) == ([0, 1, 2], [])
    quarantine.known.add((8, 0))
    together, alone = quarantine.sort(rows, view)
    assert (together.tolist(), alone.tolist()) == ([0, 2], [])
    together, alone = quarantine.sort(rows, view + 1)
    assert (together.tolist(), alone.tolist()) == ([0, 2], [1])
    assert quarantine.rows == {8}


def test_answers_are_put_together_in_the_order_of_the_batch(samples, make_spec):
    spec, rows = make_spec("cnn", taps=("blocks.0",)), np.arange(9)
    model = TeacherModel(spec)
    whole = decode(model.score(samples, rows, np.zeros(9, np.int64)))
    places = [np.array([6, 7, 8]), np.array([0, 2])]
    parts = [(p, model.score(samples, rows[p], np.zeros(len(p), np.int64))) for p in places]
    answer = assemble(parts, 9)
    answered = np.array([0, 2, 6, 7, 8])
    assert answer.valid_N.numpy().nonzero()[0].tolist() == answered.tolist()
    assert answer.values_NC[answered].equal(whole.values_NC[answered])
    assert answer.features["blocks.0"][answered].equal(whole.features["blocks.0"][answered])
    assert not answer.values_NC[[1, 3, 4, 5]].any()
    assert assemble([], 9) is None


def test_gaps_are_kept_beside_the_manifest(tmp_path):
    ids, hashes = np.array([30, 10, 20]), np.array([3, 2**63 + 1, 2], np.uint64)
    assert read_quarantined(tmp_path) == set()
    add_quarantined(tmp_path, [(10, 2**63 + 1, 0)])
    add_quarantined(tmp_path, [(20, 9, 1), (99, 1, 0), (10, 2**63 + 1, 0)])
    assert quarantined_rows(tmp_path, ids, hashes) == {(1, 0)}, "changed content is asked again"
    (tmp_path / QUARANTINE).write_text('[{"id": 1}]')
    with pytest.raises(TargetError, match="damaged"):
        read_quarantined(tmp_path)


@pytest.fixture
def poisoned(samples):
    """Data with glaring samples, the poison, among the training ones; and its rows."""

    def poisoned(*places):
        rows = samples.splits["train"][list(places)]
        (name, array), *_ = samples.inputs.items()
        array = array.copy()
        array[rows, :, 4, 4] = 1e4
        return replace(samples, inputs={name: array}), rows

    return poisoned


@pytest.fixture
def spec_of(make_spec):
    def spec_of(data, how):
        model = FactoryModel(path="raykd_test_models:poisoned", kwargs={"how": how})
        return make_spec(model, data=data, batch_size=32)  # with 8, bits depend on the place

    return spec_of


def fleet_of(spec, data, heard, **settings):
    cluster = TeacherCluster(**{"start_timeout_s": 60, "request_timeout_s": 30, **settings})
    return ActorFleet(
        {"wide": spec}, {"wide": TeacherResources(1, 0.5, 0)}, ray.put(data), cluster, heard
    )


class TestOnActors:
    pytestmark = uses_ray

    @pytest.mark.soak
    def test_a_sample_that_kills_actors_is_found_and_left_out(self, poisoned, spec_of, heard):
        data, (bad,) = poisoned(1)
        spec, rows = spec_of(data, "die"), data.splits["train"][:4]
        with fleet_of(spec, data, heard) as fleet:
            client = Client(fleet.actors, fleet.settings, heard, Tolerance(data, 0.01))
            live = LiveTargets(client, ["wide"])
            batch = data.batch(rows, np.zeros(4, np.int64))
            answers = [live.collect(live.submit(batch), 600)["wide"] for _ in range(2)]
        good = np.array([0, 2, 3])
        alone = decode(TeacherModel(spec).score(data, rows[good], np.zeros(3, np.int64)))
        for answer in answers:
            assert answer.valid_N.tolist() == [True, False, True, True]
            assert answer.values_NC[good].equal(alone.values_NC)
        decisions = heard.decisions()
        assert decisions == ["retry", *["isolate"] * 4, "quarantine"], "5 deaths, then none"
        assert heard[-1].values["sample_id"] == str(data.ids[bad])

    @pytest.mark.parametrize("how", ["raise", "nan"])
    def test_a_bad_sample_is_found_and_left_out_live_and_stored_alike(
        self, poisoned, spec_of, heard, tmp_path, how
    ):
        data, (bad,) = poisoned(5)
        spec, tolerance = spec_of(data, how), Tolerance(data, 0.01)
        rows = data.splits["train"][:12]
        views = EntryKey(spec.fingerprint, data.view_key)
        with fleet_of(spec, data, heard) as fleet:
            client = Client(fleet.actors, fleet.settings, heard, tolerance)
            live = LiveTargets(client, ["wide"])
            batches = [data.batch(rows, np.full(12, view)) for view in (0, 1, 0)]
            answers = [live.collect(live.submit(batch), 600)["wide"] for batch in batches]
            told = [e.values for e in heard if e.values["decision"] == "quarantine"]
            assert [(e["sample_id"], e["view"]) for e in told] == [
                (str(data.ids[bad]), 0), (str(data.ids[bad]), 1)
            ]  # fmt: skip
            assert heard.decisions()[:2] == ["retry", "isolate"]
            before = len(heard)
            live.collect(live.submit(batches[1]), 600)
            assert len(heard) == before, "what is known is not tried again"
            parts = list(missing_parts(tmp_path, {"wide": (views,)}, data, rows, [0, 1]))
            assert fill(tmp_path, parts, fleet, heard, tolerance) == {"wide": 22}
            assert not list(missing_parts(tmp_path, {"wide": (views,)}, data, rows, [0, 1]))
        good = np.flatnonzero(rows != bad)
        keys = {"wide": TeacherKeys(views, EntryKey(spec.fingerprint, ORIGINAL))}
        hashes = data.content_hash(np.arange(len(data)))
        stored = StoredTargets(TargetStore.open(tmp_path, keys, data.ids, hashes))
        for batch, answer in zip(batches, answers, strict=True):
            kept = stored.collect(stored.submit(batch), 600)["wide"]
            view = batch.view_B.numpy()[good]
            alone = decode(TeacherModel(spec).score(data, rows[good], view))
            for one in (answer, kept):
                assert one.valid_N.numpy().nonzero()[0].tolist() == good.tolist()
                assert one.values_NC[good].equal(alone.values_NC)
                assert not one.values_NC[rows == bad].any()
        gaps = json.loads((tmp_path / views.folder / QUARANTINE).read_text())
        assert [(g["id"], g["view"]) for g in gaps] == [(int(data.ids[bad]), v) for v in (0, 1)]

    @pytest.mark.soak
    def test_a_batch_asked_ahead_loses_no_answer_to_a_sample_that_is_known_by_then(
        self, poisoned, spec_of, heard
    ):
        """Both batches are under way before the first one tells which sample is bad."""
        data, (bad,) = poisoned(5)
        spec, rows = spec_of(data, "raise"), data.splits["train"][:12]
        with fleet_of(spec, data, heard) as fleet:
            client = Client(fleet.actors, fleet.settings, heard, Tolerance(data, 1 / len(data)))
            live = LiveTargets(client, ["wide"])
            tickets = [live.submit(data.batch(rows, np.full(12, view))) for view in (0, 1)]
            for ticket in tickets:
                answer = live.collect(ticket, 600)["wide"]
                assert answer.valid_N.tolist() == [row != bad for row in rows.tolist()]

    def test_what_one_fit_found_costs_the_next_ones_nothing(
        self, poisoned, spec_of, heard, tmp_path
    ):
        """Each fit has a client of its own, which begins with what is written down beside the entry."""
        data, (bad,) = poisoned(5)
        spec, rows = spec_of(data, "raise"), data.splits["train"][:12]
        folder = tmp_path / EntryKey(spec.fingerprint, data.view_key).folder
        tolerance = Tolerance(data, 0.01, {"wide": folder})
        batches = [data.batch(rows, np.full(12, view)) for view in (0, 1)]
        answers = []
        with fleet_of(spec, data, heard) as fleet:
            for _ in range(2):
                deaths = len(heard)
                live = LiveTargets(Client(fleet.actors, fleet.settings, heard, tolerance), ["wide"])
                answers.append([live.collect(live.submit(b), 600)["wide"] for b in batches])
        assert deaths > 6, "the first fit paid for it"
        assert len(heard) == deaths, "the second fit did not"
        for one, other in zip(*answers, strict=True):
            assert one.valid_N.numpy().nonzero()[0].tolist() == np.flatnonzero(rows != bad).tolist()
            assert one.values_NC.equal(other.values_NC)
            assert one.valid_N.equal(other.valid_N)
        assert quarantined_rows(folder, data.ids, tolerance.hashes) == {
            (int(bad), 0),
            (int(bad), 1),
        }
        assert tolerance.recall("other") == set()

    @pytest.mark.soak
    def test_more_bad_samples_than_allowed_stop_the_run_and_are_named(
        self, poisoned, spec_of, heard, tmp_path
    ):
        data, bad = poisoned(3, 9)
        spec, tolerance = spec_of(data, "raise"), Tolerance(data, 0.01)
        rows, zeros = data.splits["train"][:12], np.zeros(12, np.int64)
        named = ", ".join(str(i) for i in data.ids[np.sort(bad)])
        why = (
            rf"'wide' breaks on 2 of 144 samples \(sample ids {named}\), more than data.bad_samples"
        )
        with fleet_of(spec, data, heard) as fleet:
            client = Client(fleet.actors, fleet.settings, heard, tolerance)
            with pytest.raises(TeacherError, match=why):
                client.collect(["wide"], client.submit(["wide"], rows, zeros))
            key = {"wide": (EntryKey(spec.fingerprint, data.view_key),)}
            parts = list(missing_parts(tmp_path, key, data, rows, [0]))
            with pytest.raises(TeacherError, match=why):
                fill(tmp_path, parts, fleet, heard, tolerance)
            strict = Client(fleet.actors, fleet.settings, heard)
            with pytest.raises(
                TeacherError, match=r"failed .*attempt 3 of 3; .*on_failure is stop"
            ):
                strict.collect(["wide"], strict.submit(["wide"], rows, zeros))

    @pytest.mark.soak
    def test_a_teacher_that_breaks_on_everything_is_sick_not_its_samples(
        self, samples, make_spec, heard
    ):
        spec, other = make_spec("raykd_test_models:broken"), make_spec("mlp", name="other")
        rows, zeros = samples.splits["train"][:8], np.zeros(8, np.int64)
        cluster = TeacherCluster(start_timeout_s=60, on_failure="renormalise")
        places = {name: TeacherResources(1, 0.5, 0) for name in ("wide", "other")}
        specs = {"wide": spec, "other": other}
        with ActorFleet(specs, places, ray.put(samples), cluster, heard) as fleet:
            client = Client(fleet.actors, cluster, heard, Tolerance(samples, 0.01))
            names = list(specs)
            answers = client.collect(names, client.submit(names, rows, zeros))
        assert not answers["wide"].valid_N.any()
        assert answers["other"].valid_N.all()
        assert heard.decisions()[-1] == "leave_out"
        assert "quarantine" not in heard.decisions()
