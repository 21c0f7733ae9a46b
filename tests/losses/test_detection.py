"""Losses of detectors against plain loops in float64, their gradients, and the size that their papers say."""

from __future__ import annotations

import math

import pytest
import torch

from raykd.losses.detection import giou, localisation, quality_focal, soft_focal
from tests.detection.test_boxes import drawn, plain_giou


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def logits(seed, *shape, spread=2.0):
    random = torch.Generator().manual_seed(seed)
    return spread * torch.randn(*shape, generator=random, dtype=torch.float64)


def plain_quality_focal(student, teacher, beta, known=None):
    total = 0.0
    for c, (s, t) in enumerate(zip(student, teacher, strict=True)):
        if known is not None and not known[c]:
            continue
        q, p = 1 / (1 + math.exp(-s)), 1 / (1 + math.exp(-t))
        total += abs(q - p) ** beta * -(p * math.log(q) + (1 - p) * math.log(1 - q))
    return total


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0])
def test_quality_focal_is_its_plain_loop(beta):
    student, teacher = logits(0, 9, 4), logits(1, 9, 4)
    pairs = zip(student.tolist(), teacher.tolist(), strict=True)
    expected = float64([plain_quality_focal(*pair, beta) for pair in pairs])
    torch.testing.assert_close(
        quality_focal(student, teacher, beta=beta), expected, rtol=1e-12, atol=1e-12
    )


def test_classes_that_a_teacher_does_not_know_add_nothing():
    student, teacher = logits(0, 9, 4).requires_grad_(), logits(1, 9, 4)
    known = torch.tensor([True, False, True, False])
    loss = quality_focal(student, teacher, known_C=known)
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    expected = [plain_quality_focal(*row, 1.0, known.tolist()) for row in rows]
    torch.testing.assert_close(loss, float64(expected), rtol=1e-12, atol=1e-12)
    loss.sum().backward()
    assert not bool(student.grad[:, ~known].any())
    assert bool(student.grad[:, known].all())


def test_the_least_quality_focal_loss_is_at_the_teacher():
    teacher = logits(1, 9, 4)
    assert float(quality_focal(teacher, teacher).abs().max()) == 0.0
    assert float(quality_focal(teacher + 0.1, teacher).min()) > 0.0
    assert float(quality_focal(teacher - 0.1, teacher).min()) > 0.0


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_gradients_of_class_losses_are_exact_and_the_teacher_has_none(beta):
    student, teacher = logits(0, 5, 3).requires_grad_(), logits(1, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: quality_focal(x, teacher.detach(), beta=beta), (student,)
    )
    quality_focal(student, teacher, beta=beta).sum().backward()
    assert teacher.grad is None


def test_class_losses_stay_finite_at_extremes_and_at_the_target():
    student = torch.tensor([[1e4, -1e4], [0.0, 0.0]], requires_grad=True)
    for beta in (0.0, 0.5, 1.0, 2.0):
        student.grad = None
        loss = soft_focal(student, torch.tensor([[0.0, 1.0], [0.5, 0.5]]), beta=beta)
        loss.sum().backward()
        assert bool(loss.isfinite().all())
        assert bool(student.grad.isfinite().all())
    with pytest.raises(ValueError, match="at least 0"):
        soft_focal(student, student, beta=-1.0)
    with pytest.raises(ValueError, match="project the student"):
        soft_focal(student, student[:1])


def test_a_hard_label_gives_the_focal_loss_of_lin():
    """Focal loss (Lin et al. 2017) without α: (1 − p_t)^γ · −ln p_t."""
    student, label = logits(0, 9, 4), (logits(1, 9, 4) > 0).double()
    p_t = torch.where(label > 0, student.sigmoid(), 1 - student.sigmoid())
    expected = ((1 - p_t).square() * -p_t.log()).sum(1)
    torch.testing.assert_close(soft_focal(student, label, beta=2.0), expected)


def test_giou_is_its_plain_loop_and_has_exact_gradients():
    student, teacher = drawn(8), drawn(8, seed=1)
    expected = [
        1 - plain_giou(*pair) for pair in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    torch.testing.assert_close(giou(student, teacher), float64(expected))
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: giou(x, teacher), (student,))
    apart = torch.tensor([[0.0, 0, 1, 1]], requires_grad=True)
    giou(apart, torch.tensor([[9.0, 9, 10, 10]])).sum().backward()
    assert bool(
        apart.grad.any()
    )  # boxes that do not meet are drawn together, which IoU does not do


def plain_localisation(student, teacher, temperature):
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p = [math.exp(x / temperature) for x in t]
        q = [math.exp(x / temperature) for x in s]
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total


@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_localisation_has_the_size_of_the_textbook(temperature):
    student, teacher = logits(0, 6, 4, 17), logits(1, 6, 4, 17)
    pairs = zip(student.tolist(), teacher.tolist(), strict=True)
    expected = float64([plain_localisation(*pair, temperature) for pair in pairs])
    found = localisation(student, teacher, temperature=temperature)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda x: localisation(x, teacher[:2], temperature=temperature),
        (student[:2].requires_grad_(),),
    )


def test_the_published_mean_over_bins_is_a_kth_of_it():
    """The code of LD: `F.kl_div(...).mean(1) * T²`, so that more bins make it weaker for the same distributions."""
    student, teacher, temperature = logits(0, 6, 4, 5), logits(1, 6, 4, 5), 10.0

    def published(s, t):
        log_q, p = (s / temperature).log_softmax(-1), (t / temperature).softmax(-1)
        return temperature**2 * torch.nn.functional.kl_div(log_q, p, reduction="none").mean(-1)

    own = localisation(student, teacher, temperature=temperature)
    torch.testing.assert_close(published(student, teacher).sum(1) * 5, own)
    wider = [torch.cat([x, torch.full((6, 4, 12), -1e4).double()], -1) for x in (student, teacher)]
    torch.testing.assert_close(localisation(*wider, temperature=temperature), own)
    torch.testing.assert_close(published(*wider).sum(1) * 17, own)


def test_localisation_refuses_what_are_no_edges():
    with pytest.raises(ValueError, match=r"\[N, 4, K\]"):
        localisation(torch.zeros(3, 8), torch.zeros(3, 8))
    with pytest.raises(ValueError, match="above 0"):
        localisation(torch.zeros(3, 4, 2), torch.zeros(3, 4, 2), temperature=0.0)
