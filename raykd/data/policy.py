"""From the settings of `data.views.policy` to functions: one builder for each `type` of step.

A step draws on the host what it needs of random numbers, a few for each sample, and is applied to tensors wherever
these are. Shape suffixes: B samples, C channels, H height, W width, K random numbers of one sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raykd.config.data import (
    Cutmix,
    Cutout,
    DropWords,
    FactoryView,
    Flip,
    Mixup,
    Noise,
    PadCrop,
    RandomResizedCrop,
    Rotate,
    Shift,
    ViewStep,
)
from raykd.data import steps
from raykd.data.geometry import Drawn, moved_by, turned
from raykd.data.hashing import Draws
from raykd.data.image_steps import color_jitter, rand_augment, random_resized_crop
from raykd.data.step_kinds import Fields, MixStep, PlainStep, StepTarget, on_each
from raykd.data.texts import drop_words, most_words
from raykd.errors import InputError
from raykd.importing import load_callable
from raykd.types import TEXT

_HALF_TURN = 180.0


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
    built: list[PlainStep | MixStep] = []
    resized: tuple[int, int] | None = None
    for index, step in enumerate(policy):
        target = StepTarget(f"data.views.policy.{index}", inputs, resized)
        built.append(STEPS[step.type](step, target))
        resized = size_after(step, resized)
    mixing = [index for index, step in enumerate(built) if isinstance(step, MixStep)]
    if len(mixing) > 1:
        raise InputError.at(
            f"data.views.policy.{mixing[1]}",
            f"found {policy[mixing[1]].type} after {policy[mixing[0]].type}; one step that mixes "
            "samples is allowed: remove one",
        )
    return tuple(built)


def size_after(step: ViewStep, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Height and width of images after a step; `size` is what they were before it."""
    if isinstance(step, RandomResizedCrop) and step.size is not None:
        return step.size, step.size
    return size


def _translate_by(reach: int) -> PlainStep:
    def draw(draws: Draws) -> Drawn:
        moves_KB = (draws.uniforms(2) * (2 * reach + 1)).astype(np.int64) - reach
        return {"down": moves_KB[0], "right": moves_KB[1]}

    def move(images_BCHW: Tensor, drawn: Fields) -> Tensor:
        return steps.translate(images_BCHW, drawn["down"], drawn["right"], reach)

    return on_each(draw, move, lambda drawn: moved_by(drawn["right"], drawn["down"]))


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
    _, W = target.image_size("flip")

    def draw(draws: Draws) -> Drawn:
        return {"mirrored": draws.uniforms(1)[0] < settings.probability}

    def affine(drawn: Drawn) -> np.ndarray:
        mirrored_B = drawn["mirrored"]
        return moved_by(W * mirrored_B, 0 * mirrored_B, wide=1 - 2.0 * mirrored_B)

    return on_each(draw, lambda images, drawn: steps.mirror(images, drawn["mirrored"]), affine)


def _rotate(settings: Rotate, target: StepTarget) -> PlainStep:
    size = target.image_size("rotate")
    target.at_most("degrees", settings.degrees, _HALF_TURN, "degrees", "half a turn to either side")
    reach = np.deg2rad(settings.degrees)

    def draw(draws: Draws) -> Drawn:
        radians_B = (2 * draws.uniforms(1)[0] - 1) * reach
        return {name: of(radians_B).astype(np.float32) for name, of in _TURN.items()}

    return on_each(
        draw,
        lambda images, drawn: steps.rotate(images, drawn["cos"], drawn["sin"]),
        lambda drawn: turned(drawn["cos"], drawn["sin"], size),
    )


_TURN: dict[str, Callable[[np.ndarray], np.ndarray]] = {"cos": np.cos, "sin": np.sin}


def _stream(draws: Draws) -> Drawn:
    """Where each sample's stream starts, of steps that draw many numbers of it where they are applied."""
    return {"stream": draws.stream_B}


def _noise(settings: Noise, target: StepTarget) -> PlainStep:
    target.values("noise")
    std = float(np.float32(settings.std))
    return on_each(_stream, lambda values, drawn: steps.noisy(values, drawn["stream"], std))


def _cutout(settings: Cutout, target: StepTarget) -> PlainStep:
    shape = target.image_size("cutout")
    target.at_most("size", settings.size, min(shape) - 1, "pixels", "else a view may be empty")

    def draw(draws: Draws) -> Drawn:
        centre_2B = draws.uniforms(2)
        side_2B = np.full(centre_2B.shape, settings.size)
        return {"first": _firsts(centre_2B, side_2B, shape), "side": side_2B}

    def cut(images_BCHW: Tensor, drawn: Fields) -> Tensor:
        return steps.blanked(images_BCHW, steps.boxes(drawn["first"], drawn["side"], shape))

    return on_each(draw, cut)


