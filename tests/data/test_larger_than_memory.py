from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("raykd_test_stream.py")
SMALL, LARGE = 3_000, 32_000  # 83 MB and 885 MB of decoded images
GROWTH_BYTES = 120 * 10**6  # of 802 MB that the data grows by; ids, labels and targets are in it


def run(root: Path, count: int) -> dict[str, Any]:
    root.mkdir()
    command = [sys.executable, str(SCRIPT), str(root), str(count)]
    done = subprocess.run(
        command,
        start_new_session=True,
        timeout=540,
        capture_output=True,
        text=True,
        env={**os.environ},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((root / "found.json").read_text())
    return found


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    small, large = run(tmp_path / "small", SMALL), run(tmp_path / "large", LARGE)
    assert large["decoded_bytes"] >= 10 * 80 * 10**6
    peaks = [max(found["peak_bytes"].values()) for found in (small, large)]
    assert peaks[1] - peaks[0] < GROWTH_BYTES
    first, second = large["targets"]
    assert first["teacher_samples_scored"] == LARGE
    assert (second["teacher_samples_scored"], second["hit_rate"]) == (0, 1.0)
