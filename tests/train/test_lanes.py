"""Fits of one worker in lanes: the bits of this process, whatever is lost on the way."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import ray
from raykd_test_models import interrupted_source, table_source

from raykd.config.peers import Codistillation
from raykd.config.root import StudentCluster
from raykd.errors import TrainingError
from raykd.folders import RunFolder
from raykd.models.weights import fingerprint, load_weights
from raykd.runtime import Mailbox
from raykd.train import FolderReporter, World, train
from raykd.train.lanes import _Notice
from raykd.train.launch import run_fits
from raykd.train.work import Work

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def lessons(samples, make_fit):
    """Three fits of as many epochs, of which one has no teachers."""
    train_ = {"batch_size": 25, "epochs": 3}
    return [
        make_fit(samples, fit_id="student/a", train=train_),
        make_fit(samples, fit_id="student/b", train=train_),
        make_fit(samples, fit_id="labels/a", train=train_, teacher_infos=()),
    ]


@pytest.fixture
def launch(tmp_path, samples, heard):
    def launch(fits, *, make_source=table_source, lanes=1, emit=None, **cluster):
        mailbox = Mailbox(heard)
        work = Work(
            samples=ray.put(samples),
            fits=ray.put(fits),
            make_source=make_source,
            run=RunFolder(tmp_path / "run"),
            emit=emit or mailbox.sender,
            depth=2,
            lanes=lanes,
        )
        try:
            return run_fits(work, fits, StudentCluster(**cluster))
        finally:
            mailbox.close()

    return launch


@pytest.fixture
def check_bits(tmp_path, samples):
    """Holds what is finished against the same fits trained in this process, undisturbed; how many it is."""

    def check(fits):
        run, alone = (
            FolderReporter(RunFolder(tmp_path / name), lambda _: None) for name in ("run", "alone")
        )
        done = [fit for fit in fits if run.folder(fit.fit_id).result() is not None]
        for fit in done:
            expected = train(fit, samples, table_source(samples, fit), alone, World())
            assert {**run.folder(fit.fit_id).result(), "seconds": 0} == {**expected, "seconds": 0}
            one, other = (
                load_weights(r.folder(fit.fit_id).weights("last"), key="test") for r in (run, alone)
            )
            assert fingerprint(one) == fingerprint(other), fit.fit_id
        return len(done)

    return check


@pytest.mark.soak
def test_a_lane_takes_the_next_fit_and_after_a_failed_one_none_is_begun(
    launch, lessons, make_fit, samples, check_bits, one_thread
):
    """What another lane is at is finished, and what is finished stays."""
    failing = make_fit(samples, fit_id="failing/replica0", train={"batch_size": 25, "epochs": 3})
    with pytest.raises(
        TrainingError, match=r"failing/replica0 first: failing/replica0: .*no answer"
    ):
        launch([*lessons, failing], lanes=2)
    assert check_bits(lessons) >= 2
    assert len(launch(lessons, lanes=2)) == 3, "the others can be trained when it is left out"


@pytest.mark.soak
def test_a_lane_that_is_killed_is_replaced_and_its_fit_goes_on(
    launch, lessons, tmp_path, heard, check_bits, one_thread
):
    """At its second answer of the second epoch: the first is not trained again."""
    at = lessons[0].plan.steps_per_epoch + 1
    source = partial(interrupted_source, at, tmp_path / "mark", "kill")
    assert len(launch(lessons, make_source=source, max_failures=1)) == 3
    assert heard.decisions() == ["resume"]
    (again,) = [e for e in heard if e.kind == "fit" and e.values["state"] == "resumed"]
    assert (again.fit, again.epoch) == ("student/a", 1)
    assert check_bits(lessons) == 3


@pytest.mark.soak
def test_a_lane_that_leaves_its_node_counts_as_no_failure(
    launch, lessons, tmp_path, heard, check_bits, one_thread
):
    source = partial(interrupted_source, 1, tmp_path / "mark", "leave")
    assert len(launch(lessons, make_source=source, max_failures=0)) == 3
    assert heard.decisions() == ["move"]
    assert check_bits(lessons) == 3


@pytest.mark.soak
def test_lanes_that_are_lost_too_often_end_the_run(launch, lessons, tmp_path):
    source = partial(interrupted_source, 0, tmp_path / "mark", "kill")
    with pytest.raises(TrainingError, match="student training failed"):
        launch(lessons, make_source=source, max_failures=0)


def test_a_lane_that_there_is_no_room_for_is_not_waited_for_for_ever(launch, lessons):
    with pytest.raises(TrainingError, match=r"no student worker started within 1 s .*'CPU': 100"):
        launch(lessons, cpus=100, start_timeout_s=1)


@pytest.mark.soak
def test_a_lane_that_cannot_be_replaced_is_not_waited_for_for_ever(
    launch, lessons, tmp_path, heard
):
    """It had all CPUs; when it was killed somebody else takes one."""
    tenants = []

    class Occupying:
        def __call__(self, *events):
            if any(event.kind == "failure" for event in events):
                tenants.append(ray.remote(num_cpus=1)(_Tenant).remote())
                ray.get(tenants[0].moved_in.remote(), timeout=60)

    source = partial(interrupted_source, 1, tmp_path / "mark", "kill")
    try:
        with pytest.raises(TrainingError, match="no student worker started within 5 s"):
            launch(
                lessons,
                make_source=source,
                emit=Occupying(),
                cpus=6,
                max_failures=1,
                start_timeout_s=5,
            )
    finally:
        for tenant in tenants:
            ray.kill(tenant)


class _Tenant:
    """Somebody else on the cluster."""

    def moved_in(self):
        return True


@pytest.mark.soak
def test_ray_train_gives_the_same_bits(launch, lessons, check_bits, one_thread):
    assert len(launch(lessons, trainer="train")) == 3
    assert check_bits(lessons) == 3


def test_a_node_is_asked_about_once_a_second(monkeypatch):
    asked, now = [], [0.0]
    node = ray.get_runtime_context().get_node_id()
    monkeypatch.setattr("raykd.train.lanes.time.monotonic", lambda: now[0])
    monkeypatch.setattr(
        "raykd.train.lanes.state.get_draining_nodes",
        lambda: asked.append(now[0]) or ({node: 0} if now[0] > 2 else {"another": 0}),
    )
    leaving = _Notice()
    found = {}
    for now[0] in (0.5, 1.5, 2.0, 3.0):
        found[now[0]] = leaving()
    assert found == {0.5: False, 1.5: False, 2.0: False, 3.0: True}
    assert asked == [1.5, 3.0]


@pytest.fixture
def peers(samples, make_fit):
    """Two fits, each of two networks that exchange weights, the second at steps that are within its epochs."""
    return [
        make_fit(
            samples,
            fit_id=f"student/{name}",
            train={"batch_size": 25, "epochs": 3},
            peers=Codistillation(count=2, exchange_every=every),
        )
        for name, every in (("a", 3), ("b", 5))
    ]


@pytest.mark.soak
@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_peers_have_the_same_bits_in_any_number_of_lanes(
    launch, peers, lanes, check_peers, one_thread
):
    assert launch(peers, lanes=lanes).keys() == {"student/a", "student/b"}
    check_peers(peers)


@pytest.mark.soak
@pytest.mark.parametrize("at", range(10))
def test_a_peer_that_is_killed_goes_on_and_the_others_wait_for_it(
    launch, peers, tmp_path, heard, at, check_peers, one_thread
):
    source = partial(interrupted_source, at, tmp_path / "mark", "kill")
    launch(peers, lanes=2, make_source=source, max_failures=1)
    assert heard.decisions() == ["resume"]
    check_peers(peers)


@pytest.mark.soak
def test_a_peer_that_fails_keeps_nobody_waiting(launch, peers):
    """It loses its teacher in the second epoch, while the other peer may be at an exchange."""
    failing = replace(peers[0], fit_id="failing/a")
    with pytest.raises(TrainingError, match=r"failing/a first: .*no answer"):
        launch([failing], lanes=2)


@pytest.mark.soak
def test_peers_go_on_from_their_folders_alone(launch, peers, tmp_path, check_peers, one_thread):
    """The run is ended, with its board, when a peer is killed; then it is resumed."""
    for at in (1, 6):
        source = partial(interrupted_source, at, tmp_path / f"mark{at}", "kill")
        with pytest.raises(TrainingError, match="student training failed"):
            launch(peers, lanes=2, make_source=source, max_failures=0)
    launch(peers, lanes=2)
    check_peers(peers)


@pytest.fixture
def check_peers(tmp_path, samples):
    """Holds every peer's weights against those of turns in this process."""

    def check(fits):
        run, alone = (
            FolderReporter(RunFolder(tmp_path / name), lambda *_: None) for name in ("run", "alone")
        )
        for fit in fits:
            train(fit, samples, table_source(samples, fit), alone, World())
            for piece in fit.pieces:
                one, other = (
                    load_weights(r.folder(piece.fit_id).weights("last"), key="test")
                    for r in (run, alone)
                )
                assert fingerprint(one) == fingerprint(other), piece.fit_id
                assert not (run.folder(piece.fit_id).path / "state.pt").exists()

    return check
