"""What a run ran on: versions, machine, git."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import torch

from raykd.config import Config
from raykd.runtime import Resources

_PACKAGES = ("raykd", "ray", "torch", "numpy", "scikit-learn", "pydantic", "wandb")


def environment(config: Config, resources: Resources) -> dict[str, Any]:
    """Plain values for `environment.json`; no host names, no environment variables."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in _PACKAGES},
        "command": ["raykd", *sys.argv[1:]],
        "cpus": resources.cpus,
        "gpus": resources.gpus,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "git": _git_commit(),
        "seed": config.seed,
        "seeds": config.seeds,
    }


def _git_commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True  # noqa: S607
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
