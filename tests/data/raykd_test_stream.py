"""A run on data of any size with an object store of 80 MB: memory by process, and what came out.

python raykd_test_stream.py FOLDER SAMPLES
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import raykd_test_files as files

import raykd
from raykd import load_config
from raykd.pipeline import Options

SIDE, DIFFERENT = 96, 64
STORE_BYTES = 80 * 10**6


def write(root: Path, count: int) -> None:
    """Images of which few are different, with an id and a label each."""
    root.mkdir(parents=True)
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (DIFFERENT, 3, SIDE // 8, SIDE // 8), dtype=np.uint8)
    images = [files.png(one.repeat(8, axis=1).repeat(8, axis=2)) for one in coarse]
    rows = np.arange(count)
    for number, part in enumerate(np.array_split(rows, max(1, count // 4000))):
        columns = {
            "id": part,
            "label": part % DIFFERENT % 3,
            "image": [images[row % DIFFERENT] for row in part],
        }
        pq.write_table(pa.table(columns), root / f"{number:03d}.parquet", row_group_size=1000)


def recipe(root: Path) -> dict[str, object]:
    fit = {"epochs": 1, "batch_size": 256, "optimizer": {"type": "adamw", "lr": 0.01}}
    mlp = {"type": "mlp", "width": 0.25, "depth": 1}
    source = {"type": "parquet", "path": str(root), "inputs": "image", "id": "id", "label": "label"}
    return {
        "data": {"source": source, "splits": {"validation": 200, "test": 200}},
        "teachers": [{"name": "wide", "model": mlp, "fit": fit, "preprocess": {"size": 8}}],
        "student": {"model": mlp, "preprocess": {"size": 8}},
        "train": {"epochs": 2, "batch_size": 256, "optimizer": {"type": "adamw", "lr": 0.01}},
        "evaluate": {"controls": []},
        "tracking": {"wandb": {"mode": "disabled"}},
        "cluster": {"teachers": {"request_timeout_s": 300}},
    }


class Watch(threading.Thread):
    """The most private memory that any process of this session had, in bytes; pages of files are not in it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak: dict[str, int] = {}

    def run(self) -> None:
        session = os.getsid(0)
        while True:
            for status in Path("/proc").glob("[0-9]*/status"):
                try:
                    if os.getsid(int(status.parent.name)) != session:
                        continue
                    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
                except (OSError, ValueError):  # it ended meanwhile
                    continue
                used = int(lines.get("RssAnon", "0 kB").split()[0]) * 1024
                name = lines["Name"].strip()
                self.peak[name] = max(self.peak.get(name, 0), used)
            time.sleep(0.1)


def main(root: Path, count: int) -> None:
    os.environ["RAYKD_HOME"] = str(root / "home")
    write(root / "source", count)
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, namespace="raykd",
        object_store_memory=STORE_BYTES,
    )  # fmt: skip
    watch = Watch()
    watch.start()
    config = load_config(recipe(root / "source"))
    first = raykd.run(config, Options(output=root / "first"))
    second = raykd.run(config, Options(output=root / "second"))
    (inputs,) = (root / "home" / "decoded").glob("*/inputs.bin")
    found = {
        "peak_bytes": watch.peak,
        "decoded_bytes": inputs.stat().st_size,
        "targets": [first.summary["targets"], second.summary["targets"]],
        "samples": count,
    }
    (root / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
