"""What running a model costs: parameters, operations, bytes, time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from raykd.evaluate.latency import LONGEST_CALL_S, ROUNDS, Call, Conditions, latencies
from raykd.models.network import Network, core
from raykd.models.zoo.estimator import EstimatorModel
from raykd.models.zoo.foreign import ForeignModel

BATCH_SIZES = (1, 256)
Forward = Callable[[nn.Module, Mapping[str, Tensor]], object]


def call(network: nn.Module, inputs: Mapping[str, Tensor]) -> object:
    """Run a network; a bare module gets one input by position, several by their names."""
    if isinstance(network, Network):
        return network(inputs)
    if len(inputs) == 1:
        return network(*inputs.values())
    return network(**inputs)


def costs(
    networks: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    *,
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
    rounds: int = ROUNDS,
    longest_call_s: float = LONGEST_CALL_S,
    forward: Forward = call,
) -> tuple[dict[str, dict[str, Any]], Conditions]:
    """What networks cost to keep and to run, in eval mode and without gradients.

    Latency is measured in turns over all of them, see `raykd.evaluate.latency`: the shortest call on one CPU thread,
    of the network alone, with its own preprocessing where it is a `Network`; no transfer. On a GPU each call is
    waited for. Modes are put back afterwards, and numbers of threads.

    Args:
        networks: name -> model, on the device to measure.
        inputs: name -> [B, ...], any number of samples; they are repeated to make each batch size.
        batch_sizes: batch sizes to time, in ascending order.
        rounds: blocks of calls of each model and batch size, at most.
        longest_call_s: a batch size whose call is expected to take longer is not run, and its latency is None.
        forward: how a network is called.

    Returns:
        Of each network `parameters` (shared ones counted once), `flops` of one sample (2 per multiply-add), `bytes` of
        parameters and buffers, and `latency_ms`: batch size as text -> milliseconds or None. Of a model that torch only
        calls parameters and flops are not known: None; bytes are those of its file, and not known of an estimator.
        And what else went on while latency was measured.
    """
    with ExitStack() as modes, torch.no_grad():
        for network in networks.values():
            modes.enter_context(_eval_mode(network))
        found = {name: _size(network, inputs, forward) for name, network in networks.items()}
        calls = {n: partial(_call, forward, network, inputs) for n, network in networks.items()}
        latency, conditions = latencies(
            calls, batch_sizes, rounds=rounds, longest_call_s=longest_call_s
        )
    return {name: {**one, "latency_ms": latency[name]} for name, one in found.items()}, conditions


def multiply_adds(network: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """Of one sample's forward pass, by torch's own counts; element-wise operations are not counted."""
    with torch.no_grad(), _eval_mode(network):
        return _flops(network, _batch(inputs, 1, _device(network)), call) / 2


def _size(
    network: nn.Module, inputs: Mapping[str, Tensor], forward: Forward
) -> dict[str, int | None]:
    """Parameters, operations and bytes, as far as they are known."""
    model = core(network)
    known = not isinstance(model, ForeignModel)
    held = [*network.parameters(), *network.buffers()]
    if isinstance(model, EstimatorModel):  # which holds what it is fitted on
        held = []
    flops = _flops(network, _batch(inputs, 1, _device(network)), forward) if known else None
    return {
        "parameters": sum(p.numel() for p in network.parameters()) if known else None,
        "flops": flops,
        "bytes": sum(t.numel() * t.element_size() for t in held) if known or held else None,
    }


def _call(forward: Forward, network: nn.Module, inputs: Mapping[str, Tensor], size: int) -> Call:
    """A call with a batch of a size, which is waited for."""
    device = _device(network)
    run = partial(forward, network, _batch(inputs, size, device))
    if device.type != "cuda":
        return run

    def waited_for() -> None:
        run()
        torch.cuda.synchronize(device)

    return waited_for


def _device(network: nn.Module) -> torch.device:
    return next(chain(network.parameters(), network.buffers()), torch.empty(0)).device


def _batch(inputs: Mapping[str, Tensor], size: int, device: torch.device) -> dict[str, Tensor]:
    """`size` samples, the given ones over and over."""
    return {
        name: tensor[torch.arange(size, device=tensor.device) % len(tensor)].contiguous().to(device)
        for name, tensor in inputs.items()
    }


def _flops(network: nn.Module, batch: Mapping[str, Tensor], forward: Forward) -> int:
    """Floating-point operations of one call, 2 per multiply-add; element-wise ones are not counted."""
    # Fused kernels (a transformer layer in eval mode, attention on the CPU) are single operators that
    # the counter does not know, so both are replaced by their parts meanwhile.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), _Counter() as counter:
            forward(network, batch)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.total)


class _Counter(TorchDispatchMode):
    """Adds up operations by torch's own table.

    `FlopCounterMode` does the same, by module too, and imports torch's compiler for it, which takes two seconds.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:  # an operator that is made of others is counted by these
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        out = func(*args, **kwargs)
        if count := flop_registry.get(func.overloadpacket):
            self.total += int(count(*args, **kwargs, out_val=out))
        return out


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
