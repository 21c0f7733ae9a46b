"""Steps that see images as people made them: random crops that are resized, colours, RandAugment.

Each image on its own, in float32 or through torchvision. Shape suffixes: B samples, C channels, H height, W width, K
random numbers of one sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.config.data import ColorJitter, RandAugment, RandomResizedCrop
from raykd.data import colors
from raykd.data.geometry import Drawn, followed_by, moved_by, turned
from raykd.data.hashing import Draws
from raykd.data.step_kinds import Fields, PlainStep, StepTarget, on_each
from raykd.data.steps import to_float
from raykd.importing import load_package

_TRIES = 10
_RGB = 3
_STRENGTHS = 31
_DEGREES = 30.0
_SHEAR = 0.3
_PART_MOVED = 150 / 331
_CHANGE = 0.9


def random_resized_crop(settings: RandomResizedCrop, target: StepTarget) -> PlainStep:
    """A box of random area and shape, resized: bilinear, antialiased, as `torch.nn.functional.interpolate` does it."""
    shape = target.image_size("random_resized_crop")
    size = shape if settings.size is None else (settings.size, settings.size)

    def draw(draws: Draws) -> Drawn:
        return {
            "box": crop_boxes(draws.uniforms(4 * _TRIES), settings.scale, settings.ratio, shape)
        }

    def crop(images_BCHW: Tensor, drawn: Fields) -> Tensor:
        B, C = images_BCHW.shape[:2]
        shown = torch.empty((B, C, *size), device=images_BCHW.device)
        for index, (top, left, height, width) in enumerate(drawn["box"].T.tolist()):
            part = images_BCHW[index : index + 1, :, top : top + height, left : left + width]
            shown[index] = F.interpolate(to_float(part), size, mode="bilinear", antialias=True)[0]
        return shown

    def affine(drawn: Drawn) -> np.ndarray:
        top_B, left_B, height_B, width_B = drawn["box"]
        high_B, wide_B = size[0] / height_B, size[1] / width_B
        return moved_by(-left_B * wide_B, -top_B * high_B, wide=wide_B, high=high_B)

    step = on_each(draw, crop, affine)
    return PlainStep(step.draw, step.show, drawn_stays=True, affine=affine)


def crop_boxes(
    uniform_KB: np.ndarray,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    shape: tuple[int, int],
) -> np.ndarray:
    """Boxes of random area and shape within images: the first of ten that fits, else the largest central one.

    As torchvision's RandomResizedCrop, after Szegedy et al. 2015.

    Args:
        uniform_KB: float64 [40, B] in (0, 1); for each try area, shape, row and column.
        scale: least and largest part of the area.
        ratio: least and largest width over height.
        shape: (H, W).

    Returns:
        int64 [4, B]: top, left, height, width.
    """
    H, W = shape
    area_TB, form_TB, row_TB, column_TB = uniform_KB.reshape(_TRIES, 4, -1).transpose(1, 0, 2)
    area_TB = H * W * (scale[0] + area_TB * (scale[1] - scale[0]))
    least, most = map(math.log, ratio)
    form_TB = np.exp(least + form_TB * (most - least))
    width_TB = np.rint(np.sqrt(area_TB * form_TB)).astype(np.int64)
    height_TB = np.rint(np.sqrt(area_TB / form_TB)).astype(np.int64)
    fits_TB = (width_TB > 0) & (width_TB <= W) & (height_TB > 0) & (height_TB <= H)
    top_TB = (row_TB * (H - height_TB + 1)).astype(np.int64)
    left_TB = (column_TB * (W - width_TB + 1)).astype(np.int64)
    first_B = fits_TB.argmax(axis=0)
    tries_4TB = np.stack([top_TB, left_TB, height_TB, width_TB])
    boxes_4B = np.take_along_axis(tries_4TB, first_B[None, None], axis=1)[:, 0]
    height = min(H, max(1, round(W / ratio[0])))
    width = min(W, max(1, round(H * ratio[1])))
    central = np.array([(H - height) // 2, (W - width) // 2, height, width])
    return np.where(fits_TB.any(axis=0), boxes_4B, central[:, None])


def color_jitter(settings: ColorJitter, target: StepTarget) -> PlainStep:
    """Factors of brightness, contrast and saturation, and a turn of hue; float32."""
    target.image_size("color_jitter")
    if (settings.saturation or settings.hue) and target.channels != _RGB:
        raise target.error(
            f"color_jitter changes saturation and hue of images of 3 channels; these have {target.channels}: "
            "set saturation: 0 and hue: 0"
        )
    reach = {name: getattr(settings, name) for name in ("brightness", "contrast", "saturation")}

    def draw(draws: Draws) -> Drawn:
        uniform_KB = draws.uniforms(5)
        changed_B = uniform_KB[4] < settings.probability
        drawn = {}
        for (name, most), uniform_B in zip(reach.items(), uniform_KB, strict=False):
            least = max(0.0, 1.0 - most)
            factor_B = least + uniform_B * (1.0 + most - least)
            drawn[name] = np.where(changed_B, factor_B, 1.0).astype(np.float32)
        turn_B = np.where(changed_B, (2 * uniform_KB[3] - 1) * settings.hue, 0.0)
        return {**drawn, "hue": turn_B.astype(np.float32)}

    changes = {
        name: change
        for name, change in colors.CHANGES.items()
        if (settings.hue if name == "hue" else reach[name])
    }

    def change_all(images_BCHW: Tensor, drawn: Fields) -> Tensor:
        shown = to_float(images_BCHW)
        for name, change in changes.items():
            shown = change(shown, drawn[name][:, None, None, None])
        return shown

    return on_each(draw, change_all)


def rand_augment(settings: RandAugment, target: StepTarget) -> PlainStep:
    """Operations of `torchvision.transforms.v2.functional`, drawn here, with the strengths of its RandAugment."""
    size = target.image_size("rand_augment")
    if target.channels not in (1, _RGB):
        raise target.error(
            f"rand_augment needs images of 1 or 3 channels; these have {target.channels}"
        )
    vision = load_package(
        "torchvision.transforms.v2.functional", install="raykd[vision]", key=target.key
    )
    names = list(_strengths(0, size))

    def draw(draws: Draws) -> Drawn:
        uniform_KB = draws.uniforms(2 * settings.operations)
        operation_OB = (uniform_KB[0::2] * len(names)).astype(np.int64)
        return {"operation": operation_OB, "minus": uniform_KB[1::2] < 0.5}

    strengths = _strengths(settings.magnitude, size)

    def chosen(operation: int, minus: bool) -> tuple[str, float]:
        name = names[operation]
        strength, signed = strengths[name]
        return name, -strength if signed and minus else strength

    def augment(images_BCHW: Tensor, drawn: Fields) -> Tensor:
        shown = images_BCHW.clone()
        every = zip(drawn["operation"].T.tolist(), drawn["minus"].T.tolist(), strict=True)
        for index, (operations, minuses) in enumerate(every):
            image = images_BCHW[index]
            for operation, minus in zip(operations, minuses, strict=True):
                name, strength = chosen(operation, minus)
                image = _OPERATIONS[name](vision, image, strength)
            shown[index] = image
        return shown

    def affine(drawn: Drawn) -> np.ndarray:
        count = drawn["operation"].shape[1]
        found_B23 = moved_by(np.zeros(count), np.zeros(count))
        for operation_B, minus_B in zip(drawn["operation"], drawn["minus"], strict=True):
            maps = [
                _map(*chosen(operation, minus), size)
                for operation, minus in zip(operation_B.tolist(), minus_B.tolist(), strict=True)
            ]
            found_B23 = followed_by(found_B23, np.stack(maps))
        return found_B23

    step = on_each(draw, augment)
    return PlainStep(step.draw, step.show, drawn_stays=True, affine=affine)


def _strengths(magnitude: int, size: tuple[int, int]) -> dict[str, tuple[float, bool]]:
    """Of each operation how strong it is, and whether its sign is drawn (torchvision's RandAugment, 31 strengths)."""
    part = magnitude / (_STRENGTHS - 1)
    return {
        "identity": (0.0, False),
        "shear_x": (_SHEAR * part, True),
        "shear_y": (_SHEAR * part, True),
        "translate_x": (_PART_MOVED * size[1] * part, True),
        "translate_y": (_PART_MOVED * size[0] * part, True),
        "rotate": (_DEGREES * part, True),
        "brightness": (_CHANGE * part, True),
        "color": (_CHANGE * part, True),
        "contrast": (_CHANGE * part, True),
        "sharpness": (_CHANGE * part, True),
        "posterize": (8 - round(magnitude / ((_STRENGTHS - 1) / 4)), False),
        "solarize": (1.0 - part, False),
        "auto_contrast": (0.0, False),
        "equalize": (0.0, False),
    }


def _sheared(vision: ModuleType, image: Tensor, x: float, y: float) -> Tensor:
    degrees = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    shown: Tensor = vision.affine(
        image, angle=0.0, translate=[0, 0], scale=1.0, shear=degrees, center=[0, 0]
    )
    return shown


def _translated(vision: ModuleType, image: Tensor, right: float, down: float) -> Tensor:
    moves = [int(right), int(down)]
    shown: Tensor = vision.affine(image, angle=0.0, translate=moves, scale=1.0, shear=[0.0, 0.0])
    return shown


def _solarized(vision: ModuleType, image: Tensor, part: float) -> Tensor:
    most = 255 if image.dtype == torch.uint8 else 1.0
    shown: Tensor = vision.solarize(image, most * part)
    return shown


def _colored(vision: ModuleType, image: Tensor, strength: float) -> Tensor:
    if len(image) != _RGB:  # of grey nothing is to be changed
        return image
    shown: Tensor = vision.adjust_saturation(image, 1.0 + strength)
    return shown


_OPERATIONS: dict[str, Callable[[Any, Tensor, float], Tensor]] = {
    "identity": lambda _vision, image, _strength: image,
    "shear_x": lambda vision, image, strength: _sheared(vision, image, strength, 0.0),
    "shear_y": lambda vision, image, strength: _sheared(vision, image, 0.0, strength),
    "translate_x": lambda vision, image, strength: _translated(vision, image, strength, 0.0),
    "translate_y": lambda vision, image, strength: _translated(vision, image, 0.0, strength),
    "rotate": lambda vision, image, strength: vision.rotate(image, strength),
    "brightness": lambda vision, image, strength: vision.adjust_brightness(image, 1.0 + strength),
    "color": _colored,
    "contrast": lambda vision, image, strength: vision.adjust_contrast(image, 1.0 + strength),
    "sharpness": lambda vision, image, strength: vision.adjust_sharpness(image, 1.0 + strength),
    "posterize": lambda vision, image, strength: vision.posterize(image, int(strength)),
    "solarize": _solarized,
    "auto_contrast": lambda vision, image, _strength: vision.autocontrast(image),
    "equalize": lambda vision, image, _strength: vision.equalize(image),
}


def _map(name: str, strength: float, size: tuple[int, int]) -> np.ndarray:
    """Where an operation moves pixels, float64 [2, 3]."""
    found = moved_by(np.zeros(1), np.zeros(1))
    if name == "shear_x":
        found[0, 0, 1] = -strength
    elif name == "shear_y":
        found[0, 1, 0] = -strength
    elif name in ("translate_x", "translate_y"):
        found[0, int(name == "translate_y"), 2] = int(strength)
    elif name == "rotate":
        radians = np.deg2rad([strength])
        found = turned(np.cos(radians), np.sin(radians), size)
    moved: np.ndarray = found[0]
    return moved
