"""What it costs to read what teachers said: time, bytes, memory.

Shapes: V views, N samples, C classes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from jobs.bench.measuring import Row, Sizes, against, in_turns, paired, rotated, row_of
from jobs.bench.synthetic import Bench, logits, recipe
from raykd.folders import RunFolder
from raykd.targets import (
    EntryKey,
    NoTargets,
    StoredTargets,
    TargetSource,
    TargetStore,
    TeacherKeys,
    Ticket,
)
from raykd.targets.codec import decode, encode, version
from raykd.targets.entries import ORIGINAL, append
from raykd.targets.packing import PLAIN, Packing
from raykd.targets.shards import write_shard
from raykd.types import Batch, Dense, TeacherOutputs

_SHARD_ROWS = 16_384
_SMALL = "step of a few ms"
_STUDENTS = {
    "step of about 80 ms": ({"type": "cnn", "width": 0.34, "depth": 3}, 2),
    _SMALL: ({"type": "mlp", "width": 0.5, "depth": 1}, 8),
}
"""Step of one thread on 256 samples -> (student, epochs, of which the first only warms up)."""
_MEMORY_TEACHERS = 4


def store(sizes: Sizes) -> list[Row]:
    """A gather by row against fancy indexing of a raw memory map; bytes against the payload in fp16."""
    draw, table = np.random.default_rng(0), []
    with TemporaryDirectory() as root:
        rows = np.arange(_SHARD_ROWS)
        full = filled(Path(root) / "full", ["a"], rows, sizes.classes, PLAIN)
        (shard,) = full.entries["a"].shards
        arrays = full.entries["a"].arrays(shard)
        file = Path(root) / "raw"
        arrays["values"].tofile(file)
        raw = np.memmap(file, np.float16, "r", shape=arrays["values"].shape)
        asked = [draw.permutation(_SHARD_ROWS)[: sizes.units] for _ in range(64)]
        turn = iter(range(1 << 30))

        def batch() -> np.ndarray:
            return asked[next(turn) % len(asked)]

        raw_name = "np.memmap, fancy indexing"
        table = in_turns(
            {
                raw_name: lambda: raw[batch()],
                "gather of one teacher": lambda: full.gather_arrays("a", batch(), 0),
                "gather, decoded to float32": lambda: full.gather(batch(), 0),
            },
            sizes.repeats,
        )
        against(table, raw_name)
        table[1]["bar"] = "<= 1.25 (memmap/gather >= 0.8)"
        payload = _SHARD_ROWS * sizes.classes * 2
        whole = full.size_bytes() / payload
        table.append(
            {
                **row_of("store bytes / fp16 payload", "ratio", [whole]),
                "bar": "<= 1.02 at C >= 1000",
            }
        )
        if sizes.classes > 2 * 32:
            packing = Packing(top_k=32, temperatures=(1.0, 4.0))
            top = filled(Path(root) / "top", ["a"], rows, sizes.classes, packing)
            share = full.size_bytes() / top.size_bytes()
            table.append(
                {
                    **row_of("full bytes / top-32 bytes", "ratio", [share]),
                    "bar": ">= 12 at C = 1000",
                }
            )
    return table


def stored(sizes: Sizes) -> list[Row]:
    """An epoch from the store against the same epoch on labels alone, and from a hand-written cache.

    All three are the same loop over the same batches in the same order; store and cache also have the same
    objective. Who comes first changes from repeat to repeat.
    """
    classes, table = min(100, sizes.classes), []
    teacher_infos = [f"t{k}" for k in range(sizes.teachers)]
    for what in _STUDENTS:
        with TemporaryDirectory() as root:
            bench = _bench(Path(root), sizes, classes, what)
            rows = bench.samples.splits["train"]
            read = filled(Path(root) / "store", teacher_infos, rows, classes, PLAIN, bench)
            sources = {
                "labels alone": (NoTargets(), []),
                "stored": (StoredTargets(read), teacher_infos),
                "hand-written cache": (_cache(Path(root), read, rows), teacher_infos),
            }
            found: dict[str, list[float]] = {name: [] for name in sources}
            for repeat in range(sizes.repeats):
                for name in rotated(list(sources), repeat):
                    source, heard = sources[name]
                    fit = f"{name.replace(' ', '_')}/replica{repeat}"
                    found[name].append(bench.epoch_s(fit, source, heard)[0])  # type: ignore[arg-type]
            steps = -(-len(rows) // sizes.units)
            alone_ms = [1000 * s / steps for s in found["labels alone"]]
            table += [
                row_of(f"{what}: labels alone", "ms per step", alone_ms),
                paired(f"{what}: stored / labels alone", found["stored"], found["labels alone"],
                       bar="<= 1.05 where a step takes 50 ms"),
                paired(f"{what}: stored / hand-written cache", found["stored"],
                       found["hand-written cache"], bar="<= 1.05"),
            ]  # fmt: skip
    return table


def memory(sizes: Sizes) -> list[Row]:
    """Anonymous resident memory of a process that trains from a store, less that on labels alone."""
    teacher_infos = [f"t{k}" for k in range(_MEMORY_TEACHERS)]
    found = []
    with TemporaryDirectory() as root:
        bench = _bench(Path(root), sizes, sizes.classes, _SMALL)
        rows = bench.samples.splits["train"]
        whole = filled(Path(root) / "store", teacher_infos, rows, sizes.classes, PLAIN, bench)
        for _ in range(sizes.repeats):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                alone = process.submit(_trained_mb, sizes, Path(root), []).result()
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                found.append(
                    process.submit(_trained_mb, sizes, Path(root), teacher_infos).result() - alone
                )
        gigabytes = whole.size_bytes() / 1e9
    name = f"anonymous memory, stored less labels alone (store of {gigabytes:.2f} GB)"
    return [{**row_of(name, "MB", found), "bar": "<= 200"}]


def _trained_mb(sizes: Sizes, root: Path, teacher_infos: Sequence[str]) -> float:
    """Anonymous memory of this process after an epoch or two, in MB."""
    torch.set_num_threads(1)
    bench = _bench(root, sizes, sizes.classes, _SMALL)
    source: TargetSource = NoTargets()
    if teacher_infos:
        source = StoredTargets(_open(root / "store", teacher_infos, PLAIN, bench))
    bench.epoch_s(f"by{os.getpid()}/replica0", source, teacher_infos)
    return _anonymous_mb()


def _anonymous_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (kilobytes,) = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(kilobytes) / 1000


def _bench(root: Path, sizes: Sizes, classes: int, what: str) -> Bench:
    # No teacher is ever asked: a recipe has to name one.
    teacher = {"name": "t0", "model": {"type": "mlp", "width": 0.1}, "fit": {"epochs": 1}}
    student, epochs = _STUDENTS[what]
    config = recipe(sizes.samples, classes, [teacher], student, sizes.units, epochs)
    return Bench.of(config, RunFolder(root / "run"))


def filled(
    root: Path,
    teachers: Sequence[str],
    rows: np.ndarray,
    classes: int,
    packing: Packing,
    bench: Bench | None = None,
) -> TargetStore:
    """A store of made-up answers for some rows of the data, or for rows of no data at all."""
    ids, hashes = _ids(rows, bench)
    for seed, one in enumerate(_keys(teachers, packing).values()):
        key = one.views
        for start in range(0, len(rows), _SHARD_ROWS):
            part = rows[start : start + _SHARD_ROWS]
            arrays = encode(logits(len(part), classes, seed), {}, "logits", packing)
            held = {"ids": ids[part], "hashes": hashes[part], **arrays}
            append(root, key, [write_shard(root / key.folder, 0, held, key.to_json())])
    return TargetStore.open(root, _keys(teachers, packing), ids, hashes)


def _open(root: Path, teachers: Sequence[str], packing: Packing, bench: Bench) -> TargetStore:
    rows = np.arange(len(bench.samples))
    return TargetStore.open(root, _keys(teachers, packing), *_ids(rows, bench))


def _ids(rows: np.ndarray, bench: Bench | None) -> tuple[np.ndarray, np.ndarray]:
    if bench is None:
        return rows, rows.astype(np.uint64)
    return bench.samples.ids, bench.samples.content_hash(np.arange(len(bench.samples)))


def _keys(teachers: Sequence[str], packing: Packing) -> dict[str, TeacherKeys]:
    """Outputs alone; nobody asks for originals."""
    made = version("logits", packing)
    return {
        n: TeacherKeys(EntryKey(n, "made up", codec=made), EntryKey(n, ORIGINAL)) for n in teachers
    }


@dataclass(frozen=True)
class _HandWritten:
    """The cache that one would write in an afternoon: a memory map for each teacher."""

    logits: Mapping[str, np.ndarray]
    place: np.ndarray
    at_once = True

    def submit(self, batch: Batch) -> Ticket:
        return Ticket(batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> TeacherOutputs:  # noqa: ARG002
        rows = self.place[ticket.batch.rows.numpy()]
        valid = torch.ones(len(rows), dtype=torch.bool)
        values = {n: torch.from_numpy(a[rows].astype(np.float32)) for n, a in self.logits.items()}
        return {n: Dense(kind="logits", values_NC=v, valid_N=valid) for n, v in values.items()}


def _cache(root: Path, read: TargetStore, rows: np.ndarray) -> _HandWritten:
    maps = {}
    for name in read.entries:
        values = decode(read.gather_arrays(name, rows, 0)).values_NC.half().numpy()
        file = root / f"{name}.cache"
        values.tofile(file)
        maps[name] = np.memmap(file, np.float16, "r", shape=values.shape)
    place = np.zeros(int(rows.max()) + 1, np.int64)
    place[rows] = np.arange(len(rows))
    return _HandWritten(maps, place)
