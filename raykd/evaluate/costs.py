"""What running a model costs: parameters, operations, bytes, time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from raykd.models.network import Network, core
from raykd.models.zoo.estimator import EstimatorModel
from raykd.models.zoo.foreign import ForeignModel

Forward = Callable[[nn.Module, Mapping[str, Tensor]], object]


def call(network: nn.Module, inputs: Mapping[str, Tensor]) -> object:
    """Run a network; a bare module gets one input by position, several by their names."""
    if isinstance(network, Network):
        return network(inputs)
    if len(inputs) == 1:
        return network(*inputs.values())
    return network(**inputs)


def cost(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    batch_sizes: Sequence[int] = (1, 256),
    repeats: int = 30,
    budget_s: float = 0.1,
    longest_call_s: float = 20.0,
    forward: Forward = call,
) -> dict[str, Any]:
    """What one network costs to keep and to run, in eval mode and without gradients.

    Latency is the median of up to `repeats` calls after a warm-up call. PyTorch is pinned to one CPU
    thread meanwhile, so that numbers from machines with different core counts compare, and put back
    afterwards, as are training modes. On a GPU each call is waited for. This is the time of the
    network alone, with its own preprocessing where it is a `Network`; no transfer.

    Args:
        network: the model, on the device to measure.
        inputs: name -> [B, ...], any number of samples; they are repeated to make each batch size.
        batch_sizes: batch sizes to time.
        repeats: timed calls per batch size, at most.
        budget_s: seconds after which no further call is timed at a batch size; one always is.
        longest_call_s: a batch size whose call is expected to take longer, going by the one before, is
            not run and its latency is None.
        forward: how the network is called.

    Returns:
        `parameters` (shared ones counted once), `flops` of one sample (2 per multiply-add), `bytes` of
        parameters and buffers, and `latency_ms`: batch size as text -> median milliseconds or None. Of a
        model that torch only calls parameters and flops are not known: None; bytes are those of its file, and
        not known of an estimator.
    """
    device = next(chain(network.parameters(), network.buffers()), torch.empty(0)).device
    samples = {name: tensor.to(device) for name, tensor in inputs.items()}
    with _eval_mode(network), torch.no_grad():
        flops = _flops(network, _batch(samples, 1), forward)
        latency: dict[str, float | None] = {}
        expected_s = 0.0
        with one_thread():
            for size in batch_sizes:
                if expected_s * size > longest_call_s:
                    latency[str(size)] = None
                    continue
                batch = _batch(samples, size)
                seconds = median_s(partial(forward, network, batch), device, repeats, budget_s)
                expected_s = seconds / size
                latency[str(size)] = seconds * 1e3
    model = core(network)
    known = not isinstance(model, ForeignModel)
    held = [*network.parameters(), *network.buffers()]
    if isinstance(model, EstimatorModel):  # which holds what it is fitted on
        held = []
    return {
        "parameters": sum(p.numel() for p in network.parameters()) if known else None,
        "flops": flops if known else None,
        "bytes": sum(t.numel() * t.element_size() for t in held) if known or held else None,
        "latency_ms": latency,
    }


def _batch(samples: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """`size` samples, the given ones over and over."""
    return {
        name: tensor[torch.arange(size, device=tensor.device) % len(tensor)].contiguous()
        for name, tensor in samples.items()
    }


def _flops(network: nn.Module, batch: Mapping[str, Tensor], forward: Forward) -> int:
    """Floating-point operations of one call, 2 per multiply-add; element-wise ones are not counted."""
    # Fused kernels (a transformer layer in eval mode, attention on the CPU) are single operators that
    # the counter does not know, so both are replaced by their parts meanwhile.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            forward(network, batch)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops())


def median_s(
    run: Callable[[], object], device: torch.device, repeats: int, budget_s: float
) -> float:
    """Median seconds of a call, after one that warms up."""
    seconds = timings_s(run, device, repeats, budget_s)
    return sorted(seconds)[len(seconds) // 2]


def timings_s(
    run: Callable[[], object], device: torch.device, repeats: int, budget_s: float
) -> list[float]:
    """Seconds of each of several calls, at least one, after one that warms up."""
    _timed_s(run, device)
    started = time.perf_counter()
    seconds = [_timed_s(run, device)]
    while len(seconds) < repeats and time.perf_counter() - started < budget_s:
        seconds.append(_timed_s(run, device))
    return seconds


def _timed_s(run: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    """Eval mode, and back to each module's own mode afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one CPU thread, and back to as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