def _firsts(centre_2B: np.ndarray, side_2B: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Topmost row and leftmost column of boxes, int64 [2, B].

    Args:
        centre_2B: float64 in (0, 1), parts of height and width.
        side_2B: int64, pixels.
        shape: (H, W).
    """
    firsts: np.ndarray = (centre_2B * np.array(shape)[:, None]).astype(np.int64) - side_2B // 2
    return firsts


def _drop_words(settings: DropWords, target: StepTarget) -> PlainStep:
    if list(target.inputs) != [TEXT]:
        raise target.error("drop_words needs texts; remove it, or give data.source a text")

    def drop(fields: Fields, drawn: Fields) -> Fields:
        text_BL = fields[TEXT].numpy()
        draws = Draws(drawn["stream"].numpy().view(np.uint64))
        dropped_KB = draws.uniforms(most_words(text_BL)) < settings.probability
        return {TEXT: torch.from_numpy(drop_words(text_BL, dropped_KB.T))}

    return PlainStep(_stream, drop, on_host=True)


def _mixup(settings: Mixup, target: StepTarget) -> MixStep:
    target.values("mixup")

    def draw(mixed_B: np.ndarray, uniform_KB: np.ndarray) -> tuple[Drawn, np.ndarray]:
        share_B = np.where(mixed_B, beta_share(settings.alpha, uniform_KB[0]), 1.0)
        share_B = share_B.astype(np.float32)
        return {"share": share_B}, share_B

    def blend(own: Tensor, partner: Tensor, drawn: Fields) -> Tensor:
        return steps.mixup(own, partner, drawn["share"])

    return MixStep(settings.probability, draw, blend)


def _cutmix(settings: Cutmix, target: StepTarget) -> MixStep:
    """Paste a box of the partner's image (Yun et al. 2019, equations 1 and 2), √(1 − share) of each side."""
    shape = H, W = target.image_size("cutmix")

    def draw(mixed_B: np.ndarray, uniform_KB: np.ndarray) -> tuple[Drawn, np.ndarray]:
        share_B = np.where(mixed_B, beta_share(settings.alpha, uniform_KB[0]), 1.0)
        side_B = np.sqrt(1.0 - share_B)
        side_2B = np.stack([(side_B * H).astype(np.int64), (side_B * W).astype(np.int64)])
        first_2B = _firsts(uniform_KB[1:], side_2B, shape)
        ends_2B = np.minimum(first_2B + side_2B, np.array(shape)[:, None])
        seen_2B = np.maximum(0, ends_2B - np.maximum(first_2B, 0))
        left_B = 1.0 - seen_2B.prod(axis=0) / (H * W)  # what the cut-off box leaves
        return {"first": first_2B, "side": side_2B}, left_B.astype(np.float32)

    def paste(own: Tensor, partner: Tensor, drawn: Fields) -> Tensor:
        return steps.chosen(own, partner, steps.boxes(drawn["first"], drawn["side"], shape))

    return MixStep(settings.probability, draw, paste)


def beta_share(alpha: float, uniform_B: np.ndarray) -> np.ndarray:
    """Beta(alpha, alpha) by inversion: float64 [B] in [0, 1] from uniform numbers."""
    from scipy.special import betaincinv  # it takes a while to import

    share_B: np.ndarray = betaincinv(alpha, alpha, uniform_B)
    return share_B


def _factory(settings: FactoryView, target: StepTarget) -> PlainStep:
    """The user's `(inputs, generator) -> inputs`: of one sample, a tensor, or a dict when it has several.

    It gets float32 copies on the CPU (integers as int64, texts as uint8) and must return the same shapes and dtypes.
    """
    function = load_callable(settings.path, key=f"{target.key}.path")

    def one(inputs: Fields, row: int, seed: int) -> Fields:
        given = {name: tensor[row].clone() for name, tensor in inputs.items()}
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

    def draw(draws: Draws) -> Drawn:
        return {"seed": draws.bits(1)[:, 0] >> np.uint64(1)}

    def each(fields: Fields, drawn: Fields) -> Fields:
        floats = {n: x if n == TEXT else steps.to_float(x) for n, x in fields.items()}
        made = [one(floats, row, seed) for row, seed in enumerate(drawn["seed"].tolist())]
        return {name: torch.stack([sample[name] for sample in made]) for name in floats}

    def unknown(_: Drawn) -> np.ndarray:
        raise target.error("a factory step does not say where pixels go: boxes cannot follow it")

    return PlainStep(draw, each, on_host=True, affine=unknown)


def _described(value: Any) -> tuple[torch.Size, torch.dtype] | str:
    return (value.shape, value.dtype) if isinstance(value, torch.Tensor) else type(value).__name__


STEPS: dict[str, Callable[[Any, StepTarget], PlainStep | MixStep]] = {
    "pad_crop": _pad_crop,
    "shift": _shift,
    "flip": _flip,
    "rotate": _rotate,
    "random_resized_crop": random_resized_crop,
    "color_jitter": color_jitter,
    "rand_augment": rand_augment,
    "noise": _noise,
    "cutout": _cutout,
    "drop_words": _drop_words,
    "mixup": _mixup,
    "cutmix": _cutmix,
    "factory": _factory,
}
