"""Whatever teacher dies while students train: every row once, and the same bits."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import numpy as np
import pytest
import ray

from raykd.config import load_config
from raykd.config.models import CnnModel, MlpModel
from raykd.config.root import TeacherCluster
from raykd.folders import RunFolder
from raykd.models.weights import load_weights
from raykd.pipeline.preparation import prepare
from raykd.targets import Ticket
from raykd.teachers import ActorFleet, LiveTargets, TeacherResources
from raykd.teachers.client import Client
from raykd.teachers.quarantine import Tolerance
from raykd.train import FolderReporter, World, train

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


class Disturbed:
    """A source whose actors are killed and stopped while it is asked; counts rows asked and answered."""

    def __init__(self, source, actors, at):
        self.source, self.actors, self.at = source, actors, at
        self.rng = np.random.default_rng(3)
        self.asked: Counter[tuple[int, int, int]] = Counter()
        self.answered: Counter[tuple[int, int, int]] = Counter()
        self.collected, self.done, self.stopped = 0, Counter(), []

    def submit(self, batch):
        self.asked.update(self.keys(batch))
        return self.source.submit(batch)

    def collect(self, ticket: Ticket, timeout_s: float):
        for sign in self.at.get(self.collected, ()):
            self.disturb(sign)
        self.collected += 1
        answers = self.source.collect(ticket, timeout_s)
        assert all(answer.valid_N.all() for answer in answers.values())
        self.answered.update(self.keys(ticket.batch))
        return answers

    def keys(self, batch):
        present = batch.present_B.tolist()
        keys = zip(batch.rows.tolist(), batch.view_B.tolist(), batch.ids.tolist(), strict=True)
        return [key for key, real in zip(keys, present, strict=True) if real]

    def disturb(self, sign):
        # one that hangs or starts does not say its number, and this thread is who has to notice it
        asked = [actor.alive.remote() for actor in self.actors]
        told, _ = ray.wait(asked, num_returns=len(asked), timeout=0.2)
        told = told or ray.wait(asked, timeout=60)[0]
        answer = told[self.rng.integers(len(told))]
        pid = ray.get(answer)
        time.sleep(0.03 * self.rng.random())  # anywhere in a request
        os.kill(pid, sign)
        self.done[sign] += 1
        if sign == signal.SIGSTOP:
            self.stopped.append(time.time())

    def noticed_s(self, times):
        """Seconds from each stop to the first failure that was told after it."""
        return [min(t for t in times if t >= stopped) - stopped for stopped in self.stopped]


@pytest.fixture
def digits(tiny_recipe):
    return prepare(load_config(tiny_recipe, ["data.views.count=null"])).samples


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kills", "stops", "epochs"),
    [
        pytest.param(4, 1, 6, id="few", marks=pytest.mark.soak),
        pytest.param(20, 5, 6, id="both", marks=pytest.mark.soak),
        pytest.param(100, 0, 15, id="kills", marks=pytest.mark.soak),
        pytest.param(0, 10, 6, id="hangs", marks=pytest.mark.soak),
    ],
)
def test_kills_and_hangs_cost_no_row_and_no_bit(
    digits,
    make_fit,
    make_spec,
    heard,
    tmp_path,
    equal,
    one_thread,
    kills,
    stops,
    epochs,
    record_property,
):
    fit = make_fit(
        digits, teacher_infos=("wide", "conv"), train={"epochs": epochs}, plan={"views": None}
    )
    models = {"wide": MlpModel(width=1.0, depth=1), "conv": CnnModel(width=0.25, depth=2)}
    specs = {
        name: make_spec(model, data=digits, name=name, batch_size=32)
        for name, model in models.items()
    }
    settings = TeacherCluster(
        request_timeout_s=1, start_timeout_s=60, max_restarts=10, on_failure="stop"
    )
    places = dict.fromkeys(specs, TeacherResources(2, 0.5, 0))
    steps = epochs * fit.plan.steps_per_epoch
    signs = [signal.SIGKILL] * kills + [signal.SIGSTOP] * stops
    moments = np.random.default_rng(1).choice(np.arange(2, steps - 4), len(signs), replace=False)
    at = {int(moment): [sign] for moment, sign in zip(moments, signs, strict=True)}
    found, sources = {}, {}
    with ActorFleet(specs, places, ray.put(digits), settings, heard) as fleet:
        actors = [actor for replicas in fleet.actors.values() for actor in replicas]
        for name, plan in (("quiet", {}), ("disturbed", at)):
            client = Client(fleet.actors, settings, heard, Tolerance(digits, 0.0))
            source = sources[name] = Disturbed(LiveTargets(client, list(specs)), actors, plan)
            reporter = FolderReporter(RunFolder(tmp_path / name), heard)
            train(fit, digits, source, reporter, World())
            found[name] = load_weights(reporter.folder(fit.fit_id).weights("last"), key="test")
            if name == "quiet":
                assert not heard.decisions()
    quiet, disturbed = sources["quiet"], sources["disturbed"]
    assert disturbed.done == Counter({signal.SIGKILL: kills, signal.SIGSTOP: stops})
    rows = digits.splits["train"]
    assert disturbed.asked == disturbed.answered == quiet.answered
    assert disturbed.answered.total() == epochs * len(rows), "none lost"
    assert set(disturbed.answered.values()) == {1}, "none twice: every epoch shows a new view"
    assert equal(found["quiet"], found["disturbed"])
    assert {"retry", "restart"} & set(heard.decisions())
    assert not {"leave_out", "stop", "quarantine"} & set(heard.decisions())
    failures = [event for event in heard if event.kind == "failure"]
    expected = {"dead": kills, "hung": stops}
    assert {cause for cause, count in expected.items() if count} <= {
        event.values["cause"] for event in failures
    }
    noticed_s = disturbed.noticed_s([e.time for e in failures if e.values["cause"] == "hung"])
    record_property("kills", kills)
    record_property("hangs", stops)
    record_property("batches", disturbed.collected)
    if stops:
        assert max(noticed_s) <= settings.request_timeout_s + 5
        record_property("a hang is noticed after (s)", max(noticed_s))
