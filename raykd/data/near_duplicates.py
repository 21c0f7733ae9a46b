"""Samples that are the same, or look it: copies, leaks between splits, labels that contradict each other.

Shapes: N samples, M samples of another split, P pixels of a thumbnail, D values of a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from raykd.data.mapped import pieces
from raykd.data.samples import Samples
from raykd.tasks import find_task
from raykd.types import is_labelled

EXAMPLES = 3
ALIKE = 0.995
"""Correlation of the pixels of two images that pass for the same."""
MOST_IMAGES = 80_000
"""Each is compared with each, which is seconds up to here."""
_COARSE = 0.98
_FLAT = 1e-5
_SIDE = 8
_BLOCK = 256
_IMAGE_AXES = 3
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Duplicates:
    """Samples with the same content, or images that look the same.

    Attributes:
        splits: the two splits that share them; the same twice when they are within one.
        count: samples of the second split that the first has too (within one: beyond the first copy).
        examples: pairs of sample ids, as the user's data have them.
    """

    splits: tuple[str, str]
    count: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Conflicts:
    """Samples with the same content and different labels.

    Attributes:
        count: samples equal in content to one with another label.
        examples: pairs of (sample id, its label as text).
    """

    count: int
    examples: tuple[tuple[tuple[str, str], tuple[str, str]], ...]


def find_duplicates(samples: Samples, hashes: Mapping[str, np.ndarray]) -> tuple[Duplicates, ...]:
    """Groups of equal samples, within and across splits.

    Args:
        samples: the samples.
        hashes: split -> content hash of each of its samples.
    """
    rows = {split: samples.splits[split] for split in hashes}
    found = []
    for split, own in hashes.items():
        copies, first = _later(own)
        found.append(_group(samples, (split, split), rows[split][first], rows[split][copies]))
    for one, other in combinations(hashes, 2):
        there, first = _matching_indices(hashes[one], hashes[other])
        found.append(_group(samples, (one, other), rows[one][first], rows[other][there]))
    return tuple(group for group in found if group.count)


def _later(own_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of values that occurred before, and of their first occurrence."""
    _, first, back = np.unique(own_N, return_index=True, return_inverse=True)
    copies = np.flatnonzero(first[back] != np.arange(len(own_N)))
    return copies, first[back[copies]]


