"""A teacher's features that are too large to store: by an actor, and in the student's own process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from jobs.bench.fleets import client_of, fleet_of, fresh, silent
from jobs.bench.measuring import Row, Sizes, paired, rotated, row_of
from jobs.bench.synthetic import Bench
from raykd.config import Config, load_config
from raykd.data import Dataset
from raykd.detection.layout import label_rows
from raykd.folders import RunFolder
from raykd.runtime import connect
from raykd.targets import TargetSource
from raykd.teachers import InProcess, LiveTargets, Spec
from raykd.types import Batch, Dense, LearntOutputs

TAP = "blocks.2"
BYTES = "teacher_bytes_per_sample"
_SIDE = 64
_BATCH = 32
_AHEAD = 2
_TIMEOUT_S = 600
_HALF = 2
"""Bytes of a number of a feature."""
_CPU = torch.device("cpu")


def dense(sizes: Sizes) -> list[Row]:
    """Batches of a detector's answers with one map of its features: time and bytes of either way."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as root, connect(None):
        return _measured(Path(root), sizes)


def _measured(root: Path, sizes: Sizes) -> list[Row]:
    bench = Bench.of(recipe(max(4 * _BATCH, sizes.samples // 16)), RunFolder(root / "run"))
    (name,) = bench.prepared.teachers
    spec = bench.prepared.specs({name: fresh(bench, name)})[name]
    assert isinstance(spec, Spec), "it has a model"
    spec, batches = replace(spec, taps=(TAP,)), _batches(bench)
    times: dict[str, list[float]] = {"actor": [], "inside": []}
    with fleet_of(bench, specs={name: spec}) as fleet:
        live = LiveTargets(client_of(fleet, [name]), [name])
        own = InProcess({name: spec}, {name: _CPU}, bench.samples, silent)
        sources: Mapping[str, Any] = {"actor": live, "inside": own}
        answers = {way: asked(source, batches)[1] for way, source in sources.items()}  # warms up
        for repeat in range(sizes.repeats):
            for way in rotated(list(sources), repeat):
                times[way].append(1000 * asked(sources[way], batches)[0] / len(batches))
    sent = {way: one.describe(one.counters(), 1.0)[BYTES][name] for way, one in sources.items()}
    return table(name, times, answers, sent, len(bench.samples.splits["train"]))


def asked(source: TargetSource, batches: Sequence[Batch]) -> tuple[float, list[LearntOutputs]]:
    """Seconds in which a source that is asked ahead answers all batches, and the answers."""
    begun, waiting, found = time.perf_counter(), [], []
    for batch in batches:
        waiting.append(source.submit(batch))
        if len(waiting) > _AHEAD:
            found.append(source.collect(waiting.pop(0), _TIMEOUT_S))
    found += [source.collect(ticket, _TIMEOUT_S) for ticket in waiting]
    return time.perf_counter() - begun, found


def table(
    name: str,
    times: Mapping[str, Sequence[float]],
    answers: Mapping[str, Sequence[LearntOutputs]],
    sent: Mapping[str, float],
    samples: int,
) -> list[Row]:
    """Time and bytes side by side, and that both say the same.

    Args:
        name: of the teacher.
        times: way -> milliseconds of a batch, of each repeat.
        answers: way -> of each batch.
        sent: way -> bytes of a sample's answer that went from one process to another, as raykd counts them.
        samples: training samples, whose answers a store would have to hold for one view.
    """
    feature = answers["actor"][0][name].features[TAP]
    map_bytes = _HALF * feature[0].numel()
    same = all(_same(*(one[name] for one in pair)) for pair in zip(*answers.values(), strict=True))
    return [
        row_of(f"dense features, by an actor: {_BATCH} images", "ms", times["actor"]),
        row_of("dense features, in the student's process", "ms", times["inside"]),
        paired("dense features, in process / actor", times["inside"], times["actor"], bar="beside"),
        row_of("dense features, by an actor: bytes between processes for an image", "bytes", [sent["actor"]]),
        row_of("dense features, in the student's process: the same", "bytes", [sent["inside"]]),
        row_of("dense features: part of the actor's bytes that is the map", "%", [100 * map_bytes / sent["actor"]]),
        row_of(f"dense features, stored: one view of {samples:,} images", "bytes", [samples * sent["actor"]]),
        {**row_of("dense features: both ways the same bits", "1 is yes", [float(same)]), "bar": "= 1"},
    ]  # fmt: skip


def recipe(samples: int) -> Config:
    """A detector that another one is to learn from, features and all; on noise."""
    source = {
        "type": "factory",
        "path": "jobs.bench.dense_features:dataset",
        "kwargs": {"samples": samples},
    }
    return load_config(
        {
            "task": "detection",
            "data": {"source": source, "views": {"count": 1, "policy": [{"type": "pad_crop"}]}},
            "teachers": [{"name": "t", "model": {"type": "detector", "width": 2.0}, "fit": {}}],
            "student": {"model": {"type": "detector"}},
            "train": {"epochs": 1, "batch_size": _BATCH},
            "cluster": {"teachers": {"batch_size": _BATCH}},
            "tracking": {"wandb": {"mode": "disabled"}},
        }
    )


def dataset(samples: int) -> Dataset:
    """Noise with a box in each image."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (samples, 1, _SIDE, _SIDE), dtype=np.uint8)
    boxes = label_rows([([row % 10], [[8, 8, 24, 30]]) for row in range(samples)])
    return Dataset(pixels, boxes, task="detection", classes=tuple("0123456789"))


def _batches(bench: Bench) -> list[Batch]:
    """Whole batches of view 0."""
    rows = bench.samples.splits["train"]
    return [bench.samples.batch(rows[i : i + _BATCH], 0) for i in range(0, len(rows) - _BATCH + 1, _BATCH)]  # fmt: skip


def _same(one: Any, other: Any) -> bool:
    """Whether two answers are, outputs and features."""
    assert isinstance(one, Dense), "all classes are kept"
    pairs = [(one.values_NC, other.values_NC)]
    pairs += [(feature, other.features[tap]) for tap, feature in one.features.items()]
    return all(a.equal(b) for a, b in pairs)
