"""The same small data as an array in memory and as every kind of source of files."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from PIL import Image

COUNT, SIDE, CLASSES = 90, 8, ("cat", "dog", "eel")


def pixels(count: int = COUNT) -> np.ndarray:
    """uint8 [N, 3, H, W], brighter from class to class."""
    noise = np.random.default_rng(1).integers(0, 150, (count, 3, SIDE, SIDE), dtype=np.uint8)
    return noise + (50 * labels(count)).astype(np.uint8)[:, None, None, None]


def labels(count: int = COUNT) -> np.ndarray:
    return np.arange(count) % len(CLASSES)


def png(image_CHW: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_CHW.transpose(1, 2, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def write_images(root: Path, count: int = COUNT) -> dict[str, Any]:
    """A folder for each class; the order of names is that of the rows."""
    found = {"type": "images", "path": str(root / "images")}
    for row, (image, label) in enumerate(zip(pixels(count), labels(count), strict=True)):
        file = root / "images" / CLASSES[label] / f"{row:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(image))
    return found


def image_order(count: int = COUNT) -> tuple[np.ndarray, list[str]]:
    """Rows in the order of the images' names, and the names."""
    names = [f"{CLASSES[label]}/{row:04d}.png" for row, label in enumerate(labels(count))]
    order = np.argsort(names)
    return order, [names[row] for row in order]


def write_shards(root: Path, count: int = COUNT) -> dict[str, Any]:
    root.mkdir(parents=True, exist_ok=True)
    for shard, rows in enumerate(np.array_split(np.arange(count), 3)):
        with tarfile.open(root / f"{shard}.tar", "w") as tar:
            for row in rows:
                for suffix, payload in {
                    "png": png(pixels(count)[row]),
                    "cls": str(labels(count)[row]).encode(),
                    "json": json.dumps({"who": f"p{row % 7}"}).encode(),
                }.items():
                    member = tarfile.TarInfo(f"s/{row:04d}.{suffix}")
                    member.size = len(payload)
                    tar.addfile(member, io.BytesIO(payload))
    return {"type": "webdataset", "path": str(root / "*.tar")}


def shard_ids(count: int = COUNT) -> list[str]:
    shards = np.array_split(np.arange(count), 3)
    return [f"{shard}.tar/s/{row:04d}" for shard, rows in enumerate(shards) for row in rows]


def table(columns: dict[str, Any], count: int = COUNT) -> pa.Table:
    return pa.table({"id": np.arange(count) * 3 + 1, "label": labels(count), **columns})


def write_parquet(root: Path, columns: dict[str, Any], count: int = COUNT) -> None:
    """Two files of several row groups each."""
    root.mkdir(parents=True, exist_ok=True)
    whole, half = table(columns, count), count // 2
    pq.write_table(whole.slice(0, half), root / "a.parquet", row_group_size=20)
    pq.write_table(whole.slice(half), root / "b.parquet", row_group_size=7)


def encoded(count: int = COUNT) -> list[bytes]:
    return [png(image) for image in pixels(count)]


def write_saved(root: Path) -> dict[str, Any]:
    """What `DatasetDict.save_to_disk` of Hugging Face leaves: streams, features in their schema."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": CLASSES}}
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    images = [{"bytes": one, "path": None} for one in encoded()]
    whole = pa.table({"image": images, "label": labels()}).replace_schema_metadata(about)
    for name, start in (("train", 0), ("test", 60)):
        folder = root / name
        folder.mkdir(parents=True)
        with pa.ipc.new_stream(folder / "data-0.arrow", whole.schema) as stream:
            stream.write_table(whole.slice(start, 60 if start == 0 else None), max_chunksize=25)
        state = {"_data_files": [{"filename": "data-0.arrow"}]}
        (folder / "state.json").write_text(json.dumps(state))
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return {"type": "hf", "path": str(root)}


def saved_ids() -> list[str]:
    return [f"train/data-0.arrow#{row}" for row in range(60)] + [
        f"test/data-0.arrow#{row}" for row in range(30)
    ]


Write = Callable[[Path], dict[str, Any]]


def _parquet(columns: Callable[[], dict[str, Any]], inputs: Any) -> Write:
    def write(root: Path) -> dict[str, Any]:
        write_parquet(root, columns())
        return {
            "type": "parquet",
            "path": str(root),
            "inputs": inputs,
            "id": "id",
            "label": "label",
        }

    return write


def write_csv(root: Path) -> dict[str, Any]:
    """Two files, whose columns of numbers are the inputs."""
    root.mkdir(parents=True, exist_ok=True)
    whole = table({f"x{column}": floats()[:, column] for column in range(5)})
    half = COUNT // 2
    for name, part in (("a.csv", whole.slice(0, half)), ("b.csv", whole.slice(half))):
        pa_csv.write_csv(part, root / name)
    return {"type": "csv", "path": str(root), "id": "id", "label": "label"}


def floats(width: int = 5) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(COUNT, width)).astype(np.float32)


def _tensors() -> dict[str, Any]:
    kind = pa.fixed_shape_tensor(pa.uint8(), (3, SIDE, SIDE))
    storage = pa.FixedSizeListArray.from_arrays(pa.array(pixels().reshape(-1)), 3 * SIDE * SIDE)
    return {"x": pa.ExtensionArray.from_storage(kind, storage)}


SOURCES: dict[str, Write] = {
    "images": write_images,
    "webdataset": write_shards,
    "hf": write_saved,
    "parquet of images": _parquet(lambda: {"x": encoded()}, "x"),
    "parquet of lists": _parquet(lambda: {"x": floats().tolist()}, "x"),
    "parquet of columns": _parquet(
        lambda: {f"x{column}": floats()[:, column] for column in range(5)},
        [f"x{i}" for i in range(5)],
    ),
    "parquet of tensors": _parquet(_tensors, "x"),
    "csv of columns": write_csv,
}


def in_memory(kind: str) -> dict[str, Any]:
    """Arrays of an `.npz` with the same samples, ids, labels and parts."""
    numbers = kind in ("parquet of lists", "parquet of columns", "csv of columns")
    order, ids = np.arange(COUNT), np.arange(COUNT) * 3 + 1
    extra: dict[str, Any] = {}
    if kind == "images":
        order, ids = image_order()
    if kind == "webdataset":
        ids = np.array(shard_ids())
    if kind == "hf":
        ids = np.array(saved_ids())
        extra["splits"] = np.array(["train"] * 60 + ["test"] * 30)
    if kind in ("images", "hf"):
        extra["classes"] = np.array(CLASSES)
    inputs = floats() if numbers else pixels()
    return {"inputs": inputs[order], "labels": labels()[order], "ids": np.array(ids), **extra}
