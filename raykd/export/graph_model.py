"""What was written, as a model of torch: for predictions by it, and to score it as any other model.

Shapes: B batch, L tokens of a chunk.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.export.description import Description
from raykd.export.student import Runner
from raykd.models.network import Network
from raykd.models.preprocess import IDENTITY


class GraphModel(nn.Module):
    """The first output of a written graph, which is what the network itself puts out.

    Args:
        run: the graph.
        length: of the chunks of tokens that it takes; shorter ones are padded behind their end, which changes nothing
            before it. None where it takes no chunks.
    """

    def __init__(self, run: Runner, length: int | None = None) -> None:
        super().__init__()
        self._run = run
        self._length = length

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, ...] as the graph takes samples -> logits, values or embeddings [B, ...]; of chunks [B, L, V]."""
        given = inputs
        if self._length is not None:
            given = F.pad(inputs, (0, self._length - inputs.shape[1]))
        first = torch.from_numpy(self._run(np.ascontiguousarray(given.cpu().numpy()))[0])
        return first if self._length is None else first[:, : inputs.shape[1]]


def as_network(about: Description, run: Runner) -> Network:
    """A written graph with the tokenizer that it has not inside.

    Args:
        about: of its student.
        run: the graph.

    Returns:
        As the student in torch: from `{input name: tensor}` in source space to logits, values in original units, or
        embeddings.
    """
    shown = about.preprocessing
    outside = shown.tokens is not None or shown.chunks is not None
    length = None if shown.chunks is None else shown.chunks.length
    return Network(GraphModel(run, length), shown if outside else IDENTITY).eval()
