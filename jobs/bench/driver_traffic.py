"""What crosses the driver while a student trains elsewhere.

Two counters, read in the driver's own process. **Objects**: all that the driver packs for Ray or unpacks from
it, however it travels: arguments of calls, `put`, `get`; an array read from shared memory counts in full.
**Sockets**: bytes that the kernel sent and received on the driver's TCP connections, to which the raylet, the
control store and all workers and actors talk. Their sum counts small objects twice, and misses nothing that
is large. (`/proc/PID/io` would not do: it leaves out what goes through sendmsg and recvmsg.)
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray

from jobs.bench.fleets import fill_s, fleet_of, silent
from jobs.bench.live_targets import sleepers
from jobs.bench.measuring import Row, Sizes, row_of
from jobs.bench.synthetic import Bench
from raykd.config.root import StudentCluster, TeacherCluster
from raykd.data import Samples
from raykd.folders import RunFolder
from raykd.pipeline.recipe_store import Keys, open_store, store_keys
from raykd.runtime import Mailbox, connect, put
from raykd.targets import StoredTargets, TargetSource
from raykd.teachers import LiveTargets
from raykd.teachers.client import Client
from raykd.tracking import Event
from raykd.train import Fit
from raykd.train.launch import run_fits
from raykd.train.work import MakeSource, Work

_LOGIT_BYTES = 2
_FILES = Path("/proc/self/fd")
_TCP_INFO_BYTES = 136
_TCP_BYTES_AT = 120  # of struct tcp_info: bytes acknowledged, bytes received


@dataclass
class Traffic:
    """Bytes so far.

    Attributes:
        objects: packed and unpacked.
        largest: the largest single object.
    """

    objects: int = 0
    largest: int = 0

    def add(self, size: int) -> None:
        """Count one object."""
        self.objects += size
        self.largest = max(self.largest, size)


@contextmanager
def counted() -> Iterator[Traffic]:
    """Counts what this process packs and unpacks; it has to be connected."""
    context: Any = ray._private.worker.global_worker.get_serialization_context()
    traffic = Traffic()
    pack, unpack = context.serialize, context.deserialize_objects

    def packed(value: Any) -> Any:
        made = pack(value)
        traffic.add(made.total_bytes)
        return made

    def unpacked(found: Sequence[Any], *more: Any) -> Any:
        for data, *_ in found:
            traffic.add(0 if data is None else len(data))
        return unpack(found, *more)

    context.serialize, context.deserialize_objects = packed, unpacked
    try:
        yield traffic
    finally:
        del context.serialize, context.deserialize_objects


class Sockets:
    """Bytes of the TCP connections of this process; those of closed ones as they were last seen."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def bytes(self) -> int:
        """Sent and received so far."""
        for file in list(_FILES.iterdir()):
            with suppress(OSError):  # closed meanwhile, or a socket of another kind
                identity = str(file.readlink())
                if identity.startswith("socket:"):
                    self._seen[identity] = _tcp_bytes(int(file.name))
        return sum(self._seen.values())


def _tcp_bytes(number: int) -> int:
    with socket.socket(fileno=os.dup(number)) as one:
        info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    return sum(struct.unpack_from("=QQ", info, _TCP_BYTES_AT))


@dataclass(frozen=True)
class Epochs:
    """What crossed the driver from the end of one epoch to that of the next.

    Attributes:
        objects, sockets: bytes per step, of each epoch but the first.
        largest: bytes of the largest object of all.
    """

    objects: Sequence[float]
    sockets: Sequence[float]
    largest: int


def driver(sizes: Sizes) -> list[Row]:
    """Bytes per step in the driver, of a live and of a stored run, beside those of the teachers' answers.

    The student is trained by a worker of Ray Train, as in every run; the driver hears of it by mailbox. What
    it hears is asked for five times a second, so its bytes per step grow with the step's length alone.
    """
    epochs, units = 2 + sizes.repeats, sizes.units
    with connect(None), TemporaryDirectory() as root:
        config = sleepers(sizes, sizes.teachers, 1.0, classes=sizes.classes, epochs=epochs)
        bench = Bench.of(config, RunFolder(Path(root) / "run"))
        names = list(bench.prepared.teachers)
        with fleet_of(bench) as fleet:
            keys = store_keys(fleet.specs, bench.samples)
            fill_s(Path(root) / "store", bench, fleet, bench.samples.splits["train"])
            settings = config.cluster.teachers
            live = partial(_live_source, fleet.actors, settings, names)
            stored = partial(_stored_source, Path(root) / "store", keys)
            found = {what: _trained(bench, f"{what}/replica0", names, source)
                     for what, source in (("live", live), ("stored", stored))}  # fmt: skip
    answer = units * sizes.classes * _LOGIT_BYTES
    return table(found, answers=sizes.teachers * answer, smallest=answer)


def table(found: Mapping[str, Epochs], answers: int, smallest: int) -> list[Row]:
    """The rows.

    Args:
        found: what crossed the driver, of each kind of run.
        answers: bytes of what all teachers say of one batch.
        smallest: bytes of what one says of it.
    """
    rows: list[Row] = []
    for what, epochs in found.items():
        total = [o + s for o, s in zip(epochs.objects, epochs.sockets, strict=True)]
        share = [100 * one / answers for one in total]
        rows += [
            row_of(f"driver, {what}: objects packed and unpacked", "bytes per step", epochs.objects),
            row_of(f"driver, {what}: through its sockets", "bytes per step", epochs.sockets),
            {**row_of(f"driver, {what}: both / the teachers' answers", "%", share),
             "bar": "references only"},
            {**row_of(f"driver, {what}: largest object", "bytes", [epochs.largest]),
             "bar": f"< {smallest} (one answer)"},
        ]  # fmt: skip
    return [row_of("teachers' answers", "bytes per step", [answers]), *rows]


def _trained(bench: Bench, name: str, teacher_infos: Sequence[str], source: MakeSource) -> Epochs:
    """Train one student in a worker, and look at the counters whenever an epoch is told of."""
    objects: list[int] = []
    through: list[int] = []
    sockets = Sockets()
    fit = bench.fit(name, teacher_infos)
    with counted() as traffic:

        def deliver(event: Event) -> None:
            if event.kind == "epoch":
                objects.append(traffic.objects)
                through.append(sockets.bytes())
                if len(objects) == 1:
                    traffic.largest = 0  # what the worker was started with

        mailbox = Mailbox(deliver)
        try:
            work = Work(
                samples=put(bench.samples),
                fits=put([fit]),
                make_source=source,
                run=bench.folder,
                emit=mailbox.sender,
                depth=bench.prepared.config.targets.depth,
            )
            run_fits(work, [fit], StudentCluster())
            mailbox.flush()
        finally:
            mailbox.close()
    steps = fit.plan.steps_per_epoch
    return Epochs(_per_step(objects, steps), _per_step(through, steps), traffic.largest)


def _per_step(counts: Sequence[int], steps: int) -> list[float]:
    return [(after - before) / steps for before, after in pairwise(counts)]


def _live_source(
    actors: Mapping[str, Any],
    settings: TeacherCluster,
    names: Sequence[str],
    samples: Samples,  # noqa: ARG001
    fit: Fit,  # noqa: ARG001
) -> TargetSource:
    """Runs in the student's worker."""
    return LiveTargets(Client(actors, settings, silent), names)


def _stored_source(root: Path, keys: Keys, samples: Samples, fit: Fit) -> TargetSource:  # noqa: ARG001
    """Runs in the student's worker."""
    return StoredTargets(open_store(root, keys, samples))
