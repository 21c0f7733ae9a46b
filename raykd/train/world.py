"""The workers that train one model together: who I am, and what we add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from raykd.train.sharding import Sharing


@dataclass(frozen=True)
class World:
    """Rank, number of workers and device of this process.

    Attributes:
        sharing: how the workers hold a model in parts (FSDP2); None = each holds all of it (DDP).
    """

    rank: int = 0
    workers: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    sharing: Sharing | None = None

    def all_sum(self, tensor: Tensor) -> Tensor:
        """The element-wise sum over all workers; a copy, without gradient."""
        if self.workers == 1:
            return tensor
        summed = tensor.detach().clone()
        dist.all_reduce(summed)
        return summed

    def gathering(self, count: int) -> Callable[[Tensor], Tensor]:
        """What gathers `count` rows of this worker and those of all others, in the order of the ranks.

        The gradient of a row is the sum over all workers of what they make of it, so that the losses of
        all workers together have the gradient of the same loss computed in one process. Every worker
        must take part, also with no row, and gather equally often; their counts may differ.

        Args:
            count: rows that this worker will give each time, [count, ...].
        """
        if self.workers == 1:
            return lambda rows: rows
        own = torch.tensor([count], device=self.device)
        counts = [torch.empty_like(own) for _ in range(self.workers)]
        dist.all_gather(counts, own)
        return partial(self._gather, [int(other) for other in counts])

    def _gather(self, counts: list[int], rows: Tensor) -> Tensor:
        expected = counts[self.rank]
        assert len(rows) == expected, f"gathering {expected} rows was agreed on, not {len(rows)}"
        gathered: Tensor = _GatherRows.apply(rows, counts, self.rank)  # type: ignore[no-untyped-call]
        return gathered

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the workers; in parts, most of them are by themselves."""
        if self.workers == 1 or self.sharing is not None:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, forward_sync_buffers=False)


class _GatherRows(torch.autograd.Function):
    """All-gather of rows; backward adds up the gradients of all workers."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], rank: int) -> Tensor:
        ctx.start, ctx.count = sum(counts[:rank]), counts[rank]
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed[ctx.start : ctx.start + ctx.count], None, None


def random_state(device: torch.device) -> Tensor:
    """The state of this process's random numbers, uint8 [bytes]: those of the CPU, and of the device behind them."""
    own = torch.get_rng_state()
    if device.type == "cuda":
        own = torch.cat([own, torch.cuda.get_rng_state(device)])
    return own


def set_random_state(state: Tensor, device: torch.device) -> None:
    """Go on with random numbers, of `random_state`."""
    own = len(torch.get_rng_state())
    torch.set_rng_state(state[:own].clone())
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[own:].clone(), device)


def random_states(world: World) -> Tensor:
    """`random_state` of every worker, uint8 [workers, bytes]; every worker takes part."""
    own = random_state(world.device)
    table = torch.zeros(world.workers, len(own), dtype=torch.int32, device=world.device)
    table[world.rank] = own.to(world.device)
    return world.all_sum(table).cpu().to(torch.uint8)
