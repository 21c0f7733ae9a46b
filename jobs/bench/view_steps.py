"""Views made by tensors on the CPU, one thread, beside the array code that raykd had before (commit 7d0af11).

The earlier code is written out here anew, as far as it is compared. Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.bench.measuring import Row, Sizes, paired, rotated, row_of
from raykd.config.data import (
    Data,
    FactoryView,
    Flip,
    Mixup,
    PadCrop,
    RandomResizedCrop,
    Views,
    ViewStep,
)
from raykd.config.sources import DigitsSource
from raykd.data import Dataset, Samples
from raykd.data.gathering import gather_into
from raykd.data.geometry import Geometry
from raykd.data.samples import samples_of

_SIDE, _IMAGES, _BATCH = 224, 600, 64
_PADDING = 4
_SCALE = (0.08, 1.0)


def views(sizes: Sizes) -> list[Row]:
    """Images a second of a gather, and of views as ratios to the earlier code; figures are of processor time."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (_IMAGES, 3, _SIDE, _SIDE), dtype=np.uint8)
    rows = rng.integers(0, _IMAGES, _BATCH)
    place = np.empty((_BATCH, 3, _SIDE, _SIDE), np.uint8)
    shown = torch.zeros(_BATCH, 3, _SIDE, _SIDE)
    crop, own = RandomResizedCrop(scale=_SCALE), FactoryView(path=f"{__name__}:cropped")
    pad, mix, cut, factory = (
        _samples(images, *policy) for policy in ((PadCrop(), Flip()), (Mixup(),), (crop,), (own,))
    )
    boxes_4B = _drawn(cut, rows).drawn[0]["box"]
    calls: dict[str, Callable[[], object]] = {
        "gather": lambda: gather_into(place, images, rows),
        "pad_crop + flip": lambda: pad.batch(rows, 0),
        "pad_crop + flip, before": lambda: _padded(images, rows, _drawn(pad, rows)),
        "mixup": lambda: mix.batch(rows, 0),
        "mixup, before": lambda: _mixed(images, rows, _drawn(mix, rows)),
        "mixup, floor": lambda: _mixing_floor(images, rows, place, shown),
        "random_resized_crop": lambda: cut.batch(rows, 0),
        "random_resized_crop, before": lambda: factory.batch(rows, 0),
        "random_resized_crop, floor": lambda: _resized(images, rows, boxes_4B, shown),
    }
    seconds = _in_turns(calls, sizes.repeats)
    rates = [
        row_of(f"{n}, images/s", "images/s", [_BATCH / one for one in s])
        for n, s in seconds.items()
    ]

    def ratio(name: str, to: str, bar: str) -> Row:
        return paired(f"{name} / {to}", seconds[f"{name}, {to}"], seconds[name], bar=bar)

    return [
        {**rates[0], "bar": ">= 40000"},
        *rates[1:],
        ratio("pad_crop + flip", "before", ">= 1"),
        ratio("mixup", "before", ">= 3, or the floor"),
        ratio("mixup", "floor", "1 is the floor"),
        ratio("random_resized_crop", "before", ">= 3, or the floor"),
        ratio("random_resized_crop", "floor", "1 is the floor"),
    ]


def cropped(image_CHW: Tensor, generator: torch.Generator) -> Tensor:
    """A random resized crop as a step of one's own, one image at a time."""
    _, H, W = image_CHW.shape
    for _ in range(10):
        area, form, row, column = torch.rand(4, generator=generator).tolist()
        area = H * W * (_SCALE[0] + area * (_SCALE[1] - _SCALE[0]))
        form = 0.75 * (16 / 9) ** form
        height, width = round((area / form) ** 0.5), round((area * form) ** 0.5)
        if 0 < height <= H and 0 < width <= W:
            top, left = int(row * (H - height + 1)), int(column * (W - width + 1))
            part = image_CHW[None, :, top : top + height, left : left + width]
            return F.interpolate(part, (H, W), mode="bilinear", antialias=True)[0]
    return image_CHW


def _samples(images: np.ndarray, *policy: ViewStep) -> Samples:
    labels, hashes = np.arange(len(images)) % 4, np.arange(len(images), dtype=np.uint64)
    data = Data(source=DigitsSource(), views=Views(policy=policy))
    return samples_of(Dataset(inputs=images, labels=labels, hashes=hashes), data, seed=0)


def _drawn(samples: Samples, rows: np.ndarray) -> Geometry:
    return samples.geometry(rows, np.zeros(len(rows), np.int64))


def _in_turns(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of processor time, the median of three calls; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(1 + repeats):
        for name in rotated(list(calls), repeat):
            seconds[name].append(median(_once_s(calls[name]) for _ in range(3)))
    return {name: values[1:] for name, values in seconds.items()}


def _once_s(call: Callable[[], object]) -> float:
    begun = time.process_time()
    call()
    return time.process_time() - begun


def _as_floats(images: np.ndarray) -> np.ndarray:
    floats: np.ndarray = np.divide(images, np.float32(255), dtype=np.float32)
    return floats


def _padded(images: np.ndarray, rows: np.ndarray, drawn: Geometry) -> np.ndarray:
    moves, flips = drawn.drawn
    shown = images[rows]
    B, C, H, W = shown.shape
    padded = np.zeros((B, C, H + 2 * _PADDING, W + 2 * _PADDING), np.uint8)
    padded[:, :, _PADDING : _PADDING + H, _PADDING : _PADDING + W] = shown
    windows = np.lib.stride_tricks.sliding_window_view(padded, (H, W), axis=(2, 3))
    moved = windows[np.arange(B), :, _PADDING - moves["down"], _PADDING - moves["right"]]
    mirrored_B = flips["mirrored"][:, None, None, None]
    return _as_floats(np.where(mirrored_B, moved[..., ::-1], moved))


def _mixed(images: np.ndarray, rows: np.ndarray, drawn: Geometry) -> np.ndarray:
    assert drawn.partners is not None
    share = drawn.drawn[0]["share"][:, None, None, None]
    own, partner = images[rows], images[drawn.partners.rows]
    blended: np.ndarray = share * _as_floats(own) + (1 - share) * _as_floats(partner)
    return blended


def _mixing_floor(images: np.ndarray, rows: np.ndarray, place: np.ndarray, shown: Tensor) -> None:
    """The reading of two images for each, the same arithmetic on bytes that lie in the cache, and writing what it gives."""
    gather_into(place, images, rows)
    gather_into(place, images, rows)
    byte = torch.from_numpy(place[:2])
    partner = torch.empty(byte.shape)
    for start in range(0, len(rows), 2):
        own = shown[start : start + 2]
        own.copy_(byte).div_(255.0).mul_(0.3)
        own.add_(partner.copy_(byte).div_(255.0).mul_(0.7))


def _resized(images: np.ndarray, rows: np.ndarray, boxes_4B: np.ndarray, shown: Tensor) -> None:
    """The calls of `interpolate` alone, on floats at hand, and writing what they give."""
    image = torch.from_numpy(images[rows[:1]]).float()
    for index, (top, left, height, width) in enumerate(boxes_4B.T.tolist()):
        part = image[:, :, top : top + height, left : left + width]
        resized = F.interpolate(part, (_SIDE, _SIDE), mode="bilinear", antialias=True)
        shown[index] = resized[0]
