"""Combined targets: the identities that the architecture rests on, and their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from raykd.ensemble import (
    effective_teachers,
    effective_teachers_per_unit,
    jensen_shannon,
    mean_logits,
    mean_probabilities,
    sample_weights,
)
from raykd.losses import kl, kl_from_log_probs, reverse_kl

T, N, C = 4, 6, 5


def situation(seed=0, scale=2.0, teachers=T, classes=C, dtype=torch.float64):
    source = torch.Generator().manual_seed(seed)
    logits_TNC = scale * torch.randn(teachers, N, classes, generator=source, dtype=dtype)
    weights_TN = torch.rand(teachers, N, generator=source, dtype=dtype)
    student_NC = torch.randn(N, classes, generator=source, dtype=dtype)
    return logits_TNC, weights_TN / weights_TN.sum(0), student_NC


def gradient_of(function, student_NC):
    student_NC = student_NC.clone().requires_grad_()
    value_N = function(student_NC)
    return value_N.detach(), torch.autograd.grad(value_N.sum(), student_NC)[0]


@settings(deadline=None, derandomize=True, max_examples=15)
@given(
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.5, 5.0, 100.0]),
    teachers=st.integers(1, 5),
    temperature=st.sampled_from([1.0, 4.0]),
)
def test_weighted_kl_is_kl_to_the_mean_plus_jsd(seed, scale, teachers, temperature):
    """Identity 1, with per-sample weights, in value and gradient."""
    logits_TNC, weights_TN, student_NC = situation(seed, scale, teachers)

    def separate(student):
        losses_TN = torch.stack([kl(student, z, temperature=temperature) for z in logits_TNC])
        return (weights_TN * losses_TN).sum(0)

    def combined(student):
        target = mean_probabilities(logits_TNC, weights_TN, temperatures_T=temperature)
        return kl_from_log_probs(student, target, temperature=temperature)

    separate_N, separate_gradient = gradient_of(separate, student_NC)
    combined_N, combined_gradient = gradient_of(combined, student_NC)
    jsd_N = temperature**2 * jensen_shannon(logits_TNC, weights_TN, temperature)
    torch.testing.assert_close(separate_N, combined_N + jsd_N, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(separate_gradient, combined_gradient, rtol=0, atol=1e-10)


def test_weighted_reverse_kl_is_reverse_kl_to_mean_logits_plus_a_constant():
    """Identity 2: the difference does not depend on the student."""
    logits_TNC, weights_TN, student_NC = situation()

    def separate(student):
        losses_TN = torch.stack([reverse_kl(student, z, temperature=3.0) for z in logits_TNC])
        return (weights_TN * losses_TN).sum(0)

    def combined(student):
        return reverse_kl(student, mean_logits(logits_TNC, weights_TN), temperature=3.0)

    one_N, one_gradient = gradient_of(separate, student_NC)
    two_N, two_gradient = gradient_of(combined, student_NC)
    torch.testing.assert_close(one_gradient, two_gradient, rtol=0, atol=1e-12)
    other = 2 * student_NC.flip(0)
    constant_N = separate(other) - combined(other)
    torch.testing.assert_close(one_N - two_N, constant_N, rtol=0, atol=1e-12)


def test_gradient_of_the_combined_loss_is_t_times_the_difference_of_probabilities():
    """Identity 3."""
    logits_TNC, weights_TN, student_NC = situation()
    target_NC = mean_probabilities(logits_TNC, weights_TN, temperatures_T=4.0)
    _, gradient = gradient_of(
        lambda s: kl_from_log_probs(s, target_NC, temperature=4.0), student_NC
    )
    expected = 4 * ((student_NC / 4).softmax(1) - target_NC.exp())
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def reference(logits_TNC, weights_TN, temperatures):
    z = logits_TNC.numpy() / temperatures
    log_p = z - logsumexp(z, axis=-1, keepdims=True)
    return logsumexp(log_p, axis=0, b=weights_TN.numpy()[..., None])


@pytest.mark.parametrize("scale", [1.0, 200.0, 2000.0])
def test_mean_probabilities_in_log_space(scale):
    """Also where every probability of a class underflows."""
    logits_TNC, weights_TN, _ = situation(scale=scale)
    own = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    for given_T, expected in ((3.0, 3.0), (own, own.numpy()[:, None, None])):
        found = mean_probabilities(logits_TNC, weights_TN, temperatures_T=given_T)
        np.testing.assert_allclose(
            found.numpy(), reference(logits_TNC, weights_TN, expected), rtol=1e-12, atol=1e-12
        )
        single = mean_probabilities(logits_TNC.float(), weights_TN.float(), temperatures_T=given_T)
        assert single.dtype == torch.float32
        np.testing.assert_allclose(single.numpy(), found.numpy(), rtol=1e-5, atol=1e-5)


def test_order_of_tempering_and_mixing_matters_and_calibration_multiplies():
    logits_TNC, weights_TN, _ = situation()
    mixed = mean_probabilities(logits_TNC, weights_TN)
    late = mean_probabilities(logits_TNC, weights_TN, temperatures_T=4.0, order="mix_then_temper")
    torch.testing.assert_close(late, F.log_softmax(mixed / 4, 1))
    early = mean_probabilities(logits_TNC, weights_TN, temperatures_T=4.0)
    assert (late - early).abs().max() > 0.01
    own = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(
        mean_probabilities(logits_TNC, weights_TN, temperatures_T=3.0, calibrations_T=own),
        mean_probabilities(logits_TNC, weights_TN, temperatures_T=3 * own),
    )
    calibrated = mean_probabilities(
        logits_TNC, weights_TN, temperatures_T=4.0, calibrations_T=own, order="mix_then_temper"
    )
    before = mean_probabilities(logits_TNC, weights_TN, temperatures_T=own)
    torch.testing.assert_close(calibrated, F.log_softmax(before / 4, 1))


@pytest.mark.parametrize("order", ["temper_then_mix", "mix_then_temper"])
def test_absent_teachers_are_ignored_and_empty_units_harmless(order):
    logits_TNC, weights_TN, student_NC = situation()
    weights_TN[1] = 0
    weights_TN = weights_TN / weights_TN.sum(0)
    expected = mean_probabilities(
        logits_TNC[[0, 2, 3]], weights_TN[[0, 2, 3]], temperatures_T=2.0, order=order
    )
    logits_TNC[1] = float("nan")
    weights_TN[:, 5] = 0
    found = mean_probabilities(logits_TNC, weights_TN, temperatures_T=2.0, order=order)
    torch.testing.assert_close(found[:5], expected[:5])
    torch.testing.assert_close(found[5], torch.full((C,), -math.log(C), dtype=torch.float64))
    logits = mean_logits(logits_TNC, weights_TN)
    assert logits.isfinite().all()
    assert (logits[5] == 0).all()
    assert jensen_shannon(logits_TNC, weights_TN, 2.0).isfinite().all()
    assert kl_from_log_probs(student_NC, found).isfinite().all()


def test_impossible_classes_give_a_finite_target():
    """A class that no teacher knows (logit −∞) costs the student nothing but stays finite."""
    logits_TNC, weights_TN, student_NC = situation()
    logits_TNC[:, :, 2] = float("-inf")
    target_NC = mean_probabilities(logits_TNC, weights_TN)
    assert (target_NC[:, 2].exp() == 0).all()
    value_N, gradient = gradient_of(lambda s: kl_from_log_probs(s, target_NC), student_NC)
    assert value_N.isfinite().all()
    assert gradient.isfinite().all()


def test_teachers_are_detached_and_a_learned_temperature_is_not():
    logits_TNC, weights_TN, student_NC = situation()
    logits_TNC.requires_grad_()
    for order in ("temper_then_mix", "mix_then_temper"):
        for scale in (1.0, 300.0):
            temperature = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

            def loss(t, order=order, scale=scale):
                target = mean_probabilities(
                    scale * logits_TNC, weights_TN, temperatures_T=t, order=order
                )
                return kl_from_log_probs(student_NC, target * 1.0, temperature=t) + target.sum(1)

            loss(temperature).sum().backward()
            assert temperature.grad.isfinite()
            assert temperature.grad != 0
    assert logits_TNC.grad is None
    own = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda t: mean_probabilities(logits_TNC, weights_TN, temperatures_T=t), (own,)
    )


def test_one_teacher_is_its_own_ensemble():
    logits_TNC, _, _ = situation(teachers=1)
    ones_TN = torch.ones(1, N, dtype=torch.float64)
    torch.testing.assert_close(
        mean_probabilities(logits_TNC, ones_TN, temperatures_T=3.0),
        F.log_softmax(logits_TNC[0] / 3, 1),
    )
    torch.testing.assert_close(mean_logits(logits_TNC, ones_TN), logits_TNC[0])
    assert jensen_shannon(logits_TNC, ones_TN).abs().max() < 1e-12


def test_combining_does_not_depend_on_the_order_of_the_teachers():
    logits_TNC, weights_TN, _ = situation()
    order = torch.tensor([2, 0, 3, 1])
    for function in (mean_probabilities, mean_logits, jensen_shannon):
        torch.testing.assert_close(
            function(logits_TNC[order], weights_TN[order]), function(logits_TNC, weights_TN)
        )


def test_jensen_shannon_is_zero_for_equal_and_ln_k_for_disjoint_teachers():
    uniform_TN = torch.full((3, 1), 1 / 3, dtype=torch.float64)
    apart = 200.0 * torch.eye(3, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(
        jensen_shannon(apart, uniform_TN), torch.tensor([math.log(3)], dtype=torch.float64)
    )
    same = apart[:1].expand(3, 1, 3)
    assert jensen_shannon(same, uniform_TN).item() == pytest.approx(0.0, abs=1e-12)


def test_effective_teachers():
    weights_TN = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 0.0]])
    torch.testing.assert_close(effective_teachers_per_unit(weights_TN), torch.tensor([1.0, 2, 0]))
    mean = torch.tensor([0.75, 0.25])
    expected = (-(mean * mean.log()).sum()).exp()
    torch.testing.assert_close(effective_teachers(weights_TN), expected)
    assert effective_teachers(torch.zeros(2, 3)) == 0


def test_sample_weights_filter_by_votes():
    votes = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 2, 0]])
    logits_TNC = F.one_hot(votes, 4).double()
    assert sample_weights(logits_TNC, mode="filter").tolist() == [1.0, 0.0, 1.0]
    assert sample_weights(logits_TNC, mode="filter", minimum_votes=3).tolist() == [0.0, 0.0, 1.0]
    absent_TN = torch.tensor([[True], [True], [False]]).expand(3, 3)
    found = sample_weights(logits_TNC, mode="filter", minimum_votes=2, available_TN=absent_TN)
    assert found.tolist() == [1.0, 0.0, 1.0]


def test_sample_weights_by_disagreement_have_mean_one():
    logits_TNC, _, _ = situation()
    uniform_TN = torch.full((T, N), 1 / T, dtype=torch.float64)
    raw_N = (-jensen_shannon(logits_TNC, uniform_TN, 2.0) / 0.3).exp()
    found = sample_weights(logits_TNC, mode="disagreement", tau=0.3, temperature=2.0)
    torch.testing.assert_close(found, raw_N / raw_N.mean())
    available_TN = torch.ones(T, N, dtype=torch.bool)
    available_TN[:, 0] = False
    found = sample_weights(logits_TNC, mode="disagreement", available_TN=available_TN)
    assert found[0] == 0
    assert found[1:].mean().item() == pytest.approx(1.0)


def test_wrong_arguments_are_refused():
    logits_TNC, weights_TN, _ = situation()
    own = torch.ones(T)
    calls = [
        lambda: mean_probabilities(logits_TNC, weights_TN.T),
        lambda: mean_probabilities(logits_TNC, weights_TN, temperatures_T=torch.ones(3)),
        lambda: mean_probabilities(logits_TNC, weights_TN, temperatures_T=0.0),
        lambda: mean_probabilities(logits_TNC, weights_TN, order="both"),
        lambda: mean_probabilities(
            logits_TNC, weights_TN, temperatures_T=own, order="mix_then_temper"
        ),
        lambda: mean_logits(logits_TNC[0], weights_TN),
        lambda: sample_weights(logits_TNC, mode="votes"),
        lambda: sample_weights(logits_TNC, mode="disagreement", tau=0.0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"must|needs"):
            call()


def test_half_precision_is_computed_in_float32():
    logits_TNC, weights_TN, _ = situation(dtype=torch.float32)
    for function in (mean_probabilities, mean_logits, jensen_shannon):
        found = function(logits_TNC.half(), weights_TN)
        assert found.dtype == torch.float32
        assert torch.equal(found, function(logits_TNC.half().float(), weights_TN))
