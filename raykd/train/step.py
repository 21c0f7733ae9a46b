"""One update of a student: forward, one reduction, backward, step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from raykd.errors import TrainingError
from raykd.models.network import Network
from raykd.models.taps import Taps
from raykd.objective import Context, DistillObjective, Losses, ensemble_sums, reduce_terms
from raykd.objective.terms import NOW
from raykd.types import Batch, Output, TeacherOutputs


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

    def forward(
        self,
        batch: Batch,
        targets: TeacherOutputs,
        all_sum: Callable[[Tensor], Tensor],
        workers: int,
        context: Context = NOW,
    ) -> Losses:
        """The losses of this worker's part of a batch; targets may lie on another device."""
        device = batch.labels.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._autocast):
            logits_NC = self.network(batch.inputs)
        features = self._taps.take()
        moved = {name: _moved(answer, device) for name, answer in targets.items()}
        terms, weights_TN = self.objective(logits_NC.float(), features, batch, moved, context)
        losses = reduce_terms(terms, all_sum, workers)
        if weights_TN is None:
            return losses
        sums = ensemble_sums(weights_TN, self.objective.disagreement(weights_TN, moved))
        return replace(losses, ensemble=sums)


def _moved(answer: Output, device: torch.device) -> Output:
    return replace(
        answer,
        values_NC=answer.values_NC.to(device),
        valid_N=answer.valid_N.to(device),
        features={tap: feature.to(device) for tap, feature in answer.features.items()},
    )


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
        all_sum: Callable[[Tensor], Tensor],
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip_norm = clip_norm
        self.average = average
        self.all_sum = all_sum

    def __call__(self, total: Tensor, *, leaving: bool) -> bool:
        """Back-propagate `total` and step.

        Args:
            total: of this worker's part.
            leaving: whether this worker is to stop.

        Returns:
            Whether one of the workers is to stop: all of them learn of it in the same step.

        Raises:
            TrainingError: the loss is not finite, on whichever worker; on all of them, so that none waits
                for one that has given up.
        """
        own = total.detach().float()
        everywhere, leave = self.all_sum(
            torch.stack([own, own.new_tensor(float(leaving))])
        ).tolist()
        if not math.isfinite(everywhere):
            raise TrainingError(
                f"the loss became {everywhere}; lower train.optimizer.lr or set train.clip_norm"
            )
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.module.network.model)
        return bool(leave > 0)
