"""A batch that goes through the model in parts, with the gradient of the whole batch.

The outputs of all parts are made first, without what a gradient needs. The objective, which may compare samples with each
other, sees them as one batch and says the gradient with respect to them; then each part goes through the model again, with
the same random numbers, and passes its share of that gradient on (gradient cache, Gao et al. 2021, section 3.2). Only one
part's activations are there at a time, for one more forward pass.

Batch normalisation sees each part by itself, and counts each once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raykd.train.step import DistillModule, Lesson
from raykd.train.world import random_state, set_random_state
from raykd.types import Headed


class PartialPasses:
    """The passes of one batch.

    Args:
        module: the student with its objective.
        lesson: the batch.
        size: samples of a part.

    Attributes:
        outputs: of the whole batch, [N, C] or before the last layer; a leaf of the objective's graph.
        features: tap -> the same, [B, ...].
    """

    def __init__(self, module: DistillModule, lesson: Lesson, size: int) -> None:
        self._module, self._lesson = module, lesson
        inputs = lesson.batch.inputs
        count = len(next(iter(inputs.values())))
        self._device = next(iter(inputs.values())).device
        self._parts = [
            {name: tensor[start : start + size] for name, tensor in inputs.items()}
            for start in range(0, count, size)
        ]
        self._random: list[Tensor] = []
        made: list[Tensor] = []
        tapped: list[Mapping[str, Tensor]] = []
        headed = False
        with torch.no_grad(), _statistics_kept(module.network):
            for part in self._parts:
                self._random.append(random_state(self._device))
                output = self._pass(part)
                headed = isinstance(output, Headed)
                made.append(_last(output))
                tapped.append(module.features())
        self._sizes = [len(one) for one in made]
        self._leaf = torch.cat(made).requires_grad_()
        self.outputs: Tensor | Headed = self._leaf
        if headed:
            self.outputs = module.cast(module.network.with_head(self._leaf))
        self.features = {
            name: _leaf_of(torch.cat([one[name] for one in tapped])) for name in tapped[0]
        }

    def backward(self) -> None:
        """Pass the gradients of `outputs` and `features` on to the parameters."""
        after, unit, sample = random_state(self._device), 0, 0
        for part, state, units in zip(self._parts, self._random, self._sizes, strict=True):
            set_random_state(state, self._device)
            output = _last(self._pass(part))
            samples = len(next(iter(part.values())))
            made = [(output, self._leaf, slice(unit, unit + units))]
            for name, feature in self._module.features().items():
                made.append((feature, self.features[name], slice(sample, sample + samples)))
            taught = [
                (tensor, leaf.grad[own])
                for tensor, leaf, own in made
                if leaf.grad is not None and tensor.requires_grad
            ]
            if taught:
                torch.autograd.backward([one for one, _ in taught], [grad for _, grad in taught])
            unit, sample = unit + units, sample + samples
        set_random_state(after, self._device)

    def _pass(self, part: Mapping[str, Tensor]) -> Tensor | Headed:
        """What one part gives; the taps hold its features."""
        batch = replace(self._lesson.batch, inputs=part)
        return self._module.student_outputs(replace(self._lesson, batch=batch))


def _last(output: Tensor | Headed) -> Tensor:
    """The tensor that a pass ends with."""
    return output.hidden_ND if isinstance(output, Headed) else output


def _leaf_of(feature: Tensor) -> Tensor:
    return feature.requires_grad_() if feature.is_floating_point() else feature


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """The running statistics of batch normalisation stay, so that the second pass alone counts."""
    normalised = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    kept = [(part, part.momentum, part.num_batches_tracked) for part in normalised]
    for part in normalised:
        part.momentum, part.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for part, momentum, count in kept:
            part.momentum, part.num_batches_tracked = momentum, count
