"""Texts that models write: prompts kept, draws followed, states gone on from, repetition counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from raykd.config.models import Model
from raykd.models import build_model
from raykd.models.generation import Stepping, continued, repetition
from raykd.models.shapes import TokenShape

VOCABULARY, LENGTH = 20, 12
SPECS = [
    {"type": "gru_lm", "width": 0.125, "depth": 2, "dropout": 0.3},
    {"type": "transformer_lm", "width": 0.5, "depth": 1, "dropout": 0.3},
]


def make(settings):
    torch.manual_seed(0)
    shape = TokenShape(LENGTH, VOCABULARY, "tokens")
    spec = TypeAdapter(Model).validate_python(settings)
    return build_model(spec, input_shape=shape, classes=VOCABULARY, key="student.model")


def given(size=5):
    generator = np.random.default_rng(1)
    tokens = torch.from_numpy(generator.integers(0, VOCABULARY, (size, LENGTH)))
    return tokens, torch.tensor([1, 4, 2, 12, 3])[:size], generator.random((size, LENGTH))


class Whole(nn.Module):
    """The same model, of which nothing is known but its logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return {"logits": self.model(tokens)}


@pytest.mark.parametrize("settings", SPECS, ids=lambda one: one["type"])
def test_each_token_is_where_its_draw_falls(settings):
    """Held against float64 sums of the whole model's probabilities, token by token."""
    model = make(settings)
    tokens, prompt, draws = given()
    written = continued(model, tokens, prompt, draws, temperature=0.7)
    assert model.training, "as it was before"
    model.eval()
    with torch.no_grad():
        for row in range(len(tokens)):
            assert torch.equal(written[row, : prompt[row]], tokens[row, : prompt[row]])
            for place in range(int(prompt[row]), LENGTH):
                logits = model(written[row : row + 1, :place])[0, -1].numpy().astype(np.float64)
                odds = np.exp((logits - logits.max()) / 0.7)
                below = np.cumsum(odds)[: int(written[row, place])] / odds.sum()
                upto = np.cumsum(odds)[: int(written[row, place]) + 1][-1] / odds.sum()
                assert (below[-1] if len(below) else 0) - 1e-6 <= draws[row, place] <= upto + 1e-6


@pytest.mark.parametrize("settings", SPECS, ids=lambda one: one["type"])
def test_a_text_depends_on_its_own_prompt_and_draws(settings):
    model = make(settings)
    tokens, prompt, draws = given()
    together = continued(model, tokens, prompt, draws, temperature=1.0)
    alone = [
        continued(model, tokens[[i]], prompt[[i]], draws[[i]], temperature=1.0) for i in range(5)
    ]
    assert torch.equal(together, torch.cat(alone))
    behind = torch.where(torch.arange(LENGTH) < prompt[:, None], tokens, 0)
    assert torch.equal(continued(model, behind, prompt, draws, temperature=1.0), together)


def test_from_a_state_or_all_anew_is_the_same():
    model = make(SPECS[0])
    assert isinstance(model, Stepping)
    given_ = given()
    assert torch.equal(
        continued(model, *given_, temperature=1.0),
        continued(Whole(model), *given_, temperature=1.0),
    )


def test_tokens_come_as_often_as_they_are_probable():
    class Fixed(nn.Module):
        def forward(self, tokens):
            return torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(*tokens.shape, 4)

    size = 4000
    draws = np.random.default_rng(0).random((size, 2))
    for temperature, expected in (
        (1.0, [0.1, 0.2, 0.3, 0.4]),
        (0.5, [1 / 30, 4 / 30, 9 / 30, 16 / 30]),
    ):
        written = continued(
            Fixed(), torch.zeros(size, 2, dtype=torch.int64), torch.ones(size, dtype=torch.int64), draws,
            temperature=temperature,
        )  # fmt: skip
        found = np.bincount(written[:, 1].numpy(), minlength=4) / size
        assert np.abs(found - expected).max() < 0.03


def test_what_cannot_be_written_is_said():
    tokens, prompt, draws = given()
    with pytest.raises(ValueError, match="needs 1 to 12"):
        continued(make(SPECS[0]), tokens, prompt * 0, draws, temperature=1.0)
    broken = make(SPECS[0])
    nn.init.constant_(broken.head.bias, float("nan"))
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        continued(broken, tokens, prompt, draws, temperature=1.0)
    assert broken.training


def test_repetition_is_what_stood_there_before():
    texts = np.array([[1, 2, 3, 4, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8]])
    every = np.ones_like(texts, bool)
    assert repetition(texts, every) == pytest.approx(1 / 10), "one of ten grams of four came twice"
    assert repetition(texts[1:], every[1:]) == 0
    assert repetition(texts, np.arange(8) >= np.array([[5], [5]])) == 0, "three tokens have no gram"
    assert repetition(np.full((1, 8), 7), np.ones((1, 8), bool)) == pytest.approx(4 / 5)
