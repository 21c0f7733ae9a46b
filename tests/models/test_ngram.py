"""The n-gram model against its formula written down naively, its files, and the chunks it is asked about."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from raykd.config.models import Model
from raykd.errors import InputError
from raykd.models import build_model
from raykd.models.ngram import Ngram, NgramTables, fit_ngram, highest_order
from raykd.models.shapes import TokenShape
from raykd.models.weights import fingerprint
from raykd.models.zoo.ngram import ngram_examples, tables_of

TEXTS = [
    b"she sells sea shells by the sea shore",
    b"the shells she sells are sea shells",
    b"a",
    b"",
]


def ids(*texts):
    return [np.frombuffer(text, np.uint8) for text in texts]


class Naive:
    """Witten-Bell interpolation with dictionaries."""

    def __init__(self, texts, vocabulary, order):
        self.vocabulary, self.order = vocabulary, order
        self.after = defaultdict(Counter)
        for text in texts:
            for at, token in enumerate(text):
                for length in range(min(order - 1, at) + 1):
                    self.after[tuple(text[at - length : at])][token] += 1

    def p(self, context, token):
        context = tuple(context[-(self.order - 1) :]) if self.order > 1 else ()
        shorter = self.p(context[1:], token) if context else 1 / self.vocabulary
        found = self.after.get(context)
        if not found:
            return shorter
        return (found[token] + len(found) * shorter) / (sum(found.values()) + len(found))


@pytest.mark.parametrize("order", [1, 2, 3, 6])
@pytest.mark.parametrize("dense", [0, 300, 2**21])
def test_it_is_the_formula(order, dense, monkeypatch):
    monkeypatch.setattr("raykd.models.ngram._DENSE_VALUES", dense)
    monkeypatch.setattr("raykd.models.ngram._BLOCK_VALUES", 1000)  # blocks end within chunks
    texts = [text.tolist() for text in ids(*TEXTS)]
    naive = Naive(texts, 256, order)
    chunks = np.stack(
        [np.frombuffer(text, np.uint8) for text in (b"the sea she s", b"zebra shore .")]
    )
    model = Ngram(fit_ngram(ids(*TEXTS), vocabulary=256, order=order), np.float64)
    found = np.exp(model.log_probabilities(chunks))
    wanted = np.array(
        [
            [[naive.p(row[: at + 1], w) for w in range(256)] for at in range(13)]
            for row in chunks.tolist()
        ]
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-12)
    own = np.take_along_axis(wanted[:, :-1], chunks[:, 1:, None].astype(np.int64), 2)[..., 0]
    np.testing.assert_allclose(model.next_log_probabilities(chunks), np.log(own), rtol=1e-12)
    single = Ngram(model.tables).log_probabilities(chunks)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, np.log(wanted), rtol=1e-6, atol=1e-6)


def test_a_large_vocabulary_and_texts_shorter_than_the_order():
    generator = np.random.default_rng(0)
    texts = [generator.integers(0, 9, size) + 49_000 for size in (30, 2, 1)]
    model = Ngram(fit_ngram(texts, vocabulary=49_152, order=3), np.float64)
    naive = Naive([text.tolist() for text in texts], 49_152, 3)
    row = np.array([[49_003, 49_001, 7, 49_002, 49_004, 49_001]])
    wanted = [math.log(naive.p(row[0, : at + 1].tolist(), row[0, at + 1])) for at in range(5)]
    np.testing.assert_allclose(model.next_log_probabilities(row)[0], wanted, rtol=1e-12)
    np.testing.assert_allclose(np.exp(model.log_probabilities(row)).sum(-1), 1, rtol=1e-9)
    short = fit_ngram([np.array([1, 2])], vocabulary=4, order=6)
    assert short.order == 2, "no text is longer"
    assert np.exp(Ngram(short).log_probabilities(np.array([[3, 1, 2, 0]]))).sum() == pytest.approx(
        4
    )


def test_grams_end_with_their_text():
    apart = fit_ngram(ids(b"ab", b"cd"), vocabulary=256, order=2)
    assert [int(gram) for gram in apart.grams[1]] == [
        ord("a") * 256 + ord("b"),
        ord("c") * 256 + ord("d"),
    ]
    assert apart.grams[1].size < fit_ngram(ids(b"abcd"), vocabulary=256, order=2).grams[1].size


@pytest.mark.parametrize(
    ("texts", "vocabulary", "order", "why"),
    [
        ([], 256, 3, "at least one token"),
        ([[300]], 256, 3, "from 0 to 255"),
        ([[-1, 2]], 256, 3, "from 0 to 255"),
        ([[0.5]], 256, 3, "integers"),
        ([[1]], 256, 8, "order is 1 to 7"),
        ([[1]], 49_152, 4, "order is 1 to 3"),
        ([[1]], 0, 1, "at least one token"),
    ],
)
def test_what_cannot_be_counted_is_refused(texts, vocabulary, order, why):
    with pytest.raises(ValueError, match=why):
        fit_ngram([np.array(text) for text in texts], vocabulary=vocabulary, order=order)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"grams_2": None}, "lack grams_2|need"),
        ({"counts_1": None}, "lack counts_1"),
        ({"vocabulary": None}, "lack vocabulary"),
        ({"grams_1": [5, 3]}, "count above 0|sorted"),
        ({"counts_3": [0] * 50}, "count above 0"),
    ],
)
def test_tables_that_no_text_gives_are_refused(change, why):
    named = {**fit_ngram(ids(*TEXTS), vocabulary=256, order=3).arrays()}
    for name, value in change.items():
        named.pop(name) if value is None else named.__setitem__(name, np.array(value))
    with pytest.raises(ValueError, match=why):
        NgramTables.from_arrays(named)


def make(weights=None, order=4, vocabulary=256):
    spec = TypeAdapter(Model).validate_python({"type": "ngram", "order": order})
    shape = TokenShape(16, vocabulary, "tokens")
    return build_model(
        spec, input_shape=shape, classes=vocabulary, key="teachers.a.model", weights=weights
    )


def state(order=4):
    spec = TypeAdapter(Model).validate_python({"type": "ngram", "order": order})
    rows = torch.zeros(3, 40, dtype=torch.uint8)
    for row, text in zip(rows, TEXTS, strict=False):
        row[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    lengths = torch.tensor([len(text) for text in TEXTS[:3]])
    return ngram_examples(spec, rows, lengths, vocabulary=256)


def test_a_model_of_the_zoo_comes_back_from_its_file(tmp_path):
    weights = state()
    model = make(weights)
    tokens = torch.frombuffer(bytearray(TEXTS[0][:16]), dtype=torch.uint8)[None]
    logits = model(tokens)
    assert logits.shape == (1, 16, 256)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(1, 16))
    save_file(model.state_dict(), tmp_path / "ngram.safetensors")
    again = make(load_file(tmp_path / "ngram.safetensors"))
    assert torch.equal(again(tokens), logits)
    assert fingerprint(again.state_dict()) == fingerprint(weights) != fingerprint(state(order=3))
    assert tables_of(weights).order == 4


def test_neighbours_and_padding_have_no_influence():
    model = make(state())
    rows = torch.randint(97, 110, (5, 16), generator=torch.Generator().manual_seed(0))
    rows[2, 9:] = -1
    together = model(rows)
    assert torch.equal(together[2, :9], model(rows[2:3, :9])[0])
    assert torch.equal(model(rows.flip(0)).flip(0), together)
    assert together.isfinite().all()


def test_what_does_not_go_together_names_the_key():
    with pytest.raises(InputError, match=r"teachers.a.model.order: is 7.*use 1 to 3"):
        make(order=7, vocabulary=49_152)
    with pytest.raises(InputError, match="counted on 256 different tokens"):
        make(state(), vocabulary=300)
    with pytest.raises(RuntimeError, match="no text here"):
        make()(torch.zeros(1, 3, dtype=torch.int64))
    assert highest_order(256) == 7