def _matching_indices(one_N: np.ndarray, other_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices in `other_M` of values that `one_N` has too, and of their first occurrence there."""
    values, first = np.unique(one_N, return_index=True)
    near = np.searchsorted(values, other_M).clip(max=len(values) - 1)
    there = np.flatnonzero(values[near] == other_M)
    return there, first[near[there]]


def _group(
    samples: Samples, splits: tuple[str, str], one: np.ndarray, other: np.ndarray
) -> Duplicates:
    """Pairs of rows of two splits."""
    pairs = zip(samples.named(one[:EXAMPLES]), samples.named(other[:EXAMPLES]), strict=True)
    return Duplicates(splits, len(one), tuple(pairs))


def find_conflicts(samples: Samples, hashes: Mapping[str, np.ndarray]) -> Conflicts:
    """Labelled samples that are equal and have different labels, in whatever splits they are."""
    rows = np.concatenate([samples.splits[split] for split in hashes])
    values = np.concatenate(list(hashes.values()))
    known = is_labelled(samples.all_labels[rows])
    rows, values = rows[known], values[known]
    labels = np.unique(samples.all_labels[rows], axis=0, return_inverse=True)[1].reshape(len(rows))
    _, first, back = np.unique(values, return_index=True, return_inverse=True)
    other = np.flatnonzero(labels != labels[first[back]])
    torn = np.zeros(len(first), dtype=bool)
    torn[back[other]] = True

    def example(index: int) -> tuple[str, str]:
        row = rows[index]
        label = find_task(samples.task).labels.shown(samples.all_labels[row], samples.classes)
        return samples.named(rows[[index]])[0], label

    examples = ((example(first[back[index]]), example(index)) for index in other[:EXAMPLES])
    return Conflicts(int(torn[back].sum()), tuple(examples))


def find_near(samples: Samples, hashes: Mapping[str, np.ndarray]) -> tuple[Duplicates, ...] | None:
    """Images that are not equal but look it: compressed anew, brighter, of another size before.

    Thumbnails of 8×8 grey pixels are compared with each other, the best match of each then pixel by
    pixel; a crop or a shift is another image. Equal samples are not counted again.

    Returns:
        Groups of them; none where there are no images; None where there are more than `MOST_IMAGES`.
    """
    if len(samples.inputs) > 1 or len(samples.input_shape) != _IMAGE_AXES:
        return ()
    rows_of = {split: samples.splits[split] for split in hashes}
    if sum(map(len, rows_of.values())) > MOST_IMAGES:
        return None
    (images,) = samples.inputs.values()
    thumbs = {split: _thumbnails(images, rows) for split, rows in rows_of.items()}
    found = []
    for one, other in [*((split, split) for split in hashes), *combinations(hashes, 2)]:
        equal = (
            _later(hashes[one]) if one == other else _matching_indices(hashes[one], hashes[other])
        )
        new = np.setdiff1d(np.arange(len(rows_of[other])), equal[0])
        index, best = _matches(thumbs[one], thumbs[other], new, within=one == other)
        left, right = rows_of[one][best], rows_of[other][index]
        same = _correlations(images, left, right) >= ALIKE
        found.append(_group(samples, (one, other), left[same], right[same]))
    return tuple(group for group in found if group.count)


def _thumbnails(images: np.ndarray, rows: np.ndarray) -> torch.Tensor:
    """Float32 [N, P]: grey, without their mean, of length 1; zero where an image is constant."""
    made = []
    for part in pieces(rows, images[:1].size * _FLOAT_BYTES):
        grey_NHW = torch.from_numpy(images[part].astype(np.float32)).mean(dim=1)
        height, width = (min(_SIDE, length) for length in grey_NHW.shape[1:])
        made.append(_directions(adaptive_avg_pool2d(grey_NHW, (height, width)).flatten(1)))
    return torch.cat(made)


def _directions(values_ND: torch.Tensor) -> torch.Tensor:
    """Without their mean, of length 1; zero where they are all the same but for rounding."""
    centred = values_ND - values_ND.mean(dim=1, keepdim=True)
    length_N1 = centred.norm(dim=1, keepdim=True)
    is_flat = length_N1 <= _FLAT * values_ND.norm(dim=1, keepdim=True)
    directions_ND: torch.Tensor = centred / length_N1.masked_fill(is_flat, torch.inf)
    return directions_ND


def _matches(
    one_NP: torch.Tensor, other_MP: torch.Tensor, indices: np.ndarray, *, within: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Of these indices (sorted) in the second split those with a match, and the best one in the first.

    Within one split only what comes before counts.
    """
    kept, best = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for start in range(0, len(indices), _BLOCK):
        block = torch.from_numpy(indices[start : start + _BLOCK])
        reach = one_NP[: block[-1]] if within else one_NP
        if not len(reach):
            continue
        likeness = other_MP[block] @ reach.T
        if within:
            likeness[torch.arange(len(reach)) >= block[:, None]] = -1.0
        highest = likeness.max(dim=1)
        near = highest.values >= _COARSE
        kept.append(block[near].numpy())
        best.append(highest.indices[near].numpy())
    return np.concatenate(kept), np.concatenate(best)


def _correlations(images: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of the pixels of pairs of images, float32 [N]."""
    found = [np.zeros(0, np.float32)]
    for part in pieces(np.arange(len(left)), images[:1].size * _FLOAT_BYTES):
        one, other = (
            _directions(torch.from_numpy(images[rows[part]].astype(np.float32)).flatten(1))
            for rows in (left, right)
        )
        found.append((one * other).sum(dim=1).numpy())
    return np.concatenate(found)
