"""Networks that learn from each other: several modules as one, each taught by what the others say of the same batch.

Shape suffixes: K networks, N units, C classes, B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from raykd.models.network import Network
from raykd.objective.peers import agreement_sums
from raykd.objective.schedules import strengths_at
from raykd.top_k import likeliest
from raykd.train.learner import averaged
from raykd.train.step import DistillModule, Forward, Lesson
from raykd.types import Dense, Output, TopK


class Speakers(Protocol):
    """Networks that are listened to, and not trained here: copies of peers, or an average of the student."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the networks."""
        ...

    def outputs(self, said: Callable[[Network], Tensor]) -> dict[str, Tensor]:
        """What each puts out, without gradient; nothing of those that do not speak yet.

        Args:
            said: a network -> its outputs for the inputs of a step.
        """
        ...


class MeanTeacher:
    """A moving average of the student's weights and buffers, as its teacher.

    Args:
        network: the student.
        decay: of the average.
    """

    names = ("average",)

    def __init__(self, network: Network, decay: float) -> None:
        self.average = averaged(network.model, decay)
        self._network = Network(self.average.module, network.preprocessing, network.scale).eval()

    @torch.no_grad()
    def outputs(self, said: Callable[[Network], Tensor]) -> dict[str, Tensor]:
        """What the average puts out."""
        return {name: said(self._network) for name in self.names}


class PeerModule(nn.Module):
    """Peers as one module, so that one DDP wrap, and one `backward`, cover all of them.

    What a peer says is detached before another one learns from it: the gradient of the sum of their losses is for each
    peer that of its own loss alone (Zhang et al. 2018, whose networks are updated one after the other; here all learn from
    what the others said at the beginning of the step).

    Args:
        peers: name -> network and objective; the first is the student. Each objective knows the names of the others.
        from_epoch: epochs in which nobody listens to a peer.
        copies: networks that speak and are not trained here.
    """

    def __init__(
        self,
        peers: Mapping[str, DistillModule],
        *,
        from_epoch: float,
        copies: Speakers | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(peers)
        self.peers = nn.ModuleList(peers.values())
        self._from_epoch, self._copies = from_epoch, copies

    def forward(self, lesson: Lesson, all_sum: Callable[[Tensor], Tensor], workers: int) -> Forward:
        """What this worker's part of a batch gives the student, and beside it the losses of the others."""
        modules = [peer for peer in self.peers if isinstance(peer, DistillModule)]
        outputs = [module.outputs(lesson.batch.inputs) for module in modules]
        spoken = {n: one.detach() for n, one in zip(self.names, outputs, strict=True)}
        if self._copies is not None:
            spoken |= self._copies.outputs(partial(modules[0].outputs, lesson.batch.inputs))
        said = self._said(spoken, lesson, outputs[0])
        student, *others = (
            module.taught(
                own,
                module.features(),
                self._taught_by(said, name, module, lesson),
                all_sum,
                workers,
            )
            for name, module, own in zip(self.names, modules, outputs, strict=True)
        )
        assert student.losses is not None, "what peers teach is never settled"
        losses = student.losses
        if len(spoken) > 1:
            present_N = lesson.batch.per_unit(lesson.batch.present_B)
            sums = agreement_sums(torch.stack(list(spoken.values())), present_N)
            losses = replace(losses, peers=sums)
        totals = [other.losses.total for other in others if other.losses is not None]
        beside = torch.stack(totals).sum() if totals else None
        return replace(student, losses=losses, beside=beside)

    def _said(
        self, spoken: Mapping[str, Tensor], lesson: Lesson, like_NC: Tensor
    ) -> dict[str, Dense]:
        """What each peer says, as a teacher's answer; nothing that counts before `from_epoch`, or of one that is silent."""
        heard = lesson.context.epoch >= self._from_epoch
        found = {name: _answer(one, heard=heard) for name, one in spoken.items()}
        silent = () if self._copies is None else set(self._copies.names) - spoken.keys()
        nothing_NC = torch.zeros_like(like_NC)
        return found | {name: _answer(nothing_NC, heard=False) for name in silent}

    def _taught_by(
        self, said: Mapping[str, Dense], name: str, module: DistillModule, lesson: Lesson
    ) -> Lesson:
        """The lesson of one peer, with what the others say."""
        others: dict[str, Output] = {one: said[one] for one in said if one != name}
        few = [one for one in lesson.targets.values() if isinstance(one, TopK)]
        if few:  # all answers of a batch are kept alike
            objective = module.objective
            temperature = strengths_at(objective.settings, lesson.context.epoch).temperature
            size = few[0].ids_NK.shape[1]
            others = {n: likeliest(answer, size, (temperature,)) for n, answer in others.items()}
        return replace(lesson, targets={**lesson.targets, **others})


def _answer(outputs_NC: Tensor, *, heard: bool) -> Dense:
    """What a peer says, as a teacher's answer."""
    count = len(outputs_NC)
    valid_N = torch.full((count,), heard, dtype=torch.bool, device=outputs_NC.device)
    return Dense(kind="logits", values_NC=outputs_NC, valid_N=valid_N)
