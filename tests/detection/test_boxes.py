"""Overlap and writing of boxes against plain loops in float64."""

from __future__ import annotations

import pytest
import torch

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
