"""Overlap, writing and moves of boxes against plain loops in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.detection import geometry
from raykd.detection.boxes import (
    areas,
    clipped,
    from_centre_and_size,
    from_corner_and_size,
    generalised_iou,
    iou,
    to_centre_and_size,
    to_corner_and_size,
)


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def drawn(count, seed=0, *, size=64.0):
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random, dtype=torch.float64) * size * 0.7
    side = torch.rand(count, 2, generator=random, dtype=torch.float64) * size * 0.3 + 0.5
    return torch.cat([corner, corner + side], dim=1)


def plain_iou(a, b):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / union if union else 0.0


def plain_giou(a, b):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return w * h / union - (around - union) / around


def test_overlaps_are_those_of_a_plain_loop():
    one, other = drawn(7), drawn(5, seed=1)
    expected = float64([[plain_iou(a, b) for b in other.tolist()] for a in one.tolist()])
    torch.testing.assert_close(iou(one, other), expected, rtol=1e-12, atol=1e-14)
    expected = float64(
        [plain_giou(*pair) for pair in zip(one[:5].tolist(), other.tolist(), strict=True)]
    )
    torch.testing.assert_close(generalised_iou(one[:5], other), expected, rtol=1e-12, atol=1e-12)


def test_boxes_without_area_overlap_nothing_and_have_finite_gradients():
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]], requires_grad=True)
    assert iou(point, point).tolist() == [[0.0]]
    generalised_iou(point, point.detach()).sum().backward()
    assert bool(point.grad.isfinite().all())
    swapped = torch.tensor([[5.0, 5.0, 2.0, 9.0]])
    assert float(areas(swapped)) == 0.0


@pytest.mark.parametrize(
    ("there", "back"),
    [(to_corner_and_size, from_corner_and_size), (to_centre_and_size, from_centre_and_size)],
)
def test_ways_of_writing_go_there_and_back(there, back):
    boxes = drawn(50)
    torch.testing.assert_close(back(there(boxes)), boxes, rtol=0, atol=1e-12)
    assert bool((there(boxes)[:, 2:] > 0).all())


def test_a_clipped_box_is_within_its_image():
    boxes = torch.tensor([[-3.0, 2.0, 5.0, 80.0], [70.0, 3.0, 90.0, 9.0], [0.0, 0.0, 64.0, 48.0]])
    cut = clipped(boxes, height=48, width=64)
    assert cut.tolist() == [[0, 2, 5, 48], [64, 3, 64, 9], [0, 0, 64, 48]]
    assert areas(cut).tolist() == [230, 0, 64 * 48]
    seen = geometry.visible(boxes, cut)
    assert seen.tolist() == [True, False, True]


def moves():
    crop = geometry.cropped(torch.tensor([5.0, 7.0, 41.0, 31.0]), height=64, width=64)
    quarter = torch.tensor([[0.0, -1.0, 64.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    return {
        "nothing": geometry.identity(),
        "shift": geometry.shifted(-3, 5),
        "flip": geometry.flipped(64),
        "crop": crop,
        "quarter turn": quarter,
        "all": geometry.then(geometry.then(crop, geometry.flipped(64)), geometry.shifted(2, -4)),
    }


@pytest.mark.parametrize("name", moves())
def test_boxes_go_there_and_back(name):
    """Also boxes at the border, of one pixel, and as large as the image; in float32."""
    special = torch.tensor([[0.0, 0, 64, 64], [0, 0, 1, 1], [63, 63, 64, 64], [0, 10, 0.5, 11]])
    boxes, move = torch.cat([drawn(200).float(), special]), moves()[name]
    assert geometry.keeps_boxes(move)
    there = geometry.moved(boxes, move)
    assert bool((there[:, 2:] > there[:, :2]).all())
    torch.testing.assert_close(geometry.moved_back(there, move), boxes, rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(sorted(moves())), min_size=1, max_size=5), st.integers(0, 99))
def test_any_moves_after_each_other_are_one_move(names, seed):
    boxes, whole = drawn(5, seed), geometry.identity()
    step_by_step = boxes
    for name in names:
        whole = geometry.then(whole, moves()[name])
        step_by_step = geometry.moved(step_by_step, moves()[name])
    torch.testing.assert_close(geometry.moved(boxes, whole), step_by_step, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(geometry.moved_back(step_by_step, whole), boxes, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["shift", "flip"])
def test_a_box_moves_with_the_pixels_it_surrounds(name):
    image = torch.zeros(64, 64)
    image[20:31, 12:26] = 1.0
    moved = image.flip(1) if name == "flip" else image.roll((5, -3), (0, 1))
    rows, columns = moved.nonzero().unbind(1)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    box = geometry.moved(torch.tensor([[12.0, 20.0, 26.0, 31.0]]), moves()[name])
    assert box[0].tolist() == [float(edge) for edge in seen]


def test_geometries_of_many_images_move_each_its_own_boxes():
    boxes = torch.stack([drawn(4), drawn(4, seed=1)])
    both = torch.stack([geometry.flipped(64), geometry.shifted(1, 2)])
    moved = geometry.moved(boxes, both)
    for image in range(2):
        torch.testing.assert_close(moved[image], geometry.moved(boxes[image], both[image]))
    torch.testing.assert_close(geometry.moved_back(moved, both), boxes, rtol=0, atol=1e-9)


def test_what_has_no_way_back_is_refused():
    turn = torch.tensor([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0]], dtype=torch.float64)
    box = torch.tensor([[10.0, 10.0, 20.0, 14.0]], dtype=torch.float64)
    assert not geometry.keeps_boxes(turn)
    assert float(areas(geometry.moved(box, turn))) > float(areas(box))
    with pytest.raises(ValueError, match="quarter turn"):
        geometry.moved_back(box, turn)
    with pytest.raises(ValueError, match="rank below 2"):
        geometry.inverse(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    with pytest.raises(ValueError, match="an area"):
        geometry.cropped(torch.tensor([3.0, 3.0, 3.0, 9.0]), height=8, width=8)
