"""One update of a student: forward, the gradient of its objective, step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from raykd.models.network import Network
from raykd.models.taps import Taps
from raykd.objective import Context, DistillObjective, Losses, ensemble_sums, reduce_terms
from raykd.objective.settled import SettledSteps
from raykd.objective.terms import NOW
from raykd.types import Batch, TeacherOutputs


@dataclass(frozen=True, eq=False, kw_only=True)
class Lesson:
    """What one update trains on, on the student's device.

    Attributes:
        batch: the batch, its inputs as the model takes them.
        targets: what each teacher says of it; empty where the objective is settled.
        context: when it comes, and the other workers.
    """

    batch: Batch
    targets: TeacherOutputs
    context: Context = NOW


class DistillModule(nn.Module):
    """Student and objective as one module, so that one DDP wrap covers projectors too."""

    def __init__(
        self, network: Network, objective: DistillObjective, taps: Sequence[str], precision: str
    ) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self._taps = Taps(network.model, taps)
        self._autocast = precision == "bfloat16"

    def outputs(self, prepared: Mapping[str, Tensor]) -> Tensor:
        """What the student puts out for inputs as its model takes them, at least float32 [N, C]."""
        device = next(iter(prepared.values())).device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._autocast):
            outputs_NC = self.network.output(prepared)
        return outputs_NC.float() if outputs_NC.dtype.itemsize < 4 else outputs_NC

    def forward(
        self, lesson: Lesson, all_sum: Callable[[Tensor], Tensor], workers: int
    ) -> Losses | Tensor:
        """The losses of this worker's part of a batch; the student's outputs where the objective is settled."""
        outputs_NC = self.outputs(lesson.batch.inputs)
        if self.objective.settles:
            return outputs_NC
        features, targets = self._taps.take(), lesson.targets
        terms, weights_TN = self.objective(
            outputs_NC, features, lesson.batch, targets, lesson.context
        )
        losses = reduce_terms(terms, all_sum, workers)
        if weights_TN is None:
            return losses
        sums = ensemble_sums(weights_TN, self.objective.disagreement(weights_TN, targets))
        return replace(losses, ensemble=sums)


class Update:
    """Optimizer, schedule, clipping and moving average: what happens after `backward`."""

    def __init__(
        self,
        module: DistillModule,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        *,
        clip_norm: float | None,
        average: AveragedModel | None,
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip_norm = clip_norm
        self.average = average

    def __call__(self, of: Tensor, gradient: Tensor | None = None) -> None:
        """Back-propagate and step.

        Args:
            of: the total loss of this worker's part, or what `gradient` is the gradient with respect to.
            gradient: None for a loss.
        """
        self.optimizer.zero_grad(set_to_none=True)
        of.backward(gradient)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.module.network.model)


class Steps:
    """Updates on some lessons in a row, and afterwards their losses: the device is not waited for in between.

    Args:
        wrapped: the `DistillModule`, its gradients averaged over the workers.
        update: what follows.
        all_sum: adds over the workers.
        workers: how many there are.
        settled: of all these lessons; None where the objective is not settled.
    """

    def __init__(
        self,
        wrapped: nn.Module,
        update: Update,
        all_sum: Callable[[Tensor], Tensor],
        workers: int,
        settled: SettledSteps | None,
    ) -> None:
        self._wrapped, self._update = wrapped, update
        self._all_sum, self._workers = all_sum, workers
        self._settled = settled
        self._logs: list[Tensor] = []
        self._losses: list[Losses] = []

    def __call__(self, lesson: Lesson) -> None:
        """One update."""
        found = self._wrapped(lesson, self._all_sum, self._workers)
        if self._settled is None:
            self._update(found.total)
            self._losses.append(replace(found, total=found.total.detach()))
            return
        gradient_NC, log_q_NC = self._settled.gradient(len(self._logs), found.detach())
        self._logs.append(log_q_NC)
        self._update(found, gradient_NC)

    def losses(self) -> list[Losses]:
        """Of the lessons so far."""
        return self._losses if self._settled is None else self._settled.losses(self._logs)
