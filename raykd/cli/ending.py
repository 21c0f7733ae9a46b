"""SIGTERM (Slurm, Kubernetes, `ray job stop`) and SIGHUP (a closed terminal): a word on how to go on, and a prompt end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread, current_thread, main_thread
from typing import Any

from raykd.folders import release_all

SIGNALLED = 128
"""The exit code is this and the signal's number."""
_GRACE_S = 1.0
"""For closing files and clusters; whoever sent the signal sends SIGKILL after three seconds, or later."""
_SPEAKING_S = 0.7
_NUMBERS = tuple(
    int(getattr(signal, name)) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Ending:
    """What is to happen at the first of these signals.

    The handler raises `KeyboardInterrupt`, since that is the one exception which Ray passes on from its C++ code as it is
    (SystemExit becomes an error of Ray there): the command ends as at Ctrl-C. Python runs handlers between two of its own
    instructions only. So a thread, woken by Python's C handler, ends the process where the main thread is in C code, or
    is too slow: what SIGKILL does at any moment is no harm, see `raykd.runtime.watcher`.

    Args:
        say: tells the user how to go on.

    Attributes:
        number: of the signal that was received; None = none.
    """

    def __init__(self, say: Callable[[], None]) -> None:
        self.number: int | None = None
        self._say, self._saying, self._said = say, Lock(), False
        self._over = Event()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1

    def open(self) -> None:
        """From here on signals are heard."""
        Thread(target=self._watch, name="raykd-ending", daemon=True).start()
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in _NUMBERS:
            # `nohup`, and who else starts us with a signal ignored, wants it ignored.
            if (handler := signal.getsignal(number)) != signal.SIG_IGN:
                self._before[number] = handler
                signal.signal(number, self._handle)

    def leave(self) -> None:
        """End the process at once; its exit code names the signal.

        Without Python's own end, which waits for threads, and in which those of Ray's C++ code may abort; and not later
        because nobody reads what is said.
        """
        speaker = Thread(target=self._speak, daemon=True)
        speaker.start()
        speaker.join(_SPEAKING_S)
        os._exit(SIGNALLED + (self.number or 0))

    def _speak(self) -> None:
        with self._saying:
            if not self._said:
                self._said = True
                with suppress(Exception):
                    self._say()
                for stream in (sys.stdout, sys.stderr):
                    with suppress(Exception):
                        stream.flush()

    def close(self) -> None:
        """Signals do again what they did before, unless there was one, which ends the process now."""
        self._over.set()  # from here on the handler raises nothing
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._writer)  # which ends the thread
        if self.number is not None:  # whatever the command made of it
            self.leave()

    def _handle(self, number: int, _frame: Any) -> None:
        first, self.number = self.number is None, self.number or number
        if first and not self._over.is_set():
            raise KeyboardInterrupt

    def _watch(self) -> None:
        received = b""
        while not (numbers := set(received) & set(self._before)):
            received = os.read(self._reader, 64)
            if not received:
                os.close(self._reader)
                return
        if self._over.wait(_GRACE_S):
            return
        self.number = self.number or min(numbers)
        with suppress(Exception):
            release_all()
        self.leave()


class _Current:
    """The one of this process."""

    ending: Ending | None = None


def signalled() -> bool:
    """Whether the command is being ended by a signal other than that of Ctrl-C."""
    return _Current.ending is not None and _Current.ending.number is not None


@contextmanager
def ends_at_signals(say: Callable[[], None]) -> Iterator[None]:
    """Ends the process at SIGTERM and SIGHUP within three seconds, with exit code 143 or 129, unless they are ignored.

    Only in the main thread, which alone may set handlers.

    Args:
        say: tells the user how to go on; called once, before the process ends, perhaps in another thread.
    """
    if current_thread() is not main_thread() or _Current.ending is not None:
        yield
        return
    _Current.ending = ending = Ending(say)
    try:
        ending.open()
        yield
    finally:
        ending.close()
        _Current.ending = None
