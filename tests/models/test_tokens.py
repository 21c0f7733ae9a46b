"""Tokenizers: ids from texts alone, padding, what a model is told of them, and settings that do not fit."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import xxhash
from pydantic import TypeAdapter

from raykd.config.data import Preprocess
from raykd.data.texts import encode_texts
from raykd.errors import InputError
from raykd.models.network import Network
from raykd.models.preprocess import Preprocessing, preprocessing_for
from raykd.models.shapes import TokenShape
from raykd.models.tokens import token_ids

TEXTS = ["The cat, the CAT and a dog", "", "naïve 東京 x_1", "dog " * 40]


class Texts:
    """Samples as preprocessing sees them."""

    is_text = True
    vocabulary = None
    input_shape = (64,)

    def statistics(self):
        raise AssertionError("texts have no means")

    def training_texts(self):
        return iter(TEXTS)


class Images(Texts):
    is_text = is_table = has_gaps_or_words = False
    vocabulary = None
    input_shape = view_shape = (1, 8, 8)

    def statistics(self):
        return (0.5,), (0.25,)


def tokens(kind, **settings):
    given = Preprocess.model_validate({"tokenizer": {"type": kind, **settings}})
    return preprocessing_for(given, Texts(), key="student.preprocess")


def ids(preprocessing, texts=TEXTS, length=64):
    return preprocessing(torch.from_numpy(encode_texts(texts, length))).tolist()


def hashed(run, size):
    return xxhash.xxh3_64_intdigest(run.encode()) % size + 1


def test_hashed_words():
    found = ids(tokens("hashed", size=1000, length=8))
    words = ["the", "cat", "the", "cat", "and", "a", "dog"]
    assert found[0] == [hashed(word, 1000) for word in words] + [0]
    assert found[1] == [0] * 8
    assert found[2] == [hashed(word, 1000) for word in ("naïve", "東京", "x_1")] + [0] * 5
    assert 0 not in found[3]
    assert ids(tokens("hashed", size=1000, length=8, lower=False))[0][3] == hashed("CAT", 1000)


def test_hashed_runs_of_words_come_with_the_word_that_ends_them():
    found = ids(tokens("hashed", size=10**6, length=9, ngrams=3))
    runs = [
        "the",
        "cat",
        "the cat",
        "the",
        "cat the",
        "the cat the",
        "cat",
        "the cat",
        "cat the cat",
    ]
    assert found[0] == [hashed(run, 10**6) for run in runs]


def test_known_words_are_the_most_frequent_of_the_training_texts():
    found = tokens("words", size=3, length=8)
    assert found.tokens.words == ("dog", "cat", "the")  # 41, 2 and 2 times, ties by the alphabet
    assert ids(found)[0] == [4, 3, 4, 3, 1, 1, 2, 0]
    assert found.output_shape((64,)).vocabulary == 5
    empty, given = Texts(), Preprocess.model_validate({"tokenizer": {"type": "words"}})
    empty.training_texts = lambda: iter(["", "?!"])
    with pytest.raises(InputError, match=r"p\.tokenizer: no training text has a word; use `bytes`"):
        preprocessing_for(given, empty, key="p")


def test_bytes():
    assert ids(tokens("bytes", length=4), ["aé", "ABCDE"]) == [[98, 196, 170, 0], [66, 67, 68, 69]]
    assert ids(tokens("bytes", length=2, lower=True), ["AB"]) == [[98, 99]]


def test_damaged_utf8_is_read_and_longer_rows_change_nothing():
    broken = torch.tensor([[255, 97, 32, 98, 0, 0]], dtype=torch.uint8)
    plain = tokens("hashed", length=4)
    assert plain(broken).tolist()[0][:2] == [hashed("a", 16384), hashed("b", 16384)]
    assert ids(plain, length=64) == ids(plain, length=300)


@pytest.mark.parametrize("kind", ["hashed", "words", "bytes"])
def test_what_a_model_is_told_and_what_is_written_down(kind):
    found = tokens(kind, length=16)
    shape = found.output_shape((64,))
    assert shape == (16,)
    assert shape.kind == kind
    assert 0 < max(map(max, ids(found))) < shape.vocabulary
    again = pickle.loads(pickle.dumps(shape))  # noqa: S301
    assert (again, again.vocabulary, again.kind) == (shape, shape.vocabulary, kind)
    written = TypeAdapter(Preprocessing).dump_python(found, mode="json")
    assert TypeAdapter(Preprocessing).validate_python(json.loads(json.dumps(written))) == found
    assert f"first {16} ids" in found.tokens.meaning


def test_a_fingerprint_sees_the_tokenizer_and_numbers_keep_theirs():
    one, other = tokens("words", size=3).describe(), tokens("words", size=2).describe()
    assert json.dumps(one) != json.dumps(other)
    assert "dog" in json.dumps(one)
    assert "tokens" not in Preprocessing(mean=(0.1,)).describe()


def test_ids_that_are_remembered_are_the_same_and_made_once(monkeypatch):
    found = tokens("hashed", size=77, length=8)
    asked = []
    plain = type(found.tokens).ids
    monkeypatch.setattr(
        type(found.tokens),
        "ids",
        lambda self, texts: asked.append(len(texts)) or plain(self, texts),
    )
    rows = torch.from_numpy(encode_texts([*TEXTS, TEXTS[0]], 64))
    wanted = token_ids(found.tokens, rows)
    for _ in range(2):
        assert torch.equal(found(rows, remember=True), wanted)
    equal = replace(found, tokens=replace(found.tokens))
    assert torch.equal(equal(rows.flip(0), remember=True), wanted.flip(0))
    assert asked == [5, 4, 0, 0], "each text is cut once, whoever asks"

    network = Network(torch.nn.Identity(), found)
    network({"text": rows})
    assert asked[4:] == [5], "where time is measured nothing is remembered"
    network.remembers = True
    assert torch.equal(network({"text": rows}), wanted)
    assert asked[5:] == [0]


def test_a_memory_that_is_full_still_answers(monkeypatch):
    monkeypatch.setattr("raykd.models.tokens._MEMORY_BYTES", 8 * 4 * 2)
    found = tokens("hashed", size=78, length=8)
    first, second = (torch.from_numpy(encode_texts(TEXTS[i : i + 2], 64)) for i in (0, 2))
    for rows in (first, second, first, second):
        assert torch.equal(found(rows, remember=True), found(rows))


def test_settings_of_the_other_kind_are_refused():
    with pytest.raises(InputError) as caught:
        preprocessing_for(
            Preprocess(size=8, scale=2.0, normalize=((0.1,), (1.0,))),
            Texts(),
            key="student.preprocess",
        )
    assert {problem.key for problem in caught.value.problems} == {
        "student.preprocess.size", "student.preprocess.scale", "student.preprocess.normalize",
    }  # fmt: skip
    assert "the samples are texts" in caught.value.problems[0].message
    given = Preprocess.model_validate({"tokenizer": {"type": "bytes"}})
    with pytest.raises(
        InputError, match=r"p\.tokenizer: is for texts; a sample here is \[1, 8, 8\]"
    ):
        preprocessing_for(given, Images(), key="p")
    assert preprocessing_for(Preprocess(), Images(), key="p").mean == (0.5,)
    assert isinstance(
        preprocessing_for(Preprocess(), Texts(), key="p").output_shape((9,)), TokenShape
    )


def test_a_batch_s_ids_are_fresh_memory():
    found = tokens("hashed", size=79, length=8)
    rows = torch.from_numpy(encode_texts(TEXTS, 64))
    found(rows, remember=True).zero_()
    assert np.count_nonzero(found(rows, remember=True).numpy())
