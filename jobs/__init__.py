"""Thin jobs on top of raykd, the same locally and under `ray job submit`; beside them their faults and benchmarks.

`jobs` is not in the wheel. Where it is imported, this package makes itself importable also for what the process
starts: commands, and a local Ray cluster with its workers. A cluster that runs already finds it in the working directory
of the driver, which Ray gives to workers.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The clone."""

_known = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
if str(ROOT) not in _known:
    os.environ["PYTHONPATH"] = os.pathsep.join([*_known, str(ROOT)])
