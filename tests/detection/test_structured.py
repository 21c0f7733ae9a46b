"""Boxes at no fixed locations: what is packed comes back, is stored in short, and is fused with what others say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raykd.detection.fusion import Found, fused
from raykd.detection.layout import layout_for, layout_of, packed, rows_of
from raykd.detection.structured import (
    MOST,
    are_structured,
    candidates_in,
    packed_boxes,
    packed_lists,
    read_answers,
    slots,
    used,
)
from raykd.ensemble.detectors import found_in, fused_answers, mean_answers
from raykd.targets import codec
from raykd.targets.packing import Packing
from raykd.tasks.detection.metrics import METRICS, found_rows

LAYOUT = layout_for(3, 32, 32, stride=4)


def boxes(seed=0, images=4, count=6):
    random = torch.Generator().manual_seed(seed)
    corner = 20 * torch.rand(images, count, 2, generator=random, dtype=torch.float64)
    side = 4 + 7 * torch.rand(images, count, 2, generator=random, dtype=torch.float64)
    sure = torch.rand(images, count, 3, generator=random, dtype=torch.float64)
    return torch.cat([corner, corner + side], dim=-1), sure


def test_what_is_packed_comes_back_the_surest_first():
    corners, sure = boxes()
    sure[0, 2] = 0.0  # an absent one
    rows = packed_boxes(corners, sure, LAYOUT, torch.tensor([True, True, False]))
    assert rows.shape == (4, LAYOUT.width)
    assert layout_of(rows) == LAYOUT
    assert are_structured(rows)
    assert not bool(rows[:, used(LAYOUT) :].any())
    found = candidates_in(rows)
    assert found.knows_BC.tolist() == [[True, True, False]] * 4
    assert not bool(found.scores_BNC[..., 2].any())
    order = sure[..., :2].amax(-1).argsort(dim=1, descending=True)
    expected = corners.gather(1, order[..., None].expand(4, 6, 4))
    torch.testing.assert_close(found.boxes_BN4[0, :5], expected[0, :5], rtol=0, atol=0)
    torch.testing.assert_close(found.boxes_BN4[1:, :6], expected[1:], rtol=0, atol=0)
    assert not bool(found.scores_BNC[0, 5:].any())


def test_more_boxes_than_there_is_room_for():
    layout = layout_for(2, 64, 64, stride=4)
    assert slots(layout) == MOST
    assert slots(layout_for(2, 12, 12, stride=4)) == 8  # so many fit beside 9 locations
    corners = torch.tensor([[0.0, 0, 5, 5]]).expand(1, 300, 4)
    sure = torch.linspace(0, 1, 300)[None, :, None].expand(1, 300, 2)
    found = candidates_in(packed_boxes(corners, sure, layout))
    assert found.scores_BNC.shape == (1, MOST, 2)
    assert float(found.scores_BNC.min()) == pytest.approx(200 / 299)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b, p: (b, p + 1), "0 to 1"),
        (lambda b, p: (b, p * float("nan")), "0 to 1"),
        (lambda b, p: (b / 0, p), "finite"),
        (lambda b, p: (b, p[..., :2]), "probabilities"),
        (lambda b, p: (b[..., :3], p), "boxes"),
    ],
)
def test_what_are_no_boxes_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        packed_boxes(*change(*boxes()), LAYOUT)


def test_lists_of_other_detectors():
    found = [
        {
            "boxes": torch.tensor([[1.0, 1, 9, 9], [2, 2, 8, 8]]),
            "labels": torch.tensor([17, 3]),
            "scores": torch.tensor([0.5, 0.9]),
        },
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "scores": torch.zeros(0)},
    ]
    rows = packed_lists(found, LAYOUT, class_of={17: 2})
    said = candidates_in(rows)
    assert said.knows_BC.tolist() == [[False, False, True]] * 2
    assert said.scores_BNC[0, 0].tolist() == [0.0, 0.0, 0.5]
    assert said.boxes_BN4[0, 0].tolist() == [1.0, 1.0, 9.0, 9.0]
    assert not bool(said.scores_BNC[0, 1:].any())
    assert not bool(said.scores_BNC[1].any())
    with pytest.raises(ValueError, match="class_of"):
        packed_lists(found, LAYOUT)


def test_a_store_keeps_what_says_something_and_gives_all_back():
    rows = packed_boxes(*boxes(), LAYOUT).float()
    packing = Packing(first=METRICS.used(rows))
    arrays = codec.encode(rows, {}, "value", packing)
    assert [a.shape for a in arrays.values()] == [(4, used(LAYOUT))]
    assert torch.equal(codec.decode(arrays).values_NC, rows)
    assert codec.version("value", packing) != codec.version("value")
    whole = codec.encode(rows, {}, "value", packing.whole())
    assert {n: a.tobytes() for n, a in whole.items()} == {n: a.tobytes() for n, a in arrays.items()}
    parts = [(np.array([2, 0]), {n: a[[2, 0]] for n, a in arrays.items()})]
    some = codec.assemble(parts, 4)
    assert torch.equal(some.values_NC[[0, 2]], rows[[0, 2]])
    assert not bool(some.values_NC[1].any())
    assert METRICS.used(torch.zeros(2, LAYOUT.width)) is None


def dense(seed, images=4):
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, LAYOUT.locations, 3, generator=random, dtype=torch.float64)
    edges = 8 * torch.rand(images, LAYOUT.locations, 4, generator=random, dtype=torch.float64)
    return packed(logits, edges + 0.5, LAYOUT)


def test_threshold_and_suppression_are_chosen_when_boxes_are_read():
    rows = packed_boxes(*boxes(count=12), LAYOUT)
    few, many = (found_in(read_answers(rows), least_score=s) for s in (0.8, 0.1))
    assert int((few.scores_BN > 0).sum()) < int((many.scores_BN > 0).sum())
    assert float(few.scores_BN[few.scores_BN > 0].min()) >= 0.8


def test_boxes_are_fused_with_those_of_dense_teachers():
    """As fusing what each of them finds by itself."""
    stacked = torch.stack([dense(0), packed_boxes(*boxes(), LAYOUT)])
    found, known = fused_answers(stacked, torch.ones(2, 4), threshold=0.2)
    alone = [found_in(read_answers(one)) for one in stacked]
    expected = fused(alone, classes=3).above(0.2).sorted()
    for one, other in (
        (found.boxes_BN4, expected.boxes_BN4),
        (found.scores_BN, expected.scores_BN),
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert bool(known.all())
    with pytest.raises(ValueError, match="fuse them"):
        mean_answers(stacked, torch.ones(2, 4))


def test_copies_of_boxes_are_fused_to_themselves():
    rows = packed_boxes(*boxes(), LAYOUT)
    alone = found_in(read_answers(rows)).above(0.3)
    found, _ = fused_answers(torch.stack([rows] * 3), torch.ones(3, 4), threshold=0.3, iou=0.6)
    pair = [rows_of(f.boxes_BN4, f.scores_BN, f.classes_BN, 20, soft=True) for f in (alone, found)]
    torch.testing.assert_close(*pair, rtol=0, atol=1e-9)


def test_a_teacher_of_boxes_never_calls_an_unknown_class_background():
    """A class that only the other one knows keeps that one's score."""
    some = packed_boxes(*boxes(), LAYOUT, torch.tensor([True, False, False]))
    corners = torch.tensor([[[22.0, 22, 30, 30]]]).expand(4, 1, 4).double()
    sure = torch.tensor([[[0.0, 0.8, 0.0]]]).expand(4, 1, 3).double()
    other = packed_boxes(corners, sure, LAYOUT)
    found, known = fused_answers(torch.stack([some, other]), torch.ones(2, 4), threshold=0.05)
    assert bool(known.all())
    scores = torch.where(found.classes_BN == 1, found.scores_BN, 0.0).amax(1)
    torch.testing.assert_close(scores, torch.full((4,), 0.8).double())
    silent = torch.tensor([[1.0] * 4, [0.0] * 4])
    _, known = fused_answers(torch.stack([some, other * 0]), silent, layout=LAYOUT)
    assert known.tolist() == [[True, False, False]] * 4


