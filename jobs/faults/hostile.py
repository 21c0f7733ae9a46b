"""Places where raykd reads a file that somebody else may have written, and what a hostile one would do there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import xxhash

from jobs.bench.synthetic import Bench, recipe
from raykd.config import load_config
from raykd.config.models import MlpModel
from raykd.data import Samples
from raykd.export.description import Description, Input
from raykd.export.weights_format import DESCRIPTION, WEIGHTS
from raykd.folders import RunFolder, read_json, write_json
from raykd.models import build_model
from raykd.models.preprocess import Preprocessing
from raykd.models.weights import load_weights, save_weights
from raykd.pipeline import load_student
from raykd.pipeline.new_samples import read_new
from raykd.pipeline.preparation import prepare
from raykd.targets import EntryKey
from raykd.targets.maintenance import verify_store
from raykd.targets.remote import Remote
from raykd.targets.shards import Shard, write_shard
from raykd.targets.store import Entry, append
from raykd.teachers.recorded import load_outputs
from raykd.train.checkpoint import STATES, FitFolder, sealed

KEY = EntryKey("b" * 32, "shift seed 0")
Place = Callable[[Path, bytes], None]
"""An empty folder, and what the file holds that is read."""


@cache
def _samples() -> Samples:
    """Data for readers that hold a file against it."""
    model = {"type": "mlp", "width": 0.25, "depth": 1}
    named = [{"name": "one", "model": model, "fit": {"epochs": 1}}]
    return Bench.of(recipe(64, 4, named, model, 16), RunFolder(Path())).samples


def shards(root: Path) -> tuple[Shard, ...]:
    """Two shards of a store, entered in its manifest."""
    rows = np.arange(4)
    made = []
    for view in range(2):
        arrays: dict[str, np.ndarray] = {
            "ids": rows,
            "hashes": rows.astype(np.uint64),
            "offset": np.zeros(4, np.float32),
        }
        arrays["values"] = np.full((4, 3), view, np.float16)
        made.append(write_shard(root / KEY.folder, view, arrays, KEY.to_json()))
    append(root, KEY, made)
    return tuple(made)


_MODEL = MlpModel(width=0.25, depth=1)


def _about() -> Description:
    """Of a small student."""
    return Description(
        task="classification",
        model=_MODEL,
        preprocessing=Preprocessing(),
        input=Input(name="inputs", shape=(4,), dtype="float32"),
        classes=("a", "b", "c"),
    )


def student(folder: Path) -> Path:
    """A small student's own folder."""
    model = build_model(_MODEL, input_shape=(4,), classes=3, key="model")
    save_weights(model, folder / WEIGHTS)
    write_json(folder / DESCRIPTION, _about().to_json())
    return folder


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _weights(name: str) -> Place:
    def read(folder: Path, content: bytes) -> None:
        load_weights(_written(folder / name, content), key="teachers.one.weights")

    return read


def _state(folder: Path, content: bytes) -> None:
    _written(folder / STATES[0], content)
    FitFolder(folder).load("identity")


def _sealed_state(folder: Path, content: bytes) -> None:
    _state(folder, sealed(content))


def _outputs(name: str) -> Place:
    def read(folder: Path, content: bytes) -> None:
        path = str(_written(folder / name, content))
        load_outputs(path, _samples(), key="teachers.one")

    return read


def _arrays(folder: Path, content: bytes) -> None:
    path = _written(folder / "data.npz", content)
    model = {"type": "mlp"}
    teacher = {"name": "one", "model": model, "fit": {"epochs": 1}}
    given = {"teachers": [teacher], "student": {"model": model}}
    prepare(load_config({"data": {"source": {"type": "arrays", "path": str(path)}}, **given}))


def _predict(name: str) -> Place:
    def read(folder: Path, content: bytes) -> None:
        read_new(_about(), _written(folder / name, content))

    return read


def _student_part(name: str) -> Place:
    def read(folder: Path, content: bytes) -> None:
        _written(student(folder) / name, content)
        load_student(folder)

    return read


def _shard(folder: Path, content: bytes) -> None:
    """A shard whose checksum in the manifest is that of the hostile bytes: it is to be read."""
    first, _ = shards(folder)
    _written(folder / KEY.folder / first.file, content)
    path = folder / KEY.folder / "manifest.json"
    manifest = read_json(path)
    manifest["shards"][0]["xxh3"] = xxhash.xxh3_128_hexdigest(content)
    write_json(path, manifest)
    entry = Entry(folder, KEY)
    entry.arrays(entry.shards[0])


def _manifest(folder: Path, content: bytes) -> None:
    shards(folder)
    _written(folder / KEY.folder / "manifest.json", content)
    assert verify_store(folder).problems, "`raykd targets verify` sees it too"
    Entry(folder, KEY)


def _object(folder: Path, content: bytes) -> None:
    """A shard in a bucket, with a record that fits."""
    bucket, mirror = folder / "bucket", folder / "mirror"
    (first, _) = shards(folder / "made")
    hostile = replace(first, xxh3=xxhash.xxh3_128_hexdigest(content))
    _written(bucket / KEY.folder / first.file, content)
    record = {"schema": 2, "key": KEY.to_json(), "shard": hostile.to_json()}
    _written(bucket / KEY.folder / f"{first.file}.json", json.dumps(record).encode())
    Remote(f"file://{bucket}", mirror).pull([KEY])


def _record(folder: Path, content: bytes) -> None:
    bucket = folder / "bucket"
    (first, _) = shards(folder / "made")
    _written(bucket / KEY.folder / f"{first.file}.json", content)
    Remote(f"file://{bucket}", folder / "mirror").pull([KEY])


PLACES: dict[str, Place] = {
    "a fit's state": _state,
    "a fit's state with its checksum": _sealed_state,
    **{f"weights{suffix}": _weights(f"w{suffix}") for suffix in (".pt", ".pth", ".bin", ".safetensors")},
    **{f"a teacher's outputs{s}": _outputs(f"o{s}") for s in (".safetensors", ".csv", ".parquet")},
    "data.npz": _arrays,
    **{f"samples to predict{suffix}": _predict(f"x{suffix}") for suffix in (".npy", ".npz", ".csv")},
    "a student's weights": _student_part(WEIGHTS),
    "a student's description": _student_part(DESCRIPTION),
    "a shard of the target store": _shard,
    "a manifest of the target store": _manifest,
    "an object of a bucket": _object,
    "a record of a bucket": _record,
}  # fmt: skip
"""Every place; each is to raise a RaykdError whatever hostile bytes are there."""
