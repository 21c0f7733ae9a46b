"""A Ray cluster: connecting to it, what it offers, and whether its nodes share folders."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any, ClassVar, Protocol

import ray
from ray._private import ray_constants
from ray.exceptions import GetTimeoutError, ObjectStoreFullError, OutOfDiskError, RayError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykd.errors import DiskError, InputError, Problem, RaykdError
from raykd.limits import check_process_limits, object_store_bytes
from raykd.runtime.labels import amounts, selector
from raykd.runtime.own_session import OwnSession, temporary_parent

NAMESPACE = "raykd"
_STARTS = 3
_TOO_LATE = "timed out during startup"
"""What Ray says where its processes need more than 30 s, as they may on a busy machine; no setting changes that."""
_NO_METRICS = {"enable_metrics_collection": False}
"""Their port would be open on all interfaces."""
_CONNECT_TIMEOUT_S = 10.0
_VISIBLE_WITHIN_S = 5.0
_ANSWER_TIMEOUT_S = 90.0
_RESERVED_POLL_S = 0.05

FindVisible = Callable[[Sequence[Path]], Mapping[str, Sequence[bool]]]
"""Files -> name of each other node -> which of them it sees."""


@dataclass(frozen=True)
class Resources:
    """What a cluster offers.

    Attributes:
        cpus: logical CPUs.
        gpus: GPUs.
        local: whether it is a cluster of this process on this machine.
        nodes: CPUs and GPUs of each node; empty = one node has all.
    """

    cpus: float
    gpus: float
    local: bool
    nodes: tuple[tuple[float, float], ...] = ()

    def fitting(self, cpus: float, gpus: float) -> int:
        """How many processes of these CPUs and GPUs the nodes can hold, each on one node."""
        slots = 0
        for own_cpus, own_gpus in self.nodes or ((self.cpus, self.gpus),):
            room = (own_cpus + 1e-6) // cpus
            slots += int(min(room, (own_gpus + 1e-6) // gpus) if gpus else room)
        return slots


def cpu_count() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_machine() -> None:
    """Refuse what would hinder a cluster of this process's own, before anything starts; nothing where it has one.

    Raises:
        InputError: with what is needed, and what to do.
    """
    if not is_connected():
        check_process_limits(cpu_count(), temporary_parent())


def machine() -> Resources:
    """What a local cluster will offer."""
    import torch  # slow to import; checking a recipe must not pay for it

    return Resources(cpus=float(cpu_count()), gpus=float(torch.cuda.device_count()), local=True)


@contextmanager
def connect(address: str | None) -> Iterator[Resources]:
    """Connect for the length of a block.

    Args:
        address: of a running cluster; None starts a local one that ends with the block.

    Raises:
        InputError: no cluster answers at the address.
    """
    if Pending.engine is not None and address is None:
        Pending.engine.wait()
    already = is_connected()
    if not already:
        start(address)
    try:
        total = ray.cluster_resources()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield Resources(
            total.get("CPU", 0.0),
            total.get("GPU", 0.0),
            local=address is None,
            nodes=tuple((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes),
        )
    finally:
        if not already:
            stop()


class Waited(Protocol):
    """What `connect` waits for before it starts a cluster of its own."""

    def wait(self) -> None:
        """Returns once there is a cluster."""
        ...


class Own:
    """The local cluster of this process."""

    session: ClassVar[OwnSession | None] = None


class Pending:
    """The local cluster that this process is starting, see `raykd.runtime.engine`."""

    engine: ClassVar[Waited | None] = None


def is_connected() -> bool:
    """Whether this process is connected to a cluster already."""
    return bool(ray.is_initialized())


def put(value: Any) -> Any:
    """An object reference to `value`, which is stored once and read by every process of a node.

    Raises:
        DiskError: neither Ray's object store nor its temporary folder has room for it.
    """
    try:
        return ray.put(value)
    except (ObjectStoreFullError, OutOfDiskError) as error:
        why = " ".join(str(error).partition("\n")[0].split())
        raise DiskError(
            f"Ray's object store and its temporary folder cannot take an object: {why}"
        ) from error


def why_unsendable(value: Any) -> str | None:
    """Why a value cannot be sent to another process; None = it can. What is written on the way is kept nowhere."""
    try:
        ray.cloudpickle.CloudPickler(_Nowhere()).dump(value)
    except Exception as error:  # noqa: BLE001 (whatever an object's own code raises)
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, payload: Any) -> int:
        """How much was written."""
        return len(payload)


def start(address: str | None) -> None:
    """Connect to a cluster, or start a local one.

    Raises:
        InputError: no cluster answers at the address.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    common = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.WARNING}
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    if address is None:
        _start_own(common)
        return
    try:
        _check_listening(address)
        with _handlers_kept():
            ray.init(address=address, **common)
    except (OSError, RuntimeError, ValueError) as error:
        why = f"no Ray cluster answers at {address!r} ({error}); start one or leave it out"
        raise InputError.at("--address", why) from error


