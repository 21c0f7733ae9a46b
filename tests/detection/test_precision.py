"""Average precision against pycocotools on constructed sets, and its bootstrap against sets that are built again."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest

from raykd.detection.precision import (
    ImageBoxes,
    average_precision,
    drawn_again,
    matched,
    redrawn,
)

CLASSES = 3


def boxes_of(random, count, *, size, quarters=False):
    corner, side = random.random((count, 2)) * size * 0.6, random.random((count, 2)) * size * 0.4
    boxes = np.concatenate([corner, corner + side + 2], axis=1)
    return np.round(boxes * 4) / 4 if quarters else boxes


def noisy(random, true, classes, *, size, ties):
    """Boxes near the true ones, some twice, some of another class, and some from nowhere."""
    twice = random.integers(len(true), size=len(true) // 2) if len(true) else []
    near = np.concatenate([true, true[twice]]) if len(true) else true
    near = near + random.normal(size=near.shape) * size * 0.02
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    other = boxes_of(random, 3, size=size)
    labels = np.concatenate([classes, classes[twice], random.integers(CLASSES, size=3)])
    wrong = random.random(len(labels)) < 0.15
    labels = np.where(wrong, random.integers(CLASSES, size=len(labels)), labels).astype(int)
    scores = random.random(len(labels))
    return np.concatenate([near, other]), np.round(scores, 1) if ties else scores, labels


def constructed(name):
    """`plain`: every size, images without boxes; `ties`: equal scores and overlaps; `crowds`: ignored regions."""
    random = np.random.default_rng({"plain": 1, "ties": 2, "crowds": 3}[name])
    size, images = 64 if name == "ties" else 300, []
    for number in range(25):
        count = 0 if number % 7 == 0 else int(random.integers(1, 9))
        true = boxes_of(random, count, size=size, quarters=name == "ties")
        classes = random.integers(CLASSES - (name == "ties"), size=count)
        found, scores, labels = noisy(random, true, classes, size=size, ties=name == "ties")
        if name == "ties" and count:
            found[:count] = true  # exact hits, and one true box twice
            true, classes = np.concatenate([true, true[:1]]), np.append(classes, classes[0])
        if number % 11 == 0:
            found, scores, labels = found[:0], scores[:0], labels[:0]
        crowd = random.random(len(true)) < 0.2 if name == "crowds" else None
        size_G = (true[:, 2:] - true[:, :2]).prod(1)
        area = size_G * 0.7 if name == "crowds" else None
        images.append(
            ImageBoxes(
                true_G4=true, class_G=classes, found_D4=found, score_D=scores, found_class_D=labels,
                crowd_G=crowd, area_G=area,
            )
        )  # fmt: skip
    return images


def as_coco(images):
    """pycocotools' own evaluation of the same boxes."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")

    def sized(boxes):
        return [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes.tolist()]

    truths, results = [], []
    for number, image in enumerate(images):
        for g, box in enumerate(sized(image.true_G4)):
            truths.append(
                {
                    "id": len(truths) + 1,
                    "image_id": number + 1,
                    "category_id": int(image.class_G[g]) + 1,
                    "bbox": box,
                    "area": box[2] * box[3] if image.area_G is None else float(image.area_G[g]),
                    "iscrowd": 0 if image.crowd_G is None else int(image.crowd_G[g]),
                }
            )
        for d, box in enumerate(sized(image.found_D4)):
            results.append(
                {
                    "image_id": number + 1,
                    "category_id": int(image.found_class_D[d]) + 1,
                    "bbox": box,
                    "score": float(image.score_D[d]),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": n + 1} for n in range(len(images))],
            "categories": [{"id": c + 1, "name": str(c)} for c in range(CLASSES)],
            "annotations": truths,
        }
        truth.createIndex()
        found = evaluation.COCOeval(truth, truth.loadRes(results), "bbox")
        found.evaluate()
        found.accumulate()
        found.summarize()
    return found


@pytest.mark.parametrize("name", ["plain", "ties", "crowds"])
def test_every_number_is_that_of_pycocotools(name):
    images = constructed(name)
    coco, own = as_coco(images), average_precision(images, classes=CLASSES)
    numbers = [own.mean, own.at_50, own.at_75, *own.by_size.values()]
    expected = [value if value > -1 else math.nan for value in coco.stats[:6]]
    np.testing.assert_allclose(numbers, expected, rtol=0, atol=1e-9)
    by_class = coco.eval["precision"][:, :, :, 0, 2].mean((0, 1))
    expected = np.where(by_class > -1, by_class, math.nan)
    np.testing.assert_allclose(own.by_class, expected, rtol=0, atol=1e-9)
    assert 0.05 < own.mean < 0.95


FROZEN = {
    "plain": (0.14290313832156057, 0.2905447292251097, 0.11517794963486969)
    + (0.014724972497249725, 0.18077265018450703, 0.5023322332233223),
    "ties": (0.37747752956752684, 0.43563560739999974, 0.39166116717472327)
    + (0.37747752956752684, math.nan, math.nan),
    "crowds": (0.13590022036405475, 0.3066688948903668, 0.12748753592884748)
    + (0.014893797072014893, 0.2093058562779462, math.nan),
}


@pytest.mark.parametrize("name", ["plain", "ties", "crowds"])
def test_numbers_are_those_that_pycocotools_once_gave(name):
    """For machines without pycocotools: its 2.0.11 on the same sets."""
    own = average_precision(constructed(name), classes=CLASSES)
    numbers = [own.mean, own.at_50, own.at_75, *own.by_size.values()]
    np.testing.assert_allclose(numbers, FROZEN[name], rtol=0, atol=1e-9)


def test_perfect_boxes_have_a_precision_of_1_and_none_of_0():
    random = np.random.default_rng(0)
    true, labels = boxes_of(random, 5, size=60), np.array([0, 1, 2, 0, 1])
    nothing = np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)
    whole = {"found_D4": true, "score_D": np.ones(5), "found_class_D": labels}
    right = ImageBoxes(true_G4=true, class_G=labels, **whole)
    missed = ImageBoxes(
        true_G4=true, class_G=labels, found_D4=nothing[0], score_D=nothing[1], found_class_D=nothing[2]
    )  # fmt: skip
    assert average_precision([right], classes=3).mean == pytest.approx(1.0)
    assert average_precision([missed], classes=3).mean == 0.0
    assert average_precision([right, missed], classes=3).at_50 == pytest.approx(51 / 101)
    empty = ImageBoxes(true_G4=nothing[0], class_G=nothing[2], **whole)
    assert math.isnan(average_precision([empty], classes=3).mean)
    assert math.isnan(average_precision([], classes=3).mean)


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_bootstrap_is_the_precision_of_the_images_that_were_drawn(threshold):
    images = constructed("plain")
    times = drawn_again(len(images), draws=6, seed=3)
    assert times.sum(1).tolist() == [len(images)] * 6
    found = redrawn([matched(images, c) for c in range(CLASSES)], times, threshold=threshold)
    for times_I, value in zip(times, found, strict=True):
        again = [image for image, n in zip(images, times_I, strict=True) for _ in range(n)]
        own = average_precision(again, classes=CLASSES)
        assert value == pytest.approx(own.mean if threshold is None else own.at_50, abs=1e-12)
    once = redrawn([matched(images, c) for c in range(CLASSES)], np.ones((1, len(images)), int))
    assert once[0] == pytest.approx(average_precision(images, classes=CLASSES).mean, abs=1e-12)


def test_a_mean_over_images_is_not_it():
    images = [one for one in constructed("plain") if len(one.true_G4) and len(one.found_D4)]
    alone = np.nanmean([average_precision([one], classes=CLASSES).mean for one in images])
    assert abs(alone - average_precision(images, classes=CLASSES).mean) > 0.01
