"""Connecting to Ray: a local cluster of its own, or the one at an address."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from raykd.errors import InputError, Problem

NAMESPACE = "raykd"
_KNOCK_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Resources:
    """What a cluster offers.

    Attributes:
        cpus: logical CPUs.
        gpus: GPUs.
        local: whether it is a cluster of our own on this machine.
        nodes: CPUs and GPUs of each node; empty = one node has all.
    """

    cpus: float
    gpus: float
    local: bool
    nodes: tuple[tuple[float, float], ...] = ()

    def fitting(self, cpus: float, gpus: float) -> int:
        """How many processes of so many CPUs and GPUs the nodes hold; none is split over two."""
        slots = 0
        for own_cpus, own_gpus in self.nodes or ((self.cpus, self.gpus),):
            room = (own_cpus + 1e-6) // cpus
            slots += int(min(room, (own_gpus + 1e-6) // gpus) if gpus else room)
        return slots


def machine() -> Resources:
    """What a local cluster will offer."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    import torch  # slow to import; checking a recipe must not pay for it

    return Resources(cpus=float(cpus), gpus=float(torch.cuda.device_count()), local=True)


@contextmanager
def connect(address: str | None) -> Iterator[Resources]:
    """Connect for the length of a block.

    Args:
        address: of a running cluster; None starts a local one that ends with the block.

    Raises:
        InputError: no cluster answers at the address.
    """
    already = is_connected()
    if not already:
        _start(address)
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
            ray.shutdown()


def is_connected() -> bool:
    """Whether this process is connected to a cluster already."""
    return bool(ray.is_initialized())


def put(value: Any) -> Any:
    """An object reference to `value`, which is stored once and read by every process of a node."""
    return ray.put(value)


def _start(address: str | None) -> None:
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    common = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.WARNING}
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    if address is None:
        _authenticate()
        ray.init(address="local", num_cpus=int(machine().cpus), include_dashboard=False, **common)
        return
    try:
        _knock(address)
        ray.init(address=address, **common)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            Problem(
                "--address",
                f"no Ray cluster answers at {address!r} ({error}); start one or leave it out",
            )
        ) from error


def _knock(address: str) -> None:
    """Fail at once where nothing listens: Ray itself would wait for minutes, or end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_TIMEOUT_S).close()


def _authenticate() -> None:
    """A token for this process and its children only; without it Ray would leave one in the home folder.

    Where no mode is set Ray turns token authentication on by itself for a local cluster, and says so.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        notice = "ray._private.authentication.authentication_token_setup"
        logging.getLogger(notice).setLevel(logging.ERROR)
