"""Occlusion: what a model's answer rests on, found by hiding one part of a sample at a time; needs only answers.

A map holds, for each hidden part, how much the score falls (Zeiler & Fergus 2014, "Visualizing and understanding
convolutional networks", section 4.2). What is hidden is replaced by the mean of the training samples. The score is the
probability of one class, the same for all models; of several labels that of one label; in a regression the value, of
which the map holds the absolute change.

Where each place is hidden once, ranks within a map are the same for the probability, its logarithm and its
log-odds, since all rise together: Spearman's correlation and the most important places do not depend on the choice.

Shapes: N samples, B copies, K hidden parts, P places (pixels of an image, columns of a table), U units (what is removed as
one: a pixel, a feature), C outputs, D columns, F steps, H/W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raykd.evaluate.statistics import ranks
from raykd.types import OutputKind

Ask = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""Copies [B, ...] and the sample that each is of, int64 [B] -> model -> the score of each copy, float64 [B]."""
Tell = Callable[[int], None]
TOP_SHARE = 0.2
"""Part of a map that counts as its most important places."""
_STEPS = 10
"""Of a deletion curve."""
_BATCH = 256
"""Copies that are made at a time."""
_PATCHES = 8
"""Patches along the longer side of an image, unless a size is given."""


@dataclass(frozen=True, eq=False)
class Occlusion:
    """What is hidden, one part after the other, and what stands in its place.

    Attributes:
        hidden_KP: bool [K, P], the places that each part covers; every place is in one at least.
        shape: of a map, with K cells: (rows, columns) of an image's patches, (features,) of a table.
        reference: [C, 1, 1] or [D], what stands in hidden places; rounded where samples are integers.
        unit_P: int64 [P], the unit of each place, numbered from 0 in the order of their first places.
    """

    hidden_KP: Tensor
    shape: tuple[int, ...]
    reference: Tensor
    unit_P: Tensor

    def hide(self, inputs: Tensor, hidden_BP: Tensor) -> Tensor:
        """Copies of samples [B, ...] without the places that `hidden_BP` (bool) names."""
        reference = self.reference
        if not inputs.is_floating_point():
            reference = reference.round()
        if inputs.ndim > 2:
            hidden = hidden_BP.view(len(inputs), 1, *inputs.shape[2:])
            return torch.where(hidden, reference.to(inputs.dtype), inputs)
        return torch.where(hidden_BP, reference.to(inputs.dtype), inputs)

    def by_unit(self, maps_NK: Tensor) -> Tensor:
        """Maps by unit, float64 [N, U]: the mean of the parts that cover it."""
        first_U = np.unique(self.unit_P.numpy(), return_index=True)[1]
        cover_KU = self.hidden_KP[:, first_U].double()
        return maps_NK.double() @ cover_KU / cover_KU.sum(dim=0)


def default_patch(height: int, width: int) -> int:
    """Side of a patch, pixels: an eighth of the longer side, at least 2 where the image has as many."""
    return min(max(2, round(max(height, width) / _PATCHES)), height, width)


def image_occlusion(
    height: int, width: int, means: Sequence[float], *, patch: int, stride: int
) -> Occlusion:
    """Square patches over an image, from the top left; the last ones end at its edges.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        means: of each channel, over the training samples.
        patch: side of a patch, 1 to the shorter side of the image, pixels.
        stride: from patch to patch, 1 to `patch`, pixels.

    Raises:
        ValueError: the patch does not fit into the image, or pixels would lie between patches.
    """
    if not 1 <= patch <= min(height, width) or not 1 <= stride <= patch:
        raise ValueError(
            f"patch {patch} and stride {stride} do not fit images of {height}×{width} pixels"
        )
    down, right = _starts(height, patch, stride), _starts(width, patch, stride)
    hidden_KHW = torch.zeros(len(down) * len(right), height, width, dtype=torch.bool)
    for k, (top, left) in enumerate((top, left) for top in down for left in right):
        hidden_KHW[k, top : top + patch, left : left + patch] = True
    return Occlusion(
        hidden_KHW.flatten(1),
        (len(down), len(right)),
        torch.tensor(means, dtype=torch.float32).view(-1, 1, 1),
        torch.arange(height * width),
    )


def _starts(side: int, patch: int, stride: int) -> list[int]:
    starts = list(range(0, side - patch + 1, stride))
    return starts if starts[-1] == side - patch else [*starts, side - patch]


