"""What updates train on: batches and what teachers say of them, made for many steps at once.

Where answers are at hand, a block of steps is gathered, transformed, prepared and decoded as one large batch, and
taken apart again: each sample's numbers are the same bits in any batch. Where teachers are asked live, a block is one
step, and the next ones are asked for and made ready while the student computes.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from raykd.data import Samples, gathering
from raykd.objective import Context
from raykd.objective.schedules import strengths_at
from raykd.objective.settled import EnsembleTarget, SettledUnits
from raykd.seeding import derive
from raykd.targets import TargetSource, Ticket
from raykd.train.aside import made_aside, streams_of, taken
from raykd.train.fit import Fit
from raykd.train.mixed_batches import MixedBatches, Round
from raykd.train.plan import split
from raykd.train.step import DistillModule, Lesson
from raykd.train.world import World
from raykd.types import Batch, LearntOutputs, Mixed, Output, on_units

ANSWER_TIMEOUT_S = 3600.0
"""Bound on one answer of a whole fleet; each request inside has its own, shorter one."""
MOST_STEPS = 32
_BLOCK_BYTES = 32 * 2**20
"""Of prepared inputs and of teachers' outputs in one block."""
_KEPT_BYTES = 256 * 2**20
"""Of ensemble targets that are kept from one epoch for the next."""
_FEW_STEPS = 4
"""Blocks of fewer steps are large inputs: it pays to make them in a thread of their own."""

_SEVERAL = None
"""Key of a batch that shows several views, or blends samples."""

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """Some steps in a row.

    Attributes:
        lessons: one for each step.
        samples: that each step trains on.
        units: of all of them, with what is made beforehand; None where the objective is not settled.
        answer_s: time that teachers were waited for.
    """

    lessons: Sequence[Lesson]
    samples: Sequence[int]
    units: SettledUnits | None
    answer_s: float