def test_evaluation_reads_both_forms():
    rows = packed_boxes(*boxes(), LAYOUT).float()
    found = found_rows(rows)
    assert bool((found[:, 0] > 0).all())
    together = METRICS.ensemble([dense(0).float(), rows])
    assert together.shape == found.shape
    assert isinstance(found_in(read_answers(rows)), Found)


@pytest.mark.parametrize("suppression", ["hard", "soft", "none"])
def test_how_doubles_are_suppressed_is_chosen_when_boxes_are_read(suppression):
    """Two boxes of an object and one beside it: the double is dropped, doubted as eq. 3 of Bodla et al. 2017, or kept."""
    corners = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 28, 28]]]).double()
    sure = torch.zeros(1, 3, 3).double()
    sure[0, :, 1] = torch.tensor([0.9, 0.8, 0.7])
    rows = packed_boxes(corners, sure, LAYOUT)
    found = found_in(read_answers(rows), suppression=suppression)
    scores = sorted(found.scores_BN[found.scores_BN > 0].tolist(), reverse=True)
    doubted = 0.8 * math.exp(-(0.9**2) / 0.5)
    expected = {"hard": [0.9, 0.7], "soft": [0.9, 0.7, doubted], "none": [0.9, 0.8, 0.7]}
    assert scores == pytest.approx(expected[suppression])
    together, _ = fused_answers(
        rows[None], torch.ones(1, 1), threshold=0.05, suppression=suppression
    )
    # in fusion a further box of the same teacher disappears in its first one
    left = together.scores_BN[together.scores_BN > 0].tolist()
    assert left == pytest.approx([0.9, 0.7])
