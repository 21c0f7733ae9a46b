"""What a run over very many samples costs before its first step, and what each of its processes holds.

The samples are made up, eight bytes each, in a file as decoded ones are; one teacher, one view. Every part is measured
in a process of its own, and the largest memory that it ever held, pages of files included, is what it reports.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

import numpy as np

from jobs.bench.measuring import Row, Sizes, row_of
from raykd.config.data import Data
from raykd.data.dataset import Dataset
from raykd.data.mapped import open_mapped
from raykd.data.samples import samples_of
from raykd.pipeline.loading import fingerprints
from raykd.targets import EntryKey, TargetStore, TeacherKeys
from raykd.targets.entries import Entry, append
from raykd.targets.shards import SHARD_ROWS, write_shard
from raykd.train.plan import Plan

_KEY = EntryKey("made-up", "one view")
_WIDTH, _CLASSES, _BATCH = 8, 4, 256
_STATUS = Path("/proc/self/status")
_BATCHES = 200
R = TypeVar("R")


class _Cost(NamedTuple):
    """Of one process.

    Attributes:
        seconds: of what is measured.
        peak_gb: the most memory that it held, pages of mapped files included.
        own_gb: what it holds at the end that no other process shares.
    """

    seconds: float
    peak_gb: float
    own_gb: float


def scale(sizes: Sizes) -> list[Row]:
    """Start, memory and batches of a fit on very many samples."""
    with TemporaryDirectory() as root:
        folder = Path(root)
        _alone(_write_inputs, folder, sizes.rows)
        driver = _alone(_start, folder, sizes.rows)
        _alone(_write_answers, folder, sizes.rows)
        lacking = _alone(_look_up, folder, sizes.rows)
        first, other = (_alone(_read, folder, sizes.rows) for _ in range(2))
        batches_ms = _alone(_batches, folder, sizes.rows)
        gathers_ms = _alone(_gathers, folder, sizes.rows)
    start_s = driver.seconds + lacking.seconds + first.seconds
    costs = {
        "samples, splits, hashes, fingerprint": driver,
        "what the store lacks": lacking,
        "first process that reads": first,
        "another process that reads": other,
    }
    table = [
        {**row_of("start, all together", "s", [start_s]), "bar": "<= 30"},
        *(row_of(name, "s", [one.seconds]) for name, one in costs.items()),
        *({**row_of(f"{name}: most", "GB", [one.peak_gb]), "bar": "<= 1"} for name, one in costs.items()),
        *(row_of(f"{name}: own at the end", "GB", [one.own_gb]) for name, one in costs.items()),
        {**row_of("Plan.batch", "ms", batches_ms), "bar": "< 1"},
        row_of("gather of a batch from all shards", "ms", gathers_ms),
    ]  # fmt: skip
    for row in table:
        row["samples"] = f"{sizes.rows:,}"
    return table


def _alone(call: Callable[[Path, int], R], folder: Path, rows: int) -> R:
    """What a call gives in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(call, folder, rows).result()


def _since(begun_s: float) -> _Cost:
    peak_gb, own_gb = (_held_gb(name) for name in ("VmHWM", "RssAnon"))
    return _Cost(time.perf_counter() - begun_s, peak_gb, own_gb)


def _held_gb(name: str) -> float:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e9


def _write_inputs(folder: Path, rows: int) -> None:
    draw = np.random.default_rng(0)
    draw.integers(0, 256, (rows, _WIDTH), dtype=np.uint8).tofile(folder / "inputs")


def _start(folder: Path, rows: int) -> _Cost:
    """The driver's work up to the fingerprint; what other processes get of it is kept in files."""
    labels = np.random.default_rng(1).integers(0, 100, rows)
    begun_s = time.perf_counter()
    inputs = open_mapped(folder / "inputs", "|u1", (rows, _WIDTH))
    data = Data.model_validate({"source": {"type": "digits"}})  # splits and views; not looked at
    samples = samples_of(Dataset(inputs=inputs, labels=labels), data, seed=0).hashed()
    fingerprints(samples)
    cost = _since(begun_s)
    kept = {"ids": samples.ids, "hashes": samples.content_hashes, "train": samples.splits["train"]}
    for name, array in kept.items():
        np.save(folder / f"{name}.npy", array)
    return cost


def _kept(folder: Path, *names: str) -> Sequence[np.ndarray]:
    """Arrays that all processes of a node share, as those in Ray's object store."""
    return [np.load(folder / f"{name}.npy", mmap_mode="r") for name in names]


def _write_answers(folder: Path, rows: int) -> None:  # noqa: ARG001 - as the others
    ids, hashes, train = _kept(folder, "ids", "hashes", "train")
    values = np.zeros((SHARD_ROWS, _CLASSES), np.float16)
    shards = []
    for start in range(0, len(train), SHARD_ROWS):
        part = train[start : start + SHARD_ROWS]
        arrays = {"ids": ids[part], "hashes": hashes[part], "values": values[: len(part)]}
        shards.append(write_shard(folder / _KEY.folder, 0, arrays, _KEY.to_json()))
    append(folder, _KEY, shards)


def _look_up(folder: Path, rows: int) -> _Cost:  # noqa: ARG001
    begun_s = time.perf_counter()
    ids, hashes, train = _kept(folder, "ids", "hashes", "train")
    lacking = Entry(folder, _KEY).missing(ids[train], hashes[train], 0)
    assert not len(lacking), "every training sample was answered"
    return _since(begun_s)


def _opened(folder: Path) -> tuple[TargetStore, np.ndarray]:
    ids, hashes, train = _kept(folder, "ids", "hashes", "train")
    return TargetStore.open(folder, {"a": TeacherKeys(_KEY, _KEY)}, ids, hashes), train


def _read(folder: Path, rows: int) -> _Cost:  # noqa: ARG001
    """A process of a student, up to its first batch."""
    begun_s = time.perf_counter()
    store, train = _opened(folder)
    store.gather_arrays("a", _plan(train).batch(0, 0)[0], 0)
    return _since(begun_s)


def _plan(train: np.ndarray) -> Plan:
    return Plan(train, epoch_rows=len(train), batch_size=_BATCH, seed=0, views=1)


def _batches(folder: Path, rows: int) -> list[float]:  # noqa: ARG001
    (train,) = _kept(folder, "train")
    plan = _plan(np.array(train))
    return _repeats_ms(lambda step: plan.batch(0, step))


def _gathers(folder: Path, rows: int) -> list[float]:  # noqa: ARG001
    store, train = _opened(folder)
    plan = _plan(train)
    asked = [plan.batch(0, step)[0] for step in range(_BATCHES)]
    return _repeats_ms(lambda step: store.gather_arrays("a", asked[step], 0))


def _repeats_ms(call: Callable[[int], object]) -> list[float]:
    """Five medians, each of a fifth of the steps, after one step that warms up."""
    call(0)
    times_ms = []
    for step in range(_BATCHES):
        begun_s = time.perf_counter()
        call(step)
        times_ms.append(1000 * (time.perf_counter() - begun_s))
    fifth = _BATCHES // 5
    return [median(times_ms[start : start + fifth]) for start in range(0, _BATCHES, fifth)]
