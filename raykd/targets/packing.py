"""How an answer is made smaller than all its logits and whole features.

Shape suffixes: N units, C classes, K classes kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from raykd.draws import counted, draw
from raykd.top_k import (
    chunks,
    from_logits,
    label_of,
    log_tail,
    others,
    unknown_temperature,
    within_mass,
)
from raykd.types import TopK

Arrays = dict[str, np.ndarray]
Shape = tuple[int, ...]
Form = Literal["raw", "pooled", "int8"]

OFFSET = "offset"
KEPT = "kept"
CLASS = "class_of."
DRAWN = "drawn_of."
TAIL = "tail."
FEATURE = "feature."
FIRST = "first_of."
SCALE = "scale."
LARGEST = float(np.finfo(np.float16).max)
_SHORT = 1 << 16
_TINY = 1e-12
_STEPS = 127.0
_FORMS: dict[Form, str] = {"raw": "features16", "pooled": "pooled16", "int8": "features8"}


@dataclass(frozen=True)
class Packing:
    """What is kept of an answer.

    Attributes:
        top_k: how many classes of logits; None = all.
        temperatures: those at which the mass of the other classes is kept, rising.
        mass: of the top_k classes only as few as have this probability together; None = all of them.
        draws: so many classes drawn from the teacher's probabilities, in place of the likeliest; None = none.
        features: `raw` float16; `pooled` their mean over positions, float16; `int8` with a scale per row.
        first: so many first numbers of rows of values, where all behind are always 0; None = all of them.
    """

    top_k: int | None = None
    temperatures: tuple[float, ...] = ()
    features: Form = "raw"
    mass: float | None = None
    draws: int | None = None
    first: int | None = None

    @property
    def of_values(self) -> str:
        """What is done to values, as a part of the codec's name."""
        return "value32" if self.first is None else f"value32-first{self.first}"

    @property
    def of_classes(self) -> str:
        """What is done to logits, as a part of the codec's name."""
        if self.draws is not None:
            return f"draws{self.draws}"
        if self.top_k is None:
            return "logits16"
        mass = "" if self.mass is None else f"-mass{label_of(self.mass)}"
        return f"logits16-top{self.top_k}{mass}-at-{','.join(map(label_of, self.temperatures))}"

    @property
    def of_features(self) -> str:
        """What is done to features, as a part of the codec's name."""
        return _FORMS[self.features]

    def whole(self) -> Packing:
        """The same with all logits."""
        return replace(self, top_k=None, temperatures=(), mass=None, draws=None)


PLAIN = Packing()


