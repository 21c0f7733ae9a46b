"""Losses of Gaussian policies against torch.distributions in float64, their gradients, and extremes."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from raykd.losses.gaussians import gaussian_kl, huber_means


def outputs(seed, *, spread=1.0):
    drawn = torch.Generator().manual_seed(seed)
    return spread * torch.randn(7, 6, generator=drawn, dtype=torch.float64)


def distribution(outputs_NC):
    means, log_stds = outputs_NC.chunk(2, dim=1)
    return Independent(Normal(means, log_stds.exp()), 1)


@pytest.mark.parametrize("spread", [0.01, 1.0, 2.0])
def test_kl_is_that_of_torch_distributions(spread):
    student, teacher = outputs(0, spread=spread), outputs(1, spread=spread)
    expected = kl_divergence(distribution(teacher), distribution(student))
    torch.testing.assert_close(gaussian_kl(student, teacher), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(
        gaussian_kl(teacher, teacher), torch.zeros(7).double(), atol=1e-14, rtol=0
    )
    assert (
        gaussian_kl(student.float(), teacher.float()).sub(expected).abs().max()
        < 1e-4 * expected.max()
    )


@pytest.mark.parametrize("loss", [gaussian_kl, huber_means])
def test_gradients_are_exact_and_the_teacher_has_none(loss):
    student, teacher = outputs(0).requires_grad_(), outputs(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher.detach()), (student,))
    loss(student, teacher).sum().backward()
    assert teacher.grad is None


def test_kl_does_not_change_where_both_are_shifted_and_scaled():
    student, teacher = outputs(0), outputs(1)
    moved = [
        torch.cat([3 * x[:, :3] + 5, x[:, 3:] + torch.tensor(3.0).log()], dim=1)
        for x in (student, teacher)
    ]
    torch.testing.assert_close(gaussian_kl(*moved), gaussian_kl(student, teacher))


def test_extreme_deviations_stay_finite():
    teacher = torch.tensor([[0.0, -1e6], [1e3, 1e6], [0.0, 0.0]])
    student = torch.tensor([[1.0, 1e6], [-1e3, -1e6], [0.0, -1e6]]).requires_grad_()
    loss = gaussian_kl(student, teacher)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert student.grad.isfinite().all()


def test_huber_is_of_means_alone():
    student, teacher = outputs(0), outputs(1)
    loose = torch.cat([teacher[:, :3], 9 * teacher[:, 3:]], dim=1)
    torch.testing.assert_close(huber_means(student, teacher), huber_means(student, loose))
    far = huber_means(torch.tensor([[10.0, 0.0]]), torch.tensor([[0.0, 0.0]]), delta=2.0)
    torch.testing.assert_close(far, torch.tensor([2 * (10 - 1.0)]))
