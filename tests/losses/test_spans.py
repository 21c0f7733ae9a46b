"""Tokenizations of one text meet on its bytes, and what both models say of a span can be compared."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from raykd.losses.vocabularies import span_likelihood
from raykd.spans import align, joined, span_log_probs


def cut(text, *ends):
    return [text[a:b] for a, b in zip((0, *ends), (*ends, len(text)), strict=True)]


def test_spans_end_where_both_end_a_token():
    found = align(cut(b"the cat sat", 3, 7), cut(b"the cat sat", 1, 3, 5, 9))
    assert found.span_of_L.tolist() == [0, 1, 1]
    assert found.span_of_M.tolist() == [0, 0, 1, 1, 1]
    assert found.bytes_S.tolist() == [3, 8]


def test_tokens_may_end_within_a_character():
    text = "größe €5".encode()
    found = align(cut(text, 2, 3, 4), [bytes([byte]) for byte in text])
    assert found.span_of_L.tolist() == [0, 1, 2, 3]
    assert found.span_of_M.tolist() == [0, 0, 1, 2, *[3] * (len(text) - 4)]
    words = align(cut(text, 8), cut(text, 3, 9))
    assert words.bytes_S.tolist() == [len(text)], "8 is before the euro sign, 9 within it"


@pytest.mark.parametrize(
    "one", [[b"", b"ab", b"c"], [b"ab", b"c", b""], [b"", b"ab", b"", b"c", b""]]
)
def test_tokens_without_bytes_at_a_border_are_in_no_span(one):
    found = align(one, [b"ab", b"c"])
    assert found.bytes_S.tolist() == [2, 1]
    assert found.span_of_M.tolist() == [0, 1]
    assert [s for s, piece in zip(found.span_of_L, one, strict=True) if piece] == [0, 1]
    assert all(s == -1 for s, piece in zip(found.span_of_L, one, strict=True) if not piece)


def test_within_a_span_a_token_without_bytes_counts():
    assert align([b"a", b"", b"b"], [b"ab"]).span_of_L.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("one", "other"), [([], []), ([b""], []), ([b"", b""], [b""])])
def test_an_empty_text_has_no_spans(one, other):
    found = align(one, other)
    assert len(found.bytes_S) == 0
    assert (found.span_of_L == -1).all()
    assert len(found.span_of_L) == len(one)
    assert span_log_probs(torch.zeros(len(one)), found.span_of_L, 0).shape == (0,)


@given(
    text=st.text(max_size=12).map(str.encode),
    cuts=st.tuples(*[st.lists(st.integers(0, 40), max_size=8)] * 2),
)
@settings(deadline=None, max_examples=200)
def test_whatever_the_cuts(text, cuts):
    pieces = [cut(text, *sorted(min(c, len(text)) for c in one)) for one in cuts]
    found = align(*pieces)
    assert found.bytes_S.sum() == len(text)
    assert (found.bytes_S > 0).all()
    starts = np.cumsum([0, *found.bytes_S])
    for span_of, tokens in zip((found.span_of_L, found.span_of_M), pieces, strict=True):
        for span, (start, stop) in enumerate(pairwise(starts)):
            own = [t for t, s in zip(tokens, span_of, strict=True) if s == span]
            assert b"".join(own) == text[start:stop]
    ends = [set(np.cumsum([len(t) for t in tokens]).tolist()) for tokens in pieces]
    assert set(starts[1:].tolist()) == (ends[0] & ends[1]) - {0}, "the finest there are"
    other = align(*pieces[::-1])
    assert np.array_equal(found.span_of_L, other.span_of_M)


def test_other_texts_are_refused():
    with pytest.raises(
        ValueError, match=r"4 and 4 bytes, which differ from byte 2 on \(b'cd' and b'xd'\)"
    ):
        align([b"ab", b"cd"], [b"abxd"])
    with pytest.raises(ValueError, match="differ from byte 2 on"):
        align([b"ab"], [b"abc"])


def test_several_texts_are_one():
    first, second = align([b"", b"ab"], [b"a", b"b"]), align([b"c", b"d"], [b"", b"c", b"d"])
    both = joined([first, align([], []), second])
    assert both.span_of_L.tolist() == [-1, 0, 1, 2]
    assert both.span_of_M.tolist() == [0, 0, -1, 1, 2]
    assert both.bytes_S.tolist() == [2, 1, 1]
    assert len(joined([]).bytes_S) == 0


def test_the_likelihood_of_a_span_is_that_of_its_tokens():
    pieces = [b"", b"a", b"b", b"cd", b""]
    log_probs = torch.tensor(
        [float("nan"), -1.0, -2.0, -0.5, -9.0], dtype=torch.float64
    ).requires_grad_()
    found = align(pieces, [b"ab", b"cd"])
    values = span_log_probs(log_probs, found.span_of_L, 2)
    assert values.tolist() == [-3.0, -0.5]
    values.sum().backward()
    assert log_probs.grad.tolist() == [0, 1, 1, 1, 0]
    unknown = torch.tensor([0.0, float("nan"), -2.0, -0.5, 0.0])
    assert span_log_probs(unknown, found.span_of_L, 2).isnan().tolist() == [True, False]


def test_a_model_of_bytes_and_its_pairs_agree_on_every_span():
    """The same distribution over texts, once by bytes and once by the pairs it makes: equal likelihoods, loss 0."""
    generator = torch.Generator().manual_seed(0)
    text = bytes(torch.randint(0, 4, (20,), generator=generator).tolist())
    by_byte = torch.randn(20, 4, generator=generator, dtype=torch.float64).log_softmax(1)
    each = by_byte.gather(1, torch.tensor(list(text))[:, None])[:, 0]
    pairs = each.view(10, 2).sum(1)
    found = align([bytes([b]) for b in text], cut(text, *range(2, 20, 2)))
    one, other = (
        span_log_probs(values, span_of, 10)
        for values, span_of in ((each, found.span_of_L), (pairs, found.span_of_M))
    )
    torch.testing.assert_close(one, other)
    assert span_likelihood(one, other).abs().max() < 1e-12


@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_the_loss_of_spans_is_as_written_down(temperature):
    draw = np.random.default_rng(0)
    student, teacher = (-draw.exponential(3.0, 50) - 1e-3 for _ in range(2))
    a, b = np.exp(teacher / temperature), np.exp(student / temperature)
    expected = a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))
    found = span_likelihood(*map(torch.from_numpy, (student, teacher)), temperature=temperature)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-9, atol=1e-12)
    leaf = torch.from_numpy(student).requires_grad_()
    assert gradcheck(lambda s: span_likelihood(s, torch.from_numpy(teacher), temperature=temperature), (leaf,), fast_mode=True)  # fmt: skip


@pytest.mark.parametrize("value", [0.0, -1e-9, -1e-3, -100.0, -1e4])
def test_the_loss_of_spans_is_finite_at_both_ends(value):
    student = torch.tensor([value, 0.0, -1e4]).requires_grad_()
    loss = span_likelihood(student, torch.tensor([value, -50.0, -1e-9]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert student.grad.isfinite().all()
    assert loss[0] == 0


def test_the_loss_of_spans_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        span_likelihood(torch.zeros(2), torch.zeros(2), temperature=0.0)
    with pytest.raises(ValueError, match="must be equal"):
        span_likelihood(torch.zeros(2), torch.zeros(3))
