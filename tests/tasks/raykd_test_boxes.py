"""Small images with two kinds of things on noise, which a detector learns in seconds."""

from __future__ import annotations

import numpy as np

from raykd.data import Dataset
from raykd.detection.layout import label_rows

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
