"""One update of a student: forward, the gradient of its objective, step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from raykd.models.network import Network
from raykd.models.taps import Taps
from raykd.objective import Context, DistillObjective, Losses, reduce_terms
from raykd.objective.schedules import strengths_at
from raykd.objective.settled import SettledSteps, SettledUnits
from raykd.objective.terms import NOW
from raykd.types import Batch, Headed, LearntOutputs, TopK

if TYPE_CHECKING:
    from raykd.train.sharding import Sharing

_WHOLE = 1024
"""Tokens up to which the logits of a student without teachers are made as a whole."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Lesson:
    """What one update trains on, on the student's device.

    Attributes:
        batch: the batch, its inputs as the model takes them.
        targets: what each teacher says of it; empty where the objective is settled.
        context: when it comes, and the other workers.
    """

    batch: Batch
    targets: LearntOutputs
    context: Context = NOW


@dataclass(frozen=True, eq=False, kw_only=True)
class Forward:
    """What one forward pass gives.

    Attributes:
        outputs: the student's, [N, C]; before its last layer where its logits are not made as a whole.
        losses: of all terms; where the objective is settled, of the feature terms alone, None without any.
        weights_TN: how much each teacher counted; None without teachers, or where that is settled.
        targets: what was said of the batch by those who were weighed, peers included.
        beside: the losses of networks that learn beside the student, to be back-propagated with its own.
    """

    outputs: Tensor | Headed
    losses: Losses | None
    weights_TN: Tensor | None
    targets: LearntOutputs
    beside: Tensor | None = None


class Passes(Protocol):
    """A batch that goes through the model in parts, see `raykd.train.in_parts`."""

    @property
    def outputs(self) -> Tensor | Headed:
        """Of the whole batch, as leaves of the objective's graph."""
        ...

    @property
    def features(self) -> Mapping[str, Tensor]:
        """Tap -> the same, [B, ...]."""
        ...

    def backward(self) -> None:
        """Pass the gradients of outputs and features on to the parameters."""
        ...


class DistillModule(nn.Module):
    """Student and objective as one module, so that one DDP wrap covers projectors too.

    A student's logits of many tokens are not made as a whole (`raykd.losses.head`) where that is possible and pays,
    which the fit and its targets decide and no measurement: `tokens` is given, and the teachers' answers are of few of
    them; or there are no teachers and more than 1,024 tokens.

    Args:
        network: the student.
        objective: what it is taught by.
        taps: modules whose outputs the objective compares.
        precision: `float32` or `bfloat16`.
        tokens: V, where the student gives its hidden states and the objective takes them; else None.
    """

    def __init__(
        self,
        network: Network,
        objective: DistillObjective,
        taps: Sequence[str],
        precision: str,
        *,
        tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self._taps = Taps(network.model, taps)
        self._autocast = precision == "bfloat16"
        self._tokens = tokens

    def outputs(self, prepared: Mapping[str, Tensor], network: Network | None = None) -> Tensor:
        """What the student puts out for inputs as its model takes them, or another network, at least float32 [N, C]."""
        device = next(iter(prepared.values())).device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._autocast):
            outputs_NC = (network or self.network).output(prepared)
        return outputs_NC.float() if outputs_NC.dtype.itemsize < 4 else outputs_NC

    def make_whole(self) -> None:
        """Make all logits as a whole from now on, for comparisons."""
        self._tokens = None

    def headed(self, prepared: Mapping[str, Tensor]) -> Headed:
        """The same before the last layer, in the dtype in which that multiplies."""
        device = next(iter(prepared.values())).device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._autocast):
            return self.cast(self.network.headed(prepared))

    def cast(self, headed: Headed) -> Headed:
        """States and head in the dtype in which they are multiplied."""
        if not self._autocast:
            return headed
        bias_V = None if headed.bias_V is None else headed.bias_V.bfloat16()
        return Headed(
            hidden_ND=headed.hidden_ND.bfloat16(), head_VD=headed.head_VD.bfloat16(), bias_V=bias_V
        )

    def features(self) -> dict[str, Tensor]:
        """What the taps hold of the last forward pass: tap -> [B, ...]."""
        return self._taps.take()

    def student_outputs(self, lesson: Lesson) -> Tensor | Headed:
        """What the student puts out for a batch, before its last layer where its logits are not made as a whole."""
        many = self._tokens is not None and self._tokens > _WHOLE
        if lesson.targets:
            few = any(isinstance(answer, TopK) for answer in lesson.targets.values())
            many = self._tokens is not None and few
        return self.headed(lesson.batch.inputs) if many else self.outputs(lesson.batch.inputs)

    def forward(self, lesson: Lesson, all_sum: Callable[[Tensor], Tensor], workers: int) -> Forward:
        """What this worker's part of a batch gives."""
        outputs = self.student_outputs(lesson)
        return self.taught(outputs, self.features(), lesson, all_sum, workers)

    def taught(
        self,
        outputs: Tensor | Headed,
        features: Mapping[str, Tensor],
        lesson: Lesson,
        all_sum: Callable[[Tensor], Tensor],
        workers: int,
    ) -> Forward:
        """What the outputs and features of a forward pass come to."""
        given = features, lesson.batch, lesson.targets, lesson.context
        weights_TN = None
        if self.objective.settles:
            terms = self.objective.feature_terms(*given)
        else:
            terms, weights_TN = self.objective(outputs, *given)
        losses = reduce_terms(terms, all_sum, workers) if terms else None
        if losses is not None:
            measured = self.objective.measured(outputs, lesson.batch, lesson.targets)
            losses = replace(losses, measured=measured)
        return Forward(
            outputs=outputs, losses=losses, weights_TN=weights_TN, targets=lesson.targets
        )


