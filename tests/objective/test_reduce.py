"""One reduction by the global counts: a big batch equals its parts on several workers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from raykd.objective import Term, reduce_terms


def alone(tensor):
    return tensor


def split_terms(terms, bounds):
    parts = pairwise(bounds)
    return [
        {n: Term(t.loss_N[a:b], t.valid_N[a:b], t.weight) for n, t in terms.items()}
        for a, b in parts
    ]


def on_workers(parts):
    """Each worker's losses, with the sum over workers that a collective would give."""
    counts = sum(torch.stack([t.valid_N.float().sum() for t in p.values()]) for p in parts)
    return [reduce_terms(part, lambda _: counts, len(parts)) for part in parts]


@pytest.fixture
def logits():
    return torch.randn(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("bounds", [(0, 5, 10), (0, 9, 10), (0, 3, 6, 10)])
def test_one_big_batch_equals_its_parts(logits, bounds):
    """Parts with different label counts, padding and sample weights."""
    labelled = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 0, 1], dtype=torch.float64)
    present = torch.tensor([1, 1, 1, 1, 1, 0, 1, 1, 1, 1]).bool()
    weights = torch.linspace(0.5, 2.0, 10, dtype=torch.float64)

    def terms(x):
        return {
            "labels": Term(x.exp(), labelled * present * weights, 0.1),
            "soft": Term((x - 1).square(), present, 0.9),
        }

    whole = logits.clone().requires_grad_()
    big = reduce_terms(terms(whole), alone, 1)
    big.total.backward()

    parted = logits.clone().requires_grad_()
    workers = on_workers(split_terms(terms(parted), bounds))
    count = len(bounds) - 1
    # DDP averages the gradients over the workers.
    (sum(losses.total for losses in workers) / count).backward()
    torch.testing.assert_close(parted.grad, whole.grad)
    torch.testing.assert_close(sum(l.total for l in workers) / count, big.total)  # noqa: E741
    for name in ("labels", "soft"):
        torch.testing.assert_close(sum(l.terms[name] for l in workers), big.terms[name])  # noqa: E741


def test_the_value_is_the_weighted_mean_over_what_counts(logits):
    valid = torch.tensor([2.0, 0, 1, 0, 0, 0, 0, 0, 0, 0.5], dtype=torch.float64)
    losses = reduce_terms({"a": Term(logits, valid, 3.0)}, alone, 1)
    mean = float((logits * valid).sum() / 3.5)
    assert float(losses.total) == pytest.approx(3 * mean, rel=1e-6)
    assert float(losses.terms["a"]) == pytest.approx(mean, rel=1e-6)


def test_nothing_that_counts_is_zero_with_a_zero_gradient(logits):
    x = logits.clone().requires_grad_()
    valid = torch.zeros(10, dtype=torch.bool)
    losses = reduce_terms({"a": Term(x.exp(), valid, 1.0)}, alone, 1)
    losses.total.backward()
    assert float(losses.total.detach()) == 0.0
    assert torch.equal(x.grad, torch.zeros(10, dtype=torch.float64))


def test_a_unit_that_does_not_count_may_hold_anything():
    loss = torch.tensor([1.0, float("nan"), float("inf")], requires_grad=True)
    losses = reduce_terms({"a": Term(loss, torch.tensor([True, False, False]), 1.0)}, alone, 1)
    losses.total.backward()
    assert float(losses.total.detach()) == 1.0
    assert loss.grad.tolist() == [1.0, 0.0, 0.0]


def test_a_worker_without_any_labels_takes_part(logits):
    x = logits.clone().requires_grad_()
    valid = torch.tensor([1.0] * 5 + [0.0] * 5)
    first, second = on_workers(split_terms({"labels": Term(x, valid, 1.0)}, (0, 5, 10)))
    assert second.total.requires_grad
    assert float(second.total.detach()) == 0.0
    ((first.total + second.total) / 2).backward()
    assert x.grad.tolist() == pytest.approx([0.2] * 5 + [0.0] * 5)