def shifted(logits_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Logits minus their row maximum, float16 [N, C], and that maximum, float32 [N].

    The maximum is kept up to ±65,504: added to a larger one, the differences between classes, which alone decide the
    probabilities, would be lost in float32.
    """
    offset_N = logits_NC.amax(dim=1)
    shifted_NC = (logits_NC - offset_N[:, None]).clamp_(min=-LARGEST).half()
    return shifted_NC, offset_N.clamp(-LARGEST, LARGEST)


def encode_top(logits_NC: Tensor, packing: Packing) -> Arrays:
    """The largest logits and, for each temperature, what all others amount to.

    Args:
        logits_NC: float32 [N, C], with C > packing.top_k.
        packing: how many, and at which temperatures.

    Returns:
        `kept` float16 [N, K], falling, minus the row maximum; `offset` float32 [N], that maximum;
        `class_of.<C>` uint16 or uint32 [N, K]; `tail.<T>` float32 [N], the log-sum-exp of the other
        classes' logits over T (on the scale of `kept`). With `kept` it gives that over all classes,
        which by itself would leave no digits for a small rest. By mass `kept` is −∞ where there are fewer
        classes, and the class is the first one again. All is done on the logits' device, some rows at a time.
    """
    parts = [_top_of(part_NC, packing) for part_NC in chunks(logits_NC)]
    arrays = {name: on_host(torch.cat([part[name] for part in parts])) for name in parts[0]}
    classes = logits_NC.shape[1]
    return {
        KEPT: arrays[KEPT],
        OFFSET: arrays[OFFSET],
        f"{CLASS}{classes}": arrays[CLASS].astype(_class_type(classes)),
        **{name: array for name, array in arrays.items() if name.startswith(TAIL)},
    }


def _top_of(logits_NC: Tensor, packing: Packing) -> dict[str, Tensor]:
    assert packing.top_k is not None, "only for packings that leave classes out"
    shifted_NC, offset_N = shifted(logits_NC)
    class_NK = logits_NC.topk(packing.top_k, dim=1).indices
    kept_NK = shifted_NC.gather(1, class_NK)
    tails = {t: others(shifted_NC, class_NK, t) for t in packing.temperatures}
    if packing.mass is not None:
        kept_NK, class_NK, tails = within_mass(kept_NK, class_NK, tails, packing.mass)
    return {
        KEPT: kept_NK,
        OFFSET: offset_N,
        CLASS: class_NK,
        **{TAIL + label_of(t): tail_N.float() for t, tail_N in tails.items()},
    }


def encode_few(answer: TopK, packing: Packing) -> Arrays:
    """An answer that somebody else has cut to few classes, as `encode_top` has them.

    Args:
        answer: of K classes, at most `packing.top_k`; what is missing of them is padding. What it leaves out counts as
            10⁻¹² at least, so that no class is impossible.
        packing: how many, and at which temperatures.

    Raises:
        TargetError: the answer does not tell what is left out at one of the temperatures.
    """
    assert packing.top_k is not None, "only for packings that leave classes out"
    padding = packing.top_k - answer.ids_NK.shape[1]
    kept_NK = functional.pad(answer.log_probs_NK, (0, padding), value=-torch.inf)
    ids_NK = torch.cat([answer.ids_NK, answer.ids_NK[:, :1].expand(-1, padding)], dim=1)
    least_N = torch.full_like(kept_NK[:, 0].double(), math.log(_TINY))
    tails = {}
    for t in packing.temperatures:
        found = log_tail(answer, t)
        tails[t] = least_N if found is None else torch.maximum(found.double(), least_N / t)
    if packing.mass is not None:
        kept_NK, ids_NK, tails = within_mass(kept_NK, ids_NK, tails, packing.mass)
    offset_N = kept_NK[:, 0].double()
    return {
        KEPT: (kept_NK - offset_N[:, None]).half().numpy(),
        OFFSET: offset_N.float().numpy(),
        f"{CLASS}{answer.classes}": ids_NK.numpy().astype(_class_type(answer.classes)),
        **{
            TAIL + label_of(t): (tail_N - offset_N / t).float().numpy()
            for t, tail_N in tails.items()
        },
    }


def encode_drawn(logits_NC: Tensor, draws: int, numbers_N: np.ndarray | None = None) -> Arrays:
    """Classes drawn from the teacher's probabilities at temperature 1, with replacement (`raykd.draws.draw`).

    Args:
        logits_NC: float32 [N, C].
        draws: n, how many of each unit.
        numbers_N: uint64 [N], a number of each unit, from which its draws follow; None means 0, 1, ….

    Returns:
        `drawn_of.<C>` uint16 or uint32 [N, n], rising; a class that was drawn again stands there again.
    """
    classes = logits_NC.shape[1]
    drawn = draw(logits_NC, draws, seed=0, units_N=numbers_N)
    return {f"{DRAWN}{classes}": drawn.ids_NK.cpu().numpy().astype(_class_type(classes))}


def drawn_of(arrays: Mapping[str, np.ndarray]) -> TopK | None:
    """What was drawn, each class with its share of the draws; None where nothing was drawn.

    The share of a class is its probability in the mean, and so it stays in a mean of teachers and in the gradient of a
    KL from teacher to student; classes that were not drawn have none.
    """
    names = [name for name in arrays if name.startswith(DRAWN)]
    if not names:
        return None
    ids_NK = torch.from_numpy(arrays[names[0]].astype(np.int64))
    return counted(ids_NK, int(names[0].removeprefix(DRAWN)))


def encode_first(values_NC: Tensor, first: int) -> Arrays:
    """Rows of values of which only the first so many numbers are not 0: `first_of.<C>` float32 [N, first]."""
    return {f"{FIRST}{values_NC.shape[1]}": on_host(values_NC[:, :first])}


def decode_first(arrays: Mapping[str, np.ndarray]) -> Tensor | None:
    """Whole rows of values, float32 [N, C], from what `encode_first` made; None of what others made."""
    for name, array in arrays.items():
        if name.startswith(FIRST):
            whole_NC = torch.zeros(len(array), int(name.removeprefix(FIRST)))
            whole_NC[:, : array.shape[1]] = widened(array)
            return whole_NC
    return None


def _class_type(classes: int) -> type[np.unsignedinteger[Any]]:
    return np.uint16 if classes <= _SHORT else np.uint32


def top_of(arrays: Mapping[str, np.ndarray]) -> TopK:
    """The answer over the classes kept, from what `encode_top` made; nothing is spread over the others.

    Raises:
        TargetError: nothing is kept for temperature 1.
    """
    kept_NK, class_NK, classes = _kept(arrays)
    tails = {
        float(name.removeprefix(TAIL)): torch.from_numpy(np.array(array))
        for name, array in arrays.items()
        if name.startswith(TAIL)
    }
    if 1.0 not in tails:
        raise unknown_temperature([label_of(t) for t in tails], 1.0)
    return from_logits(kept_NK, class_NK, tails, classes)


def _kept(arrays: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor, int]:
    """Logits float32 [N, K] minus their row maximum, their classes int64 [N, K], and C."""
    (name,) = [name for name in arrays if name.startswith(CLASS)]
    class_NK = torch.from_numpy(arrays[name].astype(np.int64))
    return widened(arrays[KEPT]), class_NK, int(name.removeprefix(CLASS))


def decode_top(arrays: Mapping[str, np.ndarray], temperature: float) -> Tensor:
    """Logits float32 [N, C] that are right at one temperature.

    Their softmax at `temperature` gives each kept class the probability that it has among all classes,
    and spreads the rest evenly over the others.

    Raises:
        TargetError: nothing is kept for this temperature.
    """
    tail = TAIL + label_of(temperature)
    if tail not in arrays:
        known = [name.removeprefix(TAIL) for name in arrays if name.startswith(TAIL)]
        raise unknown_temperature(known, temperature)
    kept_NK, class_NK, classes = _kept(arrays)
    real_NK = kept_NK > -torch.inf
    left_N = classes - real_NK.sum(1)
    smallest_N = kept_NK.masked_fill(~real_NK, torch.inf).amin(1)
    tail_N = torch.from_numpy(arrays[tail].astype(np.float64))
    other_N = temperature * (tail_N - left_N.double().log())
    other_N = torch.minimum(other_N.float(), smallest_N)
    logits_NC = other_N[:, None].expand(len(kept_NK), classes).clone()
    logits_NC.scatter_(1, class_NK, torch.where(real_NK, kept_NK, kept_NK[:, :1]))
    return logits_NC.add_(torch.from_numpy(np.array(arrays[OFFSET]))[:, None])


def encode_features(features: Mapping[str, Tensor], form: Form) -> Arrays:
    """`feature.<tap>` float16 [N, ...]; as `int8` [N, ...] with `scale.<tap>` float32 [N]."""
    arrays: Arrays = {}
    for tap, feature in features.items():
        kept, scale_N = _kept_of(feature, form)
        arrays[FEATURE + tap] = on_host(kept)
        if scale_N is not None:
            arrays[SCALE + tap] = on_host(scale_N)
    return arrays


def as_kept(feature: Tensor, form: Form) -> Tensor:
    """A feature as it comes back, float32 on its device: what `decode_features` makes of `encode_features`, without the way."""
    kept, scale_N = _kept_of(feature, form)
    return _restored(kept, scale_N)


def _kept_of(feature: Tensor, form: Form) -> tuple[Tensor, Tensor | None]:
    """What is kept of a feature, on its device, and the scale of each row where there is one."""
    if form != "int8":
        return _halved(_pooled(feature) if form == "pooled" else feature), None
    flat = feature.float().flatten(1)
    scale_N = flat.abs().amax(dim=1) / _STEPS
    steps = flat / torch.where(scale_N > 0, scale_N, 1.0)[:, None]
    return steps.round().to(torch.int8).view(feature.shape), scale_N


def _restored(kept: Tensor, scale_N: Tensor | None) -> Tensor:
    """Float32, in memory of its own."""
    feature = kept.float()
    return feature if scale_N is None else feature * scale_N.view(-1, *[1] * (feature.ndim - 1))


def decode_features(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Tap -> float32 [N, ...]."""
    found = {}
    for name, array in arrays.items():
        if not name.startswith(FEATURE):
            continue
        tap = name.removeprefix(FEATURE)
        scale_N = None
        if SCALE + tap in arrays:
            scale_N = torch.from_numpy(np.array(arrays[SCALE + tap]))
        found[tap] = _restored(torch.from_numpy(np.array(array)), scale_N)
    return found


def without_features(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The same answer, outputs alone."""
    return {n: array for n, array in arrays.items() if not n.startswith((FEATURE, SCALE))}


def widened(array: np.ndarray) -> Tensor:
    """As float32, in memory of its own; torch widens float16 four times as fast as numpy does."""
    return torch.from_numpy(np.array(array)).float()


def half(values: Tensor) -> np.ndarray:
    """As float16; what is too large becomes the largest."""
    return on_host(_halved(values))


def on_host(tensor: Tensor) -> np.ndarray:
    """As an array in this process; from a GPU through memory that it writes to directly, while others' streams go on."""
    if tensor.is_cuda:
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        pinned.copy_(tensor, non_blocking=True)
        torch.cuda.current_stream(tensor.device).synchronize()
        tensor = pinned
    array: np.ndarray = tensor.cpu().numpy()
    return array


def _halved(values: Tensor) -> Tensor:
    return values.clamp(-LARGEST, LARGEST).half()


def _pooled(feature: Tensor) -> Tensor:
    """Mean over the positions of maps [N, C, H, W] and tokens [N, L, D]; vectors as they are."""
    if feature.ndim == 4:
        return feature.mean(dim=(2, 3))
    return feature.mean(dim=1) if feature.ndim == 3 else feature


def packed_shape(shape: Shape, form: Form) -> Shape:
    """Shape of one sample's feature after decoding, from that at the tap."""
    if form != "pooled" or len(shape) == 1:
        return shape
    return (shape[0],) if len(shape) == 3 else (shape[-1],)
