"""Answers over a few classes: what they say is what all classes say, and what they leave out is told."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raykd.draws import draw
from raykd.errors import TargetError
from raykd.top_k import (
    dense,
    even_share,
    from_log_probs,
    log_prob_of,
    log_sum_exp,
    log_tail,
    take,
    tempered,
    without_tail,
)
from raykd.types import TopK

N, V = 40, 30
AT = (2.5, 0.5)


def logits(seed=0, scale=3.0, classes=V, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(N, classes, generator=generator, dtype=torch.float64)).to(dtype)


def close(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("temperature", [1.0, *AT])
def test_of_all_classes_it_is_the_dense_answer(temperature):
    answer = take(logits(), V, temperatures=AT)
    close(dense(tempered(answer, temperature)), (logits() / temperature).log_softmax(1))
    assert log_tail(answer, 17.0) is None, "nothing is left out, at any temperature"


@pytest.mark.parametrize("temperature", [1.0, *AT])
@pytest.mark.parametrize("size", [1, 7, V - 1])
def test_classes_kept_have_the_probability_that_they_have_among_all(temperature, size):
    few = tempered(take(logits(), size, temperatures=AT), temperature)
    full = (logits() / temperature).log_softmax(1)
    close(few.log_probs_NK, full.gather(1, few.ids_NK))
    rest = full.scatter(1, few.ids_NK, -torch.inf).logsumexp(1)
    close(few.log_tail_N, rest)
    close(even_share(few), rest - math.log(V - size))
    spread = dense(few)
    close(spread.logsumexp(1), torch.zeros(N, dtype=torch.float64))
    assert torch.equal(spread.argmax(1), logits().argmax(1))
    sizes = few.log_probs_NK.diff(dim=1)
    assert (sizes <= 0).all(), "the likeliest first"


@pytest.mark.parametrize("mass", [0.3, 0.8, 0.99])
@pytest.mark.parametrize("least", [1, 3])
@pytest.mark.parametrize("most", [6, V])
def test_the_smallest_set_that_has_the_mass(mass, least, most):
    answer = take(logits(), most, mass=mass, least=least, temperatures=AT)
    full = logits().softmax(1)
    lengths = set()
    for row, ids, kept in zip(full, answer.ids_NK, answer.log_probs_NK, strict=True):
        falling = row.sort(descending=True).values
        needed = int((falling.cumsum(0) < mass).sum()) + 1
        count = min(max(needed, least), most)
        assert int((kept > -torch.inf).sum()) == count
        close(kept[:count].exp(), falling[:count])
        assert (ids[count:] == ids[0]).all(), "padding repeats the first class"
        lengths.add(count)
    assert len(lengths) > 1 or least == 3
    for temperature in (1.0, *AT):
        few = tempered(answer, temperature)
        close(dense(few).logsumexp(1), torch.zeros(N, dtype=torch.float64))
        total = few.log_probs_NK.exp().sum(1) + few.log_tail_N.exp()
        close(total, torch.ones(N, dtype=torch.float64))


def test_a_small_rest_keeps_its_digits_in_float32():
    values = torch.full((1, 1000), -20.0)
    values[0, :32] = torch.arange(32.0, 0, -1)
    answer = take(values, 32)
    expected = values.double().log_softmax(1)[0, 32:].logsumexp(0)
    assert answer.log_probs_NK.dtype == torch.float32
    assert expected < -40
    assert answer.tail[1.0].item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_constant_on_the_logits_changes_nothing():
    one, other = (take(logits() + c, 5, temperatures=AT) for c in (0.0, 1000.0))
    close(one.log_probs_NK, other.log_probs_NK, 1e-9)
    for temperature in one.tail:
        close(one.tail[temperature], other.tail[temperature], 1e-9)


def test_log_sum_exp_is_that_of_the_tempered_probabilities():
    answer = take(logits(), 4, temperatures=AT)
    for temperature in (1.0, *AT):
        expected = (logits().log_softmax(1) / temperature).logsumexp(1)
        close(log_sum_exp(answer, temperature), expected)


def test_a_temperature_that_is_not_kept_is_refused():
    with pytest.raises(TargetError, match=r"at temperature 1, 2\.5, 0\.5, not at 3; list it under"):
        tempered(take(logits(), 4, temperatures=AT), 3.0)
    few = tempered(take(logits(), 4, temperatures=(0.1 * 3,)), 0.3)
    assert few.log_tail_N is not None, "a temperature is known by nine digits"


def test_without_a_tail_the_few_have_all():
    answer = without_tail(take(logits(), 4))
    for temperature in (1.0, 3.7):
        few = tempered(answer, temperature)
        close(few.log_probs_NK.exp().sum(1), torch.ones(N, dtype=torch.float64))
        assert (dense(few) == -torch.inf).sum() == N * (V - 4)


def test_the_probability_of_one_class():
    few = tempered(take(logits(), 5, mass=0.9, least=2))
    for label in range(V):
        labels = torch.full((N,), label)
        close(log_prob_of(few, labels), dense(few).gather(1, labels[:, None])[:, 0])


def test_from_log_probabilities_alone():
    log_p = logits().log_softmax(1)
    kept, ids = log_p.topk(6, dim=1)
    answer, exact = from_log_probs(kept, ids, V), take(logits(), 6)
    close(answer.tail[1.0], exact.tail[1.0], 1e-9)
    assert from_log_probs(*log_p.topk(V, dim=1), V).tail is None
    above = from_log_probs(torch.zeros(1, 2), torch.tensor([[3, 4]]), V)
    assert above.tail[1.0].item() < -80, "rounded to more than all there is"
    with pytest.raises(TargetError):
        tempered(answer, 2.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"ids_NK": torch.zeros(3, 2, dtype=torch.int64)}, "must be"),
     ({"valid_N": torch.ones(3).bool()}, "must be"),
     ({"classes": 3}, "found 4 classes kept of 3"),
     ({"tail": {2.0: torch.zeros(N)}}, "1 must be one of them")],
)  # fmt: skip
def test_shapes_that_do_not_match_are_refused(change, message):
    answer = take(logits(), 4)
    given = {name: getattr(answer, name) for name in ("classes", "ids_NK", "log_probs_NK", "tail", "valid_N")}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        TopK(**{**given, **change})


@pytest.mark.parametrize(
    "knobs", [{"size": 0}, {"size": 3, "least": 4}, {"size": 3, "mass": 1.0}, {"size": 3, "mass": 0.0},
              {"size": 3, "temperatures": (0.0,)}],
)  # fmt: skip
def test_what_cannot_be_taken_is_refused(knobs):
    with pytest.raises(ValueError, match="found"):
        take(logits(), **knobs)


# --- draws --------------------------------------------------------------------------------------


def estimates(drawn, rows):
    return torch.zeros(rows, drawn.classes).double().scatter_add_(1, drawn.ids_NK, drawn.weights_NK.double())  # fmt: skip


@pytest.mark.parametrize("flatness", [1.0, 0.6, 1.5])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_mean_of_ten_thousand_drawn_targets_is_p(flatness, temperature):
    times, draws = 10_000, 12
    one = logits(classes=8, scale=1.5)[:1]
    drawn = draw(one.expand(times, 8), draws, seed=3, temperature=temperature, flatness=flatness)
    p = (one / temperature).softmax(1)[0]
    each = estimates(drawn, times)
    error = each.std(0) / times**0.5
    assert ((each.mean(0) - p).abs() <= 5 * error + 1e-12).all()
    assert (error < 0.02).all()
    if flatness == 1.0:
        close(drawn.weights_NK.sum(1), torch.ones(times, dtype=torch.float64))
        counts = drawn.weights_NK * draws
        close(counts, counts.round(), 1e-9)


def test_draws_follow_from_the_seed_and_the_unit_alone():
    units = np.arange(100, 100 + N)
    whole = draw(logits(), 5, seed=7, units_N=units)
    assert whole.seed == 7
    order = np.random.default_rng(0).permutation(N)[:9]
    part = draw(logits()[torch.from_numpy(order)], 5, seed=7, units_N=units[order])
    assert torch.equal(part.ids_NK, whole.ids_NK[torch.from_numpy(order)])
    close(part.weights_NK, whole.weights_NK[torch.from_numpy(order)])
    assert not torch.equal(draw(logits(), 5, seed=8, units_N=units).ids_NK, whole.ids_NK)
    assert not torch.equal(draw(logits(), 5, seed=7).ids_NK, whole.ids_NK)


def test_a_class_drawn_again_stands_there_once():
    drawn = draw(logits(), 50, seed=0)
    for ids, weights in zip(drawn.ids_NK, drawn.weights_NK, strict=True):
        real = ids[weights > 0]
        assert len(set(real.tolist())) == len(real)
        assert set(ids.tolist()) == set(real.tolist())


@pytest.mark.parametrize("knobs", [{"draws": 0}, {"draws": 1, "temperature": 0.0}, {"draws": 1, "flatness": 0.0}])  # fmt: skip
def test_draws_that_make_no_sense_are_refused(knobs):
    with pytest.raises(ValueError, match="must be above 0"):
        draw(logits(), seed=0, **knobs)
