"""Batches of which a part is what the student has written itself, and what its teachers say of both parts.

Shapes: M texts of a round, B of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from raykd.config.on_policy import OnPolicy
from raykd.data import Samples
from raykd.errors import TargetError
from raykd.seeding import derive
from raykd.targets import TargetSource, TargetStore, Ticket, codec
from raykd.targets.written import Texts
from raykd.train.fit import Fit
from raykd.train.plan import Plan
from raykd.types import Batch, LearntOutputs, Output, joined_answers, joined_batches


@dataclass(frozen=True, eq=False)
class Round:
    """What the batches of some epochs are drawn from, beside the pool.

    Attributes:
        number: from 0.
        texts: what the student wrote.
        store: what the teachers say of it, by the texts' places.
        silent: teachers that were lost.
        repetition: of what it wrote, see `raykd.models.generation.repetition`.
    """

    number: int
    texts: Texts
    store: TargetStore
    silent: frozenset[str]
    repetition: float

    def answers(self, places: np.ndarray, batch: Batch) -> dict[str, Output | None]:
        """What each teacher says of some texts; None of one that was lost.

        Args:
            places: int64 [B], of the texts.
            batch: of them.
        """
        found: dict[str, Output | None] = dict.fromkeys(self.store.entries)
        for name in found.keys() - self.silent:
            arrays = self.store.gather_arrays(name, places, batch.view_B.numpy())
            found[name] = codec.assemble(
                [(np.arange(len(places)), arrays)],
                len(places),
                self.store.temperatures.get(name, 1.0),
                batch.unit_offsets,
            )
        return found


class MixedBatches:
    """The batches of a round: λ of each from what the student wrote, the rest from the pool; as many updates as ever.

    Both go through passes of their own, in each of which every sample or text is shown once.

    Args:
        fit: what is trained.
        samples: the pool.
        source: answers for it.
        now: the round.
    """

    def __init__(self, fit: Fit, samples: Samples, source: TargetSource, now: Round) -> None:
        settings = fit.objective.on_policy
        assert settings is not None, "only fits with on-policy texts have rounds"
        self._fit, self._samples, self._source, self._now = fit, samples, source, now
        self._begins = settings.begins(now.number)
        self._pool, self._own = parts_of_plan(fit.plan, settings, now.number, len(now.texts))

    def submit(self, epoch: int, step: int) -> Ticket:
        """One batch, asked for: the pool's samples first."""
        rows_B, view_B = self._pool.batch(epoch, step)
        places, _ = self._own.batch(epoch - self._begins, step)
        parts, pending = [], None
        if len(rows_B):
            parts.append(self._samples.batch(rows_B, view_B, labels=self._fit.labels))
            pending = self._source.submit(parts[0])
        own = self._now.texts.batch(places, self._samples) if len(places) else None
        parts += [] if own is None else [own]
        return Ticket(joined_batches(parts), (pending, places, own))

    def collect(self, ticket: Ticket, timeout_s: float) -> LearntOutputs:
        """The answers to a batch; as of `TargetSource.collect`."""
        pending, places, own = ticket.pending
        parts: list[Mapping[str, Output]] = []
        if pending is not None:
            parts.append(self._source.collect(pending, timeout_s))
        if own is not None:
            found = codec.completed(self._now.answers(places, own))
            if found is None:
                raise TargetError(f"no teacher has scored round {self._now.number}")
            parts.append(found)
        offsets = ticket.batch.unit_offsets
        return {name: joined_answers([part[name] for part in parts], offsets) for name in parts[0]}


def parts_of_plan(plan: Plan, settings: OnPolicy, number: int, texts: int) -> tuple[Plan, Plan]:
    """The order of the pool's samples, and that of a round's texts, by the round's epochs.

    The pool's is that of a fit whose batches are smaller, so that it goes on over rounds and epochs.

    Args:
        plan: of the fit.
        settings: λ.
        number: of the round.
        texts: in it.
    """
    own = settings.of_epoch(plan.epoch_rows, plan.batch_size)
    size = settings.of_batch(plan.batch_size)
    pool = replace(plan, epoch_rows=plan.epoch_rows - own, batch_size=plan.batch_size - size)
    seed = derive(plan.seed, "on_policy", number)
    return pool, Plan(np.arange(texts), epoch_rows=own, batch_size=size, seed=seed, views=0)
