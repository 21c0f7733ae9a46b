"""A student as the formats see it: one module from a tensor to the named outputs of its task.

Shapes: B batch, C classes or labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from raykd.export.description import Description
from raykd.models.encoding import TableEncoding
from raykd.models.network import Network, core
from raykd.models.preprocess import Preprocessing
from raykd.tasks import find_task

_GAPS = 0.2
Runner = Callable[[np.ndarray], list[np.ndarray]]


class OfIds(nn.Module):
    """A language model as it is asked without raykd: the logits after every token.

    Args:
        model: from ids [B, L] to logits [B, L, V].
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Of the only input int64 [B, L] -> [B, L, V]."""
        (ids_BL,) = inputs.values()
        logits: Tensor = self.model(ids_BL)
        return logits


class Answers(nn.Module):
    """Preprocessing (but tokenizers), network and what the task makes of its output, in one module.

    Args:
        network: from `{input name: tensor}` to one tensor [B, C].
        name: of the input.
        task: decides the outputs.
        temperature: of the student; its probabilities are calibrated by it.
        known: number of classes and the shape of the network's input; None = where the task looks for itself.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        task: str,
        temperature: float = 1.0,
        known: tuple[int, tuple[int, ...]] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.temperature = temperature
        export = find_task(task).export
        self.outputs = export.of_network
        if known is not None and export.of_network_for is not None:
            self.outputs = export.of_network_for(*known)

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """[B, ...] in source space, of texts token ids -> the outputs of the task, float32."""
        return self.outputs(self.network({self.name: inputs}).float(), self.temperature)


@dataclass(frozen=True, eq=False)
class Student:
    """What is exported.

    Attributes:
        network: in evaluation mode, from `{input name: tensor [B, ...]}` to logits or values [B, C].
        about: its description.
        calibration: untransformed training samples [N, ...] as `answers` takes them, for formats that need the ranges of
            their inputs; None where no such format is asked for.
    """

    network: nn.Module
    about: Description
    calibration: np.ndarray | None = None

    @property
    def outputs(self) -> Mapping[str, str]:
        """Names of the outputs in order -> what each means."""
        return find_task(self.about.task).export.outputs

    def answers(self) -> Answers:
        """The module that every format is made from and held against."""
        network = self.network
        if self.about.preprocessing.chunks is not None:
            network = OfIds(core(network))
        elif self.about.preprocessing.tokens is not None:
            network = Network(core(network), scale=self.about.scale)
        about = self.about
        shape = about.preprocessing.output_shape(about.input.shape)
        known = (len(about.classes), shape)
        return Answers(
            network, about.taken.name, about.task, about.temperature or 1.0, known
        ).eval()

    def random_inputs(self, size: int, seed: int = 0) -> Tensor:
        """Inputs like the data's: [size, ...] around its mean, with its spread, in source space.

        Where the preprocessing normalises nothing, standard normal; integers are 0 or 1. Of texts token ids,
        of half the length at least, then padding. Of a table with gaps or words also gaps, and codes of known and new
        words.
        """
        generator = torch.Generator().manual_seed(seed)
        shape = (size, *self.about.taken.shape)
        shown = self.about.preprocessing
        if shown.chunks is not None:
            return torch.randint(0, shown.chunks.size, shape, generator=generator)
        if shown.tokens is not None:
            return _random_ids(shape, shown.tokens.size, generator)
        if self.about.input.dtype == "int64":
            return torch.randint(0, 2, shape, generator=generator)
        if shown.table is not None:
            return _random_table(shape, shown, shown.table, generator)
        mean, std = (
            _per_channel(shown.mean or (0.0,), shape),
            _per_channel(shown.std or (1.0,), shape),
        )
        return (mean + std * torch.randn(shape, generator=generator)) / shown.scale


def _random_table(
    shape: tuple[int, ...], shown: Preprocessing, table: TableEncoding, generator: torch.Generator
) -> Tensor:
    numbers, rows_BD = list(table.numbers), torch.zeros(shape)
    spread = torch.randn(shape[0], len(numbers), generator=generator)
    mean, std = (
        torch.tensor((values or (default,) * len(numbers))[: len(numbers)])
        for values, default in ((shown.mean, 0.0), (shown.std, 1.0))
    )
    rows_BD[:, numbers] = (mean + std * spread) / shown.scale
    for one in table.words:
        codes = torch.randint(-1, len(one.words) + 1, (shape[0],), generator=generator)
        rows_BD[:, one.column] = codes.float()
    gaps_BD = torch.rand(shape, generator=generator) < _GAPS
    if table.fill is None:
        gaps_BD[:, numbers] = False
    return rows_BD.masked_fill(gaps_BD, torch.nan)


def _random_ids(shape: tuple[int, ...], most: int, generator: torch.Generator) -> Tensor:
    ids_BL = torch.randint(1, most + 1, shape, generator=generator)
    used_B1 = torch.randint(shape[1] // 2, shape[1] + 1, (shape[0], 1), generator=generator)
    return torch.where(torch.arange(shape[1]) < used_B1, ids_BL, 0)


def _per_channel(values: tuple[float, ...], shape: tuple[int, ...]) -> Tensor:
    """`values` along the channels of a batch; their mean where the channels are not the source's."""
    fitting = values if len(values) == shape[1] else (sum(values) / len(values),)
    return torch.tensor(fitting).view(-1, *([1] * (len(shape) - 2)))


def run_module(module: nn.Module) -> Runner:
    """A torch module as every format is called: arrays in, arrays out."""

    def run(inputs: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [tensor.numpy() for tensor in module(torch.from_numpy(inputs))]

    return run
