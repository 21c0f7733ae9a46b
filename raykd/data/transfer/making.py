"""Samples of a transfer set, made of a recipe's own: by row and number, so that a larger set contains the smaller one.

Shapes: N samples of the recipe that a set is made of, M made ones, D values of a sample.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raykd.config.transfer import FactorySet, MixtureSet, MixupSet, MungeSet, NoiseSet
from raykd.data.hashing import Draws, sample_keys
from raykd.data.policy import beta_share
from raykd.data.transfer.mixtures import fit_mixture, starting_shares, with_shares
from raykd.data.transfer.munge import munge_pass, neighbours
from raykd.errors import InputError
from raykd.importing import load_callable
from raykd.seeding import derive
from raykd.types import TEXT

Inputs = Mapping[str, np.ndarray]
_PIECE = 4096
"""Samples that are made at a time."""
_IMAGES, _VECTORS = len(("N", "C", "H", "W")), len(("N", "D"))
_UINT8 = 255


@dataclass(frozen=True, eq=False)
class Origin:
    """The samples that a set is made of.

    Attributes:
        inputs: name -> [N, ...], in the order of their ids.
        strata_N: int64, class of each (decile of its value, its rarest label), −1 where it has no label.
        words: of a table, indices of the columns of words.
        seed: of the recipe.
        name: of the set; its random numbers follow from the two.
        key: dotted key of the set.
    """

    inputs: Inputs
    strata_N: np.ndarray
    words: tuple[int, ...]
    seed: int
    name: str
    key: str

    @property
    def single(self) -> tuple[str, np.ndarray]:
        """Name and array of the only input."""
        if len(self.inputs) > 1:
            raise self.wrong(f"samples have several inputs ({', '.join(self.inputs)}); use factory")
        return next(iter(self.inputs.items()))

    def draws(self, start: int, stop: int, use: int) -> Draws:
        """Random numbers of the made samples `start` to `stop`, a stream for each of several uses."""
        keys = sample_keys(np.arange(start, stop), self.seed, "transfer", self.name)
        return Draws.of_step(keys, use)

    def wrong(self, why: str) -> InputError:
        """What is wrong with making the set of these samples."""
        return InputError.at(self.key, why)


def make(settings: Any, origin: Origin) -> dict[str, np.ndarray]:
    """The samples of a set: name -> [M, ...], of the dtype and shape that the recipe's own have.

    Args:
        settings: of the set; not `source`.
        origin: what it is made of.

    Raises:
        InputError: the set cannot be made of such samples; the key is the set's.
    """
    if not len(origin.strata_N):
        raise origin.wrong(
            "has no training sample to be made of; set `of: all`, or raise data.labels"
        )
    if isinstance(settings, FactorySet):
        return _factory(settings, origin)
    name, array = origin.single
    if name == TEXT:
        raise origin.wrong(
            f"makes numbers, and samples are texts; use factory or source, not {settings.type}"
        )
    made = np.concatenate([*_MAKERS[type(settings)](settings, origin, array)])
    return {name: _as_given(made, array)}


def _munge(settings: MungeSet, origin: Origin, array: np.ndarray) -> Iterator[np.ndarray]:
    """Passes over the table, cut off where the set is full."""
    values_ND = _table(settings, origin, array)
    if len(values_ND) < 2:
        raise origin.wrong("needs two training samples at least, each other's neighbours")
    words_D = _word_mask(origin, values_ND)
    nearest_N = neighbours(values_ND, words_D)
    count, columns = values_ND.shape
    for start in range(0, settings.count, count):
        uniform_ND = origin.draws(start, start + count, 0).uniforms(columns).T
        normal_ND = origin.draws(start, start + count, 1).normals(2 * columns).astype(np.float64)
        normal_2ND = np.stack(np.split(normal_ND, 2, axis=1))
        made_ND = munge_pass(
            values_ND, words_D, nearest_N, uniform_ND, normal_2ND, p=settings.p, s=settings.s
        )
        yield made_ND[: settings.count - start]


def _mixture(settings: MixtureSet, origin: Origin, array: np.ndarray) -> Iterator[np.ndarray]:
    """Draws of class mixtures, classes as frequent as among the labels."""
    values_ND = _table(settings, origin, array)
    if origin.words or np.isnan(values_ND).any():
        what = "columns of words" if origin.words else "gaps"
        raise origin.wrong(f"a Gaussian has numbers alone, and the table has {what}; use munge, or name the columns "
                           "of numbers in data.source.inputs")  # fmt: skip
    mean_D, std_D = values_ND.mean(axis=0), values_ND.std(axis=0)
    std_D[std_D == 0] = 1.0
    scaled_ND = (values_ND - mean_D) / std_D
    classes, of_class_N, count_C = np.unique(
        origin.strata_N, return_inverse=True, return_counts=True
    )
    starts = Draws.of_step(sample_keys(classes, origin.seed, "transfer", origin.name), 2)
    uniform_KC = starts.uniforms(settings.components)
    mixtures = []
    for index, count in enumerate(count_C.tolist()):
        own_ND = scaled_ND[of_class_N == index]
        shares_NK = starting_shares(own_ND, uniform_KC[: min(settings.components, count), index])
        start = with_shares(own_ND, shares_NK, settings.ridge)
        mixtures.append(fit_mixture(own_ND, start, settings.ridge))
    edges_C = np.cumsum(count_C) / count_C.sum()
    for begin, end in _pieces(settings.count):
        class_B, component_B = origin.draws(begin, end, 0).uniforms(2)
        normal_BD = origin.draws(begin, end, 1).normals(len(mean_D)).astype(np.float64)
        drawn_B = np.minimum(np.searchsorted(edges_C, class_B), len(classes) - 1)
        made_BD = np.empty(normal_BD.shape)
        for index, mixture in enumerate(mixtures):
            own = drawn_B == index
            made_BD[own] = mixture.draw(component_B[own], normal_BD[own])
        yield made_BD * std_D + mean_D


def _noise(settings: NoiseSet, origin: Origin, array: np.ndarray) -> Iterator[np.ndarray]:
    """Each value by itself, as the values at its place are."""
    flat_ND = array.reshape(len(array), -1)
    numbers_D = ~_word_mask(origin, flat_ND)
    known_ND = flat_ND.astype(np.float64)
    if settings.like == "columns":
        numbers_D[:] = False
    else:
        empty_D = np.isnan(known_ND).all(axis=0)
        numbers_D &= ~empty_D
    low_D, high_D = (reduce(known_ND[:, numbers_D], axis=0) for reduce in (np.nanmin, np.nanmax))
    mean_D, std_D = (reduce(known_ND[:, numbers_D], axis=0) for reduce in (np.nanmean, np.nanstd))
    for begin, end in _pieces(settings.count):
        uniform_BD = origin.draws(begin, end, 0).uniforms(flat_ND.shape[1]).T
        picked_BD = (uniform_BD * len(flat_ND)).astype(np.int64)
        made_BD = np.take_along_axis(known_ND, picked_BD, axis=0)
        if settings.like == "uniform":
            made_BD[:, numbers_D] = low_D + uniform_BD[:, numbers_D] * (high_D - low_D)
        elif settings.like == "normal":
            normal_BD = origin.draws(begin, end, 1).normals(flat_ND.shape[1]).astype(np.float64)
            made_BD[:, numbers_D] = mean_D + normal_BD[:, numbers_D] * std_D
        yield made_BD.reshape(-1, *array.shape[1:])


def _mixup(settings: MixupSet, origin: Origin, array: np.ndarray) -> Iterator[np.ndarray]:
    """Share · one + (1 − share) · another, of samples drawn with replacement (Zhang et al. 2018, equation 1)."""
    if origin.words:
        raise origin.wrong("blends numbers, and the table has columns of words; use munge, or name the columns of numbers "
                           "in data.source.inputs")  # fmt: skip
    for begin, end in _pieces(settings.count):
        one_B, other_B, uniform_B = origin.draws(begin, end, 0).uniforms(3)
        share_B = beta_share(settings.alpha, uniform_B).reshape(-1, *(1,) * (array.ndim - 1))
        one, other = (array[(u * len(array)).astype(np.int64)] for u in (one_B, other_B))
        yield share_B * one.astype(np.float64) + (1 - share_B) * other.astype(np.float64)


_MAKERS: Mapping[type, Callable[[Any, Origin, np.ndarray], Iterator[np.ndarray]]] = {
    MungeSet: _munge,
    MixtureSet: _mixture,
    NoiseSet: _noise,
    MixupSet: _mixup,
}


def _factory(settings: FactorySet, origin: Origin) -> dict[str, np.ndarray]:
    """What the user's own function makes, held against what it is made of."""
    key = f"{origin.key}.path"
    function = load_callable(settings.path, key=key)
    generator = np.random.default_rng(derive(origin.seed, "transfer", origin.name))
    given: Any = origin.inputs if len(origin.inputs) > 1 else origin.single[1]
    try:
        inspect.signature(function).bind(given, settings.count, generator, **settings.kwargs)
    except TypeError as error:
        raise InputError.at(
            key, f"{error}; it is called with (inputs, count, generator, **kwargs)"
        ) from None
    found = function(given, settings.count, generator, **settings.kwargs)
    arrays = found if isinstance(found, Mapping) else {origin.single[0]: found}
    if set(arrays) != set(origin.inputs):
        raise InputError.at(
            key, f"returned {sorted(arrays)}; the samples have {sorted(origin.inputs)}"
        )
    made = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in made.items():
        own = origin.inputs[name]
        if array.shape != (settings.count, *own.shape[1:]) or array.dtype != own.dtype:
            raise InputError.at(key, f"returned {array.dtype} {list(array.shape)} as {name!r}; needed are {own.dtype} "
                                f"{[settings.count, *own.shape[1:]]}")  # fmt: skip
    return made


def _table(settings: Any, origin: Origin, array: np.ndarray) -> np.ndarray:
    """The samples of a table as float64 [N, D]."""
    if array.ndim != _VECTORS or array.dtype.kind != "f":
        what = "images" if array.ndim == _IMAGES else f"{array.dtype} {list(array.shape[1:])}"
        raise origin.wrong(f"{settings.type} is for tables of floats, and samples are {what}; use mixup, noise, factory or "
                           "source")  # fmt: skip
    return array.astype(np.float64)


def _word_mask(origin: Origin, values_ND: np.ndarray) -> np.ndarray:
    words_D = np.zeros(values_ND.shape[1], bool)
    words_D[list(origin.words)] = True
    return words_D


def _as_given(made: np.ndarray, array: np.ndarray) -> np.ndarray:
    """In the dtype of the samples that they are made of; whole numbers are rounded."""
    if array.dtype.kind == "f":
        return made.astype(array.dtype)
    whole = np.rint(made)
    if array.dtype == np.uint8:
        whole = np.clip(whole, 0, _UINT8)
    given: np.ndarray = whole.astype(array.dtype)
    return given


def _pieces(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, _PIECE):
        yield start, min(count, start + _PIECE)
