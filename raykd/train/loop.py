"""The training loop: the same for teachers, students, controls and trials, on one worker or many."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import torch
from torch import nn

from raykd.config import peers as peer_settings
from raykd.data import Samples
from raykd.errors import PreemptedError, TrainingError
from raykd.models.frozen import set_training
from raykd.models.network import placed, set_precision
from raykd.objective import Losses
from raykd.seeding import derive
from raykd.targets import TargetSource
from raykd.targets.source import Asking
from raykd.tasks import find_task
from raykd.tracking import events
from raykd.train.checkpoint import Reporter, State
from raykd.train.determinism import determinism
from raykd.train.epoch_accumulator import EpochAccumulator
from raykd.train.epoch_values import epoch_values
from raykd.train.exchange import Board, Exchange, LocalBoard, leave_again, take_turns
from raykd.train.feed import Block, Feed
from raykd.train.fit import Fit, build_module
from raykd.train.in_parts import PartialPasses
from raykd.train.keeping import keeper_of
from raykd.train.learner import Learner
from raykd.train.on_policy import Rounds
from raykd.train.peers import MeanTeacher, PeerModule
from raykd.train.step import Steps, Update
from raykd.train.stream import BatchStream, RowStream, WritingStream
from raykd.train.validation import choosing_rows
from raykd.train.world import World, random_states, set_random_state

Leaving = Callable[[], bool]
"""Whether this worker's machine is about to be taken away."""


def never() -> bool:
    """No machine is taken away."""
    return False


