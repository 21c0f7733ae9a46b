"""The tests' own data factories are importable, here and in Ray's processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_OWN = str(Path(__file__).parent)
os.environ["PYTHONPATH"] = os.pathsep.join([_OWN, *filter(None, [os.environ.get("PYTHONPATH")])])
sys.path.insert(0, _OWN)
