"""Detectors that learn from others in views that move boxes: one answer however it comes, resumed, by two workers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from raykd.config.data import Data, Splits, Views
from raykd.config.models import DetectorModel
from raykd.config.sources import DigitsSource
from raykd.data import Dataset
from raykd.data.samples import samples_of
from raykd.detection.layout import label_rows
from raykd.folders import RunFolder
from raykd.models.weights import load_weights
from raykd.pipeline.recipe_store import store_keys
from raykd.targets import StoredTargets, TargetStore, codec
from raykd.targets.shards import write_shard
from raykd.targets.store import append
from raykd.teachers import InProcess, TeacherModel
from raykd.train import FolderReporter, World, train
from raykd.types import is_labelled
from tests.tasks.raykd_test_boxes import SIDE, box_data

CPU = torch.device("cpu")
MODEL = DetectorModel(width=0.5, depth=2)
TAP, MAP = "blocks.1", (8, SIDE // 4, SIDE // 4)
POLICY = [{"type": "flip"}, {"type": "pad_crop", "padding": 4}]
OBJECTIVE = {
    "labels": {"weight": 1.0},
    "soft_targets": {"loss": {"type": "dense_boxes"}, "weight": 1.0},
    "features": [
        {"loss": {"type": "pkd"}, "teacher": "a", "student_tap": TAP, "teacher_tap": TAP, "weight": 0.5}
    ],
}  # fmt: skip
SGD = {"epochs": 2, "batch_size": 10, "optimizer": {"type": "sgd", "lr": 0.02}}


@pytest.fixture
def samples():
    """Images with boxes, one with a box at the border, some without any, some without labels."""
    made = box_data(64, unlabelled=6)
    rows = made.labels.copy()
    border = label_rows([([1], [[SIDE - 9, 0, SIDE, 12]])])[0]
    rows[0, : len(border)], rows[0, len(border) :] = border, 0
    assert (rows[:, 0] == 0).any()
    data = Data(
        source=DigitsSource(),
        splits=Splits(validation=12, test=12),
        labels=20,
        views=Views.model_validate({"count": 4, "policy": POLICY}),
    )
    dataset = Dataset(made.inputs, rows, task="detection", classes=made.classes)
    found = samples_of(dataset, data, seed=0)
    train_rows = found.labels[found.splits["train"]]
    assert 0 < is_labelled(train_rows).sum() < len(train_rows)
    return found


@pytest.fixture
def specs(samples, make_spec):
    squares = DetectorModel(width=0.5, depth=2, knows=(0,))
    return {
        "a": make_spec(MODEL, data=samples, name="a", taps=(TAP,), seed=1),
        "b": make_spec(squares, data=samples, name="b", seed=2),
    }


@pytest.fixture
def fit(samples, make_fit):
    made = make_fit(
        samples, train=SGD, objective=OBJECTIVE, student_shapes={TAP: MAP}, teacher_shapes={("a", TAP): MAP}
    )  # fmt: skip
    return replace(made, model=MODEL)


def inside(specs, samples, heard=lambda *_: None):
    return InProcess(specs, dict.fromkeys(specs, CPU), samples, heard, None)


def stored(root, specs, samples, rows, views):
    """A store that has been filled as actors fill it."""
    keys = store_keys(specs, samples)
    for name, spec in specs.items():
        for view in views:
            arrays = TeacherModel(spec).score(samples, rows, np.full(len(rows), view))
            known = {"ids": samples.ids[rows], "hashes": samples.content_hash(rows)}
            for key in keys[name].augmented:
                append(root, key, [write_shard(root / key.folder, view, {**known, **key.of(arrays)})])  # fmt: skip
    return StoredTargets(TargetStore.open(root, keys, samples.ids, samples.content_hashes))


def test_stored_live_and_in_process_answers_are_the_same_bits(samples, specs, tmp_path, heard):
    rows = samples.splits["train"]
    store, own = stored(tmp_path, specs, samples, rows, range(4)), inside(specs, samples, heard)
    random = np.random.default_rng(0)
    for size in (1, 9, 20):  # batches of the teachers are of 8
        batch = samples.batch(random.permutation(rows)[:size], random.integers(0, 4, size))
        found = [source.collect(source.submit(batch), 60) for source in (store, own)]
        for name, spec in specs.items():
            live = codec.decode(TeacherModel(spec).score(samples, batch.rows.numpy(), batch.view_B.numpy()))  # fmt: skip
            for answer in (one[name] for one in found):
                assert torch.equal(answer.values_NC, live.values_NC)
                assert answer.features.keys() == live.features.keys()
                assert all(torch.equal(answer.features[t], live.features[t]) for t in live.features)


def test_stored_and_in_process_teachers_teach_the_same_bits(
    runs, samples, specs, fit, equal, tmp_path
):  # fmt: skip
    store = stored(tmp_path / "store", specs, samples, samples.splits["train"], range(4))
    results = [
        runs(fit, name, samples=samples, source=source)
        for name, source in (("stored", store), ("inside", inside(specs, samples)))
    ]
    assert {**results[0], "seconds": 0} == {**results[1], "seconds": 0}
    assert equal(runs.weights(fit, "stored"), runs.weights(fit, "inside"))


class Killed(BaseException):
    """Nothing may catch it."""


class Killing:
    """Answers of a source, until one ends the process."""

    def __init__(self, source, at):
        self.source, self.left = source, at

    def submit(self, batch):
        return self.source.submit(batch)

    def collect(self, ticket, timeout_s):
        self.left -= 1
        if self.left < 0:
            raise Killed
        return self.source.collect(ticket, timeout_s)


@pytest.mark.parametrize("at", [1, 4, 7])
def test_killed_and_continued_to_the_same_bits(runs, samples, specs, fit, equal, at):
    whole = runs(fit, "whole", samples=samples, source=inside(specs, samples))
    with pytest.raises(Killed):
        runs(fit, samples=samples, source=Killing(inside(specs, samples), at))
    result = runs(fit, samples=samples, source=inside(specs, samples))
    assert {**result, "seconds": 0} == {**whole, "seconds": 0}
    assert equal(runs.weights(fit), runs.weights(fit, "whole"))


def _worker(rank, root, fit, samples, specs):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/meet", rank=rank, world_size=2)
    reporter = FolderReporter(RunFolder(root / "two"), lambda *_: None)
    train(fit, samples, inside(specs, samples), reporter, World(rank, 2))
    dist.destroy_process_group()


@pytest.mark.soak
def test_two_workers_are_one(runs, samples, specs, fit, tmp_path):
    runs(fit, "whole", samples=samples, source=inside(specs, samples))
    torch.multiprocessing.spawn(_worker, (tmp_path, fit, samples, specs), nprocs=2)
    folder = FolderReporter(RunFolder(tmp_path / "two"), lambda *_: None).folder(fit.fit_id)
    after = load_weights(folder.weights("last"), key="test")
    for name, tensor in runs.weights(fit, "whole").items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=2e-6)
