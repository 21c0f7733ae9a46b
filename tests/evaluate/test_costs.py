import time

import pytest
import torch
from torch import nn

from raykd.evaluate.costs import costs
from raykd.models.network import Network


def cost(network, inputs, **given):
    found, _ = costs({"it": network}, inputs, **{"rounds": 1, **given})
    return found["it"]


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)
        )
        self.head = nn.Linear(4, 10)

    def forward(self, image):
        return self.head(self.body(image).mean(dim=(2, 3)))


class Slow(nn.Module):
    """Takes some time for a call, and some for each sample [s]."""

    def __init__(self, call_s, sample_s):
        super().__init__()
        self.call_s, self.sample_s = call_s, sample_s

    def forward(self, tensor):
        time.sleep(self.call_s + self.sample_s * len(tensor))
        return tensor


def test_counts_are_exact():
    found = cost(Small(), {"inputs": torch.zeros(3, 1, 8, 8)})
    conv, norm, head = 4 * 9 + 4, 8, 4 * 10 + 10
    assert found["parameters"] == conv + norm + head
    assert found["bytes"] == 4 * (conv + norm + head) + 4 * 8 + 8  # running mean, var, int64 count
    assert found["flops"] == 2 * (8 * 8 * 4 * 9 + 4 * 10)
    assert set(found["latency_ms"]) == {"1", "256"}
    assert all(value > 0 for value in found["latency_ms"].values())


def test_what_was_set_is_put_back():
    network, other = Small(), Small()
    network.head.eval()
    threads = torch.get_num_threads()
    fused = torch.backends.mha.get_fastpath_enabled()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    both = {"it": network, "other": other}
    found, _ = costs(both, {"inputs": torch.rand(1, 1, 8, 8)}, batch_sizes=(2,), rounds=1)
    assert set(found) == {"it", "other"}
    assert (network.training, network.head.training, other.training) == (True, False, True)
    assert torch.get_num_threads() == threads
    assert torch.backends.mha.get_fastpath_enabled() == fused
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_shared_parameters_count_once():
    layer = nn.Linear(4, 4, bias=False)
    found = cost(nn.Sequential(layer, layer), {"inputs": torch.zeros(1, 4)})
    assert found["parameters"] == 16
    assert found["flops"] == 2 * 2 * 16


@pytest.mark.filterwarnings("ignore:.*enable_nested_tensor")
def test_attention_is_counted_in_eval_mode():
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True, dropout=0.0)
    found = cost(layer, {"inputs": torch.zeros(1, 5, 8)}, batch_sizes=(1,))
    projections = 5 * (3 * 8 * 8 + 8 * 8 + 2 * 8 * 16)
    attention = 2 * 5 * 5 * 8
    assert found["flops"] == 2 * (projections + attention)


def test_several_inputs_go_by_name():
    class Two(nn.Module):
        def forward(self, left, right):
            return left @ right.T

    batch = {"right": torch.zeros(2, 3), "left": torch.ones(2, 3)}
    assert cost(Two(), batch, batch_sizes=(4,))["flops"] == 2 * 3


def test_a_batch_that_would_take_too_long_is_not_run():
    found = cost(Slow(0, 0.01), {"inputs": torch.zeros(1, 1)}, longest_call_s=0.5)
    assert found["latency_ms"]["256"] is None
    assert found["latency_ms"]["1"] >= 10


def test_a_call_that_is_slow_whatever_its_batch_is_run():
    found = cost(Slow(0.02, 0), {"inputs": torch.zeros(1, 1)}, longest_call_s=1.0)
    assert found["latency_ms"]["256"] >= 20, "256 × 20 ms would have been too long"


def test_a_network_with_its_preprocessing_gets_the_mapping():
    found = cost(Network(nn.Linear(3, 2)), {"inputs": torch.zeros(2, 3)})
    assert (found["parameters"], found["flops"]) == (8, 2 * 6)


def test_operations_are_those_of_torch_s_own_counter():
    """Of layers that torch fuses, decomposes or knows by themselves."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    layers = {
        "attention": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.rand(1, 5, 8)),
        "grouped": (nn.Conv2d(4, 8, 3, groups=2, stride=2), torch.rand(1, 4, 9, 9)),
        "transposed": (nn.ConvTranspose1d(4, 2, 3), torch.rand(1, 4, 9)),
        "recurrent": (nn.LSTM(3, 4, batch_first=True), torch.rand(1, 5, 3)),
    }
    for name, (layer, x) in layers.items():
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with (
                torch.no_grad(),
                sdpa_kernel(SDPBackend.MATH),
                FlopCounterMode(display=False) as counter,
            ):
                layer.eval()(x)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
        found = cost(layer, {"x": x}, batch_sizes=(1,))["flops"]
        assert found == counter.get_total_flops(), name
        assert found > 0 or name == "recurrent", "torch has no formula of a recurrent layer"
