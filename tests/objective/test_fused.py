"""The quick way to the KL of the mean against the plain one."""

from __future__ import annotations

import pytest
import torch

from raykd.objective import fused
from raykd.objective.fused import kl_to_mean, plain_kl_to_mean

UNITS, CLASSES, TEACHERS = 23, 7, 3


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch):
    monkeypatch.setattr(fused, "_CHUNK_BYTES", 5 * CLASSES * 8)


def situation(scale=3.0, dtype=torch.float64, seed=0):
    source = torch.Generator().manual_seed(seed)
    student_NC = scale * torch.randn(UNITS, CLASSES, generator=source, dtype=dtype)
    teachers = [scale * torch.randn_like(student_NC) for _ in range(TEACHERS)]
    weights_TN = torch.rand(TEACHERS, UNITS, generator=source, dtype=dtype)
    return student_NC, teachers, weights_TN / weights_TN.sum(0)


def both_ways(student_NC, teachers, weights_TN, temperature):
    """Loss and gradient of the quick and of the plain way; the units count differently."""
    answers = []
    for way in (kl_to_mean, plain_kl_to_mean):
        leaf_NC = student_NC.clone().requires_grad_()
        loss_N = way(leaf_NC, teachers, weights_TN, temperature=temperature)
        counts_N = torch.linspace(0, 2, UNITS, dtype=loss_N.dtype)
        (gradient_NC,) = torch.autograd.grad(loss_N @ counts_N, leaf_NC)
        answers.append((loss_N.detach(), gradient_NC))
    return answers


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0, 200.0, 3000.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_values_and_gradients_are_those_of_the_plain_way(scale, temperature, dtype, tolerance):
    quick, plain = both_ways(*situation(scale, dtype), temperature)
    for found, expected in zip(quick, plain, strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("offset", [-1e4, -300.0, -60.0, 60.0, 300.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_offset_of_a_teacher_s_logits_costs_no_accuracy(offset, dtype):
    """Logits are known up to a constant per row; their exponentials may over- and underflow."""
    student_NC, teachers, weights_TN = situation(dtype=dtype)
    teachers[1] = teachers[1] + offset
    teachers[2][4:7] -= offset
    quick, plain = both_ways(student_NC, teachers, weights_TN, 1.0)
    for found, expected in zip(quick, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rubbish", [0.0, float("nan"), float("inf"), 1e30])
def test_a_silent_teacher_s_logits_do_not_matter(rubbish):
    student_NC, teachers, weights_TN = situation()
    teachers[0][3] = rubbish
    weights_TN[:, 3] = torch.tensor([0.0, 0.25, 0.75])
    quick, plain = both_ways(student_NC, teachers, weights_TN, 2.0)
    for found, expected in zip(quick, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_unit_without_weights_gets_a_finite_value_and_disturbs_no_other():
    student_NC, teachers, weights_TN = situation()
    everyone = kl_to_mean(student_NC, teachers, weights_TN, temperature=4.0)
    weights_TN[:, 3] = 0
    found = kl_to_mean(student_NC, teachers, weights_TN, temperature=4.0)
    assert found.isfinite().all()
    others = torch.arange(UNITS) != 3
    assert torch.equal(found[others], everyone[others])


def test_usual_logits_do_not_take_the_plain_way(monkeypatch):
    monkeypatch.delattr(fused, "plain_kl_to_mean")
    for dtype in (torch.float32, torch.float64):
        student_NC, teachers, weights_TN = situation(15.0, dtype)
        kl_to_mean(student_NC, teachers, weights_TN, temperature=1.0)


def test_gradcheck_and_a_second_backward_pass():
    student_NC, teachers, weights_TN = situation()
    student_NC.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: kl_to_mean(s, teachers, weights_TN, temperature=3.0),
        (student_NC,),
        fast_mode=True,
    )
    total = kl_to_mean(student_NC, teachers, weights_TN, temperature=3.0).sum()
    (once,) = torch.autograd.grad(total, student_NC, retain_graph=True)
    (twice,) = torch.autograd.grad(total, student_NC)
    assert torch.equal(once, twice)


def test_half_precision_is_raised_and_nothing_is_written_to_the_inputs():
    student_NC, teachers, weights_TN = situation(dtype=torch.float32)
    student_NC = student_NC.bfloat16().requires_grad_()
    teachers = [teacher_NC.half() for teacher_NC in teachers]
    before = [tensor.detach().clone() for tensor in (student_NC, *teachers, weights_TN)]
    loss_N = kl_to_mean(student_NC, teachers, weights_TN, temperature=4.0)
    loss_N.sum().backward()
    assert loss_N.dtype == torch.float32
    assert student_NC.grad.dtype == torch.bfloat16
    raised = plain_kl_to_mean(
        student_NC.detach().float(), [z.float() for z in teachers], weights_TN, temperature=4.0
    )
    torch.testing.assert_close(loss_N.detach(), raised, rtol=1e-5, atol=1e-5)
    after = (student_NC.detach(), *teachers, weights_TN)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_no_units_and_one_teacher():
    student_NC, teachers, weights_TN = situation()
    none = kl_to_mean(student_NC[:0], [z[:0] for z in teachers], weights_TN[:, :0], temperature=4.0)
    assert none.shape == (0,)
    itself = kl_to_mean(student_NC, [student_NC], torch.ones(1, UNITS).double(), temperature=4.0)
    torch.testing.assert_close(itself, torch.zeros_like(itself), rtol=0, atol=1e-12)
