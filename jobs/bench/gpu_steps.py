"""Images a second of a student's step: from batches on the device, then with one more thing at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from jobs.bench.gpu_recipes import CLASSES, TAP, Result, Smoke
from jobs.bench.stored_targets import filled
from jobs.bench.synthetic import AtHand, logits
from raykd.data import Samples
from raykd.folders import RunFolder
from raykd.targets import StoredTargets, TargetSource
from raykd.targets.packing import PLAIN
from raykd.tracking import Event
from raykd.train import Fit, FolderReporter, World
from raykd.train.feed import Block, Feed
from raykd.train.loop import Trainer, never
from raykd.train.stream import BatchStream, RowStream

TEACHER = "t0"
_OF_ONE_VIEW = {"count": 1, "policy": [{"type": "pad_crop", "padding": 4}, {"type": "flip"}]}


class Replayed(RowStream):
    """The blocks of one epoch, which lie on the device; or whose inputs lie in pinned memory, and are copied each time."""

    def __init__(self, feed: Feed, epochs: int, device: torch.device, *, copies: bool) -> None:
        super().__init__(feed, epochs)
        self._device, self._copies = device, copies
        self._kept = [self._moved(b, self._home) if copies else b for b in feed.blocks(0, 0, 1)]

    def batches(self, epoch: int, step: int) -> Iterator[Block]:  # noqa: ARG002
        """The same ones, whatever the epoch."""
        assert not step, "nobody resumes a benchmark"
        for block in self._kept:
            yield self._moved(block, self._there) if self._copies else block

    def _home(self, tensor: torch.Tensor) -> torch.Tensor:
        on_host = tensor.cpu()
        return on_host.pin_memory() if self._device.type == "cuda" else on_host

    def _there(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._device, non_blocking=True)

    @staticmethod
    def _moved(block: Block, move: Callable[[torch.Tensor], torch.Tensor]) -> Block:
        lessons = [
            replace(
                lesson,
                batch=replace(
                    lesson.batch, inputs={n: move(x) for n, x in lesson.batch.inputs.items()}
                ),
            )
            for lesson in block.lessons
        ]
        return replace(block, lessons=lessons)


@dataclass(frozen=True)
class _Way:
    """One way to train: what, and where batches come from."""

    fit: Fit
    samples: Samples
    source: TargetSource
    stream: Callable[[Trainer], BatchStream] | None = None


def step_rates(smoke: Smoke) -> list[Result]:
    """Images a second of each way, and its ratio to batches that are on the device already."""
    with TemporaryDirectory() as root:
        ways = _ways(smoke, Path(root))
        found: dict[str, list[float]] = {name: [] for name in ways}
        for repeat in range(smoke.repeats):
            for name, way in ways.items():
                folder = RunFolder(Path(root) / f"{name}-{repeat}".replace(" ", "_"))
                found[name].append(_rate(smoke.device, way, folder))
    rates = {name: median(values) for name, values in found.items()}
    base = rates.pop("synthetic")
    results = [Result("student step: synthetic", base, "images/s")]
    for name, rate in rates.items():
        results.append(Result(f"student step: {name}", rate, "images/s"))
        least = {"+ stored targets": 0.95}.get(name)
        ratio = f"student step: {name} / synthetic"
        results.append(
            Result(ratio, rate / base, "ratio") if least is None else smoke.fast(ratio, rate / base, least)
        )  # fmt: skip
    return results


def _ways(smoke: Smoke, root: Path) -> dict[str, _Way]:
    """Name -> way; each has what the one before it has, but for the last two."""
    bench = smoke.bench(root)  # a new view in each epoch
    once = smoke.bench(root, data={**_data(smoke), "views": _OF_ONE_VIEW})
    fit, rows = bench.fit("plain", [TEACHER]), bench.samples.splits["train"]
    at_hand = AtHand({TEACHER: logits(len(bench.samples), CLASSES, 0)})
    store = filled(root / "store", [TEACHER], rows, CLASSES, PLAIN, once)

    def replayed(*, copies: bool) -> Callable[[Trainer], BatchStream]:
        return lambda trainer: Replayed(trainer.feed, trainer.fit.epochs, smoke.device, copies=copies)  # fmt: skip

    ways = {
        "synthetic": _Way(fit, bench.samples, at_hand, replayed(copies=False)),
        "+ copy": _Way(fit, bench.samples, at_hand, replayed(copies=True)),
        "+ views": _Way(fit, bench.samples, at_hand),
        "+ stored targets": _Way(once.fit("stored", [TEACHER]), once.samples, StoredTargets(store)),
    }
    if (
        smoke.on_gpu
    ):  # on a CPU what torch 2.13 compiles of this student's backward pass corrupts memory
        compiled = replace(fit, training=fit.training.model_copy(update={"compile": True}))
        ways["synthetic, compiled"] = _Way(compiled, bench.samples, at_hand, replayed(copies=False))
    term = {
        "loss": {"type": "attention"},
        "teacher": TEACHER,
        "student_tap": TAP,
        "teacher_tap": TAP,
    }
    tapped = smoke.bench(root, objective={"features": [term]})
    shape = tapped.prepared.teacher_shapes[TEACHER, TAP]
    shapes: dict[str, Any] = {
        "student_shapes": tapped.prepared.student_shapes,
        "teacher_shapes": tapped.prepared.teacher_shapes,
    }
    few = AtHand(at_hand.said, {TAP: torch.randn(1, *shape).expand(len(tapped.samples), *shape)})
    own = replace(tapped.fit("tapped", [TEACHER]), **shapes)
    ways["synthetic, with a tap"] = _Way(own, tapped.samples, few, replayed(copies=False))
    return ways


def _data(smoke: Smoke) -> dict[str, Any]:
    data: dict[str, Any] = smoke.recipe().model_dump(mode="json")["data"]
    return data


def _rate(device: torch.device, way: _Way, folder: RunFolder) -> float:
    """Median images a second of a fit's epochs after the first."""
    heard: list[Event] = []
    reporter = FolderReporter(folder, heard.append)
    trainer = Trainer(
        way.fit, way.samples, way.source, reporter, World(device=device),
        depth=2, leaving=never,
    )  # fmt: skip
    if way.stream is not None:
        trainer.stream = way.stream(trainer)
    trainer.run()
    return median(float(e.values["samples_per_s"]) for e in heard if e.kind == "epoch" and e.epoch != 1)  # fmt: skip
