"""A fit with everything that draws, runs along or changes over time: killed and continued, the same bits."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from raykd.config.data import Preprocess
from raykd.config.models import CnnModel
from raykd.config.objective import Objective
from raykd.config.training import Training
from raykd.folders import RunFolder
from raykd.models.preprocess import resolve
from raykd.models.weights import load_weights
from raykd.objective import TeacherInfo
from raykd.targets import Ticket
from raykd.train import Fit, FolderReporter, Plan, World, train
from raykd.types import Dense

TAP, SHAPE = "blocks.0", (6, 2, 2)
TERM = {"teacher": "a", "student_tap": TAP, "teacher_tap": "x"}
EVERYTHING = {
    "labels": {"weight": {"type": "sigmoid", "from": 0, "to": 0.5, "epochs": 3}},
    "soft_targets": {
        "loss": {"type": "dkd", "standardise": True},
        "temperature": {"type": "linear", "from": 6, "to": 2, "epochs": 4},
        "disagreement": {"type": "discount"},
    },
    "features": [
        {**TERM, "loss": {"type": "vid"}},
        {**TERM, "loss": {"type": "cosine"}, "weight": {"type": "cosine", "from": 1, "to": 0, "epochs": 3}},
        {**TERM, "loss": {"type": "rkd_distance"}},
        {**TERM, "loss": {"type": "attention"}, "teacher": "b"},
    ],
    "phases": [{"until_epoch": 1.5, "soft_targets": {"weight": 0}}],
}  # fmt: skip


class Killed(BaseException):
    """Nothing may catch it."""


class Table:
    """Teachers whose answers are drawn by row and view; may end the process at an answer."""

    def __init__(self, samples, kill_at=None):
        self.samples, self.kill_at, self.collected = samples, kill_at, 0

    def submit(self, batch):
        return Ticket(batch)

    def collect(self, ticket, timeout_s):
        if self.collected == self.kill_at:
            raise Killed
        self.collected += 1
        keys = list(zip(ticket.batch.rows.tolist(), ticket.batch.view_B.tolist(), strict=True))
        return {name: self._answer(number, keys) for number, name in enumerate("ab")}

    def _answer(self, number, keys):
        def drawn(kind, shape):
            rows = [
                np.random.default_rng((number, kind, k[0], k[1] + 1)).normal(size=shape)
                for k in keys
            ]
            return torch.from_numpy(np.stack(rows)).float()

        return Dense(
            kind="logits",
            values_NC=drawn(0, self.samples.class_count) * 3,
            valid_N=torch.ones(len(keys), dtype=torch.bool),
            features={"x": drawn(1, SHAPE)},
        )


@pytest.fixture
def make_fit(samples):
    def make(**objective):
        rows = samples.splits["train"]
        return Fit(
            fit_id="student/replica0",
            stage="student",
            key="student.model",
            model=CnnModel(width=0.25, depth=2),
            preprocessing=resolve(
                Preprocess(), samples.statistics(), input_shape=samples.input_shape, key="p"
            ),
            weights=None,
            objective=Objective.model_validate({**EVERYTHING, **objective}),
            teacher_infos=(TeacherInfo("a"), TeacherInfo("b", 1.5)),
            student_shapes={TAP: (8, *samples.input_shape[1:])},
            teacher_shapes={(n, "x"): SHAPE for n in "ab"},
            training=Training.model_validate(
                {"epochs": 4, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 0.01}}
            ),
            plan=Plan(rows=rows, epoch_rows=len(rows), batch_size=32, seed=5, views=4),
            seed=11,
            labels="budget",
            data="digest",
        )

    return make


@pytest.mark.parametrize("weighting", ["sample", "drop"])
def test_killed_and_continued(one_thread, tmp_path, samples, heard, make_fit, weighting):
    fit = make_fit(weighting={"type": weighting})

    def run(name, **given):
        reporter = FolderReporter(RunFolder(tmp_path / name), heard)
        result = train(fit, samples, Table(samples, **given), reporter, World())
        return result, load_weights(reporter.folder(fit.fit_id).weights("last"), key="test")

    whole, weights = run("whole")
    with pytest.raises(Killed):
        run("parts", kill_at=2 * fit.plan.steps_per_epoch + 1)
    result, continued = run("parts")
    assert {**result, "seconds": 0} == {**whole, "seconds": 0}
    assert all(torch.equal(continued[name], weights[name]) for name in weights)


def test_what_an_epoch_logs(one_thread, tmp_path, samples, heard, make_fit):
    fit = make_fit(weighting={"type": "sample"})
    train(fit, samples, Table(samples), FolderReporter(RunFolder(tmp_path / "run"), heard), World())
    epochs = [json.loads(json.dumps(e.to_line())) for e in heard if e.kind == "epoch"]
    assert len(epochs) == 4
    for line in epochs:
        assert sum(line["weights"].values()) == pytest.approx(1)
        assert line["effective_teachers"] == pytest.approx(1)
        assert line["jsd_nats"] >= 0
        assert set(line["terms"]) == {
            "labels",
            "soft_targets",
            *(f"features.{i}" for i in range(4)),
        }
    assert len({line["weights"]["a"] for line in epochs}) == 4
