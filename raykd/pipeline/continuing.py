"""What a language model says of texts: how likely each is, and how it goes on.

Shapes: N texts, L tokens of a chunk, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from raykd.data.chunking import tokenizer_of
from raykd.data.chunks import BYTES, TOKEN, TextTokenizer, Vocabulary, cut_documents, unit_labels
from raykd.errors import InputError
from raykd.export.task import Predicted
from raykd.models.network import core
from raykd.models.preprocess import ChunkTokens
from raykd.types import CHUNKS

MOST = 64
"""Tokens that a text is gone on with."""
_BATCH = 64


@torch.inference_mode()
def read_on(
    student: nn.Module, chunks: ChunkTokens, text_NL: np.ndarray, names: Sequence[str]
) -> Predicted:
    """Bits per byte of texts, and their likeliest next tokens, one after the other.

    A text is scored as in evaluation: in chunks, of which each token but the first is predicted. NaN where it has fewer
    than two tokens.

    Args:
        student: from chunks to logits of their units.
        chunks: what its tokens are.
        text_NL: uint8, padded with zeros.
        names: of the tokens.

    Raises:
        InputError: a text is empty.
    """
    vocabulary = Vocabulary(tokenizer_of(chunks.tokenizer, chunks.content), chunks.length)
    texts = [row.tobytes().rstrip(b"\0") for row in text_NL]
    if empty := [number for number, text in enumerate(texts) if not text]:
        raise InputError.at("DATA", f"text {empty[0]} (from 0) is empty; nothing can be said of it")
    return Predicted(
        tuple(names),
        tuple(_continued(core(student), chunks.length, texts, vocabulary.tokenizer)),
        np.arange(len(texts)),
        None,
        bits_N=_bits(student, vocabulary, text_NL),
    )


def _bits(student: nn.Module, vocabulary: Vocabulary, text_NL: np.ndarray) -> np.ndarray:
    """Bits per byte of each text, float32 [N]."""
    nats_N, bytes_N = np.zeros(len(text_NL)), np.zeros(len(text_NL))
    try:
        cut = cut_documents(text_NL, vocabulary)
    except InputError:  # one token each
        return np.full(len(text_NL), np.nan, np.float32)
    sizes = np.array(vocabulary.tokenizer.sizes, np.int64)
    for start in range(0, len(cut.tokens), _BATCH):
        tokens = cut.tokens[start : start + _BATCH].astype(np.int64)
        document = cut.document[start : start + _BATCH]
        labels, offsets = unit_labels(tokens, document, np.zeros_like(document), sizes)
        logits_UV: Tensor = student({CHUNKS: torch.from_numpy(tokens)}).double()
        token_U = torch.from_numpy(labels[:, TOKEN])
        logs_U = logits_UV.log_softmax(dim=1).gather(1, token_U[:, None])[:, 0].numpy()
        document_U = document.repeat(np.diff(offsets))
        np.add.at(nats_N, document_U, -logs_U)
        np.add.at(bytes_N, document_U, labels[:, BYTES])
    there = bytes_N > 0
    bits = np.where(there, nats_N / (math.log(2) * np.maximum(bytes_N, 1)), np.nan)
    return bits.astype(np.float32)


def _continued(
    model: nn.Module, length: int, texts: Sequence[bytes], tokenizer: TextTokenizer
) -> list[str]:
    """What each text goes on with, from as much of its end as a chunk has room for."""
    count = min(MOST, max(1, length // 2))
    starts = [tokenizer.ids(text)[-(length - count) :] for text in texts]
    found: list[str] = []
    for begin in range(0, len(starts), _BATCH):
        some = starts[begin : begin + _BATCH]
        ids_BL = torch.zeros(len(some), length, dtype=torch.int64)
        for row, start in enumerate(some):
            ids_BL[row, : len(start)] = torch.from_numpy(start)
        end_B = torch.tensor([len(start) for start in some])
        rows_B = torch.arange(len(some))
        for step in range(count):
            logits_BLV: Tensor = model(ids_BL[:, : int(end_B.max()) + step])
            ids_BL[rows_B, end_B + step] = logits_BLV[rows_B, end_B + step - 1].argmax(dim=1)
        for row, end in enumerate(end_B.tolist()):
            said = tokenizer.text(ids_BL[row, end : end + count].tolist())
            found.append(said.decode(errors="replace"))
    return found
