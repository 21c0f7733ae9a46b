"""Which domain each sample is from: of texts what they are about, of states the simulator that they were visited in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raykd.types import UNLABELLED

SIMULATOR = "simulator"
"""Column of the name of the simulator that a state was visited in."""


@dataclass(frozen=True, eq=False)
class Domains:
    """The domains of samples.

    Attributes:
        names: of the D domains.
        number_N: int64 [N] in [−1, D); −1 where it is unknown.
    """

    names: tuple[str, ...]
    number_N: np.ndarray

    def with_more(self, names_M: Sequence[str] | np.ndarray | None, count: int) -> Domains:
        """The domains of these samples and of `count` more behind them, by name; None = nobody knows them."""
        found = np.full(count, UNLABELLED, np.int64)
        if names_M is not None:
            found = _numbers(np.asarray(names_M), self.names)
        return Domains(self.names, _read_only(np.concatenate([self.number_N, found])))


def domains_of_column(names_N: np.ndarray | None, count: int) -> Domains | None:
    """The domains that a column names, in order of their names.

    Args:
        names_N: the column, of the first samples; None where there is none.
        count: of all samples; those behind the column are of no domain.
    """
    if names_N is None:
        return None
    texts_N = np.asarray(names_N).astype(str)
    names = tuple(str(name) for name in np.unique(texts_N))
    own = Domains(names, _numbers(texts_N, names))
    return own.with_more(None, count - len(texts_N))


def _numbers(texts: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """The place of each text among the names, int64; −1 of others."""
    place = {name: number for number, name in enumerate(names)}
    kinds, kind_N = np.unique(texts.astype(str), return_inverse=True)
    numbers = np.array([place.get(str(one), UNLABELLED) for one in kinds], np.int64)
    found: np.ndarray = numbers[kind_N.reshape(-1)]
    return found


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
