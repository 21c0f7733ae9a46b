"""One piece of work beside what a thread goes on with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Beside(Generic[Result]):
    """What a piece of work gives, once it has ended.

    The thread is a daemon: where the process is to end, by Ctrl-C or an error, nothing waits for the work, as the
    threads of `concurrent.futures` are waited for.

    Args:
        work: the piece.
        name: of the thread.
    """

    def __init__(self, work: Callable[[], Result], name: str) -> None:
        self._ended: SimpleQueue[tuple[Result | None, BaseException | None]] = SimpleQueue()
        threading.Thread(target=self._run, args=[work], name=name, daemon=True).start()

    def _run(self, work: Callable[[], Result]) -> None:
        try:
            self._ended.put((work(), None))
        except BaseException as error:  # noqa: BLE001 (raised where the result is asked for)
            self._ended.put((None, error))

    def result(self) -> Result:
        """What the work gave; waits for it, and raises what it raised."""
        result, error = self._ended.get()
        self._ended.put((result, error))
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # None only where it is the result


@contextmanager
def beside(work: Callable[[], Result], name: str) -> Iterator[Beside[Result]]:
    """A piece of work in a thread of its own while the block goes on; a block that ends well has waited for it.

    Args:
        work: the piece.
        name: of the thread.
    """
    going = Beside(work, name)
    yield going
    going.result()
