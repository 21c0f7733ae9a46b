"""Networks that learn from each other: several modules as one, each taught by what the others say of the same batch.

Shape suffixes: K networks, N units, C classes, B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from raykd.objective.peers import agreement_sums
from raykd.objective.schedules import strengths_at
from raykd.top_k import likeliest
from raykd.train.step import DistillModule, Forward, Lesson
from raykd.types import Dense, Output, TopK


class PeerModule(nn.Module):
    """Peers as one module, so that one DDP wrap, and one `backward`, cover all of them.

    What a peer says is detached before another one learns from it: the gradient of the sum of their losses is for each
    peer that of its own loss alone (Zhang et al. 2018, whose networks are updated one after the other; here all learn from
    what the others said at the beginning of the step).

    Args:
        peers: name -> network and objective; the first is the student. Each objective knows the names of the others.
        from_epoch: epochs in which nobody listens to a peer.
    """

    def __init__(self, peers: Mapping[str, DistillModule], *, from_epoch: float) -> None:
        super().__init__()
        self.names = tuple(peers)
        self.peers = nn.ModuleList(peers.values())
        self._from_epoch = from_epoch

    def forward(self, lesson: Lesson, all_sum: Callable[[Tensor], Tensor], workers: int) -> Forward:
        """What this worker's part of a batch gives the student, and beside it the losses of the others."""
        modules = [peer for peer in self.peers if isinstance(peer, DistillModule)]
        outputs = [module.outputs(lesson.batch.inputs) for module in modules]
        heard = lesson.context.epoch >= self._from_epoch
        said = dict(zip(self.names, (_answer(one, heard=heard) for one in outputs), strict=True))
        student, *others = (
            module.taught(own, self._taught_by(said, name, module, lesson), all_sum, workers)
            for name, module, own in zip(self.names, modules, outputs, strict=True)
        )
        assert student.losses is not None, "what peers teach is never settled"
        totals = [other.losses.total for other in others if other.losses is not None]
        present_N = lesson.batch.per_unit(lesson.batch.present_B)
        sums = agreement_sums(torch.stack([one.detach() for one in outputs]), present_N)
        return replace(
            student,
            losses=replace(student.losses, peers=sums),
            beside=torch.stack(totals).sum(),
        )

    def _taught_by(
        self, said: Mapping[str, Dense], name: str, module: DistillModule, lesson: Lesson
    ) -> Lesson:
        """The lesson of one peer, with what the others say."""
        others: dict[str, Output] = {one: said[one] for one in self.names if one != name}
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
    return Dense(kind="logits", values_NC=outputs_NC.detach(), valid_N=valid_N)
