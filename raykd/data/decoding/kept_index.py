"""The index of a source of images, kept beside the decoded samples, so that a start with a whole cache opens none of its files.

<cache>/index/<hash>/index.json    what it was made of, and all that is the same for all samples
                     samples.arrow a row for each sample: id, place, columns
                     files.arrow   a row for each file

It counts as long as every folder below the source's path has the time of its last change that it had (a file that is
added, removed or renamed changes it), and every tar shard its size and time. What neither shows is an image that was
written over in place: `raykd data check` makes the index anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from raykd.config.data import Data
from raykd.config.places import cache_root
from raykd.config.sources import FilesSource, ImagesSource, WebdatasetSource
from raykd.data.decoding.layout import File, Index, Layout, Spans, span_parts
from raykd.disks import write_whole
from raykd.folders import read_json, write_json

_FORMAT = 1
_SETTLED_NS = 2 * 10**9
"""A folder that changed less long ago may change again within the same tick of its clock."""
_COLUMN = "column/"
Witness = tuple[str, int, int]
"""A folder or shard, its bytes (0 of a folder), and when it changed."""


def read_index(data: Data, asked: Mapping[str, str]) -> Index | None:
    """The kept index of a source, with its digest; None where there is none, or where it no longer counts.

    Args:
        data: the recipe's `data`.
        asked: columns that samples are to have -> the key that asks for each.
    """
    folder = _folder(data, asked)
    if folder is None:
        return None
    try:
        about = read_json(folder / "index.json")
        if about["format"] != _FORMAT or any(
            _witness(w[0]) != tuple(w) for w in about["witnesses"]
        ):
            return None
        samples, files = (_read(folder / f"{name}.arrow") for name in ("samples", "files"))
        return _index(about, samples, files)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None  # damaged, or made by another version: it is made anew


def keep_index(data: Data, asked: Mapping[str, str], index: Index, digest: str) -> None:
    """Keep the index of a source whose samples are all decoded, where it can be known again."""
    folder = _folder(data, asked)
    if folder is None or index.digest is not None:
        return
    witnesses = _witnesses(data.source, index.files)
    newest = max((changed for _, _, changed in witnesses), default=0)
    if not witnesses or time.time_ns() - newest < _SETTLED_NS:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("samples", _samples_table(index)), ("files", _files_table(index.files))):
        sink = pa.BufferOutputStream()
        with ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        write_whole(folder / f"{name}.arrow", [sink.getvalue().to_pybytes()])
    about = {
        "format": _FORMAT,
        "digest": digest,
        "layout": asdict(index.layout),
        "notes": index.notes,
        "witnesses": witnesses,
    }
    write_json(folder / "index.json", about, durable=True)  # last: without it there is no index


def forget_index(data: Data) -> None:
    """Forget every kept index of a cache, so that the files themselves are looked at again."""
    shutil.rmtree(cache_root(data) / "index", ignore_errors=True)


def _folder(data: Data, asked: Mapping[str, str]) -> Path | None:
    """Where the index of a source is kept; None of a source whose files are few and cheap to look at."""
    source = data.source
    if not isinstance(source, ImagesSource | WebdatasetSource):
        return None
    if isinstance(source, ImagesSource) and not all(
        Path(p).expanduser().is_dir() for p in _paths(source)
    ):
        return None
    decides = [_FORMAT, source.model_dump(mode="json"), sorted(asked), str(Path.cwd())]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]
    return cache_root(data) / "index" / digest


def _paths(source: FilesSource) -> Sequence[str]:
    return (source.path,) if isinstance(source.path, str) else source.path


def _witnesses(source: Any, files: Sequence[File]) -> list[Witness]:
    """What shows that the files are those that they were: their folders, and the shards themselves."""
    folders = {
        base
        for path in _paths(source)
        for base, below, _ in _walk(Path(path).expanduser())
        if below is not None
    }
    if isinstance(source, WebdatasetSource):
        folders |= {str(Path(file.path).parent) for file in files}
        return [_witness(path) for path in [*sorted(folders), *(file.path for file in files)]]
    return [_witness(path) for path in sorted(folders)]


def _walk(folder: Path) -> Any:
    """As of `os.walk`, without hidden folders, as the source's files are listed."""
    for base, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield base, folders, files


def _witness(path: str) -> Witness:
    about = os.stat(path)  # noqa: PTH116 (one call for each folder, and no object)
    return path, 0 if os.path.isdir(path) else about.st_size, about.st_mtime_ns  # noqa: PTH112


def _samples_table(index: Index) -> Any:
    file_N, offset_N, length_N = _spans(index)
    plain = {"id": index.ids, "file": file_N, "offset": offset_N, "length": length_N}
    if index.splits is not None:
        plain["split"] = index.splits
    return pa.table({**plain, **{f"{_COLUMN}{name}": one for name, one in index.columns.items()}})


def _spans(index: Index) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number among `index.files`, offset and length of every sample, int64."""
    numbers = {file.path: number for number, file in enumerate(index.files)}
    spans = [part.place for part in index.parts if isinstance(part.place, Spans)]
    file_N = [[numbers[one.paths[at]] for at in one.file_N] for one in spans]
    return (
        np.concatenate([np.array(one, np.int64) for one in file_N]),
        np.concatenate([one.offset_N for one in spans]),
        np.concatenate([one.length_N for one in spans]),
    )


def _files_table(files: Sequence[File]) -> Any:
    names, paths, sizes, times = zip(*files, strict=True)
    return pa.table({"name": names, "path": paths, "bytes": sizes, "changed_ns": times})


def _read(path: Path) -> Any:
    with pa.memory_map(str(path)) as file:
        return ipc.open_file(file).read_all()


def _index(about: Mapping[str, Any], samples: Any, files: Any) -> Index:
    layout = Layout(**{**about["layout"], "shape": tuple(about["layout"]["shape"]), "words": ()})
    paths = tuple(files["path"].to_pylist())
    file_N, offset_N, length_N = (samples[n].to_numpy() for n in ("file", "offset", "length"))
    listed = zip(
        *(files[n].to_pylist() for n in ("name", "path", "bytes", "changed_ns")), strict=True
    )
    found = Index(
        samples["id"].combine_chunks(),
        tuple(File(*one) for one in listed),
        layout,
        span_parts(Spans(paths, file_N, offset_N, length_N), layout),
        {
            name.removeprefix(_COLUMN): samples[name].combine_chunks()
            for name in samples.column_names
            if name.startswith(_COLUMN)
        },
        splits=samples["split"].combine_chunks() if "split" in samples.column_names else None,
        notes=tuple(about["notes"]),
    )
    return replace(found, digest=str(about["digest"]))
