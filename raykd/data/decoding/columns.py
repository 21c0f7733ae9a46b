"""Columns of tables as features: what each holds in all files, and its cells as numbers.

A column is of numbers, of which booleans are 0 and 1, or of words, whose cells become codes: a word's place in the
order of first appearance. A gap (a cell without a value) is NaN in both.

Shapes: B rows of a block, D columns.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raykd.data.decoding.layout import Decoded, Layout
from raykd.errors import InputError, Problem, refuse
from raykd.types import UNKNOWN_WORD

MOST_WORDS = 100_000
"""Different words of a column that a recipe names."""
_OWN_WORDS = 1_000
"""Different words of a column that it does not name; more are taken for ids or texts."""
_FEW_WORDS = 30
"""So few different cells are words, also where most of them are numbers, unless the recipe names the column."""
_GAPS = (
    "",
    "?",
    "-",
    "NA",
    "N/A",
    "n/a",
    "#N/A",
    "<NA>",
    "NaN",
    "nan",
    "-nan",
    "NULL",
    "null",
    "None",
)
"""What stands for a gap in a column of numbers."""
_NUMBER = r"^[+-]?((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|inf|infinity|Inf|Infinity)$"
_BOOLEANS = "true", "false"


Known = Sequence[tuple[str, ...] | None] | None
"""Of each column of the inputs the words that it may hold, None of one of numbers; None = to be found out."""


@dataclass(frozen=True)
class Parsed:
    """Cells of a column of numbers.

    Attributes:
        values: float64 [B], pyarrow array; null where there is a gap, or no number.
        boolean: which cells are true or false, pyarrow array; None where none is. Their values are 1 and 0.
        wrong: which cells are neither a number, a boolean nor a gap; None where none is.
    """

    values: Any
    boolean: Any = None
    wrong: Any = None


@cache
def _set_of(texts: tuple[str, ...]) -> Any:
    """Texts as a pyarrow array; making one of a list imports pandas, which most processes do without."""
    return pa.array(texts)


def parse_numbers(cells: Any) -> Parsed:
    """The numbers in an array of texts."""
    try:
        return Parsed(cells.cast(pa.float64()))
    except pa.ArrowInvalid:
        trimmed = pc.utf8_trim_whitespace(cells)
    lower = pc.utf8_lower(trimmed)
    boolean = pc.fill_null(pc.is_in(lower, _set_of(_BOOLEANS)), fill_value=False)
    gap = pc.or_(pc.is_null(trimmed), pc.is_in(trimmed, _set_of(_GAPS)))
    number = pc.fill_null(pc.match_substring_regex(trimmed, _NUMBER), fill_value=False)
    number = pc.and_not(number, gap)
    digits = pc.if_else(pc.equal(lower, _BOOLEANS[0]), "1", pc.if_else(boolean, "0", trimmed))
    known = pc.or_(number, boolean)
    values = pc.if_else(known, digits, pa.scalar(None, pa.string())).cast(pa.float64())
    return Parsed(values, boolean, pc.invert(pc.or_(known, gap)))


@dataclass
class Survey:
    """What was seen of one column so far.

    Attributes:
        most: different words that are kept; more are only known to be too many.
        is_text: whether its cells are words, whatever they look like.
        filled: cells with a value.
        numbers: of these, those that are numbers.
        booleans: those that are true or false.
        words: different cells, in the order of their first appearance; None when there are too many.
        stray: the first cell that is neither, and where it is; empty where there is none.
    """

    most: int
    is_text: bool = False
    filled: int = 0
    numbers: int = 0
    booleans: int = 0
    words: dict[str, None] | None = field(default_factory=dict)
    stray: str = ""

    def add(self, cells: Any, file: str, first: int) -> None:
        """Look at some more cells.

        Args:
            cells: array of texts.
            file: that they are of.
            first: the number of the first one's row in the file, from 1.
        """
        self._add_words(cells)
        if self.filled and not self.numbers and not self.booleans:  # nothing but words so far
            self.filled += len(cells) - cells.null_count
            return
        parsed = parse_numbers(cells)
        boolean = 0 if parsed.boolean is None else pc.sum(parsed.boolean).as_py() or 0
        wrong = 0 if parsed.wrong is None else pc.sum(parsed.wrong).as_py() or 0
        known = len(cells) - parsed.values.null_count
        self.booleans += boolean
        self.numbers += known - boolean
        self.filled += known + wrong
        if wrong and not self.stray:
            row = pc.index(parsed.wrong, value=True).as_py()
            self.stray = f"{cells[row].as_py()!r} in row {first + row:,} of {file}"

    def _add_words(self, cells: Any) -> None:
        if self.words is None:
            return
        found = pc.unique(cells.drop_null())
        if len(found) <= self.most:
            self.words |= dict.fromkeys(found.to_pylist())
        if max(len(found), len(self.words)) > self.most:
            self.words = None

    @property
    def is_numbers(self) -> bool:
        """Whether every cell with a value is a number, or every one true or false."""
        return not self.is_text and self.filled in (self.numbers, self.booleans)

    @property
    def is_mixed(self) -> bool:
        """Whether at least half of the cells are numbers, and some are none."""
        return not self.is_text and not self.is_numbers and 2 * self.numbers >= self.filled

    @property
    def different(self) -> str:
        """How many different words there are."""
        return f"more than {self.most:,}" if self.words is None else f"{len(self.words):,}"


@dataclass(frozen=True)
class Choice:
    """The columns that make a sample.

    Attributes:
        names: of the columns, in order.
        words: of each column the words that its codes stand for; None of a column of numbers.
        unused: column that is left out -> why.
    """

    names: tuple[str, ...]
    words: tuple[tuple[str, ...] | None, ...]
    unused: Mapping[str, str]


Block = tuple[str, int, Mapping[str, Any]]
"""A file, the number of a row in it from 1, and from there on name -> array of texts."""


def survey(
    blocks: Iterable[Block], names: Sequence[str], named: Container[str], texts: Container[str]
) -> dict[str, Survey]:
    """Look at every cell of some columns once.

    Args:
        blocks: all rows.
        names: of the columns.
        named: those that the recipe names, which may have more different words.
        texts: those whose cells are words, whatever they look like.
    """
    found = {
        name: Survey(MOST_WORDS if name in named or name in texts else _OWN_WORDS, name in texts)
        for name in names
    }
    for file, first, columns in blocks:
        for name, cells in columns.items():
            found[name].add(cells, file, first)
    return found


def choose(
    found: Mapping[str, Survey], categories: Sequence[str], *, named: bool, key: str
) -> Choice:
    """What each column is taken for, and which are left out.

    Args:
        found: name -> what was seen of it, in order.
        categories: columns whose cells are words whatever they look like.
        named: whether the recipe names the columns, so that none may be left out.
        key: that names them.

    Raises:
        InputError: a column that is named has no value, too many words, or some cells that are no numbers.
    """
    words_named = frozenset(categories)
    reasons = {
        name: _unfit(one, is_category=name in words_named, named=named)
        for name, one in found.items()
    }
    unused = {name: why for name, why in reasons.items() if why}
    asked = {name: why for name, why in unused.items() if named or name in words_named}
    refuse(
        Problem("data.source.categories" if name in words_named else key, f"{name!r} {why}")
        for name, why in asked.items()
    )
    used = {name: one for name, one in found.items() if name not in unused}
    words = tuple(None if one.is_numbers else tuple(one.words or ()) for one in used.values())
    return Choice(tuple(used), words, unused)


def _unfit(one: Survey, *, is_category: bool, named: bool) -> str:
    """Why a column cannot be used; empty where it can."""
    if not one.filled:
        return "has no value in any row"
    if one.is_numbers:
        return ""
    few = one.words is not None and len(one.words) <= _FEW_WORDS
    if one.is_mixed and (named or not few):
        return _mixed(one)
    if is_category:
        return "" if one.words is not None else f"has {one.different} different words: leave it out"
    if one.words is None or 2 * len(one.words) > one.filled:
        return (
            f"has {one.different} different words in {one.filled:,} cells: ids or texts, no categories (texts go into "
            "data.source.text; name it in data.source.categories to use it all the same)"
        )
    return ""


def _mixed(one: Survey) -> str:
    return (
        f"has {one.numbers:,} numbers in {one.filled:,} cells, but also {one.stray or 'true or false'}: inputs have to "
        "be numbers or words; empty the cells that are none, or name the column in data.source.categories"
    )


def decode_cells(columns: Sequence[Any], names: Sequence[str], layout: Layout) -> Decoded:
    """Samples of some columns, float32 [B, D]: numbers, and codes of words; NaN where there is a gap.

    A word that `layout` does not know gets the code −1. A row with a cell that is no number, or too large a one for
    float32, is bad.

    Args:
        columns: pyarrow arrays.
        names: of the columns.
        layout: what they are.
    """
    bad: dict[int, str] = {}
    every = []
    for column, name, words in zip(columns, names, layout.words, strict=True):
        values_B = (
            _numbers(column, name, bad) if words is None else encode_words(as_texts(column), words)
        )
        every.append(values_B)
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and refused below
        values_BD = np.stack(every, axis=1).astype(layout.dtype)
    for row, column_ in np.argwhere(np.isinf(values_BD)).tolist():
        bad.setdefault(row, f"{names[column_]!r} is infinite, or too large for float32")
    values_BD[list(bad)] = 0
    values_BD[np.isnan(values_BD)] = np.nan  # one bit pattern for all, since contents are hashed
    return values_BD, bad


def _numbers(column: Any, name: str, bad: dict[int, str]) -> np.ndarray:
    """Float64 [B]; notes rows whose cell is no number."""
    if not is_text(column.type):
        plain = as_texts(column) if pa.types.is_dictionary(column.type) else column
        if not is_text(plain.type):
            numbers: np.ndarray = plain.cast(pa.float64()).to_numpy(zero_copy_only=False)
            return numbers
        column = plain
    parsed = parse_numbers(column)
    if parsed.wrong is not None:
        for row in pc.indices_nonzero(parsed.wrong).to_pylist():
            bad.setdefault(row, f"{name!r} is {column[row].as_py()!r}, which is no number")
    values: np.ndarray = parsed.values.to_numpy(zero_copy_only=False)
    return values


def encode_words(cells: Any, words: tuple[str, ...]) -> np.ndarray:
    """Codes of words, float64 [B]: their places in `words`, −1 for any other, NaN for none."""
    codes = pc.index_in(cells, pa.array(words, pa.string())).cast(pa.float64())
    known = pc.if_else(pc.is_valid(cells), pc.fill_null(codes, float(UNKNOWN_WORD)), codes)
    values: np.ndarray = known.to_numpy(zero_copy_only=False)
    return values


def as_texts(column: Any) -> Any:
    """A column as an array of texts, null where there is no value; an empty text is none."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    cells = column.cast(pa.string())
    empty = pc.equal(cells, "")
    return pc.if_else(empty, pa.scalar(None, pa.string()), cells)


def by_name(batch: Any) -> dict[str, Any]:
    """The columns of a record batch; asking it for each by its name takes time with the square of their number."""
    return dict(zip(batch.schema.names, batch.columns, strict=True))


def is_text(kind: Any) -> bool:
    """Whether a column holds texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def check_categories(
    categories: Sequence[str], names: Sequence[str], taken: Mapping[str, str]
) -> None:
    """Columns of words are inputs.

    Args:
        categories: `data.source.categories`.
        names: of the inputs.
        taken: columns that are something else -> the key that says so.

    Raises:
        InputError: one is not among them.
    """
    inputs = frozenset(names)
    for name in categories:
        if name not in inputs:
            why = (
                f"is named by {taken[name]} too" if name in taken else "is no column of the inputs"
            )
            there = ", ".join(names)
            raise InputError.at("data.source.categories", f"{name!r} {why}; the inputs are {there}")
