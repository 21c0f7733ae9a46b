"""The three steps of scoring a batch, each at work on one batch, and all of them at once on different ones.

While a device computes one batch, a thread makes the inputs of the next one and another encodes what was said of the one
before: a teacher is as fast as its slowest step, not as their sum. On a GPU inputs go there, and answers come back, in
streams of their own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")
AT_ONCE = 3
"""Batches under way: one in each step."""


def in_turn(
    work: Callable[[Item], Result], items: Iterable[Item], at_once: int
) -> Iterator[Result]:
    """What `work` makes of each item, in their order, so many of them under way at once."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(
        at_once, "ahead", initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        coming: deque[Future[Result]] = deque()
        for item in items:
            coming.append(pool.submit(work, item))
            if len(coming) == at_once:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


@dataclass(frozen=True, eq=False)
class Placed:
    """Tensors on a device.

    Attributes:
        tensors: by name.
        there: on a GPU, what a stream waits for that reads them; None on a CPU.
    """

    tensors: Mapping[str, Tensor]
    there: Any = None


class Stages:
    """Where the steps of one teacher take turns.

    Args:
        device: on which it computes.

    Attributes:
        inputs, forward, encode: locks, of which each step holds its own while it is at work.
    """

    def __init__(self, device: torch.device) -> None:
        self.inputs, self.forward, self.encode = Lock(), Lock(), Lock()
        self._device = device
        self._pool: ThreadPoolExecutor | None = None
        self._upload = self._copy = None
        if device.type == "cuda":
            self._upload, self._copy = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """What `work` makes of each item, in their order; it takes the locks, so that several are under way at once.

        What one raises is raised here; nothing is begun after that.
        """
        if len(items) < 2:
            return [work(item) for item in items]
        if self._pool is None:  # with as many of torch's threads as here: bits depend on them
            threads = torch.get_num_threads()
            self._pool = ThreadPoolExecutor(
                AT_ONCE, "stage", initializer=torch.set_num_threads, initargs=(threads,)
            )
        return list(self._pool.map(work, items))

    def put(self, tensors: Mapping[str, Tensor]) -> Placed:
        """Tensors on the device; the copies to a GPU may not be done yet."""
        if self._upload is None:
            return Placed(tensors)
        with torch.cuda.stream(self._upload):
            moved = {
                name: tensor.pin_memory().to(self._device, non_blocking=True)
                for name, tensor in tensors.items()
            }
            return Placed(moved, self._upload.record_event())

    def taken(self, placed: Placed) -> Mapping[str, Tensor]:
        """The same for this thread's stream, which waits until they are there."""
        if placed.there is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(placed.there)
            for tensor in placed.tensors.values():
                tensor.record_stream(stream)
        return placed.tensors

    def computed(self, tensors: Mapping[str, Tensor]) -> Placed:
        """What this thread's stream is computing."""
        if self._copy is None:
            return Placed(tensors)
        return Placed(tensors, torch.cuda.current_stream(self._device).record_event())

    @contextmanager
    def beside(self, placed: Placed) -> Iterator[Mapping[str, Tensor]]:
        """What was computed, for the stream of copies, in which the body is run; the device goes on with the next batch."""
        if self._copy is None:
            yield placed.tensors
            return
        with torch.cuda.stream(self._copy):
            yield self.taken(placed)
