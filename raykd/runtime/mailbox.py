"""Events on their way from any process of the cluster to the driver, which alone writes them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykd.tracking import Event

_POLL_S = 0.2
_SEND_TIMEOUT_S = 30.0
_DRAIN_TIMEOUT_S = 30.0


class _Mailbox:
    """Keeps events until the driver fetches them."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def ready(self) -> None:
        """Returns once the process has started."""

    def put(self, *events: Event) -> None:
        self.events.extend(events)

    def drain(self) -> list[Event]:
        events, self.events = self.events, []
        return events


@dataclass(frozen=True)
class Sender:
    """Sends events from any worker; picklable, and never waits for the driver."""

    actor: Any

    def __call__(self, *events: Event) -> None:
        """Put events into the mailbox (1 ms); once there they are delivered, even if the worker ends at once."""
        ray.get(self.actor.put.remote(*events), timeout=_SEND_TIMEOUT_S)


class Mailbox:
    """The driver's end: a thread hands arriving events to `deliver` until `close`."""

    def __init__(self, deliver: Callable[[Event], None]) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._actor = (
            ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        )  # here, since a lost node would otherwise end the run
        self._ready = self._actor.ready.remote()
        self._deliver = deliver
        self._closing = threading.Event()
        self._draining = threading.Lock()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="raykd-mailbox", daemon=True)
        self._thread.start()

    @property
    def sender(self) -> Sender:
        """For the workers."""
        return Sender(self._actor)

    def flush(self) -> None:
        """Deliver everything that has arrived so far; raises the error of a listener."""
        if not ray.wait([self._ready], timeout=0)[0]:  # so nobody can have sent anything
            return
        with self._draining:
            for event in ray.get(self._actor.drain.remote(), timeout=_DRAIN_TIMEOUT_S):
                self._deliver(event)
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Deliver what has arrived, then end."""
        self._closing.set()
        self._thread.join(timeout=_DRAIN_TIMEOUT_S)
        try:
            self.flush()
        finally:
            ray.kill(self._actor)

    def _run(self) -> None:
        while not self._closing.wait(_POLL_S):
            try:
                self.flush()
            except Exception as error:  # noqa: BLE001 (raised again by the driver's next flush)
                self._failure = error
                return
