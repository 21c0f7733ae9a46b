"""Several fits in one process, step by step: each as it would be by itself, with one answer of the teachers for all.

They are not one module: each has its own network, projectors, optimizer, averages, best epoch and checkpoints, and torch's
random numbers as they were after its own last step, so that its bits are those of the same fit trained alone. What
they share are batches and what teachers say of these.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import torch

from raykd.data import Samples
from raykd.errors import PreemptedError
from raykd.targets.shared import SharedSource
from raykd.targets.source import Asking
from raykd.train.checkpoint import Reporter
from raykd.train.determinism import determinism
from raykd.train.exchange import Board
from raykd.train.fit import Fit
from raykd.train.loop import Leaving, Trainer, never, train
from raykd.train.work import MakeSource
from raykd.train.world import World


def train_together(
    fits: Sequence[Fit],
    samples: Samples,
    make_source: MakeSource,
    reporter: Reporter,
    world: World,
    *,
    depth: int = 2,
    leaving: Leaving = never,
    board: Board | None = None,
) -> None:
    """Train fits of the same batches to their ends, those that are finished left aside; a single one as `train` does.

    The fit with the fewest steps goes on first: after a kill, whose checkpoint is younger waits for the others.

    Args:
        fits: of the same batches, teachers and temperatures.
        samples: the data.
        make_source: gives a fit its targets; asked for one of them.
        reporter: where progress goes and checkpoints lie.
        world: this worker and the others.
        depth: batches asked for ahead.
        board: as of `train`, for one that is trained by itself.
        leaving: as of `train`; once it has said yes, all of them are saved.

    Raises:
        PreemptedError: as of `train`, once all of them are saved.
        TrainingError: as of `train`, of the first that fails.
        CheckpointError: as of `train`.
        TeacherError: as of `train`.
    """
    due = [one for one in fits if reporter.folder(one.fit_id).result_of(one.identities) is None]
    if len(due) < 2:
        for fit in due:
            source = make_source(samples, fit)
            train(fit, samples, source, reporter, world, depth=depth, leaving=leaving, board=board)
        return
    source = make_source(samples, due[0])
    shared = SharedSource(source.pool if isinstance(source, Asking) else source)
    leaves = _Latch(leaving)
    courses = []
    wanted = any(fit.training.deterministic for fit in due)
    try:
        with determinism(wanted):
            for number, fit in enumerate(due):
                listener = shared.listener(number)
                trainer = Trainer(
                    fit, samples, listener, reporter, world, depth=depth, leaving=leaves
                )
                courses.append(_Course(trainer, number, world))
            _in_turns(courses, shared)
    finally:
        for course in courses:
            course.close()
        reporter.flush()


class _Latch:
    """Whether this worker's machine is about to be taken away; yes for ever once it was yes."""

    def __init__(self, asked: Leaving) -> None:
        self._asked, self._said = asked, False

    def __call__(self) -> bool:
        self._said = self._said or self._asked()
        return self._said


class _Course:
    """One fit under way, with torch's random numbers as it left them."""

    def __init__(self, trainer: Trainer, number: int, world: World) -> None:
        self.trainer, self.number = trainer, number
        self._steps: Generator[None, None, dict[str, Any]] = trainer.course()
        self._device = world.device
        self._random = self._states()

    def advance(self) -> bool:
        """One block of steps; whether there are more."""
        cpu, gpu = self._random
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu, self._device)
        try:
            next(self._steps)
        except StopIteration:
            return False
        self._random = self._states()
        return True

    def close(self) -> None:
        """End what it has under way."""
        self._steps.close()

    def _states(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        on_gpu = self._device.type == "cuda"
        gpu = torch.cuda.get_rng_state(self._device) if on_gpu else None
        return torch.get_rng_state(), gpu


def _in_turns(courses: Sequence[_Course], shared: SharedSource) -> None:
    """Block by block, those behind first, until all have ended.

    Raises:
        PreemptedError: they have ended since the machine is being taken away.
    """
    going, saved = list(courses), list[str]()
    while going:
        least = min(course.trainer.done for course in going)
        turn = [course for course in going if course.trainer.done == least]
        for course in turn:
            shared.join(course.number)
        for course in turn:
            try:
                more = course.advance()
            except PreemptedError as notice:
                saved.append(str(notice))
                more = False
            if not more:
                shared.leave(course.number)
                going.remove(course)
    if saved:
        raise PreemptedError("; ".join(saved))
