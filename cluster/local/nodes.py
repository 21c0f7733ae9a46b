"""Several Ray nodes on this machine, so that the many-node way can be tried anywhere.

    python cluster/local/nodes.py --nodes 3

Prints what to export in another terminal, and ends the nodes at Ctrl-C. The dashboard listens on 127.0.0.1,
and everything asks for the token. Ports and folders are their own: another Ray on the machine is neither
met nor stopped (`ray stop` would stop them all).

Cost: some 4 s and 0.4 GB for the head, 2 s and 0.2 GB for every other node.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0
ATTEMPTS = 3
LOWEST_PORT, PORTS = 20_000, 12_000
STOP_TIMEOUT_S = (
    5.0  # two seconds do; `ray start` waits longer for workers that a job has left busy
)
_KILL_TIMEOUT_S = 20.0
OBJECT_STORE_BYTES = 256 * 2**20
_PORTS = (
    "node-manager-port",
    "object-manager-port",
    "dashboard-agent-listen-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)
_ASK_TIMEOUT_S = 10.0
_POLL_S = 0.2


@dataclass(frozen=True)
class Node:
    """What one node offers.

    Attributes:
        cpus: logical CPUs; the machine may have fewer.
        gpus: logical GPUs, which tell Ray where teachers may go; the machine may have none.
    """

    cpus: int = 2
    gpus: int = 0


class Nodes:
    """A cluster of this machine's own, for the length of a block; the first node is the head.

    Attributes:
        folder: of everything that the nodes write.
        env: what a client of the cluster needs in its environment.
        url: of the dashboard.
        address: of the cluster itself, for drivers.
    """

    def __init__(self, nodes: Sequence[Node], env: Mapping[str, str] = os.environ) -> None:
        self._nodes = nodes
        self.folder = Path(tempfile.mkdtemp(prefix="raykd-ray-"))
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        port, dashboard, self._client_port = _free_ports(3)
        self.address, self.url = f"{HOST}:{port}", f"http://{HOST}:{dashboard}"
        clean = {name: value for name, value in env.items() if not name.startswith("RAY_")}
        self.env = {
            **clean,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")]),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_API_SERVER_ADDRESS": self.url,
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",  # logical GPUs are no devices
            "RAY_health_check_period_ms": "1000",  # a lost node is noticed after 4 s, not after 17
            "RAY_health_check_failure_threshold": "3",
        }
        self._started: list[subprocess.Popen[bytes]] = []
        self._ids: list[str] = []

    def __enter__(self) -> Nodes:
        try:
            for index in range(len(self._nodes)):
                self._start(index)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def ask(self, path: str) -> Any:
        """The JSON that the dashboard answers."""
        token = Path(self.env["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(  # noqa: S310 (our own address)
            self.url + path, headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=_ASK_TIMEOUT_S) as answer:  # noqa: S310
            return json.load(answer)

    def rows(self, what: str) -> list[dict[str, Any]]:
        """Rows of Ray's state API: `nodes`, `actors`."""
        answer = self.ask(f"/api/v0/{what}?detail=true&limit=1000")
        rows: list[dict[str, Any]] = answer["data"]["result"]["result"]
        return rows

    def alive(self) -> list[str]:
        """Ids of the living nodes."""
        return [row["node_id"] for row in self.rows("nodes") if row["state"] == "ALIVE"]

    def node_id(self, index: int) -> str:
        """Ray's id of the node that was started as number `index`."""
        return self._ids[index]

    def kill(self, index: int) -> None:
        """End a node as a power cut does: all of its processes at once, by signal 9."""
        _kill(self._started[index])

    def close(self) -> None:
        """End all nodes at once, by the pids that were started here."""
        for process in self._started:
            process.terminate()
        for process in self._started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            _kill(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, index: int) -> None:
        """Start a node; Ray itself gives up after 30 s, which a busy machine can take."""
        for _ in range(ATTEMPTS):
            process = self._launch(index)
            if self._joins(process):
                return
            _kill(self._started.pop())
        log = (self.folder / f"start{index}.log").read_text(errors="replace")
        raise RuntimeError(
            f"Ray node {index} did not start, {ATTEMPTS} times; the last time:\n{log}"
        )

    def _launch(self, index: int) -> subprocess.Popen[bytes]:
        node = self._nodes[index]
        own = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        own |= {"min-worker-port": 0, "max-worker-port": 0}
        own |= {"num-cpus": node.cpus, "num-gpus": node.gpus}
        options = [f"--{name}={value}" for name, value in own.items()]
        options.append(f"--object-store-memory={OBJECT_STORE_BYTES}")
        # Of its own: each node unpacks the job's working directory anew, over that of a node beside it.
        options.append(f"--temp-dir={self.folder / str(index)}")
        if index == 0:
            options += ["--head", f"--port={_port(self.address)}", f"--dashboard-host={HOST}"]
            options.append(f"--dashboard-port={_port(self.url)}")
            options.append(f"--ray-client-server-port={self._client_port}")
        else:
            options.append(f"--address={self.address}")
        with (self.folder / f"start{index}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the one who started the nodes
            )
        self._started.append(process)
        return process

    def _joins(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether the dashboard comes to know one node more."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(OSError, HTTPException, ValueError, KeyError):  # not up yet
                if new := set(self.alive()) - set(self._ids):
                    self._ids += new
                    return True
            time.sleep(_POLL_S)
        return False


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def _free_ports(count: int) -> list[int]:
    """Below the range from which the system gives ports to whoever asks for any."""
    found: list[int] = []
    while len(found) < count:
        port = LOWEST_PORT + secrets.randbelow(PORTS)
        with suppress(OSError), socket.create_server((HOST, port)):
            found += [port] if port not in found else []
    return found


def _descendants(pid: int) -> list[int]:
    """Children of a process, and theirs."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    children: dict[int, list[int]] = {}
    for line in listed.stdout.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found = list(children.get(pid, []))
    for one in found:
        found += children.get(one, [])
    return found


def _kill(process: subprocess.Popen[bytes]) -> None:
    """By signal 9: the process, what it started, and what is left of its session when it ended before."""
    running = process.poll() is None
    for pid in [process.pid, *_descendants(process.pid)] if running else ():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(_KILL_TIMEOUT_S)


def main(argv: Sequence[str]) -> None:
    """Start the nodes, say how to use them, wait for Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=2, help="of each node")
    chosen = parser.parse_args(argv)
    with Nodes([Node(chosen.cpus)] * chosen.nodes) as cluster:
        print(f"{chosen.nodes} nodes are up; in another terminal:\n")
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS"):
            print(f"export {name}={cluster.env[name]}")
        print('raykd submit run digits --output "$PWD/runs/on-a-cluster"\n', flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("ending the nodes")


if __name__ == "__main__":
    main(sys.argv[1:])
