"""An anchor-free detector: every fourth pixel in both directions says what is there and how far its edges are.

Taps: `stem` and `blocks.<i>` ([B, D, H/4, W/4]), `head`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config.models import DetectorModel
from raykd.detection.layout import HEADER, Layout, layout_for, packed
from raykd.detection.locations import expected_edges
from raykd.models.shapes import BuildContext
from raykd.models.zoo.parts import NORMS, conv3x3, he_init, image_shape, named, scaled

STRIDE = 4
CHANNELS = 8
_DILATIONS = (1, 2, 4)
_FIRST = 0.01
"""Probability of every class at the start, as in Lin et al. 2017 (RetinaNet), sec. 4.1."""
_FIRST_EDGE = 2.0
_NARROW = 4.0
"""How wide an edge's distribution is at the start: its logits are −(i − 2)² / 4 at the i-th distance."""


def detector_layout(classes: int, height: int, width: int, bins: int | None = None) -> Layout:
    """How a detector of the zoo answers for images of a size."""
    return layout_for(classes, height, width, stride=STRIDE, bins=bins or 1)


class _Block(nn.Module):
    """x + ReLU(norm(conv x)); the dilation lets a location see what lies around it."""

    def __init__(self, channels: int, norm: str, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels, channels, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.norm = NORMS[norm](channels)

    def forward(self, map_BDHW: Tensor) -> Tensor:
        out: Tensor = map_BDHW + F.relu(self.norm(self.conv(map_BDHW)))
        return out


class Detector(nn.Module):
    """Images [B, C, H, W] to answers [B, A], see `raykd.detection.layout`."""

    knows_C: Tensor

    def __init__(self, spec: DetectorModel, channels: int, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        narrow, features = scaled(CHANNELS, spec.width), scaled(2 * CHANNELS, spec.width)
        self.stem = named(
            conv1=conv3x3(channels, narrow, stride=2),
            norm1=NORMS[spec.norm](narrow),
            act1=nn.ReLU(),
            conv2=conv3x3(narrow, features, stride=2),
            norm2=NORMS[spec.norm](features),
            act2=nn.ReLU(),
        )
        dilations = [_DILATIONS[i % len(_DILATIONS)] for i in range(spec.depth)]
        self.blocks = nn.Sequential(*(_Block(features, spec.norm, one) for one in dilations))
        self.head = nn.Conv2d(features, layout.classes + 4 * layout.bins, 1)
        he_init(self)
        nn.init.normal_(self.head.weight, std=0.01)
        edge = [_FIRST_EDGE]
        if layout.bins > 1:
            edge = [-((i - _FIRST_EDGE) ** 2) / _NARROW for i in range(layout.bins)]
        first = [-math.log((1 - _FIRST) / _FIRST)] * layout.classes + edge * 4
        assert self.head.bias is not None, "it has one"
        with torch.no_grad():
            self.head.bias.copy_(torch.tensor(first))
        knows = torch.ones(layout.classes, dtype=torch.bool)
        if spec.knows is not None:
            knows[:] = False
            knows[list(spec.knows)] = True
        self.register_buffer("knows_C", knows, persistent=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """What every location says."""
        said_BNE = self.head(self.blocks(self.stem(images_BCHW))).flatten(2).mT
        bins = self.layout.bins
        logits, raw = said_BNE.split([self.layout.classes, 4 * bins], dim=-1)
        if bins == 1:
            return packed(logits, STRIDE * F.softplus(raw), self.layout, self.knows_C)
        spread = raw.unflatten(-1, (4, bins))
        edges = expected_edges(spread, stride=STRIDE)
        return packed(logits, edges, self.layout, self.knows_C, spread)


def build_detector(spec: DetectorModel, context: BuildContext) -> nn.Module:
    """Two convolutions of stride 2 to 16·`width` channels, `depth` residual blocks, one 1×1 head.

    Returns:
        A module from [B, C, H, W] to [B, A].

    Raises:
        InputError: the input is no image, the task is not `detection`, or `knows` has a class that the data have not.
    """
    channels, height, width = image_shape(spec, context)
    places, bins = detector_layout(1, height, width).locations, spec.bins or 0
    classes, rest = divmod(context.classes - HEADER - 4 * places * (1 + bins), places + 1)
    if rest or classes < 1:
        raise context.error(
            f"detector answers with boxes, and {context.classes} outputs are none for images of {height}×{width}; use it "
            "with task: detection, or another type"
        )
    if spec.knows is not None and max(spec.knows) >= classes:
        raise context.error(
            f"found {max(spec.knows)}; the data have the classes 0 to {classes - 1}", field="knows"
        )
    return Detector(spec, channels, detector_layout(classes, height, width, spec.bins))
