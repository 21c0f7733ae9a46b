"""Blocks of steps that a device makes beside its own work: copies and views in a stream of their own.

What is made there is waited for by the stream that uses it, never by the host. On a CPU there are no streams, and the same
code waits for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Streams(Protocol):
    """Two queues of work of one device: that of the thread that asks, and one aside."""

    def aside(self) -> AbstractContextManager[Any]:
        """In the body work goes into the one aside."""
        ...

    def follow(self) -> None:
        """The one aside goes on only after what is in the thread's own queue now."""
        ...

    def mark(self) -> Any:
        """What is in the one aside by now."""
        ...

    def wait(self, mark: Any) -> None:
        """The thread's own queue goes on only after what was marked."""
        ...

    def use(self, tensor: Tensor) -> None:
        """The thread's own queue uses a tensor that was made aside: its memory is not given away before that is done."""
        ...


class NoStreams:
    """Of a CPU, which does everything at once."""

    def aside(self) -> AbstractContextManager[Any]:
        """See `Streams`."""
        return nullcontext()

    def follow(self) -> None:
        """See `Streams`."""

    def mark(self) -> Any:
        """See `Streams`."""

    def wait(self, mark: Any) -> None:
        """See `Streams`."""

    def use(self, tensor: Tensor) -> None:
        """See `Streams`."""


class CudaStreams:
    """Of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._aside = device, torch.cuda.Stream(device)

    def aside(self) -> AbstractContextManager[Any]:
        """See `Streams`."""
        return torch.cuda.stream(self._aside)

    def follow(self) -> None:
        """See `Streams`."""
        self._aside.wait_stream(torch.cuda.current_stream(self._device))

    def mark(self) -> Any:
        """See `Streams`."""
        return self._aside.record_event()

    def wait(self, mark: Any) -> None:
        """See `Streams`."""
        torch.cuda.current_stream(self._device).wait_event(mark)

    def use(self, tensor: Tensor) -> None:
        """See `Streams`."""
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(self._device))


def streams_of(device: torch.device) -> Streams:
    """The streams of a device."""
    return CudaStreams(device) if device.type == "cuda" else NoStreams()


class Made(NamedTuple):
    """Something made aside.

    Attributes:
        value: tensors, or dataclasses, mappings and sequences of them.
        mark: how far the stream has to be before they are there.
    """

    value: Any
    mark: Any


def made_aside(items: Iterable[Any], streams: Streams) -> Iterator[Made]:
    """Each item, made aside when it is asked for, whichever thread asks."""
    waiting = iter(items)
    end = object()
    while True:
        with streams.aside():
            item = next(waiting, end)
            mark = streams.mark()
        if item is end:
            return
        yield Made(item, mark)


def taken(items: Iterable[Made], streams: Streams) -> Iterator[Any]:
    """What was made aside, for the stream of the thread that asks."""
    for value, mark in items:
        streams.wait(mark)
        for tensor in tensors_in(value):
            streams.use(tensor)
        yield value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in dataclasses, mappings and sequences."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors_in(one)
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            yield from tensors_in(getattr(value, one.name))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for one in value:
            yield from tensors_in(one)
