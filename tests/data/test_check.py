from __future__ import annotations

import numpy as np
import pytest
import torch

from raykd.config.data import Data, DigitsSource, Mixup, Shift, Splits, Views
from raykd.data import Dataset, build_samples, check_data
from raykd.data.check import draw_views
from raykd.data.samples import samples_of


def samples_from(inputs, labels, splits=None, *, data=None, **kwargs):
    dataset = Dataset(inputs=inputs, labels=labels, splits=splits, **kwargs)
    return samples_of(dataset, data or Data(source=DigitsSource()), seed=0)


def test_clean_digits():
    report = check_data(build_samples(Data(source=DigitsSource(), labels=100), seed=0))
    assert report.counts == {"train": 1168, "validation": 270, "test": 359}
    assert report.unlabelled == {"train": 0, "validation": 0, "test": 0}
    assert sum(item.labelled for item in report.classes["train"]) == 100
    assert sum(item.hidden for item in report.classes["train"]) == 1068
    assert report.imbalance == 1.0
    assert report.warnings == ()
    assert report.duplicates == report.leaks == ()
    assert (report.ranges[0].low, report.ranges[0].high) == (0, 1)
    text = "\n".join(report.lines())
    for part in (
        "train            1168       100     1068",
        "10 (+",
        "float32 [1, 8, 8]",
        "no warnings",
    ):
        assert part in text


def test_leaks_duplicates_and_conflicts():
    inputs = np.random.default_rng(0).random((40, 3), dtype=np.float32)
    inputs[30:33] = inputs[[0, 1, 1]]  # two test samples and a third are copies of train
    inputs[5] = inputs[4]
    inputs[21] = inputs[3]
    labels = np.arange(40) % 2
    parts = {"train": np.arange(20), "validation": np.arange(20, 30), "test": np.arange(30, 40)}
    ids = np.arange(100, 140)
    report = check_data(samples_from(inputs, labels, parts, ids=ids))
    found = {group.splits: (group.count, group.examples) for group in report.duplicates}
    assert found == {
        ("train", "train"): (1, ((104, 105),)),
        ("test", "test"): (1, ((131, 132),)),
        ("train", "validation"): (1, ((103, 121),)),
        ("train", "test"): (3, ((100, 130), (101, 131), (101, 132))),
    }
    assert [group.splits for group in report.leaks] == [("train", "validation"), ("train", "test")]
    # Rows 4 and 5 have different labels, and so have 1, 31 and 32.
    assert report.conflicting == 5
    text = "\n".join(report.lines())
    assert "warning: leak: 3 test samples are also in train" in text
    assert "5 samples equal one that has another label" in text
    assert "3 duplicates in test that train has too (ids 100 = 130, 101 = 131, 101 = 132)" in text


def test_missing_labels_imbalance_and_small_splits():
    labels = np.array([0] * 70 + [1] * 5 + [2] * 5 + [-1] * 20)
    inputs = np.random.default_rng(0).random((100, 3), dtype=np.float32)
    sizes = Splits(validation=3, test=3)
    report = check_data(
        samples_from(inputs, labels, data=Data(source=DigitsSource(), splits=sizes))
    )
    assert report.unlabelled["train"] == 20
    assert report.imbalance == pytest.approx(68 / 3)
    assert any("validation has 3 labelled samples" in warning for warning in report.warnings)
    assert any("23 times" in warning for warning in report.warnings)
    few = Data(source=DigitsSource(), splits=sizes, labels=2)
    report = check_data(samples_from(inputs, labels, data=few))
    assert report.imbalance == float("inf")
    assert any("1 classes have no label in train: 2" in warning for warning in report.warnings)


def test_odd_values_and_axes():
    inputs = np.random.default_rng(0).random((300, 8, 8, 3), dtype=np.float32) * 255
    inputs[:2] = 0
    report = check_data(samples_from(inputs, np.arange(300) % 2))
    text = "\n".join(report.warnings)
    assert "looks like [H, W, C]" in text
    assert "view steps take float images to be in [0, 1]" in text
    assert "2 samples of inputs have one value everywhere" in text


def sizes_of(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def test_draw_views(tmp_path):
    data = Data(source=DigitsSource(), views=Views(policy=(Shift(), Mixup(alpha=1.0))))
    samples = build_samples(data, seed=0)
    seen = []

    def preprocess(batch):
        seen.append(batch.shape)
        return torch.nn.functional.interpolate(batch, size=12).repeat(1, 3, 1, 1) * 3 - 1

    draw_views(samples, tmp_path / "plain.png")
    draw_views(samples, tmp_path / "sub" / "models.png", preprocess={"wide": preprocess})
    assert seen == [(6, 1, 8, 8)] * 4
    plain, both = sizes_of(tmp_path / "plain.png"), sizes_of(tmp_path / "sub" / "models.png")
    assert both[0] == 2 * plain[0]
    assert both[1] == plain[1]


def test_draw_vectors(tmp_path):
    samples = samples_from(np.random.default_rng(0).random((40, 5)), np.arange(40) % 2)
    draw_views(samples, tmp_path / "curves.png", count=2, views=1)
    assert sizes_of(tmp_path / "curves.png")[0] > 100
