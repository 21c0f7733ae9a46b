"""A process that imports the store once and forks writers, which tests kill where they like."""

from __future__ import annotations

import json
import logging
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

_OWN = Path(__file__).parent
sys.path.insert(0, str(_OWN))


class Nursery:
    """Forks writers (see `raykd_forked_writers`); one request at a time."""

    def __init__(self) -> None:
        script = _OWN / "raykd_forked_writers.py"
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, **order):
        """Carry out one order; its answer."""
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the nursery died"
        return json.loads(answer)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def s3_endpoint():
    """An S3 server on a loopback port, in a thread that ends with this process."""
    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


@pytest.fixture(scope="session")
def s3_options(s3_endpoint):
    """What makes a URI mean that server."""
    return f"?endpoint_override={s3_endpoint}"


@pytest.fixture
def s3_bucket(s3_endpoint):
    """The URI of a new bucket there."""
    from pyarrow import fs

    name = f"raykd-{secrets.token_hex(6)}"
    scheme, _, host = s3_endpoint.partition("://")
    system = fs.S3FileSystem(
        endpoint_override=host, scheme=scheme, region="us-east-1", allow_bucket_creation=True
    )
    system.create_dir(name)
    return f"s3://{name}"
