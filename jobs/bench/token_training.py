"""How much memory it takes to train a student of a large vocabulary from few classes of its teachers.

A whole fit in a process of its own: chunks are fed, three teachers of 64 classes each are mixed, the student is updated
and validated. Only the teachers' answers are made up.

Shapes: N units, K classes kept.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from jobs.bench.few_classes import memory_mb
from jobs.bench.measuring import Row, Sizes, paired, row_of
from raykd.config.data import Data, Preprocess
from raykd.config.models import GruLmModel
from raykd.config.objective import Objective
from raykd.config.training import Training
from raykd.data import Samples
from raykd.data.chunks import Vocabulary
from raykd.data.samples import build_samples
from raykd.folders import RunFolder
from raykd.models.preprocess import preprocessing_for
from raykd.objective import TeacherInfo
from raykd.targets import Ticket
from raykd.top_k import from_logits
from raykd.train import Fit, FolderReporter, Plan, World
from raykd.train.loop import Trainer
from raykd.types import CHUNKS, Batch, TopK

_CLASSES, _KEPT, _LENGTH, _STEPS, _VALIDATED = 50_000, 64, 65, 3, 16
_TEACHERS = ("one", "two", "three")
_IN_CHUNKS, _WHOLE = "in chunks", "all logits"


@dataclass(frozen=True)
class _Wide:
    """A tokenizer of so many tokens of one byte each, for ids that are made up."""

    count: int
    content: str = ""
    name: str = "wide"
    fingerprint: str = "wide"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of one byte each."""
        return (1,) * self.count

    def ids(self, text: bytes) -> np.ndarray:
        """The bytes themselves."""
        return np.frombuffer(text, np.uint8).astype(np.int64)

    def text(self, ids: object) -> bytes:
        """Nothing: the ids stand for no text."""
        del ids
        return b""


class _Few:
    """Answers of three teachers over few classes, made up by the batch's size alone."""

    at_once = True

    def __init__(self, classes: int, kept: int) -> None:
        self.classes, self.kept = classes, kept

    def submit(self, batch: Batch) -> Ticket:
        """Asks for a batch."""
        return Ticket(batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> Mapping[str, TopK]:
        """What the teachers say of it."""
        del timeout_s
        return {name: self._answer(ticket.batch, seed) for seed, name in enumerate(_TEACHERS)}

    def _answer(self, batch: Batch, seed: int) -> TopK:
        generator, units = torch.Generator().manual_seed(seed), len(batch.labels)
        first_N1 = torch.randint(0, self.classes - self.kept, (units, 1), generator=generator)
        kept_NK = 3 * torch.randn(units, self.kept, generator=generator)
        kept_NK = kept_NK.sort(dim=1, descending=True).values
        tails = {1.0: torch.zeros(units)}
        return from_logits(kept_NK, first_N1 + torch.arange(self.kept), tails, self.classes)


def token_training(sizes: Sizes) -> list[Row]:
    """Seconds of an update, and the most memory that three updates and their validation hold beyond what was there."""
    found: dict[str, list[tuple[float, float]]] = {_IN_CHUNKS: [], _WHOLE: []}
    for repeat in range(sizes.repeats):
        for name in list(found) if repeat % 2 == 0 else list(reversed(found)):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                found[name].append(process.submit(_fit, sizes, name == _IN_CHUNKS).result())
    times, peaks = (
        {name: [one[place] for one in values] for name, values in found.items()} for place in (0, 1)
    )
    logits = sizes.tokens * min(_CLASSES, sizes.vocabulary) * 4 / 1e6
    return [
        paired(f"update of {sizes.tokens} tokens, in chunks / all logits", times[_IN_CHUNKS], times[_WHOLE],
               bar="<= 1.4"),
        *({**row_of(f"peak memory of a fit, {name}", "MB", peak), "bar": f"one model's logits are {logits:.0f} MB"}
          for name, peak in peaks.items()),
    ]  # fmt: skip


def _fit(sizes: Sizes, in_chunks: bool) -> tuple[float, float]:
    """Seconds of an update and peak memory (MB above what is held before) of a fit in this process."""
    torch.set_num_threads(1)
    classes = min(_CLASSES, sizes.vocabulary)
    batch_size = max(1, sizes.tokens // (_LENGTH - 1))
    with tempfile.TemporaryDirectory() as folder:
        samples = _samples(Path(folder), classes, batch_size * _STEPS)
        fit = _of(samples, batch_size)
        reporter = FolderReporter(RunFolder(Path(folder) / "run"), lambda _: None)
        source, world = _Few(classes, min(_KEPT, classes // 2)), World()
        trainer = Trainer(fit, samples, source, reporter, world, depth=2, leaving=lambda: False)
        if not in_chunks:
            trainer.module.make_whole()
        before_mb, begun = memory_mb(reset=True), time.perf_counter()
        trainer.run()
        return (time.perf_counter() - begun) / _STEPS, memory_mb() - before_mb


def _samples(folder: Path, classes: int, train_chunks: int) -> Samples:
    """Chunks of 65 ids that are made up, 64 of which are predicted."""
    chunks = train_chunks + 2 * _VALIDATED
    path = folder / "texts.csv"
    rows = [f"{n},{'a' if n % 2 else 'b'},{n:08d}{'x' * (_LENGTH - 8)}" for n in range(chunks)]
    path.write_text("\n".join(["id,domain,text", *rows]) + "\n", encoding="utf-8")
    source = {"type": "csv", "path": str(path), "text": "text", "label": "domain", "id": "id"}
    splits = {"validation": _VALIDATED, "test": _VALIDATED}
    data = {"source": source, "splits": splits, "tokens": {"length": _LENGTH}}
    samples = build_samples(Data.model_validate(data), seed=0, task="language")
    tokens = samples.inputs[CHUNKS].copy()
    tokens[:, 0] = np.random.default_rng(0).integers(0, classes, tokens[:, 0].shape)
    vocabulary = Vocabulary(_Wide(classes), _LENGTH)
    return replace(samples, inputs={CHUNKS: tokens}, vocabulary=vocabulary, hashes=None)


def _of(samples: Samples, batch_size: int) -> Fit:
    rows = samples.splits["train"]
    given = {"epochs": 1, "batch_size": batch_size, "optimizer": {"type": "adamw", "lr": 0.01}}
    objective = {"labels": {"weight": 0.0}, "soft_targets": {"temperature": 1.0, "weight": 1.0}}
    return Fit(
        fit_id="student/replica0",
        stage="student",
        key="student.model",
        model=GruLmModel(),
        preprocessing=preprocessing_for(Preprocess(), samples, key="student"),
        weights=None,
        objective=Objective.model_validate({**objective, "weighting": {"type": "bayesian"}}),
        teacher_infos=tuple(map(TeacherInfo, _TEACHERS)),
        student_shapes={},
        teacher_shapes={},
        training=Training.model_validate(given),
        plan=Plan(rows=rows, epoch_rows=len(rows), batch_size=batch_size, seed=0, views=0),
        seed=0,
        labels="budget",
        data="made up",
    )