class Update:
    """Optimizer, schedule, clipping and moving averages: what happens before and after `backward`.

    Args:
        module: what is trained.
        optimizer: of its parameters.
        schedule: of the learning rate.
        clip_norm: most that the gradient's norm may be; None = anything.
        averages: of the model, that follow it.
        sharing: the workers that hold the model in parts; None = each holds all of it.
    """

    def __init__(
        self,
        module: DistillModule,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        *,
        clip_norm: float | None,
        averages: Sequence[AveragedModel],
        sharing: Sharing | None = None,
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip_norm = clip_norm
        self.averages = tuple(averages)
        self.sharing = sharing
        self._parameters = list(module.parameters())

    def clear(self) -> None:
        """Forget the gradients of the update before."""
        for parameter in self._parameters:
            parameter.grad = None

    def average_gradients(self, all_sum: Callable[[Tensor], Tensor], workers: int) -> None:
        """Average them over the workers, where nothing else has done so."""
        if workers == 1:
            return
        if self.sharing is not None:
            self.sharing.average_gradients(self._parameters, workers)
            return
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad = all_sum(parameter.grad) / workers

    def step(self) -> None:
        """Step along the gradients."""
        if self.clip_norm is not None and self.sharing is not None:
            self.sharing.clip(self._parameters, self.clip_norm)
        elif self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        for average in self.averages:
            average.update_parameters(self.module.network.model)


class Steps:
    """Updates on some lessons in a row, and afterwards their losses: the device is not waited for in between.

    Args:
        wrapped: the `DistillModule`, or the `PeerModule` of several; its gradients averaged over the workers.
        updates: what follows, of each network that is trained; the first is the student's.
        lessons: what they train on.
        units: of all lessons, one after the other; None where the objective is not settled.
        all_sum: adds over the workers.
        workers: how many there are.
        passes: makes a batch go through the model in parts; None where it goes as a whole.
    """

    def __init__(
        self,
        wrapped: nn.Module,
        updates: Sequence[Update],
        lessons: Sequence[Lesson],
        units: SettledUnits | None,
        all_sum: Callable[[Tensor], Tensor],
        workers: int,
        passes: Callable[[DistillModule, Lesson], Passes] | None = None,
    ) -> None:
        self._wrapped, self._updates, self._passes = wrapped, updates, passes
        self._all_sum, self._workers = all_sum, workers
        self._objective = updates[0].module.objective
        self._settled = None
        if units is not None:
            settings = self._objective.settings
            sizes = [len(lesson.batch.labels) for lesson in lessons]
            strengths = [strengths_at(settings, lesson.context.epoch) for lesson in lessons]
            self._settled = SettledSteps(units, sizes, strengths, all_sum, workers)
        self._logs: list[Tensor] = []
        self._losses: list[Losses] = []
        self._weighed: list[tuple[Tensor, LearntOutputs]] = []

    def __call__(self, lesson: Lesson) -> None:
        """One update."""
        given = self._all_sum, self._workers
        passes: Passes | None = None
        if self._passes is None:
            found: Forward = self._wrapped(lesson, *given)
        else:
            module = self._updates[0].module
            passes = self._passes(module, lesson)
            found = module.taught(passes.outputs, passes.features, lesson, *given)
        of: dict[Tensor, Tensor | None] = {}
        if found.losses is not None:
            of[found.losses.total] = None
            self._losses.append(replace(found.losses, total=found.losses.total.detach()))
        if found.weights_TN is not None:
            self._weighed.append((found.weights_TN, found.targets))
        if self._settled is not None:
            assert isinstance(found.outputs, Tensor), "only of unsettled objectives"
            gradient_NC, log_q_NC = self._settled.gradient(len(self._logs), found.outputs.detach())
            of[found.outputs] = gradient_NC
            self._logs.append(log_q_NC)
        if found.beside is not None:
            of[found.beside] = None
        self._update(of, passes)

    def _update(self, of: Mapping[Tensor, Tensor | None], passes: Passes | None) -> None:
        """Back-propagate and step.

        Args:
            of: tensor -> the loss's gradient with respect to it; None of a loss itself. They add up.
            passes: of a batch in parts, to be back-propagated through afterwards.
        """
        for update in self._updates:
            update.clear()
        torch.autograd.backward(list(of), list(of.values()))
        if passes is not None:
            passes.backward()
        for update in self._updates:
            if passes is not None or update.sharing is not None:
                update.average_gradients(self._all_sum, self._workers)
        for update in self._updates:
            update.step()

    def losses(self) -> list[Losses]:
        """Of the lessons so far."""
        if self._settled is not None:
            settled = self._settled.losses(self._logs)
            return list(map(_added, settled, self._losses)) if self._losses else settled
        if not self._weighed:
            return self._losses
        weights, targets = zip(*self._weighed, strict=True)
        sums = self._objective.ensemble_sums(weights, targets)
        return [replace(one, ensemble=sum_E) for one, sum_E in zip(self._losses, sums, strict=True)]


def _added(settled: Losses, features: Losses) -> Losses:
    return replace(
        settled, total=settled.total + features.total, terms={**settled.terms, **features.terms}
    )
