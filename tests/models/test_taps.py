"""Networks, taps and probes: what is kept and for how long, and what is refused."""

from __future__ import annotations

import copy
import gc
import io
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from raykd.config.models import CnnModel
from raykd.errors import InputError, RaykdError
from raykd.models import build_model
from raykd.models.network import Network, channels_last, first_tensor
from raykd.models.preprocess import Preprocessing
from raykd.models.taps import Taps, describe, probe, probe_output, render_table

INPUTS = {"image": torch.rand(2, 1, 8, 8)}

IMAGES = next(iter(INPUTS.values()))


def cnn(norm="batch", dropout=0.5) -> nn.Module:
    return build_model(
        CnnModel(width=0.25, depth=2, norm=norm, dropout=dropout),
        input_shape=(1, 8, 8),
        classes=10,
        key="k",
    )


class Odd(nn.Module):
    """Modules that are awkward to tap."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 4, batch_first=True)
        self.unused = nn.Linear(4, 4)
        self.text = Text()
        self.flat = Flat()
        self.twice = nn.Linear(4, 4)
        self.norm = nn.Linear(4, 4)
        self.act = nn.ReLU(inplace=True)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        tokens, _ = self.lstm(x[:, 0])
        self.text(tokens)
        self.flat(tokens)
        return self.act(self.norm(self.twice(self.twice(tokens[:, -1]))))


class Text(nn.Module):
    def forward(self, x):
        return "words"


class Flat(nn.Module):
    def forward(self, x):
        return x.flatten(0, 1)


def messages(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert {problem.key for problem in caught.value.problems} <= {
        "objective.features.0.student_tap"
    }
    return str(caught.value)


KEY = "objective.features.0.student_tap"


def test_features_are_those_of_the_module_and_carry_gradients():
    network = Network(cnn(dropout=0.0))
    with Taps(network, ["blocks.0", "pool", "pool"]) as taps:
        out = network(INPUTS)
        assert taps.paths == ("blocks.0", "pool")
        feature = taps.features["pool"]
        assert torch.equal(out, network.model.head(feature))
        feature.sum().backward()
    assert network.model.blocks[0].conv.weight.grad is not None


def test_hooks_and_features_are_gone_after_the_block():
    network = Network(cnn())
    with Taps(network, ["pool"]) as taps:
        network(INPUTS)
        feature = weakref.ref(taps.features["pool"])
    taps.detach()
    gc.collect()
    assert feature() is None
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_take_hands_over_and_the_next_pass_clears():
    network = Network(cnn())
    taps = Taps(network.model, ["pool"])
    with pytest.raises(RaykdError, match="'pool' is not run"):
        taps.take()
    network(INPUTS)
    first = taps.take()["pool"]
    assert not taps.features
    reference = weakref.ref(first)
    del first
    gc.collect()
    assert reference() is None
    network(INPUTS)
    latest = taps.features["pool"]
    network(INPUTS)
    assert taps.features["pool"] is not latest
    taps.detach()
    network(INPUTS)
    assert not taps.features


def test_a_failed_pass_or_a_part_alone_leaves_nothing():
    network = Network(cnn())
    with Taps(network, ["blocks.0"]) as taps:
        with pytest.raises(RuntimeError):
            network({"image": torch.rand(2, 5, 8, 8)})
        network.model.blocks(INPUTS["image"])
        assert not taps.features


def test_recomputation_during_backward_does_not_feed_the_taps():
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Linear(4, 4)

        def forward(self, x):
            return checkpoint(self.block, x, use_reentrant=False)

    model = Checkpointed()
    with Taps(model, ["block"]) as taps:
        out = model(torch.rand(2, 4, requires_grad=True))
        assert set(taps.take()) == {"block"}
        out.sum().backward()
        assert not taps.features


def test_copies_do_not_feed_the_taps():
    model = cnn()
    with Taps(model, ["pool"]) as taps:
        twin = copy.deepcopy(model)
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        loaded = torch.load(buffer, weights_only=False)
        twin(INPUTS["image"])
        loaded(INPUTS["image"])
        assert not taps.features
        model(INPUTS["image"])
        assert set(taps.take()) == {"pool"}


def test_a_module_that_runs_twice_gives_its_last_output_and_tuples_their_first():
    model = Odd()
    with Taps(model, ["twice", "lstm"]) as taps:
        x = torch.rand(2, 1, 3, 8)
        model(x)
        tokens = model.lstm(x[:, 0])[0]
        assert torch.equal(taps.features["lstm"], tokens)
        assert torch.equal(taps.features["twice"], model.twice(model.twice(tokens[:, -1])))


def test_unknown_paths_are_all_named_with_the_nearest():
    text = messages(probe, Network(cnn()), INPUTS, ["block.0", "pol", "head"], key=KEY)
    assert len(text.splitlines()) == 2
    assert "'block.0'; nearest: blocks.0" in text
    assert "'pol'; nearest: pool" in text
    assert "raykd inspect" in text
    assert "no module ''" in messages(probe, Network(cnn()), INPUTS, [""], key=KEY)


@pytest.mark.parametrize(
    ("tap", "needed"),
    [
        ("unused", "is not run"),
        ("text", "puts out str, no tensor"),
        ("flat", "first dimension must be the batch"),
        ("norm", "overwritten by a later in-place"),
    ],
)
def test_modules_that_cannot_be_tapped(tap, needed):
    assert needed in messages(probe, Odd(), {"x": torch.rand(2, 1, 3, 8)}, [tap], key=KEY)


def test_a_model_that_does_not_run_is_refused_with_the_shapes():
    text = messages(probe_output, Network(cnn()), {"image": torch.rand(2, 3, 8, 8)}, key=KEY)
    assert "image [2, 3, 8, 8]" in text
    assert "RuntimeError" in text
    assert "returned str" in messages(probe_output, Network(Text()), INPUTS, key=KEY)
    three = {"image": torch.rand(2, 3, 8, 8)}
    assert "must be the batch" in messages(probe_output, Flat(), three, key=KEY)


def test_probing_leaves_no_trace():
    for model in (cnn(), Odd()):
        model.train()
        next(iter(model.children())).eval()
        modes = [module.training for module in model.modules()]
        before = copy.deepcopy(model.state_dict())
        buffers = [id(buffer) for buffer in model.buffers()]
        inputs = INPUTS if not isinstance(model, Odd) else {"x": torch.rand(2, 1, 3, 8)}
        generator = torch.get_rng_state()
        path = "pool" if not isinstance(model, Odd) else "lstm"
        probe(model, inputs, [path], key="k")
        probe_output(model, inputs, key="k")
        describe(model, inputs)
        assert torch.equal(torch.get_rng_state(), generator)
        assert [module.training for module in model.modules()] == modes
        assert [id(buffer) for buffer in model.buffers()] == buffers
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]), name
        assert all(parameter.grad is None for parameter in model.parameters())


def test_description_and_table():
    rows = describe(Network(cnn(), Preprocessing(size=16)), INPUTS)
    by_path = {row.path: row for row in rows}
    assert by_path["blocks.0"].shape == (8, 16, 16)
    assert by_path["head"].kind == "Linear"
    assert by_path["head"].parameters == 170
    assert by_path[""].shape == (10,)
    table = render_table(rows).splitlines()
    assert len(table) == len(rows) + 1
    assert table[0].split() == ["path", "class", "output", "parameters"]
    assert "(model)" in table[1]
    assert any(line.split()[:3] == ["blocks.0", "Sequential", "8×16×16"] for line in table)
    assert len({len(line) for line in table}) == 1
    odd = {row.path: row for row in describe(Odd(), {"x": torch.rand(2, 1, 3, 8)})}
    assert odd["unused"].shape is None
    assert " - " in render_table([odd["unused"]])


class Two(nn.Module):
    def forward(self, image, text):
        return {"loss": torch.zeros(()), "logits": image.mean(dim=(1, 2, 3))[:, None] + text}


def test_network_with_one_input_and_with_several():
    network = Network(cnn(dropout=0.0).eval(), Preprocessing(scale=2.0))
    assert torch.equal(network(INPUTS), network.model(2 * INPUTS["image"]))
    both = {"text": torch.rand(2, 1), "image": INPUTS["image"]}
    plain = Network(Two())(both)
    torch.testing.assert_close(plain, both["image"].mean(dim=(1, 2, 3))[:, None] + both["text"])
    doubled = Network(Two(), {"image": Preprocessing(scale=2.0)})(both)
    torch.testing.assert_close(doubled - both["text"], 2 * (plain - both["text"]))
    with pytest.raises(TypeError, match="text, image"):
        Network(Two(), Preprocessing(scale=2.0))(both)


def test_network_casts_floats_to_the_models_dtype_and_keeps_integers():
    double = Network(nn.Linear(3, 2).double(), Preprocessing(scale=2.0))
    assert double({"x": torch.rand(4, 3)}).dtype == torch.float64
    half = Network(nn.Linear(3, 2).bfloat16())
    assert half({"x": torch.rand(4, 3)}).dtype == torch.bfloat16
    embedding = Network(nn.Embedding(5, 2))
    assert embedding({"x": torch.tensor([[1, 2]])}).shape == (1, 2, 2)
    assert Network(nn.Identity())({"x": torch.rand(2, 2).double()}).dtype == torch.float32


def test_first_tensor():
    x, y = torch.zeros(1), torch.ones(1)
    assert first_tensor((None, x, y)) is x
    assert first_tensor({"hidden": x, "logits": y}) is y
    assert first_tensor({"hidden": x, "other": y}) is x
    assert first_tensor("words") is None
    assert first_tensor(()) is None


def test_a_compiled_model_with_taps_is_one_graph():
    """It was five graphs for one tap, since the hook asked each tensor for its version."""
    from torch._dynamo.testing import CompileCounter

    counter, network = CompileCounter(), cnn(dropout=0.0)
    with Taps(network, ["blocks.0", "pool"]) as taps:
        expected = network(IMAGES)
        features = taps.take()
        network.compile(backend=counter)  # as a fit with `compile` does it
        for _ in range(2):
            torch.testing.assert_close(network(IMAGES), expected)
            found = taps.take()
            torch.testing.assert_close(found, features)
            network.zero_grad()
            found["blocks.0"].sum().backward()
            assert network.blocks[0].conv.weight.grad is not None
    torch._dynamo.reset()
    assert counter.frame_count == 1


def test_convolutions_lie_channels_last_and_compute_the_same():
    network, inputs = cnn(dropout=0.0), IMAGES
    expected = network(inputs)
    found = channels_last(network)(inputs.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)
    weight = network.blocks[1].conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
