"""AEKD: the quadratic programme against brute force and SciPy, and the weights made with it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import softmax

from raykd.ensemble import WEIGHTINGS
from raykd.ensemble.gradients import minimum_norm_weights
from raykd.losses import kl

T, N, C = 4, 9, 5


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def situation(units=N):
    source = generator()
    logits_TNC = 2 * torch.randn(T, units, C, generator=source, dtype=torch.float64)
    return logits_TNC, torch.randn(units, C, generator=source, dtype=torch.float64)


def brute_force(gram, ceiling):
    """Every choice of variables at 0, at the ceiling or free; the best feasible stationary point."""
    size = len(gram)
    ceiling = max(ceiling, 1 / size)
    best, best_value = np.full(size, 1 / size), np.inf
    for pattern in itertools.product((0, 1, 2), repeat=size):
        free = [i for i in range(size) if pattern[i] == 2]
        alpha = np.array([ceiling if p == 1 else 0.0 for p in pattern])
        rest = 1 - alpha.sum()
        if free:
            system = np.zeros((len(free) + 1,) * 2)
            system[:-1, :-1] = gram[np.ix_(free, free)]
            system[-1, :-1] = system[:-1, -1] = 1
            right = np.append(-(gram @ alpha)[free], rest)
            alpha[free] = np.linalg.lstsq(system, right, rcond=None)[0][:-1]
        feasible = abs(alpha.sum() - 1) < 1e-9 and alpha.min() > -1e-12
        if feasible and alpha.max() < ceiling + 1e-12 and alpha @ gram @ alpha < best_value - 1e-15:
            best, best_value = alpha, alpha @ gram @ alpha
    return best


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("ceiling", [0.25, 0.6, 1.0])
def test_quadratic_programme_equals_brute_force(size, ceiling):
    rng = np.random.default_rng(size)
    vectors = rng.normal(size=(12, size, 8)) + 2 * rng.normal(size=(12, 1, 8))
    vectors[::3] *= rng.uniform(0.01, 10, size=(4, size, 1))
    gram = vectors @ vectors.transpose(0, 2, 1)
    active = torch.ones(12, size, dtype=torch.bool)
    found = minimum_norm_weights(torch.from_numpy(gram), active, ceiling).numpy()
    for own, alpha in zip(gram, found, strict=True):
        np.testing.assert_allclose(alpha, brute_force(own, ceiling), rtol=0, atol=1e-6)


def test_quadratic_programme_equals_scipy_with_many_teachers():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3, 12, 40)) + rng.normal(size=(3, 1, 40))
    gram = vectors @ vectors.transpose(0, 2, 1) / 40
    active = torch.ones(3, 12, dtype=torch.bool)
    found = minimum_norm_weights(torch.from_numpy(gram), active, 0.3).numpy()
    for own, alpha in zip(gram, found, strict=True):
        reference = minimize(
            lambda a, own=own: a @ own @ a,
            np.full(12, 1 / 12),
            jac=lambda a, own=own: 2 * own @ a,
            bounds=[(0, 0.3)] * 12,
            constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": np.ones_like},
            method="SLSQP",
            options={"ftol": 1e-16, "maxiter": 500},
        )
        assert alpha @ own @ alpha <= reference.fun + 1e-12
        np.testing.assert_allclose(alpha, reference.x, rtol=0, atol=2e-5)


def test_quadratic_programme_shares_equally_between_equal_and_between_zero_gradients():
    vector = np.array([[1.0, 2.0], [1.0, 2.0], [-3.0, 0.5]])
    gram = torch.from_numpy(vector @ vector.T)
    for own in (gram, torch.zeros(3, 3, dtype=torch.float64)):
        alpha = minimum_norm_weights(own[None], torch.ones(1, 3, dtype=torch.bool), 1.0)[0]
        assert abs(alpha[0] - alpha[1]) < 1e-6
    torch.testing.assert_close(alpha, torch.full((3,), 1 / 3, dtype=torch.float64))


def test_quadratic_programme_solves_hard_scales():
    """Opposed, tiny, huge, and nearly parallel gradients."""
    for vectors in (
        [[1.0, 0.0], [-1.0, 0.0]],
        [[1e-9, 0.0], [0.0, 2e-9]],
        [[1e8, 0.0], [0.0, 1.0]],
        [[1.0, 1.0], [1.0, 1.0 + 1e-5]],
    ):
        gram = np.array(vectors) @ np.array(vectors).T
        found = minimum_norm_weights(
            torch.from_numpy(gram)[None], torch.ones(1, 2, dtype=torch.bool), 1.0
        )[0].numpy()
        value = brute_force(gram, 1.0)
        assert found @ gram @ found <= value @ gram @ value + 1e-12 * gram.max()


def gradients(logits_TNC, student, temperature):
    return softmax(student.numpy() / temperature, -1) - softmax(
        logits_TNC.numpy() / temperature, -1
    )


@pytest.mark.parametrize("gram", ["per_sample", "summed", "batch"])
def test_gradient_weights_equal_brute_force(gram):
    logits_TNC, student = situation()
    g = gradients(logits_TNC, student, 3.0)
    found = WEIGHTINGS["gradient"](
        logits_TNC, temperature=3.0, tolerance=0.5, gram=gram, student_logits=student
    ).numpy()
    if gram == "per_sample":
        expected = np.stack([brute_force(g[:, n] @ g[:, n].T, 0.5) for n in range(N)], axis=1)
    else:
        mean = g.mean(1)
        own = mean @ mean.T if gram == "batch" else np.einsum("jnc,knc->jk", g, g)
        expected = np.repeat(brute_force(own, 0.5)[:, None], N, axis=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert found.max() <= 0.5 + 1e-6


def test_gradient_matches_autograd_of_the_losses():
    """The weights minimise the norm of the true gradient of the weighted KL."""
    logits_TNC, student = situation(units=1)
    student.requires_grad_()
    weights_TN = WEIGHTINGS["gradient"](
        logits_TNC, None, temperature=2.0, tolerance=1.0, student_logits=student
    )

    def norm(weights_T):
        losses = torch.stack([kl(student, z, temperature=2.0)[0] for z in logits_TNC])
        return torch.autograd.grad((weights_T * losses).sum(), student)[0].norm()

    best = norm(weights_TN[:, 0])
    for k in range(T):
        for towards in (0.01, 0.3):
            other_T = (1 - towards) * weights_TN[:, 0]
            other_T[k] += towards
            assert norm(other_T) >= best - 1e-9


def test_shared_gradient_weights_do_not_depend_on_the_number_of_workers():
    logits_TNC, student = situation()
    available_TN = torch.rand(T, N, generator=generator(5)) < 0.8
    halves = [slice(0, 5), slice(5, N)]
    for gram in ("summed", "batch"):
        whole = WEIGHTINGS["gradient"](
            logits_TNC, None, gram=gram, student_logits=student, available_TN=available_TN
        )
        sent = {0: [], 1: []}
        for rank, part in enumerate(halves):
            WEIGHTINGS["gradient"](
                logits_TNC[:, part],
                None,
                gram=gram,
                student_logits=student[part],
                available_TN=available_TN[:, part],
                gather=lambda rows, box=sent[rank]: box.append(rows) or rows,
            )
        for rank, part in enumerate(halves):
            others = iter(sent[1 - rank])
            found = WEIGHTINGS["gradient"](
                logits_TNC[:, part],
                None,
                gram=gram,
                student_logits=student[part],
                available_TN=available_TN[:, part],
                gather=lambda rows, others=others: torch.cat((rows, next(others))),
            )
            torch.testing.assert_close(found, whole[:, part], rtol=0, atol=1e-9)
