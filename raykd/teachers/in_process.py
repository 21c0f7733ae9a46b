"""Teachers in the student's own process: the answers of actors, computed on the worker's device."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from raykd.data import Samples
from raykd.errors import TeacherError
from raykd.targets import Ticket, codec
from raykd.targets.source import Deadline
from raykd.teachers.executor import Steps, finish
from raykd.teachers.model import AnySpec, TeacherModel, host
from raykd.teachers.published import publish
from raykd.teachers.quarantine import Quarantine, Tolerance, isolate, quarantined
from raykd.teachers.utilization import SCORED, TeacherLoad, describe
from raykd.tracking import Event
from raykd.types import Batch, LearntOutputs, Output

Answer = tuple[codec.Arrays, dict[str, Tensor]]
"""What is encoded, and features as they would be decoded, on the device; see `TeacherModel.here`."""


class InProcess:
    """A `TargetSource` that asks teachers of its own, where the batch is collected.

    An answer goes through the codec as everywhere else, so that on CPUs with as many threads its bits are those of an
    actor and of the store. Features stay on the device. A sample that breaks a teacher is searched for and answered as
    absent, as actors have it; whatever ends the process ends its teachers.

    Args:
        specs: teacher name -> what is hosted.
        devices: teacher name -> where.
        samples: the data.
        emit: where samples that break a teacher are reported.
        tolerance: how many may; None = none.
        temperatures: teacher -> at which its logits are going to be used, 1 where none is given.

    Attributes:
        exact: these teachers compute in full precision, also on a GPU, and so has everything else in this process.
    """

    exact = True

    def __init__(
        self,
        specs: Mapping[str, AnySpec],
        devices: Mapping[str, torch.device],
        samples: Samples,
        emit: Callable[[Event], None],
        tolerance: Tolerance | None = None,
        temperatures: Mapping[str, float] | None = None,
    ) -> None:
        self.names = tuple(specs)
        self._samples, self._emit, self._tolerance = samples, emit, tolerance
        self._temperatures = temperatures or {}
        self._scorers = {name: host(spec, devices[name]) for name, spec in specs.items()}
        self._loads = {name: TeacherLoad() for name in specs}
        self._quarantines = {
            name: Quarantine(set() if tolerance is None else tolerance.recall(name))
            for name in specs
        }

    def submit(self, batch: Batch) -> Ticket:
        """Nothing is computed yet: the device has no room for what is wanted later."""
        return Ticket(batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> LearntOutputs:
        """The answers, one teacher after the other.

        Raises:
            TargetTimeoutError: they took more than `timeout_s` seconds, seen after each teacher.
            TeacherError: a teacher fails, does not fit into the device's memory, or breaks on too many samples.
        """
        deadline, found = Deadline(timeout_s), {}
        for name in self.names:
            begun = time.monotonic()
            found[name] = self._answer(name, ticket.batch)
            load = self._loads[name]
            load.requests, load.asked = load.requests + 1, load.asked + 1
            load.samples += len(ticket.batch)
            seconds = time.monotonic() - begun
            load.busy_s, load.wait_s = load.busy_s + seconds, load.wait_s + seconds
            scorer = self._scorers[name]
            size = len(ticket.batch)
            places = scorer.taken_places() if isinstance(scorer, TeacherModel) else size
            load.places += places
            publish(name, samples=len(ticket.batch), places=places, busy_s=seconds)
            deadline.check(f"teacher {name!r} in the student's process")
        answers = codec.completed(found)
        if answers is None:
            raise TeacherError(f"no teacher answers any sample of a batch: {', '.join(self.names)}")
        return answers

    def counters(self) -> list[float]:
        """What was asked and answered since the last call: the load of each teacher, one after the other."""
        return [number for name in self.names for number in self._loads[name].take()]

    def describe(self, counters: Sequence[float], seconds: float) -> dict[str, dict[str, float]]:
        """As of actors, one in each worker, and how many samples each teacher has scored."""
        width = len(counters) // len(self.names)
        loads = {
            name: TeacherLoad(*counters[index * width : (index + 1) * width])
            for index, name in enumerate(self.names)
        }
        workers = {name: round(load.clients) for name, load in loads.items()}
        scored = {name: load.samples for name, load in loads.items()}
        return {**describe(counters, workers, seconds), SCORED: scored}

    def _answer(self, name: str, batch: Batch) -> Output | None:
        """What one teacher says of a batch, on the device; None where each sample of it breaks the teacher."""
        rows, view = batch.rows.numpy(), batch.view_B.numpy()
        indices, alone = self._quarantines[name].sort(rows, view)
        parts, searched = [], [np.array([index]) for index in alone]
        if len(indices):
            answered = self._tried(name, batch, indices)
            if answered is None:
                searched.insert(0, indices)
            else:
                parts.append((indices, answered))
        for some in searched:
            parts += self._search(name, batch, some)
        return _assembled(parts, batch, self._temperatures.get(name, 1.0))

    def _tried(self, name: str, batch: Batch, indices: np.ndarray) -> Answer | None:
        """The answer for some samples of a batch; None when it broke the teacher, where that may be.

        Raises:
            TeacherError: it did, and may not; or the device is full, which no sample is to blame for.
        """
        try:
            return self._ask(name, batch, indices)
        except torch.OutOfMemoryError as error:
            raise TeacherError(
                f"teacher {name!r} does not fit into the memory of the student's device: {error}; lower "
                f"teachers.{name}.resources.batch_size or train.batch_size, or set cluster.teachers.where to actor"
            ) from error
        except Exception as error:
            if self._tolerance is None:
                if isinstance(error, TeacherError):
                    raise
                raise TeacherError(f"teacher {name!r} failed: {error!r}") from error
            return None

    def _ask(self, name: str, batch: Batch, indices: np.ndarray) -> Answer:
        scorer, rows, view = self._scorers[name], batch.rows.numpy(), batch.view_B.numpy()
        if not isinstance(scorer, TeacherModel):
            return scorer.score(self._samples, rows[indices], view[indices]), {}
        if len(indices) == len(batch):
            return scorer.here(batch.inputs, view)
        index = torch.from_numpy(indices)
        return scorer.here({n: tensor[index] for n, tensor in batch.inputs.items()}, view[indices])

    def _search(
        self, name: str, batch: Batch, indices: np.ndarray
    ) -> list[tuple[np.ndarray, Answer]]:
        """Answers for what of a batch does not break the teacher; the rest goes into quarantine.

        Raises:
            TeacherError: it breaks on too many samples; names them.
        """
        assert self._tolerance is not None, "a batch is searched only where that is asked for"
        rows, view = batch.rows.numpy(), batch.view_B.numpy()
        quarantine, tolerance = self._quarantines[name], self._tolerance
        elsewhere = quarantine.rows.difference(rows.tolist())

        def attempt(some: np.ndarray) -> Steps[Answer | None]:
            yield from ()  # a search among actors waits here
            return self._tried(name, batch, some)

        (found,) = finish([isolate(indices, attempt, tolerance.most - len(elsewhere))])
        bad = [(int(rows[index]), int(view[index])) for index in found.bad]
        every = quarantine.rows.union(row for row, _ in bad)
        if len(every) > tolerance.most:
            raise TeacherError(tolerance.exceeded(name, sorted(every)))
        for row, number in bad:
            quarantine.known.add((row, number))
            tolerance.keep(name, row, number)
            self._emit(quarantined("student", tolerance, name, row, number))
        return found.answered


def _assembled(
    parts: Sequence[tuple[np.ndarray, Answer]], batch: Batch, temperature: float
) -> Output | None:
    """One answer for a batch from those for parts of it; rows that no part has are zeros and not valid."""
    size = len(batch)
    encoded = [(indices, arrays) for indices, (arrays, _) in parts]
    output = codec.assemble(encoded, size, temperature, batch.unit_offsets)
    if output is None or not parts[0][1][1]:
        return output
    features = {}
    for tap in parts[0][1][1]:
        own = [(indices, answered[tap]) for indices, (_, answered) in parts]
        if len(own) == 1 and len(own[0][0]) == size:
            features[tap] = own[0][1]
            continue
        whole = own[0][1].new_zeros((size, *own[0][1].shape[1:]))
        for indices, feature in own:
            whole[torch.from_numpy(indices).to(whole.device)] = feature
        features[tap] = whole
    return replace(output, features=features)
