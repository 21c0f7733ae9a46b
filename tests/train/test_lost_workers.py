"""A group of student workers that loses one: of fixed size, or as large as there is room for."""

from __future__ import annotations

import gc
import time
from functools import partial

import pytest
import ray
import torch
from raykd_test_models import killing_source, noticing_source, table_source

from raykd.config.root import StudentCluster
from raykd.errors import TrainingError
from raykd.folders import RunFolder
from raykd.models.weights import load_weights
from raykd.runtime import Mailbox, available_slots
from raykd.train import FolderReporter, World, train
from raykd.train.groups import _grows
from raykd.train.launch import run_fits
from raykd.train.work import Message, Work

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("ray_cluster"),
]
CPUS = 6  # of the tests' cluster


@ray.remote(num_cpus=1)
class Tenant:
    """Somebody else on the cluster."""

    def moved_in(self):
        return True


def vacant(resources, most, expected, patience_s=30):
    """Waits until there is room for so many: what others gave back a moment ago arrives with a delay.

    Actors of earlier tests whose handles hang in reference cycles, such as a caught error's, end when these are collected.
    """
    gc.collect()
    until = time.monotonic() + patience_s
    while (found := available_slots(resources, most, wait_s=1)) != expected:
        assert time.monotonic() < until, f"room for {found}, not {expected}, of {resources}"


class Occupying:
    """Takes a CPU when a group has failed, in the driver, while nobody trains; else just tells."""

    def __init__(self, tell):
        self.tell, self.tenant = tell, None

    def __call__(self, *events):
        self.tell(*events)
        if any(event.kind == "failure" for event in events):
            self.tenant = Tenant.remote()
            ray.get(self.tenant.moved_in.remote(), timeout=60)


@pytest.fixture
def lose_one(tmp_path, samples, heard):
    """Trains fits on workers of which one is killed at an answer of the first fit."""

    def lose_one(fits, cluster, *, at, emit=lambda tell: tell, source=killing_source):
        mailbox = Mailbox(heard)
        work = Work(
            samples=ray.put(samples),
            fits=ray.put(fits),
            make_source=partial(source, at, str(tmp_path / "killed")),
            run=RunFolder(tmp_path / "run"),
            emit=emit(mailbox.sender),
            depth=2,
        )
        try:
            results = run_fits(work, fits, cluster)
        finally:
            mailbox.close()
        assert (tmp_path / "killed").exists()
        return results

    return lose_one


@pytest.fixture
def check_undisturbed(tmp_path, samples):
    """Holds fits against the same ones trained in this process by nobody else, undisturbed."""

    def check(fits, results):
        lost = FolderReporter(RunFolder(tmp_path / "run"), lambda event: None)
        alone = FolderReporter(RunFolder(tmp_path / "alone"), lambda event: None)
        for fit in fits:
            found = train(fit, samples, table_source(samples, fit), alone, World())
            assert results[fit.fit_id]["steps"] == found["steps"]
            assert results[fit.fit_id]["last"] == pytest.approx(found["last"], rel=2e-4, abs=2e-4)
            pairs = [r.folder(fit.fit_id).weights("last") for r in (lost, alone)]
            one, other = (load_weights(path, key="test") for path in pairs)
            assert one.keys() == other.keys()
            for name, tensor in one.items():
                torch.testing.assert_close(tensor, other[name], rtol=2e-4, atol=2e-4)

    return check


def sizes(heard):
    """Workers of each group."""
    texts = [event.values["text"].split() for event in heard if event.kind == "message"]
    return [int(words[1]) for words in texts]


def resumed(heard):
    return [(e.fit, e.epoch) for e in heard if e.kind == "fit" and e.values["state"] == "resumed"]


@pytest.mark.soak
def test_a_group_goes_on_with_what_there_is_room_for(
    lose_one, check_undisturbed, samples, make_fit, heard
):
    """Two workers fill the cluster; when one is killed somebody else takes a CPU."""
    fit = make_fit(samples, model="cnn", train={"epochs": 4, "batch_size": 25})
    cluster = StudentCluster(workers=(1, 2), cpus=CPUS / 2, max_failures=1)
    results = lose_one([fit], cluster, at=2 * fit.plan.steps_per_epoch + 1, emit=Occupying)
    assert sizes(heard) == [2, 1]
    assert resumed(heard) == [(fit.fit_id, 2)], "not from its beginning"
    assert heard.decisions() == ["resume"]
    check_undisturbed([fit], results)


@pytest.mark.soak
def test_a_group_that_is_given_notice_saves_in_the_middle_of_an_epoch_and_goes_on_elsewhere(
    lose_one, check_undisturbed, samples, make_fit, heard
):
    """One of two workers hears of it; no failure is allowed, and no step is taken twice."""
    fit = make_fit(samples, model="cnn", train={"epochs": 3, "batch_size": 25})
    at = fit.plan.steps_per_epoch + 1
    cluster = StudentCluster(workers=2, max_failures=0)
    results = lose_one([fit], cluster, at=at, source=noticing_source)
    assert heard.decisions() == ["move"]
    (again,) = [e for e in heard if e.kind == "fit" and e.values["state"] == "resumed"]
    # The next batch, whose making brings the notice, is made while a step is taken: it is that one, or the next.
    assert again.epoch == 1
    assert again.step in (at, at + 1), "after the step that it was at"
    check_undisturbed([fit], results)


