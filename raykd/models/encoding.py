"""A table's gaps filled and its words as numbers, by what scikit-learn found in the training samples.

scikit-learn's transformers are fitted, and what they found is kept as plain numbers: so it is part of a fingerprint and
of `model.json`, and the same few operations of torch run in training, in teachers and in an exported graph.

Shapes: B rows, N training rows, D columns of the table, P columns of words, M columns of the result.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from raykd.config.data import Categories, Impute, Preprocess
from raykd.types import UNKNOWN_WORD

FITTED_ROWS = 200_000
"""Training samples, evenly spaced over all of them, that transformers are fitted on."""
_NO_COLUMN, _NEW, _GAP = -1, UNKNOWN_WORD, -2
_BEFORE = 2  # places before the first word: of a gap, and of a new word


@dataclass(frozen=True)
class WordColumn:
    """How a column of words is encoded.

    Attributes:
        column: its index in the table.
        type: `one_hot` or `ordinal`.
        words: by code; none behind the last one that has a place of its own.
        places: of each word: one-hot, its column, or −1 for none; ordinal, its number.
        new: place of any other word.
        gap: place of no word.
        width: columns that it becomes.
    """

    column: int
    type: Literal["one_hot", "ordinal"]
    words: tuple[str, ...]
    places: tuple[int, ...]
    new: int
    gap: int
    width: int

    def __post_init__(self) -> None:
        if len(self.words) != len(self.places) or self.width < 0 or self.column < 0:
            raise ValueError("every word has a place, and a column is one of the table")


@dataclass(frozen=True)
class TableEncoding:
    """From a table with gaps and codes of words to numbers: columns of numbers, which had gaps, words.

    Attributes:
        numbers: indices of the columns of numbers.
        fill: what stands in their gaps; None leaves them NaN.
        indicators: indices of the columns that get a column of 0 and 1: whether there was a gap.
        words: the columns of words; those that are not among them are left out.
    """

    numbers: tuple[int, ...]
    fill: tuple[float, ...] | None
    indicators: tuple[int, ...]
    words: tuple[WordColumn, ...]

    def __post_init__(self) -> None:
        if self.fill is not None and len(self.fill) != len(self.numbers):
            raise ValueError("every column of numbers needs one number that fills its gaps")

    @property
    def width(self) -> int:
        """Columns of the result."""
        words = sum(one.width for one in self.words)
        return len(self.numbers) + len(self.indicators) + words

    @property
    def is_amount(self) -> tuple[bool, ...]:
        """Of each column of the result whether it is a number to normalise, and not 0 or 1 for what is there."""
        words = (one.type == "ordinal" for one in self.words for _ in range(one.width))
        return (*[True] * len(self.numbers), *[False] * len(self.indicators), *words)

    def __call__(self, x_BD: Tensor) -> Tensor:
        """Encode rows.

        Args:
            x_BD: floats; NaN where there is a gap; codes in columns of words, any other than a known one is a new word.

        Returns:
            float32 [B, M].
        """
        x_BD = x_BD.to(torch.float32)
        parts = []
        if self.numbers:
            numbers = x_BD[:, list(self.numbers)]
            if self.fill is not None:
                numbers = torch.where(
                    numbers.isnan(), torch.tensor(self.fill, device=x_BD.device), numbers
                )
            parts.append(numbers)
        if self.indicators:
            parts.append(x_BD[:, list(self.indicators)].isnan().to(torch.float32))
        if self.words:
            parts.append(_encoded(self.words, x_BD))
        return torch.cat(parts, dim=1)


def _encoded(words: Sequence[WordColumn], x_BD: Tensor) -> Tensor:
    """Columns of words, one after the other, float32.

    Each column's places lie in one table, for a gap, a new word, the words in the order of their codes, and any
    code beyond them.
    """
    device = x_BD.device
    table = [[one.gap, one.new, *one.places, one.new] for one in words]
    sizes = [len(places) for places in table]
    starts_P = torch.tensor(np.cumsum([0, *sizes[:-1]]).tolist(), device=device)
    last_P = torch.tensor([size - 1 for size in sizes], device=device)
    codes_BP = x_BD[:, [one.column for one in words]].nan_to_num(nan=float(_GAP))
    index_BP = torch.minimum(codes_BP.to(torch.int64).clamp(min=_GAP) + _BEFORE, last_P)
    places = [float(place) for one in table for place in one]
    place_BP = torch.tensor(places, device=device)[index_BP + starts_P]
    spread_BM = place_BP[:, [p for p, one in enumerate(words) for _ in range(one.width)]]
    slots = [float(slot) for one in words for slot in range(one.width)]
    hit_BM = (spread_BM == torch.tensor(slots, device=device)).to(torch.float32)
    is_hot = [one.type == "one_hot" for one in words for _ in range(one.width)]
    if all(is_hot):
        return hit_BM
    return torch.where(torch.tensor(is_hot, device=device), hit_BM, spread_BM)


def fit_encoding(
    settings: Preprocess, values_ND: np.ndarray, words: Mapping[int, tuple[str, ...]]
) -> TableEncoding:
    """What a model's settings come to on the training samples.

    Args:
        settings: its `preprocess`.
        values_ND: training samples, floats with NaN where there are gaps.
        words: index of a column of words -> what its codes stand for.
    """
    numbers = tuple(index for index in range(values_ND.shape[1]) if index not in words)
    encoding = TableEncoding(numbers, None, (), ())
    if settings.impute is not None and numbers:
        encoding = _filled(encoding, settings.impute, values_ND[:, list(numbers)])
    if settings.categories is not None and words:
        encoder = encoder_of(settings.categories).fit(alphabetical(values_ND, words))
        columns = tuple(
            _word_column(settings.categories, encoder, place, column, known)
            for place, (column, known) in enumerate(words.items())
        )
        encoding = replace(encoding, words=columns)
    return encoding


def _filled(encoding: TableEncoding, impute: Impute, values_NP: np.ndarray) -> TableEncoding:
    """The same with what stands in gaps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a column that is empty in all of these rows
        imputer = imputer_of(impute).fit(values_NP.astype(np.float64))
    indicator = imputer.indicator_
    found = () if indicator is None else tuple(encoding.numbers[i] for i in indicator.features_)
    return replace(encoding, fill=tuple(imputer.statistics_.tolist()), indicators=found)