class Trainer:
    """Trains one `Fit` to its end, from the beginning or from its last checkpoint."""

    def __init__(
        self,
        fit: Fit,
        samples: Samples,
        source: TargetSource | Asking,
        reporter: Reporter,
        world: World,
        *,
        depth: int,
        leaving: Leaving,
        board: Board | None = None,
    ) -> None:
        self.fit, self.samples, self.reporter = fit, samples, reporter
        self.source = source.pool if isinstance(source, Asking) else source
        self.world, self.all_sum, self.leaving = world, world.all_sum, leaving
        self.folder = reporter.folder(fit.fit_id)
        self.task = find_task(fit.task or samples.task).metrics
        self.exchange: Exchange | None = None
        if fit.exchanges:
            assert board is not None, "peers that are trained apart meet there"
            self.exchange = Exchange(fit, samples, board, world)
        self.learners = self._learners()
        self.student, *self.peers = self.learners
        self.module, self.update = self.student.module, self.student.update
        self.mean_teacher: MeanTeacher | None = None
        if isinstance(fit.peers, peer_settings.MeanTeacher):
            self.mean_teacher = MeanTeacher(self.module.network, fit.peers.decay)
            self.student.follow(self.mean_teacher.average)
        self.feed = Feed(fit, samples, self.source, self.module, world, depth=depth)
        self.stream: BatchStream = RowStream(self.feed, fit.epochs)
        if fit.objective.on_policy is not None:
            assert isinstance(source, Asking), "the teachers stay beside students that write"
            rounds = Rounds(
                fit, samples, source, self.folder.path, self.module.network.model,
                device=world.device, report=reporter.report,
            )  # fmt: skip
            self.stream = WritingStream(self.feed, fit.epochs, rounds)
        self.validation_rows = choosing_rows(samples, fit.training.select_on)
        self.keeper = keeper_of(
            fit,
            self.folder,
            self.learners,
            world.sharing,
            (self.exchange, self.mean_teacher),
            world.rank,
        )
        self.first_epoch, self.within = self._restore()
        within = self.within["sums"]["steps"] if self.within else 0
        self.done = self.first_epoch * fit.plan.steps_per_epoch + within
        """Steps that are trained."""
        self._elsewhere_s = 0.0
        """Of the epoch, in which others were trained."""
        if fit.training.compile:
            for learner in self.learners:
                learner.module.network.model.compile()
        self.wrapped = world.wrap(self._together())

    def _learners(self) -> list[Learner]:
        """The student, and its peers."""
        peers = self.fit.peers
        count = peers.count if isinstance(peers, peer_settings.MutualLearning) else 1
        modules = (build_module(self.fit, self.samples, peer) for peer in range(count))
        tf32 = not getattr(self.source, "exact", False)
        sharing, device = self.world.sharing, self.world.device
        if sharing is None:
            placed_there = [placed(one, device, tf32=tf32) for one in modules]
            return [Learner(self.fit, module, self.task) for module in placed_there]
        (module,) = modules
        module.make_whole()  # the last layer's weights are there in the model's own forward pass alone
        if device.type == "cuda":
            set_precision(tf32=tf32)
        module.objective.to(device)
        learner = Learner(
            self.fit, module, self.task, sharing
        )  # its parts go to the device one by one
        module.to(device)
        return [learner]

    def _together(self) -> nn.Module:
        """The module of a step."""
        peers = self.fit.peers
        if peers is None or not self.module.objective.peers:
            return self.module
        first = self.fit.peer or 0
        modules = [learner.module for learner in self.learners]
        return PeerModule(
            dict(zip(peers.names[first:], modules, strict=False)),
            from_epoch=peers.from_epoch,
            copies=self.mean_teacher if self.exchange is None else self.exchange.copies,
        )

    def run(self) -> dict[str, Any]:
        """Train, and return the result that `result.json` keeps."""
        course = self.course()
        while True:
            try:
                next(course)
            except StopIteration as end:
                result: dict[str, Any] = end.value
                return result

    def course(self) -> Generator[None, None, dict[str, Any]]:
        """Train, and stop after every block of steps, so that others may be trained in between; returns the result.

        Whoever goes on has to put torch's random numbers back to where they were at the stop.
        """
        elapsed_s, started = 0.0, time.monotonic()
        training = self.fit.training
        done = self.within["sums"]["steps"] if self.within else 0
        epoch = self.first_epoch
        if self.exchange is not None:
            self.exchange.rejoin(epoch * self.fit.plan.steps_per_epoch + done)
        if not training.epochs:  # a control that stays as it is
            self._judge(0)
        while epoch < self.fit.epochs and not self._stops(epoch - 1):
            blocks = self.stream.batches(epoch, done if epoch == self.first_epoch else 0)
            self._elsewhere_s = 0.0
            sums = yield from self._train_epoch(blocks, epoch)
            elapsed_s -= self._elsewhere_s
            self._judge(epoch)
            self._report(epoch, sums)
            epoch += 1
            self._keep_snapshot(epoch)
            if epoch % training.checkpoint_every_epochs == 0 and epoch < self.fit.epochs:
                self._save(epoch)
        seconds = (
            elapsed_s + time.monotonic() - started
            if self.exchange is None
            else self.exchange.seconds
        )
        return self._finish(epoch, seconds)

    def _judge(self, epoch: int) -> None:
        """Validate, and keep the weights where they are the best so far."""
        for learner in self.learners:
            learner.judge(epoch, self.samples, self.validation_rows, self.world)

    def _keep_snapshot(self, epoch: int) -> None:
        """Keep the weights after so many epochs, where they are wanted."""
        if epoch in self.fit.snapshots:
            weights = self.student.weights()
            if not self.world.rank:
                self.folder.keep_snapshot(epoch, weights, self.student.last)

    def _begin(self, epoch: int) -> EpochAccumulator:
        """What the epoch has added up so far, and this worker's random numbers as they were then."""
        torch.manual_seed(derive(self.fit.seed, "epoch", epoch, self.world.rank))
        if self.within is None or epoch > self.first_epoch:
            return EpochAccumulator.none(self.world)
        sums, states = (
            EpochAccumulator.of_total(self.within["sums"], self.world),
            self.within["random"],
        )
        if states.shape == random_states(self.world).shape:
            set_random_state(states[self.world.rank], self.world.device)
        else:  # another number of workers, or another kind of device
            named = ("epoch", epoch, self.world.rank, sums.steps)
            torch.manual_seed(derive(self.fit.seed, *named))
        return sums

    def _train_epoch(
        self, blocks: Iterator[Block], epoch: int
    ) -> Generator[None, None, EpochAccumulator]:
        """All steps of an epoch, or those that are left of it; stops after every block.

        Raises:
            PreemptedError: a worker's machine is about to be taken away; all is saved.
            TrainingError: a loss is not finite, on whichever worker; on all of them, so that none waits for one that
                has given up.
        """
        for learner in self.learners:
            set_training(learner.module.network.model, self.fit.freeze)
        sums = self._begin(epoch)
        begun, before_s = time.monotonic(), sums.seconds
        updates = [learner.update for learner in self.learners]
        while sums.steps < self.fit.plan.steps_per_epoch:
            asked = time.monotonic()
            block = next(blocks)
            waited_s = time.monotonic() - asked
            for part in self._parts(block, epoch, sums.steps):
                leaves = self._train_part(part, updates, sums, epoch)
                sums.wait_s += min(waited_s, part.answer_s)
                sums.input_wait_s += max(0.0, waited_s - part.answer_s)
                waited_s = 0.0
                sums.seconds = before_s + time.monotonic() - begun - self._elsewhere_s
                self.done = epoch * self.fit.plan.steps_per_epoch + sums.steps
                if leaves:
                    self._leave(epoch, sums)
                if self.exchange is not None:
                    self._swap(self.exchange, epoch, sums)
                stopped = time.monotonic()
                yield
                self._elsewhere_s += time.monotonic() - stopped
        return sums

    def _train_part(
        self, part: Block, updates: Sequence[Update], sums: EpochAccumulator, epoch: int
    ) -> bool:
        """Some steps in a row; whether this worker is to leave after the last of them."""
        size = self.fit.training.micro_batch_size
        passes = None if size is None else partial(PartialPasses, size=size)
        steps = Steps(
            self.wrapped,
            updates,
            part.lessons,
            part.units,
            self.all_sum,
            self.world.workers,
            passes,
        )
        leaves = False
        for lesson in part.lessons:
            steps(lesson)
            if leaves := self._leaves():
                break
        self._count(sums, steps.losses(), part.samples, epoch)
        return leaves

    def _parts(self, block: Block, epoch: int, done: int) -> Iterator[Block]:
        """A block as it is, or cut where weights are to be exchanged."""
        if self.exchange is None:
            yield block
            return
        assert block.units is None, "what peers teach is never settled"
        first, step = 0, epoch * self.fit.plan.steps_per_epoch + done
        for end in range(1, len(block.lessons) + 1):
            if end == len(block.lessons) or self.exchange.due(step + end):
                yield replace(
                    block,
                    lessons=block.lessons[first:end],
                    samples=block.samples[first:end],
                    answer_s=0.0 if first else block.answer_s,
                )
                first = end

    def _swap(self, exchange: Exchange, epoch: int, sums: EpochAccumulator) -> None:
        """Exchange weights with the other peers, where that is due; the checkpoint comes first.

        Raises:
            WaitingError: the others are not there yet.
        """
        step = epoch * self.fit.plan.steps_per_epoch + sums.steps
        if exchange.due(step):
            exchange.keep(step, self.module.network.model)
            self._save(epoch, self._within(sums))
            exchange.swap(step)

    def _count(
        self, sums: EpochAccumulator, losses: Sequence[Losses], samples: Sequence[int], epoch: int
    ) -> None:
        """Add up some steps; their losses are read from the device here, once for all of them."""
        totals = self.all_sum(torch.stack([one.total.float() for one in losses])).tolist()
        for one, total, count in zip(losses, totals, samples, strict=False):
            if not math.isfinite(total):
                step = epoch * self.fit.plan.steps_per_epoch + sums.steps + 1
                raise TrainingError(
                    f"the loss became {total} in step {step}; lower train.optimizer.lr or set train.clip_norm"
                )
            sums.add(one, count, self.world.workers)

    def _leaves(self) -> bool:
        """Whether one of the workers is to stop: all of them learn of it in the same step."""
        leaves = self.leaving()
        if self.world.workers == 1:
            return leaves
        flag = torch.tensor([float(leaves)], device=self.world.device)
        return bool(self.all_sum(flag) > 0)

    def _leave(self, epoch: int, sums: EpochAccumulator) -> NoReturn:
        """Save where every worker stands, for those that go on elsewhere."""
        self._save(epoch, self._within(sums))
        step = epoch * self.fit.plan.steps_per_epoch + sums.steps
        raise PreemptedError(f"{self.fit.fit_id}: saved after step {step}, to go on elsewhere")

    def _within(self, sums: EpochAccumulator) -> State:
        """Where every worker stands within an epoch."""
        return {"sums": sums.total(self.world), "random": random_states(self.world)}

    def _stops(self, epoch: int) -> bool:
        stopping = self.fit.training.early_stopping
        return stopping is not None and epoch - self.student.best.epoch >= stopping.patience_epochs

    def _report(self, epoch: int, sums: EpochAccumulator) -> None:
        objective, classes = self.module.objective, self.samples.classes
        told = epoch_values(sums, objective, classes, self.source, self.world, self._elsewhere_s)
        if self.world.rank:
            return
        peers = told.get("peers", {}) | self._peers(epoch)
        values: dict[str, Any] = {
            **told,
            "validation": self.student.last,
            "lr": self.update.schedule.get_last_lr()[0],
            "epochs": self.fit.epochs,
            **({"peers": peers} if peers else {}),
            **self.stream.values(),
            **self.module.objective.learnt,
        }
        step = (epoch + 1) * self.fit.plan.steps_per_epoch
        self.reporter.report(
            events.epoch(self.fit.stage, self.fit.fit_id, epoch=epoch + 1, step=step, **values)
        )

    def _peers(self, epoch: int) -> dict[str, Any]:
        """How good the networks beside the student are, and how old the copies of those elsewhere."""
        told: dict[str, Any] = {}
        if self.peers and self.fit.peers is not None:
            names = self.fit.peers.names[1:]
            told["validation"] = {n: one.last for n, one in zip(names, self.peers, strict=True)}
        if self.exchange is not None:
            steps = self.fit.plan.steps_per_epoch
            staleness = self.exchange.staleness(epoch * steps, (epoch + 1) * steps)
            told |= {} if staleness is None else {"staleness_steps": staleness}
        return told

    def _tell(
        self, state: events.FitState, epoch: int, step: int | None = None, **values: Any
    ) -> None:
        if self.world.rank == 0:
            self.reporter.report(
                events.fit(
                    self.fit.stage,
                    self.fit.fit_id,
                    state=state,
                    metrics=self.student.best.metrics,
                    epoch=epoch,
                    step=step,
                    **values,
                )
            )

    def _save(self, next_epoch: int, within: State | None = None) -> None:
        """Write a checkpoint after an epoch, or `within` the next one, which is waited for."""
        if not self.world.rank:
            self.reporter.flush()  # who goes on from here does not tell of the epochs before
        self.keeper.save(next_epoch, within, wait=within is not None)
        if not self.world.rank:
            self.stream.saved(next_epoch)

    def _restore(self) -> tuple[int, State | None]:
        """Continue from the last whole checkpoint if there is one; the epoch, and where within it, to begin with."""
        found = self.keeper.restore()
        if found is None:
            return 0, None
        epoch, within, instead_of = found
        if instead_of is not None and self.world.rank == 0:
            text = f"{instead_of}; the checkpoint before it is used"
            self.reporter.report(
                events.failure(self.fit.stage, text, fit=self.fit.fit_id, decision="go_back")
            )
        self.stream.restored(epoch)
        step = epoch * self.fit.plan.steps_per_epoch + (within["sums"]["steps"] if within else 0)
        if self.exchange is None:  # which goes on after each wait
            self._tell("resumed", epoch, step=step)
        return epoch, within

    def _finish(self, epochs: int, seconds: float) -> dict[str, Any]:
        last = self.student.weights()
        result = {
            "identity": self.fit.identity,
            "epochs": epochs,
            "steps": epochs * self.fit.plan.steps_per_epoch,
            "seconds": seconds,
            **self.student.result(last),
            **self.stream.result(),
        }
        if not self.world.rank:
            self.reporter.flush()
        self.keeper.finish(epochs, result, last)
        if not self.world.rank:
            self.stream.saved(epochs)
        self._tell("finished", epochs, seconds=seconds)
        return result