@pytest.mark.soak
def test_a_group_of_fixed_size_starts_again_as_large(
    lose_one, check_undisturbed, samples, make_fit, heard
):
    fit = make_fit(samples, model="cnn", train={"epochs": 4, "batch_size": 25})
    cluster = StudentCluster(workers=2, max_failures=1)
    results = lose_one([fit], cluster, at=2 * fit.plan.steps_per_epoch + 1)
    assert resumed(heard) == [(fit.fit_id, 2)]
    check_undisturbed([fit], results)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("workers", "why"), [(7, "timed out"), ((7, 9), "room for 6 student workers")]
)
def test_workers_that_there_is_no_room_for_are_not_waited_for_for_ever(
    tmp_path, samples, make_fit, heard, monkeypatch, workers, why
):
    monkeypatch.setattr("raykd.train.groups._ROOM_S", 3.0)
    vacant({"CPU": 1}, CPUS, CPUS)
    fit = make_fit(samples)
    work = Work(
        samples=ray.put(samples),
        fits=ray.put([fit]),
        make_source=table_source,
        run=RunFolder(tmp_path / "run"),
        emit=heard,
        depth=2,
    )
    with pytest.raises(TrainingError, match=why):
        run_fits(work, [fit], StudentCluster(workers=workers, start_timeout_s=1, max_failures=0))


def test_room_is_what_nobody_holds():
    vacant({"CPU": 1}, CPUS + 3, CPUS)
    vacant({"CPU": CPUS / 2 + 1}, 2, 1)
    tenant = Tenant.remote()
    ray.get(tenant.moved_in.remote(), timeout=60)
    vacant({"CPU": 1}, CPUS, CPUS - 1)
    ray.kill(tenant)
    vacant({"CPU": 1}, CPUS, CPUS)


class TestGroups:
    """What the driver does when a group ends; the groups themselves are played."""

    @pytest.fixture
    def play(self, tmp_path, samples, make_fit, heard, monkeypatch):
        """Runs two fits; each group finishes those that are named, then fails or ends."""
        fits = [make_fit(samples, fit_id=name) for name in ("student/a", "student/b")]
        work = Work(None, fits, table_source, RunFolder(tmp_path / "run"), heard, depth=2)

        def play(*groups, workers=(1, 2), max_failures=1):
            left = iter(groups)

            def group(work, cluster, size, messages):
                finished, error = next(left)
                if error == "notice":
                    error = Message(failed=False, text="saved after step 7")
                if isinstance(error, Message):
                    messages.put(error)
                    error = None
                for fit in fits:
                    if fit.fit_id[-1] in finished:
                        work.reports.folder(fit.fit_id).finish({"identity": fit.identity})
                return error

            monkeypatch.setattr("raykd.train.groups._group", group)
            results = run_fits(
                work, fits, StudentCluster(workers=workers, max_failures=max_failures)
            )
            assert next(left, None) is None, "every group was needed"
            return sorted(results)

        return play

    def test_a_group_that_ended_for_more_room_goes_on(self, play, heard):
        assert play(("a", None), ("b", None)) == ["student/a", "student/b"]
        assert sizes(heard) == [2, 2]
        assert not heard.decisions()

    def test_a_fit_that_failed_ends_the_list_and_is_named(self, play, heard):
        """Also where the group itself ended well, as lanes do."""
        failed = Message(failed=True, text="student/b: no answer")
        with pytest.raises(
            TrainingError, match=r"1 fits did not finish, student/b first: student/b: no answer"
        ):
            play(("a", failed))
        assert not heard.decisions()

    def test_losses_are_counted_over_all_groups(self, play, heard):
        lost = RuntimeError("a worker died")
        with pytest.raises(TrainingError, match="student training failed: a worker died"):
            play(("", lost), ("a", None), ("", lost))
        assert heard.decisions() == ["resume"]

    @pytest.mark.parametrize("workers", [2, (1, 2)])
    def test_a_node_that_is_taken_away_with_notice_is_no_failure(self, play, heard, workers):
        groups = [("", "notice")] * 3 + [("a", "notice"), ("b", None)]
        assert play(*groups, workers=workers, max_failures=0) == ["student/a", "student/b"]
        assert heard.decisions() == ["move"] * 4

    def test_a_group_of_fixed_size_that_failed_was_started_again_by_ray(self, play, heard):
        with pytest.raises(TrainingError, match="a worker died"):
            play(("a", RuntimeError("a worker died")), workers=2, max_failures=5)
        assert not heard.decisions()

    def test_a_group_that_ends_with_nothing_done_is_no_reason_to_go_on(self, play):
        with pytest.raises(TrainingError, match="1 fits did not finish, student/b first"):
            play(("a", None), ("", None))

    @pytest.mark.parametrize(("most", "grows"), [(CPUS, True), (1, False)])
    def test_a_worker_alone_sees_room_for_more(self, most, grows):
        assert _grows(StudentCluster(workers=(1, most)), World()) is grows

    def test_a_worker_sees_that_there_is_none(self):
        assert not _grows(StudentCluster(workers=(1, 2), cpus=CPUS + 1), World())