class Feed:
    """Makes the blocks of a fit.

    Args:
        fit: what is trained.
        samples: the data.
        source: where teachers' answers come from.
        module: student and objective.
        world: this worker and the others.
        depth: batches asked for ahead, where teachers are asked live.
    """

    def __init__(
        self,
        fit: Fit,
        samples: Samples,
        source: TargetSource,
        module: DistillModule,
        world: World,
        *,
        depth: int,
    ) -> None:
        self._fit, self._samples, self._source, self._world = fit, samples, source, world
        self._network, self._objective = module.network, module.objective
        self._depth = depth
        self._at_once = getattr(source, "at_once", False)
        self._kept = KeptTargets(fit.plan.rows)
        self._mixed: MixedBatches | None = None
        self._streams = streams_of(world.device)

    def blocks(
        self, epoch: int, step: int, until: int | None = None, now: Round | None = None
    ) -> Iterator[Block]:
        """All blocks from a step on, each within one epoch.

        Args:
            epoch: of the first step.
            step: the first one.
            until: the epoch that is not made any more; None = the end of training.
            now: what the student has written, of which a part of each batch is; None: all is the pool's.
        """
        epochs = range(epoch, self._fit.epochs if until is None else until)
        self._mixed = None
        if now is not None:
            self._mixed = MixedBatches(self._fit, self._samples, self._source, now)
        if not self._at_once:
            return self._ahead(self._asked(epochs, step))
        blocks = self._gathered(epochs, step)
        light = self._together >= _FEW_STEPS and self._world.device.type == "cpu"
        return blocks if light else self._ahead(blocks)

    def _ahead(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """The same blocks, made in a thread, and on a GPU in a stream beside that of the student's steps."""
        self._streams.follow()  # of what is on the device by now, such as teachers
        return taken(prefetch(made_aside(blocks, self._streams)), self._streams)

    @property
    def _together(self) -> int:
        """Steps that are made as one batch; those of which the student has written a part one by one."""
        return 1 if self._mixed is not None else self._steps_at_once

    @cached_property
    def _steps_at_once(self) -> int:
        rows = -(-self._fit.plan.batch_size // self._world.workers)
        numbers = sum(math.prod(array.shape[1:]) for array in self._samples.inputs.values())
        if len(self._samples.inputs) == 1:
            prepared = self._fit.preprocessing.output_shape(self._samples.input_shape)
            numbers = max(numbers, math.prod(prepared))
        shapes = self._fit.teacher_shapes.values() if self._fit.teacher_infos else ()
        units = 1 if self._samples.vocabulary is None else self._samples.vocabulary.length
        numbers += units * sum(math.prod(shape) for shape in shapes)
        return max(1, min(MOST_STEPS, _BLOCK_BYTES // (4 * rows * numbers)))

    def _gathered(self, epochs: range, step: int) -> Iterator[Block]:
        for steps in self._runs(epochs, step):
            ticket, sizes = self._submit(steps)
            yield self._block(ticket, steps, sizes)

    def _submit(self, steps: Sequence[tuple[int, int]]) -> tuple[Ticket, list[int]]:
        """Some steps as one batch that is asked for, and how many samples each of them has."""
        if self._mixed is not None:
            ticket = self._mixed.submit(*steps[0])
            return ticket, [len(ticket.batch)]
        batch, sizes = self._batch(steps)
        return self._source.submit(batch), sizes

    def _runs(self, epochs: range, step: int) -> Iterator[list[tuple[int, int]]]:
        """(epoch, step) of each block: as many as go together, of one epoch and one temperature."""
        most = self._together
        for number in epochs:
            first = step if number == epochs.start else 0
            run: list[tuple[int, int]] = []
            for one in range(first, self._fit.plan.steps_per_epoch):
                changes = run and self._temperature(*run[0]) != self._temperature(number, one)
                if changes or len(run) == most:
                    yield run
                    run = []
                run.append((number, one))
            if run:
                yield run

    def _asked(self, epochs: range, step: int) -> Iterator[Block]:
        """Blocks of one step, `depth` of them asked for ahead, across epochs."""
        waiting: deque[tuple[Ticket, tuple[int, int]]] = deque()
        for number in epochs:
            first = step if number == epochs.start else 0
            for one in range(first, self._fit.plan.steps_per_epoch):
                waiting.append((self._submit([(number, one)])[0], (number, one)))
                if len(waiting) > self._depth:
                    yield self._answered(*waiting.popleft())
        while waiting:
            yield self._answered(*waiting.popleft())

    def _answered(self, ticket: Ticket, step: tuple[int, int]) -> Block:
        return self._block(ticket, [step], [len(ticket.batch)])

    def _batch(self, steps: Sequence[tuple[int, int]]) -> tuple[Batch, list[int]]:
        """This worker's part of some steps as one batch, and how many samples each of them has."""
        rows, views, present = [], [], []
        for epoch, step in steps:
            rows_B, view_B = self._fit.plan.batch(epoch, step)
            mine, there = split(rows_B, self._world.rank, self._world.workers)
            rows.append(rows_B[mine])
            views.append(view_B[mine])
            present.append(there)
        batch = self._samples.batch(
            np.concatenate(rows),
            np.concatenate(views),
            labels=self._fit.labels,
            present=np.concatenate(present),
            device=self._world.device,
        )
        return batch, [len(part) for part in rows]

    def _block(
        self, ticket: Ticket, steps: Sequence[tuple[int, int]], sizes: Sequence[int]
    ) -> Block:
        batch, begun = ticket.batch, time.monotonic()
        temperature = self._temperature(*steps[0])
        kept = self._kept.get(batch, temperature) if self._objective.settles else None
        targets: LearntOutputs = {}
        if kept is None or self._fit.objective.features:
            source = self._source if self._mixed is None else self._mixed
            targets = source.collect(ticket, ANSWER_TIMEOUT_S)
        answer_s = time.monotonic() - begun
        device = self._world.device
        present = [int(part.sum()) for part in batch.present_B.split(list(sizes))]
        batch = batch.to(device)
        batch = replace(batch, inputs=self._network.prepare(batch.inputs))
        targets = {name: moved(answer, device) for name, answer in targets.items()}
        units = None
        if self._objective.settles:
            units = self._settled(batch, targets, kept, temperature)
            if not self._fit.objective.features:
                targets = {}
        answered = _answers(targets, sizes, batch.units_of(sizes))
        parts = zip(parts_of(batch, sizes), answered, steps, strict=True)
        return Block(
            lessons=[
                Lesson(batch=part, targets=answers, context=self._context(*step))
                for part, answers, step in parts
            ],
            samples=present,
            units=units,
            answer_s=answer_s,
        )

    def _settled(
        self,
        batch: Batch,
        targets: LearntOutputs,
        kept: EnsembleTarget | None,
        temperature: float,
    ) -> SettledUnits:
        ensemble = kept
        if ensemble is None and targets:
            ensemble = self._objective.settle(batch, targets, temperature, self._dtype)
            if ensemble is not None and self._at_once:
                self._kept.put(batch, temperature, ensemble)
        outputs = self._fit.outputs or self._samples.class_count
        return self._objective.settled_units(batch, ensemble, outputs, self._dtype)

    @cached_property
    def _dtype(self) -> torch.dtype:
        """Of the student's outputs, as losses are computed from them."""
        dtypes = (p.dtype for p in self._network.parameters() if p.is_floating_point())
        return next((dtype for dtype in dtypes if dtype.itemsize >= 4), torch.float32)

    def _time(self, epoch: int, step: int) -> float:
        return epoch + step / self._fit.plan.steps_per_epoch

    def _temperature(self, epoch: int, step: int) -> float:
        return strengths_at(self._objective.settings, self._time(epoch, step)).temperature

    def _context(self, epoch: int, step: int) -> Context:
        """Functions of epoch and step alone, so that a resumed fit goes on alike."""
        return Context(
            epoch=self._time(epoch, step),
            seed=derive(self._fit.seed, "step", epoch, step),
            gathering=self._world.gathering if self._world.workers > 1 else None,
            all_sum=self._world.all_sum,
        )


class KeptTargets:
    """Ensemble targets of whole views, kept from the epoch that made them for those that show the view again.

    Args:
        rows: all that are trained on, rising.
    """

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = torch.from_numpy(np.unique(rows))
        self._tables: dict[tuple[int | None, float], tuple[Tensor, EnsembleTarget]] = {}
        self._bytes = 0

    def get(self, batch: Batch, temperature: float) -> EnsembleTarget | None:
        """Those of a batch; None where one of them has not been made yet."""
        table = self._tables.get(self._key(batch, temperature))
        if table is None:
            return None
        made_N, ensemble = table
        index_B = self._index(batch)
        return (
            ensemble[index_B.to(ensemble.sums_NE.device)] if bool(made_N[index_B].all()) else None
        )

    def put(self, batch: Batch, temperature: float, ensemble: EnsembleTarget) -> None:
        """Keep those of a batch, where there is room for the whole view."""
        key = self._key(batch, temperature)
        if key not in self._tables:
            size = ensemble.nbytes // max(1, len(batch)) * len(self._rows)
            if key[0] is _SEVERAL or self._bytes + size > _KEPT_BYTES:
                return
            self._bytes += size
            made_N = torch.zeros(len(self._rows), dtype=torch.bool)
            self._tables[key] = made_N, ensemble.empty(len(self._rows))
        made_N, table = self._tables[key]
        index_B = self._index(batch)
        table[index_B.to(table.sums_NE.device)] = ensemble
        made_N[index_B] = True

    def _index(self, batch: Batch) -> Tensor:
        return torch.searchsorted(self._rows, batch.rows)

    @staticmethod
    def _key(batch: Batch, temperature: float) -> tuple[int | None, float]:
        first = int(batch.view_B[0])
        one = bool((batch.view_B == first).all()) and batch.mixed is None
        return first if one else _SEVERAL, temperature


def moved(answer: Output, device: torch.device) -> Output:
    """An answer on a device."""

    def there(tensor: Tensor) -> Tensor:
        return gathering.moved(tensor, device)

    features = {tap: there(feature) for tap, feature in answer.features.items()}
    return replace(on_units(answer, there), features=features)


def parts_of(batch: Batch, sizes: Sequence[int]) -> list[Batch]:
    """A batch taken apart into parts of so many samples."""
    if len(sizes) == 1:
        return [batch]
    cut = list(sizes)
    plain = {
        name: getattr(batch, name).split(cut) for name in ("ids", "rows", "view_B", "present_B")
    }
    plain["labels"] = batch.labels.split(batch.units_of(cut))
    offsets = _offsets_of(batch, cut)
    inputs = {name: tensor.split(cut) for name, tensor in batch.inputs.items()}
    mixed, weights, generated, domains = (
        batch.mixed,
        batch.weight_B,
        batch.generated_B,
        batch.domain_B,
    )
    return [
        Batch(
            **{name: parts[index] for name, parts in plain.items()},
            inputs={name: parts[index] for name, parts in inputs.items()},
            mixed=None if mixed is None else Mixed(
                partner_labels_B=mixed.partner_labels_B.split(cut)[index],
                share_B=mixed.share_B.split(cut)[index],
            ),
            weight_B=None if weights is None else weights.split(cut)[index],
            unit_offsets=offsets[index],
            generated_B=None if generated is None else generated.split(cut)[index],
            domain_B=None if domains is None else domains.split(cut)[index],
        )
        for index in range(len(cut))
    ]  # fmt: skip


def _offsets_of(batch: Batch, sizes: Sequence[int]) -> list[Tensor | None]:
    """`unit_offsets` of each part, from 0."""
    if batch.unit_offsets is None:
        return [None] * len(sizes)
    counts = batch.unit_offsets.diff().split(list(sizes))
    return [torch.cat([part.new_zeros(1), part.cumsum(0)]) for part in counts]


def _answers(
    targets: LearntOutputs, sizes: Sequence[int], units: Sequence[int]
) -> list[LearntOutputs]:
    """Teachers' answers taken apart.

    Args:
        targets: of all parts together.
        sizes: samples of each part.
        units: units of each part.
    """
    if len(sizes) == 1 or not targets:
        return [targets] * len(sizes)
    samples, of_units = list(accumulate(sizes, initial=0)), list(accumulate(units, initial=0))
    return [
        {
            name: _part(answer, slice(*samples[at : at + 2]), slice(*of_units[at : at + 2]))
            for name, answer in targets.items()
        }
        for at in range(len(sizes))
    ]


def _part(answer: Output, samples: slice, units: slice) -> Output:
    """The answer for neighbouring samples of a batch."""
    features = {tap: feature[samples] for tap, feature in answer.features.items()}
    part = on_units(answer, lambda tensor: tensor[units])
    return replace(part, features=features, offsets=None)


def prefetch(items: Iterator[Item]) -> Iterator[Item]:
    """The same items in the same order; while one is used, the next one is made in a thread.

    Reading, views, requests and decoding release Python's lock for most of their time, as the student's own
    kernels do. What making an item raises is raised where that item would be used.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]
