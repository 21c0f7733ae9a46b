"""The gated recurrent layer with its own gradient, against PyTorch's; see `raykd.models.recurrence`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raykd.config.models import GruLmModel
from raykd.models import build_model
from raykd.models.recurrence import gru_states, pays, token_gates
from raykd.models.shapes import TokenShape
from raykd.models.taps import Taps


def layer(units=5, inputs=4, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.GRU(inputs, units, batch_first=True).to(dtype)


def drawn(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=dtype)


def ours(gru, inputs_BLD, state_BD):
    weights_GD, back_GD, bias_G, back_G = gru.all_weights[0]
    gates_BLG = torch.nn.functional.linear(inputs_BLD, weights_GD, bias_G)
    return gru_states(gates_BLG, state_BD, back_GD, back_G)


@pytest.mark.parametrize(("size", "length"), [(3, 7), (1, 1), (4, 1), (1, 20)])
def test_states_and_all_gradients_are_those_of_torch(size, length):
    gru, inputs, state = layer(), drawn(size, length, 4), drawn(1, size, 5)
    given = [inputs.requires_grad_(), state.requires_grad_(), *gru.parameters()]
    expected, _ = gru(inputs, state)
    found = ours(gru, inputs, state[0])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    towards = drawn(size, length, 5)
    for one, other in zip(
        torch.autograd.grad(found, given, towards),
        torch.autograd.grad(expected, given, towards),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_its_gradient_is_that_of_differences():
    gru, state = layer(3, 2), drawn(2, 3)
    inputs = drawn(2, 4, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, h: ours(gru, x, h), (inputs, state.requires_grad_()))


def test_saturated_gates_give_no_numbers_that_are_none():
    gru = layer()
    inputs = (1e6 * drawn(2, 6, 4)).requires_grad_()
    found = ours(gru, inputs, torch.zeros(2, 5, dtype=torch.float64))
    gradients = torch.autograd.grad(found.sum(), [inputs, *gru.parameters()])
    assert found.isfinite().all()
    assert (found.abs() <= 1).all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("vocabulary", [6, 400], ids=["table", "tokens"])
def test_what_tokens_say_does_not_depend_on_how_it_is_worked_out(vocabulary):
    ids = torch.randint(0, vocabulary, (3, 9), generator=torch.Generator().manual_seed(1))
    table, weights, bias = (
        drawn(*shape).requires_grad_() for shape in ((vocabulary, 4), (15, 4), (15,))
    )
    found = token_gates(ids, table[ids], table, weights, bias)
    expected = table[ids] @ weights.T + bias
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    towards = drawn(3, 9, 15)
    for one, other in zip(
        torch.autograd.grad(found, [table, weights, bias], towards),
        torch.autograd.grad(expected, [table, weights, bias], towards),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def model(**settings):
    torch.manual_seed(0)
    shape = TokenShape(12, 20, "tokens")
    spec = GruLmModel(width=0.125, **settings)
    return build_model(spec, input_shape=shape, classes=20, key="t")


def tokens():
    return torch.randint(0, 20, (6, 12), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("settings", [{}, {"depth": 2}], ids=str)
def test_a_student_in_training_is_the_one_that_is_exported(settings):
    """With gradients it takes the way of its own, without them that of `nn.GRU`: one model, up to rounding."""
    network = model(**settings)
    trained, state = network.advance(tokens(), None)
    with torch.no_grad():
        expected, last = network.advance(tokens(), None)
        assert torch.equal(expected, network.layers(network.embed(tokens()))[0])
    torch.testing.assert_close(trained, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        network.advance(tokens(), state)[0], network.layers(network.embed(tokens()), last)[0],
        rtol=0, atol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("settings", [{}, {"depth": 2}], ids=str)
def test_gradients_of_a_student_are_those_of_torch(settings):
    network, reference = model(**settings).double(), model(**settings).double()
    towards = drawn(6, 12, 20)
    network(tokens()).backward(towards)
    reference.head(reference.layers(reference.embed(tokens()))[0]).backward(towards)
    for (name, one), other in zip(network.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-11, atol=1e-12, msg=name)


def test_dropout_between_layers_is_drawn_in_training_alone():
    network = model(depth=2, dropout=0.5)
    same = [network.advance(tokens(), None)[0] for _ in range(2)]
    assert not torch.equal(*same)
    network.eval()
    same = [network.advance(tokens(), None)[0] for _ in range(2)]
    assert torch.equal(*same)


def test_a_tap_of_the_embeddings_has_those_of_every_token():
    network = model()
    with Taps(network, ["embed"]) as taps:
        network(tokens())
        feature = taps.features["embed"]
    assert torch.equal(feature, network.embed(tokens()))
    feature.sum().backward()
    assert network.embed.weight.grad is not None


def test_it_stands_aside_where_it_gives_nothing_or_other_numbers():
    ids, weight = tokens(), torch.zeros(1, requires_grad=True)
    assert pays(ids, weight)
    assert not pays(ids[:, :0], weight)
    assert not pays(ids, weight.bfloat16())
    assert not pays(ids.to("meta"), weight)
    with torch.no_grad():
        assert not pays(ids, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not pays(ids, weight)
