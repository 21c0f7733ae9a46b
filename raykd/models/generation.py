"""Texts that a causal language model writes: it goes on from prompts, token by token.

Shapes: B texts, L length, P length of a prompt, D features, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from raykd.models.causal import CausalModel, logits_of
from raykd.models.network import first_tensor

GRAM = 4
"""Tokens of a gram by which repetition is told."""


@runtime_checkable
class Stepping(Protocol):
    """A model that goes on from a state, so that what came before is not computed again."""

    def advance(self, tokens_BL: Tensor, state: Any | None) -> tuple[Tensor, Any]:
        """What the head takes after each of some further tokens [B, L, D], and the state after the last one.

        Args:
            tokens_BL: what comes next.
            state: after all before; None: nothing came before.
        """
        ...


@torch.no_grad()
def continued(
    model: nn.Module,
    tokens_BL: Tensor,
    prompt_B: Tensor,
    draws_BL: np.ndarray,
    *,
    temperature: float,
) -> Tensor:
    """Texts that begin with their prompts and go on with what the model draws.

    Each token is the one at which the cumulated probabilities exceed its draw, so that a text depends on its own prompt
    and draws alone. No token is cut off. The model is in evaluation mode meanwhile, and afterwards in the one that it was in.

    Args:
        model: ids [B, L] -> logits [B, L, V], see `raykd.models.causal`.
        tokens_BL: int64; what stands behind a prompt is ignored.
        prompt_B: int64, in [1, L]: how many tokens of each are given.
        draws_BL: float64 in [0, 1).
        temperature: at which probabilities are taken, above 0.

    Returns:
        int64 [B, L].

    Raises:
        ValueError: an empty prompt, or one that is longer than the text.
        FloatingPointError: the model's logits are no numbers.
    """
    length = tokens_BL.shape[1]
    if not len(prompt_B) or int(prompt_B.min()) < 1 or int(prompt_B.max()) > length:
        raise ValueError(
            f"prompts have {prompt_B.tolist()[:5]} tokens, ...; needs 1 to {length} each"
        )
    trained, device = model.training, tokens_BL.device
    model.eval()
    written_BL, state = tokens_BL.clone(), None
    done, first, apart = 0, int(prompt_B.min()), _head_apart(model)
    given_BL = torch.arange(length, device=device) < prompt_B[:, None]
    draws = torch.from_numpy(draws_BL).to(device)
    try:
        for place in range(first, length):
            logits_BV, state = _next(model, written_BL[:, :place], done, state, apart)
            done = place
            drawn_B = _drawn(logits_BV, draws[:, place], temperature)
            written_BL[:, place] = torch.where(
                given_BL[:, place], tokens_BL[:, place], drawn_B.to(tokens_BL.dtype)
            )
    finally:
        model.train(trained)
    return written_BL


def _head_apart(model: nn.Module) -> bool:
    """Whether logits are a linear map of the model's states, so that those of the last token alone can be made."""
    if not isinstance(model, CausalModel):
        return False
    try:
        model.head_weights()
    except ValueError:  # a cap or a scale comes after it
        return False
    return True


def _next(
    model: nn.Module, written_BP: Tensor, done: int, state: Any, apart: bool
) -> tuple[Tensor, Any]:
    """Logits of the token that comes next [B, V], and the state, where the model keeps one."""
    if apart and isinstance(model, CausalModel):
        if isinstance(model, Stepping):
            hidden_BLD, state = model.advance(written_BP[:, done:], state)
            return logits_of(model, hidden_BLD[:, -1]), state
        return logits_of(model, model.hidden(written_BP)[:, -1]), None
    logits_BLV = first_tensor(model(written_BP))
    assert logits_BLV is not None, "the recipe's models were tried before"
    return logits_BLV[:, -1], None


def _drawn(logits_BV: Tensor, draw_B: Tensor, temperature: float) -> Tensor:
    """A token of each row, by the inverse of the cumulated probabilities."""
    probs_BV = (logits_BV.double() / temperature).softmax(dim=1)
    if not bool(probs_BV.isfinite().all()):
        raise FloatingPointError("the logits of the next token are NaN or infinite")
    cumulated_BV = probs_BV.cumsum(dim=1)
    wanted_B1 = draw_B[:, None] * cumulated_BV[:, -1:]
    found_B1 = torch.searchsorted(cumulated_BV, wanted_B1, right=True)
    return found_B1[:, 0].clamp(max=logits_BV.shape[1] - 1)


def repetition(texts_BL: np.ndarray, written_BL: np.ndarray) -> float:
    """The part of all grams of four written tokens that stood in the same text before; 0 of texts too short for one.

    1 − |different grams| / |grams|, as `seq-rep-4` of Welleck et al. 2020 (Neural Text Generation with Unlikelihood
    Training, eq. 10), over all texts together.

    Args:
        texts_BL: ids.
        written_BL: bool, which of them were written; those of a text are neighbours.
    """
    grams = different = 0
    for text_L, written_L in zip(texts_BL, written_BL, strict=True):
        own = text_L[written_L].tolist()
        every = [tuple(own[start : start + GRAM]) for start in range(len(own) - GRAM + 1)]
        grams, different = grams + len(every), different + len(set(every))
    return 1 - different / grams if grams else 0.0