def table_occlusion(means: Sequence[float], groups: Sequence[Sequence[int]]) -> Occlusion:
    """The features of a table, each a column, or the columns that are one-hot of one thing.

    Args:
        means: of each column over the training samples. It stands in for a column; of one-hot columns the most
            frequent category does.
        groups: the columns of each feature, see `features_of`.
    """
    reference_D, unit_D = torch.tensor(means, dtype=torch.float32), torch.zeros(len(means)).long()
    for unit, columns in enumerate(map(list, groups)):
        unit_D[columns] = unit
        if len(columns) > 1:
            most = int(reference_D[columns].argmax())
            reference_D[columns] = torch.eye(len(columns))[most]
    hidden_KD = unit_D == torch.arange(len(groups))[:, None]
    return Occlusion(hidden_KD, (len(groups),), reference_D, unit_D)


def features_of(values_ND: Tensor) -> tuple[tuple[int, ...], ...]:
    """The columns of each feature: neighbouring columns of 0 and 1 that always sum to 1 are one category, one-hot.

    Args:
        values_ND: training samples.
    """
    columns = values_ND.shape[1]
    binary_D = ((values_ND == 0) | (values_ND == 1)).all(dim=0).tolist()
    found: list[tuple[int, ...]] = []
    start = 0
    while start < columns:
        end = _one_hot_end(values_ND, binary_D, start)
        found.append(tuple(range(start, end)))
        start = end
    return tuple(found)


def _one_hot_end(values_ND: Tensor, binary_D: Sequence[bool], start: int) -> int:
    """Behind the last column of the category that begins with a column; the next column where none does."""
    sum_N = torch.zeros(len(values_ND))
    for end in range(start, values_ND.shape[1]):
        sum_N = sum_N + values_ND[:, end]
        if not binary_D[end] or bool((sum_N > 1).any()):
            break
        if bool((sum_N == 1).all()):
            return end + 1
    return start + 1


def chosen_outputs(kind: OutputKind, student_NC: Tensor, ensemble_NC: Tensor) -> Tensor:
    """The output of each sample that is explained, int64 [N], from answers of evaluation.

    The ensemble's top class; of several labels the one whose probability student and ensemble differ in most;
    the one value of a regression.
    """
    if kind == "label_logits":
        return (student_NC.sigmoid() - ensemble_NC.sigmoid()).abs().argmax(dim=1)
    return ensemble_NC.argmax(dim=1)


def scores(kind: OutputKind, answers_BC: Tensor, chosen_B: Tensor) -> Tensor:
    """Probability of the chosen class or label, or the value, float64 [B], from answers of evaluation."""
    picked_B = answers_BC.double().gather(1, chosen_B[:, None])[:, 0]
    if kind == "value":
        return picked_B
    return picked_B.sigmoid() if kind == "label_logits" else picked_B.exp()


def importance(kind: OutputKind, whole_N: Tensor, hidden_NK: Tensor) -> Tensor:
    """How much the score of each sample falls, [N, K]; of values how much they change, whichever way."""
    fall_NK = whole_N[:, None] - hidden_NK
    return fall_NK.abs() if kind == "value" else fall_NK


def whole_scores(ask: Ask, inputs: Tensor) -> dict[str, Tensor]:
    """Model -> score of the samples as they are, float64 [N]."""
    return {name: found[:, 0] for name, found in _asked(ask, inputs, 1, lambda x, *_: x).items()}


def hidden_scores(
    ask: Ask, inputs: Tensor, occlusion: Occlusion, tell: Tell = lambda _: None
) -> dict[str, Tensor]:
    """Model -> score of each sample without each part, float64 [N, K].

    Args:
        ask: the models.
        inputs: samples [N, ...] in source space.
        occlusion: the parts.
        tell: is told how many copies were scored.
    """

    def hidden(inputs: Tensor, _: Tensor, part_B: Tensor) -> Tensor:
        return occlusion.hide(inputs, occlusion.hidden_KP[part_B])

    return _asked(ask, inputs, len(occlusion.hidden_KP), hidden, tell)


def deletion_counts(occlusion: Occlusion) -> Tensor:
    """How many units are removed at each step, int64 [F]: from none to all, in up to ten equal steps."""
    units = int(occlusion.unit_P.max()) + 1
    counts_F: Tensor = torch.linspace(0, units, _STEPS + 1).round().long().unique()
    return counts_F


