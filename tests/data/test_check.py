from __future__ import annotations

import numpy as np
import pytest
import torch

from raykd.config.data import Data, Mixup, Shift, Splits, Views
from raykd.config.sources import DigitsSource
from raykd.data import Dataset, build_samples, check_data
from raykd.data.draw import draw_classes, draw_views
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
        ("train", "train"): (1, (("104", "105"),)),
        ("test", "test"): (1, (("131", "132"),)),
        ("train", "validation"): (1, (("103", "121"),)),
        ("train", "test"): (3, (("100", "130"), ("101", "131"), ("101", "132"))),
    }
    assert [group.splits for group in report.leaks] == [("train", "validation"), ("train", "test")]
    # Rows 4 and 5 have different labels, and so have 1, 31 and 32.
    assert report.conflicts.count == 5
    assert report.conflicts.examples == ((("104", "0"), ("105", "1")), (("101", "1"), ("132", "0")))
    assert "5 samples in conflict (ids 104 is 0, 105 is 1; 101 is 1, 132 is 0)" in report.lines()
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
    share = np.array([68, 3, 3]) / 74
    assert report.effective_classes == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert any(f"as even as {report.effective_classes:.1f} of 3" in line for line in report.lines())
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
    assert "look like 0..255 in float: give uint8, or divide by 255" in text
    assert "2 samples of inputs have one value everywhere (ids 0, 1)" in text
    assert (report.ranges[0].constant, report.ranges[0].empty) == (2, 2)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda x: x * 2 - 1, np.float32, "look normalised already"),
        (lambda x: x * 1000, np.float64, "divide by the largest"),
        (lambda x: x > 0.5, np.uint8, "nearly black; multiply by 255"),
        (lambda x: x * 255, np.uint8, None),
        (lambda x: x, np.float32, None),
    ],
)
def test_the_scale_of_images_is_guessed(change, kind, said):
    inputs = np.random.default_rng(0).random((300, 1, 8, 8))
    report = check_data(samples_from(change(inputs).astype(kind), np.arange(300) % 2))
    found = [warning for warning in report.warnings if "values from" in warning]
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_values_that_never_change_are_named():
    inputs = np.random.default_rng(0).random((60, 5), dtype=np.float32)
    inputs[:, [1, 4]] = (0, 7)
    inputs[3] = 7
    (one,) = check_data(samples_from(inputs, np.arange(60) % 2)).ranges
    assert (one.still, one.constant, one.empty, one.examples) == ((4,), 1, 0, ("3",))
    inputs[3, 1] = 0
    report = check_data(samples_from(inputs, np.arange(60) % 2))
    assert "2 of 5 values of inputs are the same in every sample (indices 1, 4)" in "\n".join(
        report.warnings
    )


def blurred(shape, seed=0):
    """Random images with structure."""
    rough = torch.rand(*shape[:2], 6, 6, generator=torch.Generator().manual_seed(seed))
    return (
        torch.nn.functional.interpolate(rough, size=shape[2:], mode="bicubic").clamp(0, 1).numpy()
    )


def test_images_that_look_the_same_are_found():
    images = blurred((60, 3, 20, 24))
    noise = np.random.default_rng(1).normal(0, 0.004, images[0].shape)
    images[40] = images[2] * 0.6 + 0.1  # paler
    images[41] = (images[3] + noise).clip(0, 1)  # compressed anew
    images[9] = images[8] * 0.9
    images[50] = images[10]  # equal, which is told as such
    images[51] = images[4][:, ::-1]  # upside down is another image
    images[52] = np.roll(images[5], 6, axis=1)
    images[53] = images[6][[1, 2, 0]]  # other colours, the same grey
    images[59] = images[58] = 0.5
    parts = {"train": np.arange(30), "validation": np.arange(30, 35), "test": np.arange(35, 60)}
    samples = samples_from((images * 255).astype(np.uint8), np.arange(60) % 2, parts)
    report = check_data(samples)
    assert {found.splits: found.examples for found in report.near} == {
        ("train", "train"): (("8", "9"),),
        ("train", "test"): (("2", "40"), ("3", "41")),
    }
    assert [found.splits for found in report.near_leaks] == [("train", "test")]
    assert "2 near-duplicates in test that train has too (ids 2 ~ 40, 3 ~ 41)" in report.lines()
    assert any("near leak: 2 test images look like one of train" in w for w in report.warnings)