def imputer_of(impute: Impute) -> Any:
    """The `SimpleImputer` of scikit-learn for columns of numbers, not fitted."""
    from sklearn.impute import SimpleImputer

    return SimpleImputer(
        strategy=impute.type,
        fill_value=impute.value if impute.type == "constant" else None,
        add_indicator=impute.indicator,
        keep_empty_features=True,
    )


def encoder_of(code: Categories) -> Any:
    """The encoder of scikit-learn for columns of words, whose codes are in alphabetical order; not fitted."""
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

    if code.type == "one_hot":
        return OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=code.most)
    return OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=_NEW, encoded_missing_value=_GAP
    )


def alphabetical(values_ND: np.ndarray, words: Mapping[int, tuple[str, ...]]) -> np.ndarray:
    """The columns of words [N, P], each code replaced by its word's place in alphabetical order, float64."""
    columns = []
    for column, known in words.items():
        rank = np.array([*_ranks(known), np.nan])
        codes = values_ND[:, column].astype(np.float64)
        columns.append(rank[np.where(np.isnan(codes), len(known), codes).astype(np.int64)])
    return np.stack(columns, axis=1)


def _ranks(words: Sequence[str]) -> np.ndarray:
    """Place of each word in alphabetical order, int64."""
    ranks: np.ndarray = np.argsort(np.argsort(np.array(words, dtype=object)))
    return ranks


def _word_column(
    code: Categories, encoder: Any, place: int, column: int, words: tuple[str, ...]
) -> WordColumn:
    """What the fitted encoder does with each word."""
    seen = encoder.categories_[place].tolist()
    ranks = _ranks(words).tolist()
    place_of = _hot_places(encoder, place) if code.type == "one_hot" else _numbers(seen)
    new = place_of.pop(None)
    gap = place_of.pop("gap", new if code.type == "one_hot" else _GAP)
    places = [place_of.get(rank, new) for rank in ranks]
    used = max((at + 1 for at, one in enumerate(places) if one != new), default=0)
    width = 1
    if code.type == "one_hot":
        width = 1 + max([new, gap, *places])
    return WordColumn(column, code.type, words[:used], tuple(places[:used]), new, gap, width)


def _numbers(seen: Sequence[float]) -> dict[Any, int]:
    """Alphabetical place of a word -> its number; None -> that of any other."""
    known = [rank for rank in seen if not np.isnan(rank)]
    return {**{int(rank): number for number, rank in enumerate(known)}, None: _NEW}


def _hot_places(encoder: Any, place: int) -> dict[Any, int]:
    """Alphabetical place of a word -> its column; "gap" -> that of no word; None -> that of any other."""
    seen = encoder.categories_[place]
    rare = encoder.infrequent_categories_[place]
    is_rare = np.zeros(len(seen), bool) if rare is None else _among(seen, rare)
    columns = np.cumsum(~is_rare) - 1
    shared = int((~is_rare).sum()) if is_rare.any() else _NO_COLUMN
    found: dict[Any, int] = {None: shared}
    for rank, few, own in zip(seen.tolist(), is_rare.tolist(), columns.tolist(), strict=True):
        found["gap" if np.isnan(rank) else int(rank)] = shared if few else own
    return found


def _among(values: np.ndarray, some: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.isin(values, some) | (np.isnan(values) & np.isnan(some).any())
    return found
