"""Mixtures over unions of the few classes that teachers kept."""

from __future__ import annotations

import pytest
import torch

from raykd.ensemble import mean_probabilities
from raykd.ensemble.sparse import mixture
from raykd.top_k import dense, take, tempered, without_tail

N, V = 20, 17
AT = 2.0


def logits(seed):
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randn(N, V, generator=generator, dtype=torch.float64)


def weights(teachers=3):
    generator = torch.Generator().manual_seed(9)
    return torch.rand(teachers, N, generator=generator, dtype=torch.float64).softmax(0)


def answers(*sizes, **more):
    return [tempered(take(logits(k), size, temperatures=(AT,), **more), AT) for k, size in enumerate(sizes)]  # fmt: skip


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_of_all_classes_it_is_the_mean_of_probabilities():
    mixed = mixture(answers(V, V, V), weights())
    whole = torch.stack([logits(k) for k in range(3)])
    close(dense(mixed), mean_probabilities(whole, weights(), temperatures_T=AT))
    assert mixed.ids_NK.shape == (N, V)


@pytest.mark.parametrize("more", [{}, {"mass": 0.7}])
@pytest.mark.parametrize("sizes", [(3, 3, 3), (2, 5, 9), (1, 1, V)])
def test_it_mixes_what_each_spreads_evenly(sizes, more):
    few = answers(*sizes, **more)
    mixed = mixture(few, weights())
    expected = sum(w[:, None] * dense(one).exp() for w, one in zip(weights(), few, strict=True))
    close(dense(mixed).exp(), expected)
    kept = mixed.log_probs_NK.exp()
    close(kept.sum(1) + mixed.log_tail_N.exp(), torch.ones(N, dtype=torch.float64))
    assert (kept.diff(dim=1) <= 0).all()
    for row, values, *each in zip(mixed.ids_NK, mixed.log_probs_NK, *(one.ids_NK for one in few), strict=True):  # fmt: skip
        real = row[values > -torch.inf].tolist()
        assert sorted(real) == sorted(set(torch.cat(each).tolist())), "the union, each once"


def test_of_one_teacher_it_is_its_own_distribution():
    (one,) = answers(4)
    mixed = mixture([one], torch.ones(1, N))
    assert torch.equal(mixed.ids_NK, one.ids_NK)
    close(mixed.log_probs_NK, one.log_probs_NK)
    close(mixed.log_tail_N, one.log_tail_N)


def test_the_order_of_the_teachers_does_not_matter():
    few, given = answers(2, 5, 9), weights()
    one, other = mixture(few, given), mixture(few[::-1], given.flip(0))
    close(dense(one), dense(other))


def test_a_teacher_without_weight_may_hold_anything():
    few, given = answers(4, 4), torch.tensor([[1.0], [0.0]]).repeat(1, N)
    few[1].log_probs_NK.fill_(torch.nan)
    close(dense(mixture(few, given)), dense(few[0]))


def test_where_nobody_answers_it_is_uniform():
    mixed = mixture(answers(4, 4), torch.zeros(2, N))
    close(dense(mixed), torch.full((N, V), 1 / V, dtype=torch.float64).log())


def test_without_tails_the_mixture_has_none():
    few = [tempered(without_tail(take(logits(k), 4)), AT) for k in range(2)]
    mixed = mixture(few, torch.full((2, N), 0.5))
    assert mixed.log_tail_N is None
    close(mixed.log_probs_NK.exp().sum(1), torch.ones(N, dtype=torch.float64))


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"weights \[T, N\]"):
        mixture(answers(4, 4), torch.ones(3, N))
    with pytest.raises(ValueError, match="need the same"):
        mixture([], torch.ones(0, N))
