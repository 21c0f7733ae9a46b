"""Byte-level BPE: nothing is lost, sizes are bytes, and what cannot promise that is refused."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch

from raykd.data.bpe import BpeAsTokens, read_bpe, train_bpe
from raykd.data.chunks import BytesAsTokens
from raykd.errors import InputError
from raykd.evaluate.likelihood import likelihood_metrics, likelihood_sums
from raykd.models.ngram import Ngram, fit_ngram

tokenizers = pytest.importorskip("tokenizers")
TEXTS = [
    "She sells sea shells by the sea shore.\n",
    "Größe naïve – 😀 日本語\n",
    "the shore is the shore\n",
] * 4


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(TEXTS, 300)


def test_the_bytes_of_a_text_are_those_of_its_tokens(bpe):
    text = "\tThe shore, Größe 😀!  日本語\r\n\n" + "".join(map(chr, range(300)))
    ids = bpe.ids(text.encode())
    assert bpe.text(ids.tolist()) == text.encode()
    assert len(bpe.sizes) == 300
    assert sum(bpe.sizes[one] for one in ids) == len(text.encode()) > len(ids)
    assert sorted(size for size in bpe.sizes if size == 1) == [1] * 256
    assert not len(bpe.ids(b""))


def test_it_is_known_by_its_content(bpe, tmp_path):
    again = train_bpe(TEXTS, 300)
    assert again == bpe
    assert again.fingerprint == bpe.fingerprint != train_bpe(TEXTS, 301).fingerprint
    (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(bpe.content), indent=1))
    assert read_bpe(tmp_path, key="k") == read_bpe(tmp_path / "tokenizer.json", key="k") == bpe
    assert copy.deepcopy(bpe).ids(b"the shore").tolist() == bpe.ids(b"the shore").tolist()


def test_special_tokens_stand_for_no_byte(bpe):
    content = json.loads(bpe.content)
    special = {"id": 300, "content": "<|end|>", "special": True, "single_word": False, "lstrip": False,
               "rstrip": False, "normalized": False}  # fmt: skip
    own = BpeAsTokens(json.dumps({**content, "added_tokens": [special]}, sort_keys=True))
    assert own.sizes == (*bpe.sizes, 0)
    assert own.text([300, *own.ids(b"sea")]) == b"sea"


def test_a_text_may_hold_the_words_of_added_tokens(bpe):
    special = {"id": 300, "content": "<|end|>", "special": True, "single_word": False, "lstrip": False,
               "rstrip": False, "normalized": False}  # fmt: skip
    added = {**special, "id": 301, "content": "größer ", "special": False}
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    content = {**json.loads(bpe.content), "added_tokens": [special, added], "truncation": cut}
    own = BpeAsTokens(json.dumps(content, sort_keys=True))
    text = "the shore <|end|> größer the sea".encode()
    ids = own.ids(text).tolist()
    assert own.text(ids) == text
    assert 301 in ids
    assert 300 not in ids
    assert sum(own.sizes[one] for one in ids) == len(text)


def test_a_byte_without_a_token_is_named(bpe):
    """SmolLM2's has tokens for 235 bytes: a text of others loses them without a word."""
    content = json.loads(bpe.content)
    vocabulary = content["model"]["vocab"]
    last = max(vocabulary.values())
    for token, number in list(vocabulary.items()):
        if number == last:  # takes the place of the byte that goes
            vocabulary[token] = vocabulary.pop("q")
    content["model"]["merges"] = content["model"]["merges"][:-1]
    own = BpeAsTokens(json.dumps(content, sort_keys=True))
    assert own.text(own.ids(b"sea shore").tolist()) == b"sea shore"
    with pytest.raises(InputError, match=r"data.tokens.tokenizer: has no token for the byte 0x71 "):
        own.ids(b"a quay")


def test_bits_per_byte_do_not_depend_on_the_tokenizer(bpe):
    """One model of bytes, whose log-probabilities are added up over the bytes of each token."""
    text = "the sea shells naïve – by the shore\n".encode()
    model = Ngram(
        fit_ngram([np.frombuffer("".join(TEXTS).encode(), np.uint8)], vocabulary=256, order=4),
        np.float64,
    )
    row = np.frombuffer(text, np.uint8)[None]
    logs = np.concatenate([[math.log(1 / 256)], model.next_log_probabilities(row)[0]])
    found = []
    for tokenizer in (BytesAsTokens(), bpe):
        sizes = np.array([tokenizer.sizes[one] for one in tokenizer.ids(text)])
        log_probabilities = np.add.reduceat(logs, np.cumsum(sizes) - sizes)
        sums = likelihood_sums(
            torch.from_numpy(log_probabilities),
            torch.zeros(len(sizes), dtype=torch.bool),
            torch.from_numpy(sizes),
        )
        found.append(likelihood_metrics(sums))
    assert found[0]["bits_per_byte"] == pytest.approx(found[1]["bits_per_byte"], rel=1e-12)
    assert found[0]["perplexity"] < 0.9 * found[1]["perplexity"], (
        "which of tokens is no common measure"
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model": {"type": "WordPiece"}}, "is no BPE tokenizer"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "characters, not bytes"),
        ({"pre_tokenizer": None}, "characters, not bytes"),
        ({"normalizer": {"type": "Lowercase"}}, "changes texts"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "add_prefix_space"),
        (
            {
                "pre_tokenizer": {
                    "type": "Sequence",
                    "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "ByteLevel"}],
                }
            },
            "a step that leaves out characters",
        ),
        ({"added_tokens": [{"id": 300, "content": "x", "lstrip": True}]}, "lstrip or rstrip"),
        ({"model": {"type": "BPE", "dropout": 0.1}}, "dropout"),
        ({"model": {"type": "BPE", "end_of_word_suffix": "</w>"}}, "end_of_word_suffix"),
    ],
)
def test_what_loses_bytes_is_refused(bpe, change, why):
    content = {**json.loads(bpe.content), **change}
    with pytest.raises(InputError, match=rf"data.tokens.tokenizer: .*{why}"):
        BpeAsTokens(json.dumps(content))


def test_what_is_no_tokenizer_names_key_and_file(tmp_path, bpe):
    with pytest.raises(InputError, match=r"k: there is no file .*tokenizer.json"):
        read_bpe(tmp_path, key="k")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"k: .*is no tokenizer\.json"):
        read_bpe(tmp_path, key="k")
    broken = {**json.loads(bpe.content), "model": {"type": "BPE"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(broken))
    with pytest.raises(InputError, match="k: the tokenizer cannot be loaded"):
        read_bpe(tmp_path, key="k").ids(b"a")
    with pytest.raises(InputError, match="size: found 256"):
        train_bpe(TEXTS, 256)
