"""Losses of maps over the positions that count, against plain loops in float64."""

from __future__ import annotations

import math

import pytest
import torch

from raykd.losses.dense import cwd, pkd


def maps(seed, shape=(3, 2, 3, 4)):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=random, dtype=torch.float64)


MASK = torch.tensor([[1.0, 0, 0.5, 1] * 3, [0.0] * 12, [0.25] * 12]).double()


def plain_cwd(student, teacher, mask, tau):
    total = 0.0
    for s, t in zip(student.flatten(1).tolist(), teacher.flatten(1).tolist(), strict=True):
        places = [p for p, w in enumerate(mask) if w > 0]
        q = [mask[p] * math.exp(s[p] / tau) for p in places]
        r = [mask[p] * math.exp(t[p] / tau) for p in places]
        q, r = [x / sum(q) for x in q], [x / sum(r) for x in r]
        total += sum(b * math.log(b / a) for a, b in zip(q, r, strict=True))
    return tau**2 * total / len(student)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_cwd_within_the_foreground_is_its_plain_loop(tau):
    student, teacher = maps(0), maps(1)
    expected = [
        plain_cwd(s, t, m, tau) if any(m) else 0.0
        for s, t, m in zip(student, teacher, MASK.tolist(), strict=True)
    ]
    found = cwd(student, teacher, tau=tau, mask_BP=MASK)
    torch.testing.assert_close(found, torch.tensor(expected).double())


def plain_standard(values, mask):
    """Values [B][C][P] standardised over all positions by their weights, with Σw − 1 below the squares."""
    images, channels, places = len(values), len(values[0]), len(mask[0])
    pairs = [(b, p) for b in range(images) for p in range(places)]
    total = sum(mask[b][p] for b, p in pairs)
    found = [[[0.0] * places for _ in range(channels)] for _ in range(images)]
    for c in range(channels):
        mean = sum(mask[b][p] * values[b][c][p] for b, p in pairs) / total
        square = sum(mask[b][p] * (values[b][c][p] - mean) ** 2 for b, p in pairs)
        deviation = math.sqrt(square / max(1.0, total - 1)) + 1e-6
        for b, p in pairs:
            found[b][c][p] = (values[b][c][p] - mean) / deviation
    return found


def test_pkd_within_the_foreground_is_its_plain_loop():
    student, teacher = maps(0), maps(1)
    mask = MASK.tolist()
    s, t = (plain_standard(x.flatten(2).tolist(), mask) for x in (student, teacher))
    expected = []
    for b, weights in enumerate(mask):
        square = sum(
            w * sum((s[b][c][p] - t[b][c][p]) ** 2 for c in range(2)) / 2
            for p, w in enumerate(weights)
        )
        expected.append(0.5 * square / sum(weights) if any(weights) else 0.0)
    found = pkd(student, teacher, mask_BP=MASK)
    torch.testing.assert_close(found, torch.tensor(expected).double())


@pytest.mark.parametrize("loss", [cwd, pkd])
def test_a_mask_of_ones_is_none_and_what_is_outside_of_it_does_not_count(loss):
    student, teacher = maps(0).requires_grad_(), maps(1)
    everywhere = torch.ones(3, 12).double()
    torch.testing.assert_close(loss(student, teacher, mask_BP=everywhere), loss(student, teacher))
    loss(student, teacher, mask_BP=MASK).sum().backward()
    gradient = student.grad.flatten(2)
    assert not bool(gradient[0][:, MASK[0] == 0].any())
    assert not bool(gradient[1].any())
    assert bool(gradient[2].any())
    assert bool(gradient.isfinite().all())
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, mask_BP=MASK), (student,))
    assert float(loss(teacher, teacher, mask_BP=MASK).abs().max()) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match="mask of positions"):
        loss(student, teacher, mask_BP=MASK[:, :5])


def test_pkd_of_parts_gathered_is_that_of_all():
    student, teacher = maps(0), maps(1)
    whole = pkd(student, teacher, mask_BP=MASK)
    sides = {2: (student, teacher, MASK)}

    def gather(rows):
        """What all workers have, found by what this one gives."""
        for whole_rows in sides[2]:
            flat = (
                whole_rows.reshape(3, *rows.shape[1:])
                if whole_rows.numel() == 3 * rows[0].numel()
                else None
            )
            if flat is not None and torch.equal(flat[:2], rows):
                return flat
        raise AssertionError("nobody has these rows")

    part = pkd(student[:2], teacher[:2], mask_BP=MASK[:2], gather=gather)
    torch.testing.assert_close(part, whole[:2])
