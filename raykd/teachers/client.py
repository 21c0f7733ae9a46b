"""Asks the actors for batches, ahead, and collects the answers within a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from raykd.config.root import TeacherCluster
from raykd.errors import TeacherError
from raykd.targets import Ticket, codec
from raykd.targets.source import Deadline
from raykd.teachers.actor import Answer
from raykd.teachers.executor import Call, LeftOutError, Pool, Replicas, Request, Steps, finish
from raykd.teachers.model import Inputs, count
from raykd.teachers.published import publish
from raykd.teachers.quarantine import Tolerance
from raykd.teachers.utilization import describe
from raykd.tracking import Event
from raykd.types import ORIGINAL_VIEW, Batch, LearntOutputs, Output


@dataclass(frozen=True, eq=False)
class Question:
    """What teachers are asked about: samples that they hold, by row and view, or others that travel.

    Attributes:
        rows, view: int64 [B]; of samples that travel rows are −1.
        inputs: name -> [B, ...] in source space, of samples of no data set; None = those of the rows.
        whole: of these, whether all classes are kept, or as many as of training views.
    """

    rows: np.ndarray
    view: np.ndarray
    inputs: Inputs | None = None
    whole: bool = True

    @classmethod
    def of_inputs(cls, inputs: Inputs, *, whole: bool = True) -> Question:
        """About samples of no data set, as they are."""
        rows = np.full(count(inputs), -1, np.int64)
        return cls(rows, np.full_like(rows, ORIGINAL_VIEW), inputs, whole)

    def about(self, indices: np.ndarray) -> Call:
        """The call that asks about some of the samples."""
        rows, view, whole = self.rows[indices], self.view[indices], self.whole
        if self.inputs is None:
            return Call(lambda actor: actor.score.remote(rows, view), len(indices))
        some = {name: array[indices] for name, array in self.inputs.items()}
        return Call(lambda actor: actor.score_inputs.remote(some, whole), len(indices))


@dataclass(frozen=True)
class Asked:
    """One teacher asked about one batch.

    Attributes:
        question: about the whole batch.
        indices: what of it was asked together; the rest is in quarantine, or in `alone`.
        alone: samples that broke the teacher in another view.
        request: for `indices`; None where there are none.
    """

    question: Question
    indices: np.ndarray
    alone: np.ndarray
    request: Request | None


class Client:
    """Asks the actors; each worker of the student has one of its own. Picklable before its first use.

    A request is waited for until `request_timeout_s` is over (then the policy decides what is tried next) or the
    deadline of whoever collects, whichever comes first; at the deadline nothing more is tried.

    Args:
        actors: teacher name -> handles of its replicas.
        settings: timeouts and the failure policy.
        emit: where failures are reported.
        tolerance: how many samples may break a teacher; None = no batch is searched for them.
        shared: what is known of the processes, where each of them answers for all teachers.
    """

    def __init__(
        self,
        actors: Mapping[str, Sequence[Any]],
        settings: TeacherCluster,
        emit: Callable[[Event], None],
        tolerance: Tolerance | None = None,
        shared: Replicas | None = None,
    ) -> None:
        self.pools = {
            name: Pool(name, handles, settings, emit, tolerance=tolerance, replicas=shared)
            for name, handles in actors.items()
        }
        self.temperatures: Mapping[str, float] = {}
        """Teacher -> at which its logits are going to be used, 1 where none is given."""

    def submit(self, names: Sequence[str], rows: np.ndarray, view: np.ndarray) -> dict[str, Asked]:
        """Ask several teachers at once about samples that they hold; returns without waiting."""
        return self.ask(names, Question(rows, view))

    def ask(self, names: Sequence[str], question: Question) -> dict[str, Asked]:
        """Ask several teachers at once; returns without waiting."""
        asked = {}
        for pool in [self.pools[name] for name in names if not self.pools[name].lost]:
            indices, alone = pool.quarantine.sort(question.rows, question.view)
            request = pool.send(question.about(indices)) if len(indices) else None
            asked[pool.name] = Asked(question, indices, alone, request)
        return asked

    def collect(
        self,
        names: Sequence[str],
        asked: Mapping[str, Asked],
        deadline: Deadline | None = None,
        offsets: Tensor | None = None,
    ) -> LearntOutputs:
        """The answers, in the order of `names`; a teacher left out answers nothing, validly for no row.

        Args:
            names: of the teachers.
            asked: what `submit` returned.
            deadline: of all the answers; None = each request has its own alone.
            offsets: `unit_offsets` of the batch.

        Raises:
            TargetTimeoutError: an answer was not there in time.
            TeacherError: a teacher is lost and the policy is to stop, or all are, or one breaks on more
                samples than allowed.
        """
        found: dict[str, Output | None] = dict.fromkeys(names)
        for name in [name for name in names if name in asked]:
            parts = self.parts(name, asked[name], deadline) or []
            size = len(asked[name].question.rows)
            temperature = self.temperatures.get(name, 1.0)
            found[name] = codec.assemble(parts, size, temperature, offsets)
        return self.whole(found)

    def whole(self, found: Mapping[str, Output | None]) -> LearntOutputs:
        """The answers of all teachers to one batch; those that gave none answer validly for no row.

        Raises:
            TeacherError: none gave any.
        """
        answers = codec.completed(found)
        if answers is None:
            raise TeacherError(f"no teacher is left of {', '.join(found)}")
        return answers

    def parts(
        self, name: str, asked: Asked, deadline: Deadline | None = None
    ) -> codec.Parts | None:
        """One teacher's answer as indices of what was asked, and the encoded answers for them.

        Samples in quarantine are in no part; None comes from a teacher that is left out.

        Raises:
            TargetTimeoutError: it was not there in time.
        """
        pool, begun = self.pools[name], time.monotonic()
        try:
            (parts,) = finish([self._parts(pool, asked)], deadline, f"teacher {name!r}")
        except LeftOutError:
            return None
        finally:
            waited_s = time.monotonic() - begun
            pool.load.wait_s += waited_s
            publish(name, answers=1, wait_s=waited_s)
        return parts

    def _parts(self, pool: Pool, asked: Asked) -> Steps[codec.Parts]:
        question = asked.question

        def attempt(part: np.ndarray) -> Steps[codec.Arrays | None]:
            request = pool.send(question.about(part))
            return (yield from _settle(pool, request, searching=True))

        parts: codec.Parts = []
        searched = [np.array([index]) for index in asked.alone]
        if asked.request is not None:
            arrays = yield from _settle(pool, asked.request)
            if arrays is None:
                searched.insert(0, asked.indices)
            else:
                parts.append((asked.indices, arrays))
        for indices in searched:
            found = yield from pool.search(indices, question.rows, question.view, attempt)
            parts += found.answered
        return parts

    def in_quarantine(self, name: str, rows: np.ndarray, view: np.ndarray) -> np.ndarray:
        """Bool [B]: which views [B] of rows [B] a teacher is not asked any more."""
        known = self.pools[name].quarantine.known
        pairs = zip(rows.tolist(), view.tolist(), strict=True)
        return np.array([pair in known for pair in pairs], bool)


class LiveTargets:
    """All teachers score a batch in parallel while the student is still busy with earlier ones."""

    def __init__(self, client: Client, names: Sequence[str]) -> None:
        self.client = client
        self.names = tuple(names)

    def submit(self, batch: Batch) -> Ticket:
        """Ask every teacher; only rows and views travel."""
        requests = self.client.submit(self.names, batch.rows.numpy(), batch.view_B.numpy())
        return Ticket(batch, requests)

    def collect(self, ticket: Ticket, timeout_s: float) -> LearntOutputs:
        """The answers; within the time for all of them each request has its own, see `Client`.

        Raises:
            TargetTimeoutError: a teacher has not answered within `timeout_s` seconds.
            TeacherError: as `Client.collect`.
        """
        deadline, offsets = Deadline(timeout_s), ticket.batch.unit_offsets
        return self.client.collect(self.names, ticket.pending, deadline, offsets)

    def counters(self) -> list[float]:
        """What was asked and answered since the last call: the load of each teacher, one after the other."""
        return [number for name in self.names for number in self.client.pools[name].load.take()]

    def describe(self, counters: Sequence[float], seconds: float) -> dict[str, dict[str, float]]:
        """How busy each teacher was; see `raykd.teachers.utilization.describe`."""
        replicas = {name: len(self.client.pools[name].actors) for name in self.names}
        return describe(counters, replicas, seconds)


def _settle(pool: Pool, request: Request, *, searching: bool = False) -> Steps[codec.Arrays | None]:
    """The encoded answer to a request, counted; None when samples in it break the teacher."""
    answer = yield from pool.settle(request, searching=searching)
    if answer is None:
        return None
    found: Answer = answer
    pool.load.requests += 1
    pool.load.samples += request.call.samples
    pool.load.size_bytes += sum(array.nbytes for array in found.arrays.values())
    pool.load.busy_s += found.seconds
    pool.load.places += found.places
    return found.arrays