def stop() -> None:
    """Disconnect; nothing is left of a local cluster by then."""
    ray.shutdown()
    if Own.session is not None:
        session, Own.session = Own.session, None
        session.end()


def keep_logs(target: Path) -> bool:
    """Copy the logs of this process's own cluster, see `OwnSession.keep_logs`; False where there are none."""
    return Own.session is not None and Own.session.keep_logs(target)


def _start_own(common: Mapping[str, Any]) -> None:
    """A cluster on the loopback, with a folder and a token of its own.

    Raises:
        RaykdError: it did not start in time, again and again.
    """
    _authenticate()
    size = {} if (store := object_store_bytes()) is None else {"object_store_memory": store}
    for attempt in range(1, _STARTS + 1):
        Own.session = OwnSession()
        try:
            with _handlers_kept(), _on_loopback():
                ray.init(
                    address="local",
                    num_cpus=cpu_count(),
                    include_dashboard=False,
                    _temp_dir=Own.session.temporary,
                    _system_config=dict(_NO_METRICS),  # Ray writes into it
                    **size,
                    **common,
                )
        except BaseException as error:
            stop()
            if not isinstance(error, Exception) or _TOO_LATE not in str(error):
                raise
            if attempt == _STARTS:
                raise RaykdError(f"Ray did not start on this machine, {_STARTS} times, each within the 30 s that it waits: {error} "
                                 "Try again when the machine is less busy") from error  # fmt: skip
        else:
            return


def _on_loopback() -> AbstractContextManager[None]:
    """Ray's processes listen on 127.0.0.1 alone, as they do on macOS by themselves; there is no option for that.

    `_node_ip_address="127.0.0.1"` is replaced by the machine's address, and with any other they listen on all.
    """
    return _constant("ENABLE_RAY_CLUSTER", False)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """What SIGTERM and SIGHUP do is left to who runs this process.

    Ray would set two handlers of SIGTERM: one in Python, from the main thread alone, which raises SystemExit; one in C++,
    which prints a stack and aborts where it is called again. And SIGHUP, which a closed terminal sends to the whole process
    group, is kept from Ray's processes, as Ray keeps SIGINT from them: the driver ends them in its own time.
    """
    before = signal.getsignal(signal.SIGTERM)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        with _constant("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", True):
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if current_thread() is main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _constant(name: str, value: bool) -> Iterator[None]:
    """A constant of Ray's, which it has from the environment when it is imported; a user may have imported it before."""
    before = getattr(ray_constants, name)
    setattr(ray_constants, name, value)
    try:
        yield
    finally:
        setattr(ray_constants, name, before)


def _check_listening(address: str) -> None:
    """Fail at once if nothing listens: Ray itself would wait for minutes, or end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()


def _authenticate() -> None:
    """A token for this process and its children only; without it Ray would leave one in the home folder.

    If no mode is set Ray turns token authentication on by itself for a local cluster, and logs it.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        logger = "ray._private.authentication.authentication_token_setup"
        logging.getLogger(logger).setLevel(logging.ERROR)


