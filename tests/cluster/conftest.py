"""Real Ray nodes on this machine, apart from the session's own cluster, and jobs submitted to them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

CANARY = "canary-5c0ffee5c0ffee5c0ffee5c0ffee"
# SIGINT may be ignored where the tests run in the background; children inherit that.
MAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from raykd.cli import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with token authentication, as `cluster/local/nodes.py` starts them."""
    path = Path(__file__).parents[2] / "cluster" / "local" / "nodes.py"
    spec = importlib.util.spec_from_file_location("raykd_local_nodes", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    with module.Nodes([module.Node(cpus=2), module.Node(cpus=2)]) as nodes:
        yield nodes


@pytest.fixture
def submit(cluster, tmp_path, raykd_home):
    """Starts `raykd submit WORDS` in a folder of its own; a secret stands in its environment."""

    def start(*words, **env):
        return subprocess.Popen(
            [sys.executable, "-c", MAIN, "submit", *map(str, words)],
            cwd=tmp_path,
            env={**cluster.env, "RAYKD_HOME": str(raykd_home), "WANDB_API_KEY": CANARY, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # else the whole test run would hear its signals
        )

    return start
