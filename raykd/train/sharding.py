"""FSDP2: workers that hold one model together, each a part of every parameter, of its gradient and of its optimizer's state.

Beside DDP, where each worker holds all of it. The objective's own parameters, such as projectors, stay whole on every worker,
and so does what has no dimension to be parted along; their gradients are averaged here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

LEAST = 1_000_000
"""Parameters from which a block is parted by itself: fewer are not worth a message of their own."""


class Sharing:
    """What the workers of one group share: how they are laid out, and their messages about checkpoints.

    Every worker makes one, all of them at once.

    Args:
        device: of this worker.
        least: parameters from which a block of a list of blocks is parted by itself.

    Attributes:
        group: gloo, for checkpoints alone: they are written in a thread, whose messages may not mix with those of steps.
        pending: the checkpoint that is being written; None where there is none.
    """

    def __init__(self, device: torch.device, *, least: int = LEAST) -> None:
        self._device, self._least = device, least
        self._mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        self.group = dist.new_group(backend="gloo")
        self.rank = dist.get_rank()
        self.pending: Future[None] | None = None

    def shard(self, model: nn.Module) -> None:
        """Part a model over the workers, in place; each has the same one before. It is then on the worker's device.

        Whatever is parted is gathered for its own forward and backward pass alone: large blocks one after the other, the rest
        together.
        """
        whole = {parameter for parameter in model.parameters() if not parameter.dim()}
        for parameter in whole:
            parameter.data = parameter.data.to(self._device)
        for block in _blocks(model, self._least):
            self._shard(block, whole)
        self._shard(model, whole)

    def _shard(self, module: nn.Module, whole: set[nn.Parameter]) -> None:
        # Also the outermost module: an average's weights change while nobody computes with them.
        fully_shard(module, mesh=self._mesh, reshard_after_forward=True, ignored_params=whole)

    def gathered(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Whole copies on the CPU of the first worker; the others, who take part, get nothing."""
        found: dict[str, Tensor] = {}
        for name, tensor in tensors:
            whole = tensor.detach()
            if isinstance(whole, DTensor):
                whole = whole.full_tensor()
            if not self.rank:
                found[name] = whole.cpu().clone()
        return found

    def wait(self) -> None:
        """Until the last checkpoint is written.

        Raises:
            OSError: it could not be written.
            CheckpointException: of torch, something else is wrong.
        """
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    @staticmethod
    def own(tensor: Tensor) -> Tensor:
        """This worker's part of a tensor; of one that is whole the tensor."""
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def average_gradients(self, parameters: Iterable[nn.Parameter], workers: int) -> None:
        """Average those of parameters that every worker holds; those of the others FSDP has averaged."""
        for parameter in parameters:
            if parameter.grad is not None and not isinstance(parameter, DTensor):
                dist.all_reduce(parameter.grad)
                parameter.grad /= workers

    @torch.no_grad()
    def clip(self, parameters: Iterable[nn.Parameter], most: float) -> None:
        """Make gradients shorter where all of them together are longer than `most`, as `torch.nn.utils.clip_grad_norm_`."""
        gradients = [one.grad for one in parameters if one.grad is not None]
        parted = [one.to_local() for one in gradients if isinstance(one, DTensor)]
        whole = [one for one in gradients if not isinstance(one, DTensor)]
        square = _square(parted, self._device)
        dist.all_reduce(square)
        norm = (square + _square(whole, self._device)).sqrt()
        factor = (most / (norm + 1e-6)).clamp(max=1.0)
        for gradient in (*parted, *whole):
            gradient.mul_(factor.to(gradient.dtype))


def local_rule(
    rule: Callable[[list[Tensor], list[Tensor], Any], None],
) -> Callable[[list[Tensor], list[Tensor], Any], None]:
    """The rule of a moving average for tensors of which some are parted, alike on both sides."""

    def parts(averaged: list[Tensor], current: list[Tensor], count: Any) -> None:
        rule([*map(Sharing.own, averaged)], [*map(Sharing.own, current)], count)

    return parts


def _square(tensors: Iterable[Tensor], device: torch.device) -> Tensor:
    """The sum of all squares, float32."""
    found = torch.zeros((), device=device)
    for tensor in tensors:
        found += tensor.float().square().sum()
    return found


def _blocks(model: nn.Module, least: int) -> list[nn.Module]:
    """The outermost elements of lists of modules that have so many parameters, which nothing else has too."""
    owners: dict[nn.Parameter, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        owners[parameter] = owners.get(parameter, 0) + 1

    def alone(block: nn.Module) -> bool:
        inside: dict[nn.Parameter, int] = {}
        for _, parameter in block.named_parameters(remove_duplicate=False):
            inside[parameter] = inside.get(parameter, 0) + 1
        return all(owners[parameter] == count for parameter, count in inside.items())

    def found(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            large = sum(parameter.numel() for parameter in child.parameters()) >= max(1, least)
            one_of_many = isinstance(module, nn.ModuleList | nn.Sequential)
            has_forward = not isinstance(child, nn.ModuleList | nn.ModuleDict)
            if large and one_of_many and has_forward and alone(child):
                yield child
                continue
            yield from found(child)

    return list(dict.fromkeys(found(model)))
