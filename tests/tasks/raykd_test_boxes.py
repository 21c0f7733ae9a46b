"""Small images with two kinds of things on noise, which a detector learns in seconds."""

from __future__ import annotations

import numpy as np
import torch

from raykd.data import Dataset
from raykd.detection.layout import label_rows, layout_for
from raykd.detection.structured import packed_lists

SIDE = 32


def drawn_image(random):
    """Bright squares and dark frames; some images have none."""
    image = random.normal(0.5, 0.05, size=(SIDE, SIDE))
    boxes, classes = [], []
    for _ in range(random.integers(0, 3)):
        side = int(random.integers(8, 14))
        x, y = (int(one) for one in random.integers(0, SIDE - side + 1, size=2))
        if any(x < b[2] and b[0] < x + side and y < b[3] and b[1] < y + side for b in boxes):
            continue
        label = int(random.integers(2))
        part = image[y : y + side, x : x + side]
        part[...] = 0.95
        if label:
            part[2:-2, 2:-2] = 0.05
        boxes.append([x, y, x + side, y + side])
        classes.append(label)
    return image, (classes, boxes)


def box_data(count: int = 220, unlabelled: int = 0) -> Dataset:
    """Images [N, 1, 32, 32]; the last ones without labels where so many are asked for."""
    random = np.random.default_rng(0)
    drawn = [drawn_image(random) for _ in range(count)]
    labels = [one[1] for one in drawn]
    labels = [*labels[: count - unlabelled], *[None] * unlabelled]
    return Dataset(
        np.stack([one[0] for one in drawn])[:, None].clip(0, 1).astype(np.float32),
        label_rows(labels),
        task="detection",
        classes=("square", "frame"),
    )


class BrightBoxes(torch.nn.Module):
    """A rule in place of a detector with locations of its own: one box around what is bright, of class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("least", torch.tensor(0.8))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Rows of boxes, from lists as torchvision's detectors return them."""
        found = [self._found(image[0]) for image in images]
        return packed_lists(found, layout_for(2, *images.shape[-2:], stride=4), class_of={1: 0})

    def _found(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        bright = (image > self.least).nonzero().float()
        boxes = torch.zeros(0, 4)
        if len(bright):
            boxes = torch.cat([bright.amin(0).flip(0), bright.amax(0).flip(0) + 1])[None]
        sure = torch.full((len(boxes),), 0.75)
        return {"boxes": boxes, "labels": torch.ones(len(boxes)), "scores": sure}
