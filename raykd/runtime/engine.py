"""Ray, and the first processes that work on it, started in the background while a command still reads its data."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Event as Signal
from threading import Thread, current_thread, main_thread
from typing import ClassVar

from raykd.config import Config
from raykd.config.sources import FilesSource
from raykd.runtime import cluster
from raykd.runtime.crew import Crew

_STARTED_AHEAD = 2
"""Processes, which take some 400 MB each; more are started once there is work for them."""
_NEEDED = ("raykd.train.lanes", "raykd.targets")
"""Modules of a process that trains."""


class Engine:
    """A local cluster that is being started; `cluster.connect` waits for it.

    Args:
        resources: of each of the first processes, by Ray's names.
        count: how many there are.

    Attributes:
        crew: the processes.
    """

    def __init__(self, resources: Mapping[str, float], count: int) -> None:
        self.crew = Crew()
        self._members = resources, count, _NEEDED
        self._error: Exception | None = None
        self._there, self._over = Signal(), Signal()
        self._thread = Thread(target=self._run, name="raykd-engine", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the cluster is there; raises what went wrong."""
        self._there.wait()
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Until it is gone."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        """Ray's processes end with the thread that started them, so that this one stays."""
        try:
            cluster.start(None)
            self.crew.start(*self._members)
        except Exception as error:  # noqa: BLE001 (raised where it is waited for)
            self._error = error
        self._there.set()
        self._over.wait()
        cluster.stop()


class Block:
    """The block of a cluster that runs already which the main thread is in."""

    crew: ClassVar[Crew | None] = None


def _first(config: Config) -> int:
    """Processes that student fits are sure to need, as far as they are started ahead."""
    student = config.cluster.student
    decodes = isinstance(
        config.data.source, FilesSource
    )  # with Ray Data, which needs the CPUs first
    if student.uses_ray_train or student.gpus or decodes:
        return 0
    fits = config.seeds * (1 + len(config.evaluate.controls))
    return min(_STARTED_AHEAD, int(cluster.cpu_count() // student.cpus_each), fits)


@contextmanager
def engine(address: str | None, config: Config, *, resume: bool = False) -> Iterator[Crew]:
    """A crew for the length of a block, on a local cluster that ends with it.

    Within another such block it is the crew of that one. On a cluster that runs already nothing is started ahead:
    others may need its CPUs.

    Args:
        address: of a running cluster; None = a local one.
        config: the recipe.
        resume: whether all may be done before, so that processes are started only once there is work for them.
    """
    outer, main = cluster.Pending.engine, current_thread() is main_thread()
    if isinstance(outer, Engine):
        yield outer.crew
        return
    if main and Block.crew is not None:
        yield Block.crew
        return
    if address is not None or cluster.is_connected() or not main:
        crew = Crew()
        Block.crew = crew if main else Block.crew
        try:
            yield crew
        finally:
            Block.crew = None if main else Block.crew
            crew.dismiss()  # else its processes would hold their CPUs until the handles are collected
        return
    # Which warns that it sets no handler of SIGTERM outside the main thread.
    logging.getLogger("ray._private.worker").setLevel(logging.ERROR)
    cluster.Pending.engine = started = Engine(
        config.cluster.student.resources, 0 if resume else _first(config)
    )
    try:
        yield started.crew
    finally:
        started.end()
        cluster.Pending.engine = None
