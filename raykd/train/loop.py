"""The training loop: the same for teachers, students, controls and trials, on one worker or many."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from raykd.data import Samples
from raykd.errors import PreemptedError, TrainingError
from raykd.models.frozen import set_training
from raykd.models.network import Network, placed
from raykd.models.weights import fingerprint
from raykd.objective import Losses, ensemble_values
from raykd.seeding import derive
from raykd.targets import TargetSource
from raykd.targets.source import Asking, Measured
from raykd.tasks import find_task
from raykd.tracking import events
from raykd.train.checkpoint import Reporter, State
from raykd.train.epoch_accumulator import EpochAccumulator, random_states, set_random_state
from raykd.train.feed import Block, Feed
from raykd.train.fit import Fit, build_module
from raykd.train.on_policy import Rounds
from raykd.train.optim import make_optimizer, make_schedule
from raykd.train.step import Steps, Update
from raykd.train.validation import Best, choosing_rows, validate
from raykd.train.world import World

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
    ) -> None:
        self.fit, self.samples, self.reporter = fit, samples, reporter
        self.source = source.pool if isinstance(source, Asking) else source
        self.world, self.all_sum, self.leaving = world, world.all_sum, leaving
        self.folder = reporter.folder(fit.fit_id)
        self.module = placed(build_module(fit, samples), world.device, tf32=True)
        model = self.module.network.model
        average = None
        if fit.training.ema is not None:
            rule = get_ema_multi_avg_fn(fit.training.ema)
            average = AveragedModel(model, multi_avg_fn=rule, use_buffers=True)
        assert fit.training.optimizer is not None, "`prepare` has chosen one"
        optimizer = make_optimizer(
            self.module,
            fit.training.optimizer,
            {f"network.model.{path}": factor for path, factor in fit.lr_factors.items()},
            key=fit.key,
        )
        schedule = make_schedule(optimizer, fit.training, fit.plan.steps_per_epoch)
        self.update = Update(
            self.module,
            optimizer,
            schedule,
            clip_norm=fit.training.clip_norm,
            average=average,
        )
        self.feed = Feed(fit, samples, self.source, self.module, world, depth=depth)
        self.rounds: Rounds | None = None
        if fit.objective.on_policy is not None:
            assert isinstance(source, Asking), "the teachers stay beside students that write"
            self.rounds = Rounds(
                fit, samples, source, self.folder.path, model,
                device=world.device, report=reporter.report,
            )  # fmt: skip
        self.task = find_task(fit.task or samples.task).metrics
        self.best = Best(self.task, fit.training.select)
        self.last: dict[str, float] = {}
        self.validation_rows = choosing_rows(samples, fit.training.select_on)
        self.first_epoch, self.within = self._restore()
        within = self.within["sums"]["steps"] if self.within else 0
        self.done = self.first_epoch * fit.plan.steps_per_epoch + within
        """Steps that are trained."""
        self._elsewhere_s = 0.0
        """Of the epoch, in which others were trained."""
        if fit.training.compile:
            self.module.network.model.compile()
        self.wrapped = world.wrap(self.module)

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
        epoch = until = self.first_epoch
        stream: Iterator[Block] = iter(())
        if not training.epochs:  # a control that stays as it is
            self._judge(0)
        while epoch < training.epochs and not self._stops(epoch - 1):
            if epoch == until:
                stream, until = self._stream(epoch, done if epoch == self.first_epoch else 0)
            self._elsewhere_s = 0.0
            sums = yield from self._train_epoch(stream, epoch)
            elapsed_s -= self._elsewhere_s
            self._judge(epoch)
            self._report(epoch, sums)
            epoch += 1
            if epoch % training.checkpoint_every_epochs == 0 and epoch < training.epochs:
                self._save(epoch)
        return self._finish(epoch, elapsed_s + time.monotonic() - started)

    def _stream(self, epoch: int, step: int) -> tuple[Iterator[Block], int]:
        """All steps that draw from the same texts as the given one, and the epoch that does not any more."""
        until = self.fit.training.epochs
        if self.rounds is None:
            return self.feed.blocks(epoch, step), until
        until = min(until, self.rounds.enter(epoch, within=step > 0))
        return self.feed.blocks(epoch, step, until, self.rounds.now), until

    def _judge(self, epoch: int) -> None:
        """Validate, and keep the weights where they are the best so far."""
        network, rows = self._judged(), self.validation_rows
        self.last = validate(network, self.samples, rows, self.world, self.task)
        if not all(map(math.isfinite, self.last.values())):
            raise TrainingError(
                f"the validation loss became NaN or infinite in epoch {epoch + 1} ({self.last}); "
                "lower train.optimizer.lr or set train.clip_norm"
            )
        self.best.update(epoch, self.last, self._weights())

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
        self, stream: Iterator[Block], epoch: int
    ) -> Generator[None, None, EpochAccumulator]:
        """All steps of an epoch, or those that are left of it; stops after every block.

        Raises:
            PreemptedError: a worker's machine is about to be taken away; all is saved.
            TrainingError: a loss is not finite, on whichever worker; on all of them, so that none waits for one that
                has given up.
        """
        set_training(self.module.network.model, self.fit.freeze)
        sums = self._begin(epoch)
        begun, before_s = time.monotonic(), sums.seconds
        while sums.steps < self.fit.plan.steps_per_epoch:
            asked = time.monotonic()
            block = next(stream)
            waited_s = time.monotonic() - asked
            steps = Steps(
                self.wrapped, self.update, block.lessons, block.units, self.all_sum, self.world.workers
            )  # fmt: skip
            leaves = False
            for lesson in block.lessons:
                steps(lesson)
                if leaves := self._leaves():
                    break
            self._count(sums, steps.losses(), block.samples, epoch)
            sums.wait_s += min(waited_s, block.answer_s)
            sums.input_wait_s += max(0.0, waited_s - block.answer_s)
            stopped = time.monotonic()
            sums.seconds = before_s + stopped - begun - self._elsewhere_s
            self.done = epoch * self.fit.plan.steps_per_epoch + sums.steps
            if leaves:
                self._leave(epoch, sums)
            yield
            self._elsewhere_s += time.monotonic() - stopped
        return sums

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
        within = {"sums": sums.total(self.world), "random": random_states(self.world)}
        self._save(epoch, within)
        step = epoch * self.fit.plan.steps_per_epoch + sums.steps
        raise PreemptedError(f"{self.fit.fit_id}: saved after step {step}, to go on elsewhere")

    def _judged(self) -> nn.Module:
        """The network that is validated and kept: the moving average when there is one."""
        average = self.update.average
        if average is None:
            return self.module.network
        network = self.module.network
        return Network(average.module, network.preprocessing, network.scale)

    def _weights(self) -> dict[str, Tensor]:
        average = self.update.average
        model = self.module.network.model if average is None else average.module
        return dict(model.state_dict())

    def _stops(self, epoch: int) -> bool:
        stopping = self.fit.training.early_stopping
        return stopping is not None and epoch - self.best.epoch >= stopping.patience_epochs

    def _report(self, epoch: int, sums: EpochAccumulator) -> None:
        seconds, whole_s = sums.seconds, sums.seconds + self._elsewhere_s
        names = sorted(sums.terms)
        means = torch.stack([sums.loss, *(sums.terms[name] for name in names)]) / sums.steps
        loss, *terms = self.world.all_sum(means).tolist()
        counts = torch.tensor([float(sums.samples)], device=self.world.device)
        count = float(self.world.all_sum(counts))
        ensemble = {}
        if sums.ensemble is not None:
            names_T = [teacher.name for teacher in self.fit.teacher_infos]
            ensemble = ensemble_values(self.world.all_sum(sums.ensemble), names_T)
        measured = self._measured(sums)
        teachers = self._teachers(sums, whole_s)
        if self.world.rank:
            return
        values: dict[str, Any] = {
            "train_loss": loss,
            "terms": dict(zip(names, terms, strict=True)),
            "validation": self.last,
            "lr": self.update.schedule.get_last_lr()[0],
            "epochs": self.fit.training.epochs,
            "samples_per_s": count / max(seconds, 1e-9),
            "teacher_wait_fraction": sums.wait_s / max(whole_s, 1e-9),
            "input_wait_fraction": sums.input_wait_s / max(whole_s, 1e-9),
            **ensemble,
            **measured,
            **teachers,
            **({} if self.rounds is None else self.rounds.values()),
        }
        step = (epoch + 1) * self.fit.plan.steps_per_epoch
        self.reporter.report(
            events.epoch(self.fit.stage, self.fit.fit_id, epoch=epoch + 1, step=step, **values)
        )

    def _measured(self, sums: EpochAccumulator) -> dict[str, Any]:
        """What the task's rule tells of an epoch; every worker takes part."""
        measures = self.module.objective.rule.measures
        if measures is None or sums.measured is None:
            return {}
        names = [teacher.name for teacher in self.fit.teacher_infos]
        total = self.world.all_sum(sums.measured).cpu()
        return dict(measures.values(total, names, self.samples.classes))

    def _teachers(self, sums: EpochAccumulator, seconds: float) -> dict[str, Any]:
        """How busy live teachers were, and the student (with those trained with it) beside them; every worker takes part."""
        if not isinstance(self.source, Measured):
            return {}
        counters = torch.tensor(self.source.counters(), device=self.world.device)
        total = self.world.all_sum(counters).tolist()
        own_s = (seconds - sums.wait_s) / sums.steps
        return {"student_s_per_step": own_s, **self.source.describe(total, seconds)}

    def _tell(
        self, state: events.FitState, epoch: int, step: int | None = None, **values: Any
    ) -> None:
        if self.world.rank == 0:
            self.reporter.report(
                events.fit(
                    self.fit.stage,
                    self.fit.fit_id,
                    state=state,
                    metrics=self.best.metrics,
                    epoch=epoch,
                    step=step,
                    **values,
                )
            )

    def _save(self, next_epoch: int, within: State | None = None) -> None:
        """Write a checkpoint after an epoch, or `within` the next one."""
        if self.world.rank:
            return
        self.reporter.flush()  # who goes on from here does not tell of the epochs before
        average = self.update.average
        state: State = {
            "identity": self.fit.identity,
            "next_epoch": next_epoch,
            "within": within,
            "module": self.module.state_dict(),
            "optimizer": self.update.optimizer.state_dict(),
            "schedule": self.update.schedule.state_dict(),
            "average": None if average is None else average.state_dict(),
            "best": {
                "weights": self.best.weights,
                "metrics": self.best.metrics,
                "epoch": self.best.epoch,
            },
            "last": self.last,
        }
        self.folder.save(state, self._weights(), self.best.weights or self._weights())
        if self.rounds is not None:
            self.rounds.saved(next_epoch)

    def _restore(self) -> tuple[int, State | None]:
        """Continue from the last whole checkpoint if there is one; the epoch, and where within it, to begin with."""
        restored = self.folder.load(self.fit.identities)
        if restored is None:
            return 0, None
        state = restored.state
        self.module.load_state_dict(state["module"])
        self.update.optimizer.load_state_dict(state["optimizer"])
        self.update.schedule.load_state_dict(state["schedule"])
        if self.update.average is not None:
            self.update.average.load_state_dict(state["average"])
        best, self.last = state["best"], state["last"]
        self.best.weights, self.best.metrics, self.best.epoch = (
            best["weights"],
            best["metrics"],
            best["epoch"],
        )
        if restored.instead_of is not None and self.world.rank == 0:
            text = f"{restored.instead_of}; the checkpoint before it is used"
            self.reporter.report(
                events.failure(self.fit.stage, text, fit=self.fit.fit_id, decision="go_back")
            )
        epoch, within = int(state["next_epoch"]), state["within"]
        if self.rounds is not None:
            self.rounds.restored(epoch)
        step = epoch * self.fit.plan.steps_per_epoch + (within["sums"]["steps"] if within else 0)
        self._tell("resumed", epoch, step=step)
        return epoch, within

    def _finish(self, epochs: int, seconds: float) -> dict[str, Any]:
        result = {
            "identity": self.fit.identity,
            "epochs": epochs,
            "steps": epochs * self.fit.plan.steps_per_epoch,
            "best_epoch": self.best.epoch,
            "best": self.best.metrics,
            "last": self.last,
            "seconds": seconds,
            "fingerprints": {
                "best": fingerprint(self.best.weights),
                "last": fingerprint(self._weights()),
            },
            **({} if self.rounds is None else {"on_policy": self.rounds.result()}),
        }
        if self.world.rank == 0:
            self._save(epochs)
            self.folder.finish(result)
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

    Raises:
        PreemptedError: a worker's machine is about to be taken away; the fit goes on when it is started again.
        TrainingError: the training or validation loss became NaN or infinite.
        CheckpointError: the checkpoint is damaged or belongs to another fit.
        TeacherError: a teacher was lost and the policy is to stop.
    """
    done = reporter.folder(fit.fit_id).result_of(fit.identities)
    if done is not None:
        return done
    try:
        return Trainer(fit, samples, source, reporter, world, depth=depth, leaving=leaving).run()
    finally:
        reporter.flush()
