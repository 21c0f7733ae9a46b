"""A Llama-like model of a GGUF file as transformers has it: configuration, weights, byte-level BPE tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from raykd.packaged.gguf import Gguf

_PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
"""Part of a block -> its name in transformers."""
_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_CONTROL = 3
"""Type of a token that stands for no text."""
_DIGITS = ("smollm",)
"""Kinds of cutting a text before BPE that take each digit by itself."""


def write_llama(found: Gguf, folder: Path) -> None:
    """Write config.json, model.safetensors (float16), tokenizer.json and tokenizer_config.json.

    Raises:
        ValueError: it is another architecture, another kind of tokenizer, or a part is missing.
    """
    values = found.values
    try:
        settings, tokenizer = _settings(found), _tokenizer(values)
        heads = values["llama.attention.head_count"], values["llama.attention.head_count_kv"]
        weights = {
            _name(name): torch.from_numpy(_in_order(name, array, *heads)).half()
            for name, array in found.tensors.items()
        }
    except KeyError as error:
        raise ValueError(f"it lacks {error}") from error
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    _write(folder / "tokenizer.json", tokenizer)
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    _write(folder / "config.json", settings)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _settings(found: Gguf) -> dict[str, Any]:
    values = found.values
    if values.get("general.architecture") != "llama":
        raise ValueError(f"its architecture is {values.get('general.architecture')}, not llama")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": len(values["tokenizer.ggml.tokens"]),
        "hidden_size": values["llama.embedding_length"],
        "intermediate_size": values["llama.feed_forward_length"],
        "num_hidden_layers": values["llama.block_count"],
        "num_attention_heads": values["llama.attention.head_count"],
        "num_key_value_heads": values["llama.attention.head_count_kv"],
        "max_position_embeddings": values["llama.context_length"],
        "rms_norm_eps": values["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": values["llama.rope.freq_base"],
        "bos_token_id": values["tokenizer.ggml.bos_token_id"],
        "eos_token_id": values["tokenizer.ggml.eos_token_id"],
        "tie_word_embeddings": "output.weight" not in found.tensors,
        "torch_dtype": "float16",
    }


def _name(name: str) -> str:
    """A tensor's name in transformers.

    Raises:
        ValueError: there is no such part.
    """
    if name in _WHOLE:
        return _WHOLE[name]
    block, number, part, rest = (name.split(".") + [""] * 4)[:4]
    if block != "blk" or part not in _PARTS or rest != "weight":
        raise ValueError(f"it has the unknown tensor {name}")
    return f"model.layers.{number}.{_PARTS[part]}.weight"


def _in_order(name: str, array: np.ndarray, heads: int, key_heads: int) -> np.ndarray:
    """Rows of queries and keys in transformers' order: GGUF has the two halves of each rotary pair side by side."""
    count = heads if ".attn_q." in name else key_heads if ".attn_k." in name else 0
    if not count:
        return array
    pairs = array.reshape(count, -1, 2, array.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(array.shape))


def _tokenizer(values: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json of the library `tokenizers`."""
    if values.get("tokenizer.ggml.model") != "gpt2":
        raise ValueError(
            f"its tokenizer is {values.get('tokenizer.ggml.model')}, not byte-level BPE"
        )
    tokens, kinds = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    steps: list[dict[str, Any]] = []
    if values.get("tokenizer.ggml.pre") in _DIGITS:
        steps.append({"type": "Digits", "individual_digits": True})
    steps.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True})  # fmt: skip
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == _CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": values["tokenizer.ggml.merges"],
        },
    }  # fmt: skip
