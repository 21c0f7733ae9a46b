"""Suppression, fusion and fixed locations against plain loops over boxes."""

from __future__ import annotations

import math

import pytest
import torch

from raykd.detection.boxes import iou
from raykd.detection.fusion import Found, fused
from raykd.detection.locations import (
    assigned,
    centres,
    expected_edges,
    found_at,
    to_boxes,
    to_edges,
)
from raykd.detection.suppression import kept_by_nms, soft_nms
from tests.detection.test_boxes import drawn, plain_iou


def crowded(images, count, *, seed=0, classes=3):
    """Boxes that overlap a lot; some are absent."""
    random = torch.Generator().manual_seed(seed)
    middle = torch.rand(images, count, 2, generator=random).double() * 24 + 8
    side = torch.rand(images, count, 2, generator=random).double() * 10 + 8
    scores = torch.rand(images, count, generator=random).double()
    scores = torch.where(torch.rand(images, count, generator=random) < 0.2, 0.0, scores)
    labels = torch.randint(classes, (images, count), generator=random)
    return torch.cat([middle - side / 2, middle + side / 2], dim=-1), scores, labels


def plain_nms(boxes, scores, labels, threshold):
    kept = []
    for n in sorted(range(len(scores)), key=lambda n: -scores[n]):
        if scores[n] > 0 and all(
            labels[m] != labels[n] or plain_iou(boxes[m], boxes[n]) <= threshold for m in kept
        ):
            kept.append(n)
    return sorted(kept)


def plain_soft_nms(boxes, scores, labels, *, sigma=None, threshold=None):
    scores, left = list(scores), [n for n, score in enumerate(scores) if score > 0]
    while left:
        best = max(left, key=lambda n: scores[n])
        left.remove(best)
        for n in left:
            overlap = plain_iou(boxes[best], boxes[n]) if labels[best] == labels[n] else 0.0
            if sigma is not None:
                scores[n] *= math.exp(-(overlap**2) / sigma)
            elif overlap > threshold:
                scores[n] *= 1 - overlap
    return scores


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_nms_of_many_images_is_the_greedy_loop(threshold):
    boxes, scores, labels = crowded(20, 40)
    kept = kept_by_nms(boxes, scores, labels, threshold=threshold)
    for image in range(20):
        plain = plain_nms(
            boxes[image].tolist(), scores[image].tolist(), labels[image].tolist(), threshold
        )
        assert kept[image].nonzero()[:, 0].tolist() == plain
        alone = kept_by_nms(boxes[image], scores[image], labels[image], threshold=threshold)
        assert torch.equal(alone, kept[image])


def test_a_long_chain_is_followed_to_its_end():
    """Each box overlaps the next alone: every second one stays."""
    x = torch.arange(64.0) * 4
    boxes = torch.stack([x, torch.zeros(64), x + 10, torch.full((64,), 10.0)], dim=1)
    scores = torch.linspace(1.0, 0.5, 64)
    kept = kept_by_nms(boxes, scores, torch.zeros(64, dtype=torch.int64), threshold=0.4)
    assert kept.tolist() == [n % 2 == 0 for n in range(64)]


@pytest.mark.parametrize("knobs", [{"sigma": 0.5}, {"threshold": 0.3}])
def test_soft_nms_is_its_plain_loop(knobs):
    boxes, scores, labels = crowded(6, 25)
    method = "gaussian" if "sigma" in knobs else "linear"
    found = soft_nms(boxes, scores, labels, method=method, **knobs)
    for image in range(6):
        given = boxes[image].tolist(), scores[image].tolist(), labels[image].tolist()
        expected = torch.tensor(plain_soft_nms(*given, **knobs), dtype=torch.float64)
        torch.testing.assert_close(found[image], expected, rtol=1e-10, atol=1e-14)
    with pytest.raises(ValueError, match="above 0"):
        soft_nms(boxes, scores, labels, sigma=0.0)


def test_images_without_boxes_pass():
    none = torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.int64)
    assert kept_by_nms(*none).shape == (2, 0)
    assert soft_nms(*none).shape == (2, 0)
    absent = torch.zeros(2, 3, 4), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64)
    assert not bool(kept_by_nms(*absent).any())
    empty = Found(boxes_BN4=absent[0], scores_BN=absent[1], classes_BN=absent[2])
    assert not bool(fused([empty, empty], classes=3).scores_BN.any())
    with pytest.raises(ValueError, match="need scores"):
        kept_by_nms(torch.zeros(2, 3, 4), torch.zeros(2, 4), torch.zeros(2, 3))