def train(
    fit: Fit,
    samples: Samples,
    source: TargetSource | Asking,
    reporter: Reporter,
    world: World,
    *,
    depth: int = 2,
    leaving: Leaving = never,
    board: Board | None = None,
) -> dict[str, Any]:
    """Train a fit to its end, or return its result when that was done before.

    Args:
        fit: what to train.
        samples: the data.
        source: where the teachers' answers come from; for a student that writes itself with the teachers beside it.
        reporter: where progress goes and checkpoints lie.
        world: this worker and the others.
        depth: batches asked for ahead.
        leaving: is asked after every step; where a worker answers yes, all save and stop.
        board: where a fit that is one of several peers meets the others. None = all peers of a fit are trained here, by
            turns.

    Raises:
        WaitingError: another peer is behind; the fit goes on when it is started again.
        PreemptedError: a worker's machine is about to be taken away; the fit goes on when it is started again.
        TrainingError: the training or validation loss became NaN or infinite.
        CheckpointError: the checkpoint is damaged or belongs to another fit.
        TeacherError: a teacher was lost and the policy is to stop.
    """
    if fit.peer is None and len(fit.pieces) > 1:
        give = partial(train, samples=samples, source=source, reporter=reporter, world=world)
        take_turns(fit.pieces, partial(give, depth=depth, leaving=leaving, board=LocalBoard()))
        for piece in fit.pieces:  # which may have been needed by those behind it
            reporter.folder(piece.fit_id).forget()
        return reporter.folder(fit.fit_id).result() or {}
    folder = reporter.folder(fit.fit_id)
    done = folder.result_of(fit.identities)
    if done is not None:
        if fit.exchanges and board is not None:
            leave_again(fit, folder, board)
        return done
    try:
        if board is not None:
            board.enter(fit.fit_id)
        with determinism(fit.training.deterministic):
            return Trainer(
                fit, samples, source, reporter, world, depth=depth, leaving=leaving, board=board
            ).run()
    finally:
        reporter.flush()
        if board is not None:
            board.leave(fit.fit_id)
