"""From the settings of `data.views.policy` to functions: one builder for each `type` of step.

Shape suffixes: B samples, C channels, H height, W width, K random numbers of one sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raykd.config.data import (
    Cutmix,
    Cutout,
    DropWords,
    FactoryView,
    Flip,
    Mixup,
    Noise,
    PadCrop,
    Rotate,
    Shift,
    ViewStep,
)
from raykd.data import steps
from raykd.data.hashing import Draws
from raykd.data.texts import drop_words, most_words
from raykd.errors import InputError
from raykd.importing import load_callable
from raykd.types import TEXT

Inputs = dict[str, np.ndarray]
_VECTOR_AXES, _IMAGE_AXES = 2, 4  # [N, D], [N, C, H, W]
_HALF_TURN = 180.0


PlainStep = Callable[[Inputs, Draws], Inputs]
"""A step that looks at each sample alone; must leave its argument as it is."""


@dataclass(frozen=True)
class MixStep:
    """A step that blends in a partner.

    Attributes:
        probability: chance of blending a sample, in [0, 1].
        blend: `(own, partner, mixed_B, uniform_KB) -> (blended, share_B)`, where `mixed_B` (bool [B])
            says which samples are blended, `uniform_KB` are three random numbers for each, and
            `share_B` (float32 [B]) is the own share.
    """

    probability: float
    blend: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class StepTarget:
    """What a step works on.

    Attributes:
        key: dotted key of the step.
        inputs: name -> [N, ...].
    """

    key: str
    inputs: Mapping[str, np.ndarray]

    def error(self, message: str) -> InputError:
        """An error about this step."""
        return InputError.at(self.key, message)

    def values(self, kind: str) -> np.ndarray:
        """The only input, which must hold values that can be blended.

        Raises:
            InputError: there are several inputs, integers, or texts.
        """
        arrays = list(self.inputs.values())
        if len(arrays) > 1:
            raise self.error(
                f"{kind} needs samples of one input; these have {', '.join(self.inputs)}: use a factory step"
            )
        if TEXT in self.inputs:
            raise self.error(
                f"{kind} needs numbers; the samples are texts: use drop_words or a factory step"
            )
        if arrays[0].dtype.kind == "i":
            raise self.error(f"{kind} needs floats or uint8; the inputs are {arrays[0].dtype}")
        return arrays[0]

    def image_size(self, kind: str) -> tuple[int, int]:
        """Height and width of the only input, in pixels.

        Raises:
            InputError: the inputs are not images.
        """
        array = self.values(kind)
        if array.ndim != _IMAGE_AXES:
            raise self.error(
                f"{kind} needs images [N, C, H, W]; the inputs are {list(array.shape)}: "
                "remove it, or use noise, mixup or a factory step"
            )
        return array.shape[2], array.shape[3]

    def at_most(self, field: str, found: float, limit: float, unit: str, why: str) -> None:
        """Refuse a setting beyond its limit.

        Raises:
            InputError: `found` is above `limit`.
        """
        if found > limit:
            raise InputError.at(
                f"{self.key}.{field}", f"found {found} {unit}; allowed are at most {limit} ({why})"
            )


def build_steps(
    policy: Sequence[ViewStep], inputs: Mapping[str, np.ndarray]
) -> tuple[PlainStep | MixStep, ...]:
    """The functions of a policy.

    Args:
        policy: the steps, in order.
        inputs: name -> [N, ...], the samples they are for.

    Raises:
        InputError: a step does not fit the samples, or two steps mix (the targets of a sample could
            then not be told from one partner and one share).
    """
    built = tuple(
        STEPS[step.type](step, StepTarget(f"data.views.policy.{index}", inputs))
        for index, step in enumerate(policy)
    )
    mixing = [index for index, step in enumerate(built) if isinstance(step, MixStep)]
    if len(mixing) > 1:
        raise InputError.at(
            f"data.views.policy.{mixing[1]}",
            f"found {policy[mixing[1]].type} after {policy[mixing[0]].type}; one step that mixes "
            "samples is allowed: remove one",
        )
    return built


def _on_array(apply: Callable[[np.ndarray, Draws], np.ndarray]) -> PlainStep:
    def on_inputs(inputs: Inputs, draws: Draws) -> Inputs:
        return {name: apply(array, draws) for name, array in inputs.items()}

    return on_inputs


def _translate_by(reach: int) -> PlainStep:
    def move(images_BCHW: np.ndarray, draws: Draws) -> np.ndarray:
        moves_KB = (draws.uniforms(2) * (2 * reach + 1)).astype(np.int64) - reach
        return steps.translate(images_BCHW, moves_KB[0], moves_KB[1], reach)

    return _on_array(move)


def _pad_crop(settings: PadCrop, target: StepTarget) -> PlainStep:
    side = min(target.image_size("pad_crop"))
    target.at_most("padding", settings.padding, side - 1, "pixels", "else a view may be empty")
    # A crop of the padded image at an offset in [0, 2 · padding] is a shift by at most the padding.
    return _translate_by(settings.padding)


def _shift(settings: Shift, target: StepTarget) -> PlainStep:
    side = min(target.image_size("shift"))
    target.at_most("pixels", settings.pixels, side - 1, "pixels", "else a view may be empty")
    return _translate_by(settings.pixels)


def _flip(settings: Flip, target: StepTarget) -> PlainStep:
    target.image_size("flip")

    def flip(images_BCHW: np.ndarray, draws: Draws) -> np.ndarray:
        return steps.mirror(images_BCHW, draws.uniforms(1)[0] < settings.probability)

    return _on_array(flip)


def _rotate(settings: Rotate, target: StepTarget) -> PlainStep:
    target.image_size("rotate")
    target.at_most("degrees", settings.degrees, _HALF_TURN, "degrees", "half a turn to either side")
    reach = np.deg2rad(settings.degrees)

    def turn(images_BCHW: np.ndarray, draws: Draws) -> np.ndarray:
        return steps.rotate(images_BCHW, (2 * draws.uniforms(1)[0] - 1) * reach)

    return _on_array(turn)


def _noise(settings: Noise, target: StepTarget) -> PlainStep:
    target.values("noise")
    std = np.float32(settings.std)

    def add(array: np.ndarray, draws: Draws) -> np.ndarray:
        normal_BK = draws.normals(int(np.prod(array.shape[1:])))
        noisy: np.ndarray = steps.to_float(array) + std * normal_BK.reshape(array.shape)
        return noisy

    return _on_array(add)


def _cutout(settings: Cutout, target: StepTarget) -> PlainStep:
    side = min(target.image_size("cutout"))
    target.at_most("size", settings.size, side - 1, "pixels", "else a view may be empty")

    def cut(images_BCHW: np.ndarray, draws: Draws) -> np.ndarray:
        centre_2B = draws.uniforms(2)
        return steps.cutout(images_BCHW, centre_2B[0], centre_2B[1], settings.size)

    return _on_array(cut)


def _drop_words(settings: DropWords, target: StepTarget) -> PlainStep:
    if list(target.inputs) != [TEXT]:
        raise target.error("drop_words needs texts; remove it, or give data.source a text")

    def drop(text_BL: np.ndarray, draws: Draws) -> np.ndarray:
        dropped_KB = draws.uniforms(most_words(text_BL)) < settings.probability
        return drop_words(text_BL, dropped_KB.T)

    return _on_array(drop)


def _mixup(settings: Mixup, target: StepTarget) -> MixStep:
    target.values("mixup")

    def blend(
        own: np.ndarray, partner: np.ndarray, mixed_B: np.ndarray, uniform_KB: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        share_B = np.where(mixed_B, steps.beta_share(settings.alpha, uniform_KB[0]), 1.0)
        share_B = share_B.astype(np.float32)
        return steps.mixup(own, partner, share_B), share_B

    return MixStep(settings.probability, blend)


def _cutmix(settings: Cutmix, target: StepTarget) -> MixStep:
    target.image_size("cutmix")

    def paste(
        own: np.ndarray, partner: np.ndarray, mixed_B: np.ndarray, uniform_KB: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        share_B = np.where(mixed_B, steps.beta_share(settings.alpha, uniform_KB[0]), 1.0)
        return steps.cutmix(own, partner, share_B, uniform_KB[1], uniform_KB[2])

    return MixStep(settings.probability, paste)


def _factory(settings: FactoryView, target: StepTarget) -> PlainStep:
    """The user's `(inputs, generator) -> inputs`: of one sample, a tensor, or a dict when it has several.

    It gets float32 copies (integers as int64, texts as uint8) and must return the same shapes and dtypes.
    """
    function = load_callable(settings.path, key=f"{target.key}.path")

    def one(inputs: Inputs, row: int, seed: int) -> dict[str, torch.Tensor]:
        given = {name: torch.from_numpy(array[row].copy()) for name, array in inputs.items()}
        generator = torch.Generator().manual_seed(seed)
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in given.items()}
        answer = function(given if len(given) > 1 else next(iter(given.values())), generator)
        made = dict(answer) if isinstance(answer, Mapping) else dict.fromkeys(shapes, answer)
        found = {name: _described(value) for name, value in made.items()}
        if found != shapes or (len(shapes) > 1 and not isinstance(answer, Mapping)):
            raise target.error(
                f"{settings.path} returned {found}; needs what it was given, {shapes}"
            )
        return made

    def each(inputs: Inputs, draws: Draws) -> Inputs:
        floats = steps.as_shown(inputs)
        seeds = (draws.bits(1)[:, 0] >> np.uint64(1)).tolist()
        made = [one(floats, row, seed) for row, seed in enumerate(seeds)]
        return {name: torch.stack([sample[name] for sample in made]).numpy() for name in floats}

    return each


def _described(value: Any) -> tuple[torch.Size, torch.dtype] | str:
    return (value.shape, value.dtype) if isinstance(value, torch.Tensor) else type(value).__name__


STEPS: dict[str, Callable[[Any, StepTarget], PlainStep | MixStep]] = {
    "pad_crop": _pad_crop,
    "shift": _shift,
    "flip": _flip,
    "rotate": _rotate,
    "noise": _noise,
    "cutout": _cutout,
    "drop_words": _drop_words,
    "mixup": _mixup,
    "cutmix": _cutmix,
    "factory": _factory,
}