def one_image(rows):
    """Rows (x1, y1, x2, y2, score, class)."""
    values = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return Found(
        boxes_BN4=values[None, :, :4],
        scores_BN=values[None, :, 4],
        classes_BN=values[None, :, 5].long(),
    )


def listed(found):
    """The boxes that are there, as rows."""
    there = found.scores_BN[0] > 0
    rows = [found.boxes_BN4[0], found.scores_BN[0, :, None], found.classes_BN[0, :, None]]
    return [tuple(row) for row in torch.cat([r.double() for r in rows], 1)[there].tolist()]


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_fusion_of_copies_is_the_copy_with_its_score(copies):
    boxes, scores, labels = crowded(8, 30)
    kept = kept_by_nms(boxes, scores, labels, threshold=0.55)
    copy = Found(boxes_BN4=boxes, scores_BN=scores * kept, classes_BN=labels).sorted()
    found = fused([copy] * copies, classes=3)
    count = int((copy.scores_BN > 0).sum(1).max())
    torch.testing.assert_close(found.scores_BN[:, :count], copy.scores_BN[:, :count])
    assert not bool(found.scores_BN[:, count:].any())
    there = copy.scores_BN[:, :count] > 0
    torch.testing.assert_close(found.boxes_BN4[:, :count][there], copy.boxes_BN4[:, :count][there])
    assert torch.equal(found.classes_BN[:, :count][there], copy.classes_BN[:, :count][there])


def test_a_teacher_that_fires_twice_counts_once():
    twice = one_image([(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 9.5, 0.8, 0)])
    once, nothing = one_image([(0, 0, 10, 10, 0.9, 0)]), one_image([(0, 0, 1, 1, 0.0, 0)])
    assert listed(fused([twice, nothing], classes=1)) == listed(fused([once, nothing], classes=1))
    (box,) = listed(fused([twice, nothing], classes=1))
    assert box[4] == pytest.approx(0.45)  # the public code says (0.9 + 0.8) / 2 · 2 / 2 = 0.85


def test_the_score_is_shared_by_those_who_know_the_class():
    left = one_image([(0, 0, 10, 10, 0.8, 0)])
    right = one_image([(20, 20, 30, 30, 0.6, 1)])
    both = one_image([(0, 0, 10, 10, 0.8, 0), (20, 20, 30, 30, 0.6, 1)])
    knows = torch.tensor([[True, False], [False, True], [True, True]])
    found = listed(fused([left, right, both], knows_TC=knows, classes=2))
    assert [box[4] for box in found] == pytest.approx([0.8, 0.6])
    none = one_image([(0, 0, 1, 1, 0.0, 0)])
    missed = listed(fused([left, right, none], knows_TC=knows, classes=2))
    assert [box[4] for box in missed] == pytest.approx([0.4, 0.3])
    whole = listed(fused([left, right, both], classes=2))
    assert [box[4] for box in whole] == pytest.approx([1.6 / 3, 1.2 / 3])


def test_the_fused_box_is_the_weighted_mean():
    one, other = one_image([(0, 0, 10, 10, 0.9, 0)]), one_image([(1, 0, 12, 11, 0.3, 0)])
    (box,) = listed(fused([one, other], weights=torch.tensor([1.0, 2.0]), classes=1))
    mean = [(0.9 * a + 0.6 * b) / 1.5 for a, b in zip((0, 0, 10, 10), (1, 0, 12, 11), strict=True)]
    assert list(box[:4]) == pytest.approx(mean)
    assert box[4] == pytest.approx((0.9 + 2 * 0.3) / 3)


def test_fusion_is_the_same_for_any_order_of_teachers_and_images():
    teachers = []
    for seed in range(3):
        boxes, scores, labels = crowded(5, 12, seed=seed)
        teachers.append(Found(boxes_BN4=boxes, scores_BN=scores, classes_BN=labels))
    found, turned = fused(teachers, classes=3), fused(teachers[::-1], classes=3)
    torch.testing.assert_close(found.scores_BN, turned.scores_BN)
    there = found.scores_BN > 0
    torch.testing.assert_close(found.boxes_BN4[there], turned.boxes_BN4[there])
    for image in range(5):
        alone = [
            Found(
                boxes_BN4=one.boxes_BN4[image : image + 1],
                scores_BN=one.scores_BN[image : image + 1],
                classes_BN=one.classes_BN[image : image + 1],
            )
            for one in teachers
        ]
        torch.testing.assert_close(fused(alone, classes=3).scores_BN[0], found.scores_BN[image])


