"""The real Ray Train path: two workers give the curve of one, and one that fails keeps nobody waiting."""

from __future__ import annotations

import time

import pytest
import ray
from raykd_test_models import table_source

from raykd.config.root import StudentCluster
from raykd.errors import TrainingError
from raykd.folders import RunFolder
from raykd.runtime import Mailbox
from raykd.tracking import Event
from raykd.train import FolderReporter, World, train
from raykd.train.launch import run_fits
from raykd.train.work import Work

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def launch(tmp_path, samples):
    """Trains fits on so many workers; appends the events to `heard`."""

    def launch(fits, workers, heard, lanes=1):
        mailbox = Mailbox(heard.append)
        work = Work(
            samples=ray.put(samples),
            fits=ray.put(fits),
            make_source=table_source,
            run=RunFolder(tmp_path / f"workers{workers}lanes{lanes}"),
            emit=mailbox.sender,
            depth=2,
            lanes=lanes,
        )
        try:
            return run_fits(work, fits, StudentCluster(workers=workers))
        finally:
            mailbox.close()

    return launch


@pytest.fixture
def fits(samples, make_fit):
    """Batches that two workers cannot share evenly; a last batch of one sample; projectors."""
    hint = [{"loss": {"type": "hint"}, "teacher": "a", "student_tap": "blocks.0",
             "teacher_tap": "blocks.0", "weight": 1.0}]  # fmt: skip
    count = len(samples.splits["train"])
    return [
        make_fit(
            samples, model="cnn", fit_id="student/odd", train={"batch_size": 25, "clip_norm": 1.0}
        ),
        make_fit(samples, model="cnn", fit_id="student/lone", train={"batch_size": count - 1}),
        make_fit(samples, model="cnn", fit_id="student/hint", objective={"features": hint}),
        make_fit(samples, model="cnn", fit_id="labels/few", teacher_infos=()),
    ]


def curves(heard):
    """fit -> (train loss, terms, validation) of each epoch."""
    found: dict[str, list[dict[str, float]]] = {}
    for event in heard:
        if event.kind == "epoch":
            told = event.values
            flat = {**told["terms"], **told["validation"], "loss": told["train_loss"]}
            found.setdefault(event.fit, []).append(flat)
    return found


def test_two_workers_give_the_curve_of_one_and_a_failing_one_ends_both(
    launch, fits, make_fit, samples, tmp_path, one_thread
):
    heard: list[Event] = []
    single = launch(fits, 1, heard)
    one = curves(heard)
    assert {fit: len(epochs) for fit, epochs in one.items()} == {f.fit_id: 3 for f in fits}

    # In this process, the same bits as in a lane.
    inside: list[Event] = []
    reporter = FolderReporter(RunFolder(tmp_path / "inside"), inside.append)
    for fit in fits:
        result = train(fit, samples, table_source(samples, fit), reporter, World())
        assert {**result, "seconds": 0} == {**single[fit.fit_id], "seconds": 0}
    assert curves(inside) == one

    # The last fit loses a teacher on one of its two workers, in its second epoch.
    failing = make_fit(samples, model="cnn", fit_id="failing/replica0")
    heard_two: list[Event] = []
    begun = time.monotonic()
    with pytest.raises(
        TrainingError, match=r"1 fits did not finish, failing/replica0 first: .*no answer"
    ):
        launch([*fits, failing], 2, heard_two)
    assert time.monotonic() - begun < 150, "the other worker must not wait for the one that failed"
    two = curves(heard_two)
    # What a worker told last may go down with it; what it never reached must not appear.
    assert len(two.pop("failing/replica0", [])) <= 1
    assert two.keys() == one.keys()
    for fit, epochs in one.items():
        assert len(two[fit]) == len(epochs)
        for before, after in zip(epochs, two[fit], strict=True):
            assert after == pytest.approx(before, rel=2e-4, abs=2e-4), fit
