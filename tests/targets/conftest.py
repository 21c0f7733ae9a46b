"""A process that imports the store once and forks writers, which tests kill where they like."""

from __future__ import annotations

import json
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