def deletion_scores(
    ask: Ask, inputs: Tensor, occlusion: Occlusion, rank_NU: Tensor, tell: Tell = lambda _: None
) -> dict[str, Tensor]:
    """Model -> score of each sample as more and more of it is removed, float64 [N, F] (Petsiuk et al. 2018, section 4).

    Args:
        ask: the models.
        inputs: samples [N, ...] in source space.
        occlusion: its units, and what stands in their place.
        rank_NU: the place of each unit in the order of removal, int64 from 0.
        tell: is told how many copies were scored.
    """
    counts_F = deletion_counts(occlusion)

    def removed(inputs: Tensor, row_B: Tensor, step_B: Tensor) -> Tensor:
        rank_BP = rank_NU[row_B][:, occlusion.unit_P]
        return occlusion.hide(inputs, rank_BP < counts_F[step_B, None])

    return _asked(ask, inputs, len(counts_F), removed, tell)


def ranks_of(values_NU: Tensor) -> Tensor:
    """Place of each unit in the order from the largest value down, int64 [N, U] from 0."""
    return values_NU.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def deletion_area(curve_NF: Tensor, other_NF: Tensor, counts_F: Tensor) -> Tensor:
    """Area between two deletion curves over the share that is removed, [N]; above 0 where the first lies higher."""
    share_F = counts_F.double() / counts_F[-1]
    area_N: Tensor = torch.trapezoid(curve_NF - other_NF, share_F, dim=1)
    return area_N


def _asked(
    ask: Ask,
    inputs: Tensor,
    versions: int,
    make: Callable[[Tensor, Tensor, Tensor], Tensor],
    tell: Tell = lambda _: None,
) -> dict[str, Tensor]:
    """Model -> scores of every version of every sample, [N, versions]; some hundred copies are made at a time."""
    parts: dict[str, list[Tensor]] = {}
    for copy_B in torch.arange(len(inputs) * versions).split(_BATCH):
        row_B, version_B = copy_B // versions, copy_B % versions
        for name, found_B in ask(make(inputs[row_B], row_B, version_B), row_B).items():
            parts.setdefault(name, []).append(found_B)
        tell(len(copy_B))
    return {name: torch.cat(found).view(len(inputs), versions) for name, found in parts.items()}


def spearman(one_NK: Tensor, other_NK: Tensor) -> Tensor:
    """Rank correlation of two maps of each sample, float64 [N]; ties have their mean rank; NaN where a map is constant."""
    one, other = (
        torch.from_numpy(np.apply_along_axis(ranks, 1, maps_NK.numpy()))
        for maps_NK in (one_NK, other_NK)
    )
    one, other = (rank_NK - rank_NK.mean(dim=1, keepdim=True) for rank_NK in (one, other))
    size_N = one.norm(dim=1) * other.norm(dim=1)
    correlation_N = (one * other).sum(dim=1) / size_N
    return torch.where(size_N > 0, correlation_N.clamp(-1, 1), torch.nan)


def top_overlap(one_NK: Tensor, other_NK: Tensor, share: float = TOP_SHARE) -> Tensor:
    """Intersection over union of the most important places of two maps, float64 [N] in [0, 1]; NaN where one is constant.

    Places that are equally important share what room is left: min over max of their memberships (weighted Jaccard).
    """
    one, other = _top(one_NK, share), _top(other_NK, share)
    overlap_N = torch.minimum(one, other).sum(dim=1) / torch.maximum(one, other).sum(dim=1)
    constant_N = _is_constant(one_NK) | _is_constant(other_NK)
    return torch.where(constant_N, torch.nan, overlap_N)


def _top(maps_NK: Tensor, share: float) -> Tensor:
    """How far each place is among the most important ones, float64 in [0, 1]."""
    count = max(1, round(share * maps_NK.shape[1]))
    least_N1 = maps_NK.topk(count, dim=1).values[:, -1:]
    above_NK, level_NK = (maps_NK > least_N1).double(), (maps_NK == least_N1).double()
    room_N1 = count - above_NK.sum(dim=1, keepdim=True)
    return above_NK + level_NK * room_N1 / level_NK.sum(dim=1, keepdim=True)


def _is_constant(maps_NK: Tensor) -> Tensor:
    return maps_NK.amin(dim=1) == maps_NK.amax(dim=1)
