"""Causal models of the zoo: shapes, gradients, nothing that looks ahead, rows that do not know each other."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter
from torch.nn import functional as F

from raykd.config.models import Model
from raykd.errors import InputError
from raykd.models import build_model
from raykd.models.causal import CausalModel, logits_of
from raykd.models.shapes import TokenShape
from raykd.models.weights import count_parameters

SPECS = [
    {"type": "gru_lm", "width": 0.125},
    {"type": "gru_lm", "width": 0.125, "depth": 2, "dropout": 0.1},
    {"type": "transformer_lm", "width": 0.25, "depth": 1},
    {"type": "transformer_lm", "width": 0.5, "depth": 2, "dropout": 0.1},
]
VOCABULARY = 50


def make(settings, length=12, shape=None, classes=VOCABULARY):
    spec = TypeAdapter(Model).validate_python(settings)
    torch.manual_seed(0)
    shape = shape or TokenShape(length, VOCABULARY, "tokens")
    return build_model(spec, input_shape=shape, classes=classes, key="student.model")


def tokens(size=6, length=12):
    return torch.randint(0, VOCABULARY, (size, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("settings", SPECS, ids=str)
def test_output_shape_and_every_gradient(settings):
    model = make(settings)
    logits = model(tokens())
    assert logits.shape == (6, 12, VOCABULARY)
    F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten()).backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.abs().sum() > 0, path
        assert parameter.grad.isfinite().all(), path


@pytest.mark.parametrize("settings", SPECS, ids=str)
@torch.no_grad()
def test_a_position_knows_its_past_and_nothing_else(settings):
    model = make(settings).eval()
    ids = tokens()
    before = model(ids)
    changed = ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % VOCABULARY
    after = model(changed)
    torch.testing.assert_close(after[:, :7], before[:, :7], rtol=0, atol=1e-6)
    assert ((after - before)[:, 7:].abs().amax(-1) > 1e-5).all(), "what comes later does see it"


@pytest.mark.parametrize("settings", SPECS, ids=str)
@torch.no_grad()
def test_padding_and_batch_mates_have_no_influence(settings):
    model = make(settings, length=40).eval()
    ids = tokens()
    before = model(ids)
    for filler in (-1, 0, 17):
        padded = F.pad(ids, (0, 28), value=filler)
        torch.testing.assert_close(model(padded)[:, :12], before, rtol=0, atol=1e-6)
    for row in range(len(ids)):
        torch.testing.assert_close(model(ids[row : row + 1])[0], before[row], rtol=0, atol=1e-6)


@pytest.mark.parametrize("settings", SPECS, ids=str)
def test_hidden_states_and_head_give_the_logits_of_some_tokens(settings):
    model = make(settings).eval()
    assert isinstance(model, CausalModel)
    hidden = model.hidden(tokens()).flatten(0, 1)
    some = torch.tensor([3, 17, 50])
    torch.testing.assert_close(
        logits_of(model, hidden[some]), model(tokens()).flatten(0, 1)[some], rtol=0, atol=1e-6
    )


def test_default_sizes_are_those_of_small_students():
    sizes = {
        kind: count_parameters(
            make({"type": kind}, shape=TokenShape(128, 256, "tokens"), classes=256)
        )
        for kind in ("gru_lm", "transformer_lm")
    }
    assert all(100_000 < size < 200_000 for size in sizes.values()), sizes


def test_a_recurrent_model_takes_any_length_and_a_transformer_says_its_own():
    assert make({"type": "gru_lm", "width": 0.125})(tokens(2, 30)).shape == (2, 30, VOCABULARY)
    with pytest.raises(ValueError, match="found 30 tokens; the model has positions for 12"):
        make({"type": "transformer_lm", "width": 0.25})(tokens(2, 30))


@pytest.mark.parametrize("kind", ["gru_lm", "transformer_lm", "ngram"])
@pytest.mark.parametrize(
    ("shape", "hint"),
    [((1, 28, 28), "use mlp"), (TokenShape(12, 16_385, "hashed"), "use bag, text_cnn")],
)
def test_other_samples_are_refused_with_what_to_use(kind, shape, hint):
    with pytest.raises(InputError, match=rf"student.model: {kind} predicts the next token.*{hint}"):
        make({"type": kind}, shape=shape, classes=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A language model as `save_pretrained` writes it, with a tied head and embeddings of more tokens than there are."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=64,
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("gpt2")
    transformers.GPT2LMHeadModel(config).save_pretrained(path)
    return str(path)


@torch.no_grad()
def test_a_causal_model_of_transformers(folder):
    model = make({"type": "hf", "name": folder, "task": "causal"}).eval()
    assert isinstance(model, CausalModel)
    logits = model(tokens())
    assert logits.shape == (6, 12, VOCABULARY)
    own = model.model(input_ids=tokens()).logits[..., :VOCABULARY]
    torch.testing.assert_close(logits, own, rtol=0, atol=1e-6)
    padded = F.pad(tokens(), (0, 10), value=-1)
    torch.testing.assert_close(model(padded)[:, :12], logits, rtol=0, atol=1e-6)
    some = model.hidden(tokens()).flatten(0, 1)[[3, 50]]
    torch.testing.assert_close(
        logits_of(model, some), logits.flatten(0, 1)[[3, 50]], rtol=0, atol=1e-5
    )
    model.model.config.logit_scale = 0.5
    with pytest.raises(ValueError, match="not a linear map"):
        model.head_weights()


def test_one_that_knows_fewer_tokens_is_refused(folder):
    with pytest.raises(
        InputError, match=r"model.name: knows 64 tokens, the samples have 300; data.tokens"
    ):
        make(
            {"type": "hf", "name": folder, "task": "causal"},
            shape=TokenShape(12, 300, "tokens"),
            classes=300,
        )
    with pytest.raises(InputError, match="hf predicts the next token"):
        make({"type": "hf", "name": folder, "task": "causal"}, shape=(3, 8, 8))