def test_fusion_refuses_what_makes_no_sense():
    one = one_image([(0, 0, 10, 10, 0.9, 1)])
    with pytest.raises(ValueError, match="at least one teacher"):
        fused([], classes=2)
    with pytest.raises(ValueError, match="weights of at least 0"):
        fused([one], weights=torch.tensor([0.0]), classes=2)
    with pytest.raises(ValueError, match="does not know"):
        fused([one], knows_TC=torch.tensor([[True, False]]), classes=2)
    with pytest.raises(ValueError, match="of 1 classes"):
        fused([one], classes=1)
    with pytest.raises(ValueError, match=r"\[B, N, 4\]"):
        Found(boxes_BN4=one.boxes_BN4, scores_BN=one.scores_BN[0], classes_BN=one.classes_BN)


def test_locations_are_the_middles_of_their_cells():
    places = centres(9, 8, stride=4)
    assert places.tolist() == [[2, 2], [6, 2], [2, 6], [6, 6], [2, 10], [6, 10]]
    boxes = drawn(6).float()[None]
    back = to_boxes(places, to_edges(places, boxes))
    torch.testing.assert_close(back, boxes, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="at least 1"):
        centres(8, 0, stride=4)


def test_edges_of_bins_are_their_mean():
    bins = torch.full((1, 1, 4, 5), -torch.inf)
    bins[0, 0, :, 3] = 0.0
    bins[0, 0, 0, 2] = 0.0
    assert expected_edges(bins, stride=4).tolist() == [[[10.0, 12.0, 12.0, 12.0]]]


def plain_assignment(places, boxes, share, least):
    found = []
    for x, y in places.tolist():
        best = (math.inf, -1)
        for m, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            near_x = abs(x - (x1 + x2) / 2) <= max(share * (x2 - x1), least)
            near_y = abs(y - (y1 + y2) / 2) <= max(share * (y2 - y1), least)
            if near_x and near_y and x1 < x < x2 and y1 < y < y2:
                best = min(best, ((x2 - x1) * (y2 - y1), m))
        found.append(best[1])
    return found


def test_centre_sampling_is_its_plain_loop():
    places, boxes = centres(64, 64, stride=4), torch.stack([drawn(9).float(), drawn(9, 3).float()])
    table = assigned(places, boxes, torch.ones(2, 9, dtype=torch.bool))
    for image in range(2):
        assert table.box_BN[image].tolist() == plain_assignment(places, boxes[image], 0.2, 2.1)
    positive = table.box_BN >= 0
    own = boxes.gather(1, table.box_BN.clamp(min=0)[..., None].expand(-1, -1, 4))
    torch.testing.assert_close(to_boxes(places, table.edges_BN4)[positive], own[positive])
    assert not bool(table.edges_BN4[~positive].any())


def test_each_box_that_is_large_enough_has_a_location_also_at_the_border():
    places = centres(64, 64, stride=4)
    corner = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) * 58
    boxes = torch.cat([corner, corner + 6], dim=1)
    boxes = torch.cat([boxes, torch.tensor([[0.0, 0, 6, 6], [58, 58, 64, 64]])])[:, None]
    table = assigned(places, boxes, torch.ones(502, 1, dtype=torch.bool))
    assert bool((table.box_BN >= 0).any(1).all())
    absent = assigned(places, boxes, torch.zeros(502, 1, dtype=torch.bool))
    assert bool((absent.box_BN == -1).all())
    none = assigned(places, torch.zeros(3, 0, 4), torch.zeros(3, 0, dtype=torch.bool))
    assert none.box_BN.shape == (3, 256)
    assert bool((none.box_BN == -1).all())


def test_what_was_assigned_is_what_is_found():
    """Scores of 1 at a box's locations give that box back, once."""
    places, boxes = centres(64, 64, stride=4), torch.tensor([[4.0, 8, 24, 30], [40, 34, 58, 60]])
    table = assigned(places, boxes[None], torch.ones(1, 2, dtype=torch.bool))
    scores = torch.zeros(1, 256, 3)
    scores[0, table.box_BN[0] == 0, 1] = 0.9
    scores[0, table.box_BN[0] == 1, 2] = 0.8
    found = found_at(scores, to_boxes(places, table.edges_BN4))
    assert [row[4:] for row in listed(found)] == [
        (pytest.approx(0.9), 1.0),
        (pytest.approx(0.8), 2.0),
    ]
    torch.testing.assert_close(found.boxes_BN4[0, :2], boxes)
    assert found.scores_BN.shape == (1, 100)
    raw = found_at(scores, to_boxes(places, table.edges_BN4), nms=None, most=50)
    assert int((raw.scores_BN > 0).sum()) == int((table.box_BN >= 0).sum())
    assert iou(raw.boxes_BN4[0, :1], boxes).amax() == pytest.approx(1.0)
