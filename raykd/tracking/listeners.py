"""Who listens to a run, and how one sick listener is kept from hurting the others."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from raykd.errors import RaykdError
from raykd.tracking.events import Event

_log = logging.getLogger(__name__)


class Listener(Protocol):
    """Hears every event of a run, in order, from one thread at a time.

    A listener that wants to stop the run raises a `RaykdError`. Any other error is taken for a fault
    of the listener itself: tracking may warn, it never stops a run.
    """

    def on(self, event: Event) -> None:
        """Hear one event; must return quickly."""
        ...

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """The run is over: `summary` is that of `summary.json`, None when the run failed."""
        ...


class Voice(Protocol):
    """Speaks to the person at the console."""

    def say(self, text: str) -> None:
        """Print a text."""
        ...

    def warn(self, text: str) -> None:
        """Print a text even where only failures are printed."""
        ...


class LogVoice:
    """The voice where there is no console: the log."""

    def say(self, text: str) -> None:
        """Log at level info."""
        _log.info("%s", text)

    def warn(self, text: str) -> None:
        """Log at level warning."""
        _log.warning("%s", text)


class Broadcast:
    """A listener that passes everything on to several.

    One that raises is reported once and hears nothing more. A `RaykdError` is raised to the caller,
    after everybody has heard the event. Safe to call from several threads.

    Args:
        listeners: who hears; asked in this order.
        voice: where a dropped listener is reported; None = the log.
    """

    def __init__(self, listeners: Iterable[Listener], *, voice: Voice | None = None) -> None:
        self._listeners = list(listeners)
        self._voice: Voice = voice or LogVoice()
        self._lock = threading.RLock()

    def on(self, event: Event) -> None:
        """Pass the event on.

        Raises:
            RaykdError: a listener means to stop the run, e.g. because the disk is full.
        """
        self._tell(lambda listener: listener.on(event))

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """Close every listener that is left; a second call does nothing.

        Raises:
            RaykdError: a listener could not keep what it was given.
        """
        with self._lock:
            self._tell(lambda listener: listener.close(summary))
            self._listeners = []

    def _tell(self, call: Callable[[Listener], None]) -> None:
        fatal: RaykdError | None = None
        with self._lock:
            for listener in tuple(self._listeners):
                try:
                    call(listener)
                except RaykdError as error:
                    fatal = fatal or error
                except Exception as error:  # noqa: BLE001 - a listener's own fault, whatever it is
                    self._drop(listener, error)
        if fatal is not None:
            raise fatal

    def _drop(self, listener: Listener, error: Exception) -> None:
        self._listeners = [other for other in self._listeners if other is not listener]
        name = type(listener).__name__
        self._voice.warn(
            f"{name} failed and is left out from here on; the run goes on "
            f"({type(error).__name__}: {error})"
        )