def test_images_of_one_colour_look_like_nothing():
    images = blurred((60, 1, 8, 8))
    images[10:20] = np.linspace(0.1, 0.7, 10, dtype=np.float32)[:, None, None, None]
    assert check_data(samples_from(images, np.arange(60) % 2)).near == ()


def test_what_is_too_much_to_compare_is_said(monkeypatch):
    monkeypatch.setattr("raykd.data.near_duplicates.MOST_IMAGES", 50)
    report = check_data(samples_from(blurred((60, 1, 8, 8)), np.arange(60) % 2))
    assert report.near is None
    assert any(line.startswith("near-duplicates: not looked for") for line in report.lines())
    vectors = np.random.default_rng(0).random((60, 5), dtype=np.float32)
    assert check_data(samples_from(vectors, np.arange(60) % 2)).near == ()


def test_of_many_classes_the_largest_and_the_smallest_are_shown():
    labels = np.repeat(np.arange(50), np.arange(10, 60))
    inputs = np.random.default_rng(0).random((len(labels), 2), dtype=np.float32)
    lines = check_data(samples_from(inputs, labels)).lines()
    table = lines[lines.index("") + 2 :]
    shown = [int(line.split()[0]) for line in table[: table.index("")][:-1]]
    assert shown == [*range(49, 29, -1), *range(19, -1, -1)]
    assert any("10 classes of middling size are not shown" in line for line in table)


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


def drawn_cells(monkeypatch):
    """What `draw_classes` draws: images of samples, and counts of a class."""
    from raykd.data import draw

    seen = {"samples": [], "counts": []}
    monkeypatch.setattr(draw, "_draw_one", lambda cell, sample, raw: seen["samples"].append(sample))
    count = draw._draw_counts
    monkeypatch.setattr(
        draw,
        "_draw_counts",
        lambda cell, counts, highest: [seen["counts"].append(counts), count(cell, counts, highest)],
    )
    return seen


def test_draw_classes(tmp_path, monkeypatch):
    samples = build_samples(Data(source=DigitsSource(), labels=100), seed=0)
    seen = drawn_cells(monkeypatch)
    draw_classes(samples, tmp_path / "sub" / "classes.png", count=2, most=4)
    assert sizes_of(tmp_path / "sub" / "classes.png")[1] > 300
    train, sizes = samples.splits["train"], np.bincount(samples.all_labels[samples.splits["train"]])
    largest = np.argsort(-sizes, kind="stable")
    wanted = sorted([*largest[:2].tolist(), *largest[-2:].tolist()])
    assert [counts[0] for counts in seen["counts"]] == sizes[wanted].tolist()
    first = [train[samples.all_labels[train] == label][:2] for label in wanted]
    assert np.array_equal(
        torch.stack(seen["samples"]).numpy(), samples.inputs["inputs"][np.concatenate(first)]
    )


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_draw_classes_of_other_tasks(tmp_path, task):
    rng = np.random.default_rng(0)
    labels = rng.random(90) if task == "regression" else rng.integers(0, 2, (90, 3))
    samples = samples_from(rng.random((90, 5)), labels, task=task)
    draw_classes(samples, tmp_path / "classes.png")
    assert sizes_of(tmp_path / "classes.png")[0] > 100


def test_draw_vectors(tmp_path):
    samples = samples_from(np.random.default_rng(0).random((40, 5)), np.arange(40) % 2)
    draw_views(samples, tmp_path / "curves.png", count=2, views=1)
    assert sizes_of(tmp_path / "curves.png")[0] > 100
