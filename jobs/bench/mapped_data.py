"""Training on samples that stay in a file beside the same samples in memory."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from jobs.bench.measuring import Row, Sizes, paired, rotated
from jobs.bench.synthetic import Bench, dataset, recipe
from raykd.config import Config, load_config
from raykd.data import Dataset, build_samples
from raykd.folders import RunFolder
from raykd.targets import NoTargets
from raykd.tracking import Event

_CLASSES = 10
_TEACHER = {"name": "unheard", "model": {"type": "factory", "path": "jobs.bench.synthetic:sleeper",
                                         "kwargs": {"classes": _CLASSES, "service_ms": 0.0}}}  # fmt: skip
_STUDENT = {"type": "cnn", "width": 0.25, "depth": 3}


def stream(sizes: Sizes) -> list[Row]:
    """A student's epochs on a decoded file, with its pages in memory and read from disk, and in memory."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as root:
        folder = Path(root)
        memory = recipe(sizes.samples, _CLASSES, [_TEACHER], _STUDENT, sizes.units, 1)
        write(folder / "source", dataset(sizes.samples, _CLASSES))
        on_file = mapped_recipe(memory, folder)
        build_samples(on_file.data, seed=on_file.seed)  # decoded here: no cluster is needed for it
        mapped = Bench.of(on_file, RunFolder(folder / "mapped"))
        held = Bench.of(memory, RunFolder(folder / "memory"))
        found = _epochs(held, mapped, folder, sizes.repeats)
    return [
        paired("decoded file / in memory, samples/s", found["memory"], found["file"], bar=">= 0.7"),
        paired("decoded file read from disk / in memory, samples/s", found["memory"], found["disk"], bar=">= 0.7"),
    ]  # fmt: skip


def _epochs(held: Bench, mapped: Bench, folder: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds of a sample in an epoch; turns begin with another one each time, the first turn warms up."""

    def of(bench: Bench, name: str) -> float:
        heard: list[Event] = []
        bench.fit_s(name, NoTargets(), [], heard.append)
        (rate,) = (float(e.values["samples_per_s"]) for e in heard if e.kind == "epoch")
        return 1 / rate

    def from_disk(name: str) -> float:
        return of(_fresh(mapped, folder), name)

    calls: dict[str, Callable[[str], float]] = {
        "memory": lambda name: of(held, name),
        "file": lambda name: of(mapped, name),
        "disk": from_disk,
    }
    found: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(1 + repeats):
        for name in rotated(list(calls), repeat):
            found[name].append(calls[name](f"labels/{name}{repeat}"))
    return {name: seconds[1:] for name, seconds in found.items()}


def _fresh(bench: Bench, folder: Path) -> Bench:
    """The same with a mapping of its own, of whose file no page is in memory."""
    samples = pickle.loads(pickle.dumps(bench.samples))  # noqa: S301 - just made
    for path in folder.glob("cache/*/*.bin"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return Bench(replace(bench.prepared, samples=samples), bench.folder)


def mapped_recipe(memory: Config, folder: Path) -> Config:
    """The same recipe with its samples in the Parquet files of `folder`."""
    tree = memory.model_dump(mode="json")
    source = {
        "type": "parquet",
        "path": str(folder / "source"),
        "inputs": "pixels",
        "id": "id",
        "label": "label",
    }
    by = {"type": "column", "column": "part"}
    data = {**tree["data"], "source": source, "cache": str(folder / "cache")}
    return load_config({**tree, "data": {**data, "splits": {"by": by}}})


def write(root: Path, data: Dataset) -> None:
    """Samples as a Parquet file of tensors, with their ids, labels and parts."""
    assert data.splits is not None, "a made-up data set has its parts"
    (pixels,) = data.arrays.values()
    shape = pixels.shape[1:]
    storage = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), int(np.prod(shape)))
    parts = np.empty(len(data), dtype=object)
    for name, rows in data.splits.items():
        parts[rows] = name
    columns = {
        "pixels": pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.uint8(), shape), storage),
        "id": data.sample_ids,
        "label": data.known_labels,
        "part": parts.tolist(),
    }
    root.mkdir(parents=True)
    pq.write_table(pa.table(columns), root / "data.parquet", row_group_size=512)
