"""What the steps of a view policy are made of, and what they are made for.

Shape suffixes: B samples, C channels, H height, W width, K random numbers of one sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from raykd.data.geometry import Drawn
from raykd.data.hashing import Draws
from raykd.errors import InputError
from raykd.types import TEXT

Fields = dict[str, Tensor]
"""Name -> [B, ...], uint8, float32 or int64."""
_IMAGE_AXES = 4  # [N, C, H, W]


@dataclass(frozen=True)
class PlainStep:
    """A step that looks at each sample alone.

    Attributes:
        draw: what it draws, on the host.
        show: `(fields, drawn) -> fields`, on the device of the fields, which it may change.
        on_host: whether that is the CPU always.
        drawn_stays: whether what is drawn is read on the host, wherever the fields are.
        affine: `drawn -> [B, 2, 3]`, where pixels go, see `raykd.data.geometry`; None: they stay where they are.
    """

    draw: Callable[[Draws], Drawn]
    show: Callable[[Fields, Fields], Fields]
    on_host: bool = False
    drawn_stays: bool = False
    affine: Callable[[Drawn], np.ndarray] | None = None


@dataclass(frozen=True)
class MixStep:
    """A step that blends in a partner.

    Attributes:
        probability: chance of blending a sample, in [0, 1].
        draw: `(mixed_B, uniform_KB) -> (drawn, share_B)`, on the host, where `mixed_B` (bool [B]) says which samples
            are blended, `uniform_KB` are three random numbers for each, and `share_B` (float32 [B]) is the own share.
        show: `(own, partner, drawn) -> blended`, on the device of these.
    """

    probability: float
    draw: Callable[[np.ndarray, np.ndarray], tuple[Drawn, np.ndarray]]
    show: Callable[[Tensor, Tensor, Fields], Tensor]


@dataclass(frozen=True)
class StepTarget:
    """What a step works on.

    Attributes:
        key: dotted key of the step.
        inputs: name -> [N, ...].
        resized: height and width of what steps before it make of images; None = those of the inputs.
    """

    key: str
    inputs: Mapping[str, np.ndarray]
    resized: tuple[int, int] | None = None

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
        return self.resized or (array.shape[2], array.shape[3])

    @property
    def channels(self) -> int:
        """Of the only input, which is images."""
        return int(next(iter(self.inputs.values())).shape[1])

    def at_most(self, field: str, found: float, limit: float, unit: str, why: str) -> None:
        """Refuse a setting beyond its limit.

        Raises:
            InputError: `found` is above `limit`.
        """
        if found > limit:
            raise InputError.at(
                f"{self.key}.{field}", f"found {found} {unit}; allowed are at most {limit} ({why})"
            )


def on_each(
    draw: Callable[[Draws], Drawn],
    show: Callable[[Tensor, Fields], Tensor],
    affine: Callable[[Drawn], np.ndarray] | None = None,
) -> PlainStep:
    """A step that does the same to every field."""

    def on_fields(fields: Fields, drawn: Fields) -> Fields:
        return {name: show(tensor, drawn) for name, tensor in fields.items()}

    return PlainStep(draw, on_fields, affine=affine)