def available_slots(resources: Mapping[str, float], most: int, wait_s: float) -> int:
    """How many processes of these resources, each on one node, could start now; at most `most`.

    Measured by reserving and releasing, so that what others hold counts, and a node that is gone does not.
    An autoscaler learns what is missing.

    Args:
        resources: of one process, by Ray's names.
        most: with room for this many, the function returns at once.
        wait_s: how long to wait for resources that are being released, or nodes that are starting.
    """
    labels = selector(resources)
    options = {} if labels is None else {"bundle_label_selector": [labels]}
    reserved = [placement_group([amounts(resources)], **options) for _ in range(most)]
    try:
        deadline = time.monotonic() + wait_s
        while (found := sum(map(_is_reserved, reserved))) < most and time.monotonic() < deadline:
            time.sleep(_RESERVED_POLL_S)
        return found
    finally:
        for one in reserved:
            remove_placement_group(one)


def _is_reserved(group: PlacementGroup) -> bool:
    """Without the task of `ready()`, which starts a process in every group."""
    return bool(placement_group_table(group).get("state") == "CREATED")


def check_shared(folders: Mapping[str, Path]) -> None:
    """Check that every living node sees what this process writes there; a single node needs no check.

    Puts an empty file into each folder (or the nearest one above that exists), lets each node look for it, and
    removes it.

    Args:
        folders: name for the user -> absolute path, which need not exist yet.

    Raises:
        InputError: a folder is not on storage that all nodes share, or cannot be written.
    """
    own = ray.get_runtime_context().get_node_id()
    nodes = {
        node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != own
    }
    if nodes:
        find_unshared(folders, lambda files: _ask_nodes(nodes, files))


def find_unshared(folders: Mapping[str, Path], find_visible: FindVisible) -> None:
    """As `check_shared`, for the nodes that `find_visible` covers.

    Raises:
        InputError: with every folder that a node does not see.
    """
    marks: dict[str, Path] = {}
    try:
        for key, folder in folders.items():
            marks[key] = _nearest(folder) / f".raykd-shared-{secrets.token_hex(8)}"
            _touch(key, folder, marks[key])
        visible = find_visible(list(marks.values()))
        problems = [
            Problem(key, f"{folders[key]} is not on storage that all nodes share: {', '.join(blind)} "
                    f"{'does' if len(blind) == 1 else 'do'} not see it; name a folder below a mount that every node has "
                    "(NFS, Lustre, a bucket mounted as a folder), or use one node")
            for index, key in enumerate(folders)
            if (blind := [node for node, seen in visible.items() if not seen[index]])
        ]  # fmt: skip
    finally:
        for mark in marks.values():
            mark.unlink(missing_ok=True)
    if problems:
        raise InputError(problems)


def _touch(key: str, folder: Path, mark: Path) -> None:
    try:
        mark.touch(exist_ok=False)
    except OSError as error:
        raise InputError.at(
            key, f"{folder} cannot be written: {error}; name another folder"
        ) from error


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _ask_nodes(nodes: Mapping[str, str], files: Sequence[Path]) -> dict[str, list[bool]]:
    """What each node sees; one that does not answer sees nothing."""
    look = ray.remote(_look)
    requests = {
        name: look.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote([str(file) for file in files])
        for node, name in nodes.items()
    }
    deadline = time.monotonic() + _ANSWER_TIMEOUT_S
    visible = {}
    for name, reference in requests.items():
        try:
            visible[name] = ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
        except (GetTimeoutError, RayError):
            visible[name] = [False] * len(files)
    return visible


def _look(files: Iterable[str]) -> list[bool]:
    """Runs on each node; network file systems may show a new file a little later."""
    deadline = time.monotonic() + _VISIBLE_WITHIN_S
    waiting = [Path(file) for file in files]
    while time.monotonic() < deadline and not all(file.is_file() for file in waiting):
        time.sleep(0.2)
    return [file.is_file() for file in waiting]
