"""What an epoch adds up over its steps, and how a fit that is stopped within one takes it along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from raykd.objective import Losses
from raykd.train.world import World

_SUMS = ("ensemble", "measured", "peers")
"""What is added up where there is any of it."""


@dataclass
class EpochAccumulator:
    """Sums over the steps of one epoch, of this worker.

    Attributes:
        loss: of the total loss.
        terms: term -> of its share.
        ensemble: what `ensemble_values` takes.
        measured: what the rule's `Measures` take.
        peers: what `agreement_values` takes.
        steps: how many there were.
        samples: that this worker trained on.
        wait_s: that it waited for teachers.
        input_wait_s: that it waited for inputs.
        seconds: that the epoch took before the fit was stopped in it.
    """

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    ensemble: Tensor | None = None
    measured: Tensor | None = None
    peers: Tensor | None = None
    steps: int = 0
    samples: int = 0
    wait_s: float = 0.0
    input_wait_s: float = 0.0
    seconds: float = 0.0

    @classmethod
    def none(cls, world: World) -> EpochAccumulator:
        """Those of an epoch that begins."""
        return cls(loss=torch.zeros((), device=world.device))

    def add(self, losses: Losses, samples: int, workers: int) -> None:
        """Those of one step more."""
        self.loss = self.loss + losses.total.detach() / workers
        for name, share in losses.terms.items():
            self.terms[name] = self.terms.get(name, torch.zeros_like(share)) + share
        for name in _SUMS:
            own, before = getattr(losses, name), getattr(self, name)
            if own is not None:
                setattr(self, name, own if before is None else before + own)
        self.steps += 1
        self.samples += samples

    def total(self, world: World) -> dict[str, Any]:
        """Of all workers together, for a checkpoint; every worker takes part. Times are this worker's."""
        counted = torch.tensor([self.samples], device=world.device)
        sums = {name: getattr(self, name) for name in _SUMS}
        return {
            "loss": world.all_sum(self.loss).cpu(),
            "terms": {name: world.all_sum(self.terms[name]).cpu() for name in sorted(self.terms)},
            **{n: None if s is None else world.all_sum(s).cpu() for n, s in sums.items()},
            "steps": self.steps,
            "samples": int(world.all_sum(counted)),
            "wait_s": self.wait_s,
            "input_wait_s": self.input_wait_s,
            "seconds": self.seconds,
        }

    @classmethod
    def of_total(cls, total: Mapping[str, Any], world: World) -> EpochAccumulator:
        """What a worker of the group that goes on begins with: rank 0 with all, the others with nothing."""
        share = 0 if world.rank else 1
        sums = {name: total.get(name) for name in _SUMS}
        return cls(
            loss=share * total["loss"].to(world.device),
            terms={name: share * term.to(world.device) for name, term in total["terms"].items()},
            **{n: None if s is None else share * s.to(world.device) for n, s in sums.items()},
            steps=total["steps"],
            samples=share * total["samples"],
            wait_s=total["wait_s"],
            input_wait_s=total["input_wait_s"],
            seconds=total["seconds"],
        )
