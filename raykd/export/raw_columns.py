"""A table's columns of words in ONNX: the graph takes the words themselves, beside the numbers.

In torch a sample is one row of floats, with codes in the columns of words. ONNX knows texts, so that what stands in
front of the traced graph makes the codes.

Shapes: B rows, P columns of numbers, Q columns of words, D = P + Q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raykd.export.description import Description
from raykd.types import UNKNOWN_WORD

NUMBERS, WORDS = "numbers", "words"
_NEW_WORD = "\N{REPLACEMENT CHARACTER} a word that is new"
_ML_OPSET = 3


@dataclass(frozen=True)
class RawColumns:
    """The columns of a table as they are.

    Attributes:
        numbers: indices of the columns of numbers, in the order in which the graph takes them.
        words: those of the columns of words.
        names: of all columns, in the table's order.
        known: of each column of words, what its codes stand for.
    """

    numbers: tuple[int, ...]
    words: tuple[int, ...]
    names: tuple[str, ...]
    known: tuple[tuple[str, ...], ...]

    @property
    def described(self) -> dict[str, list[str]]:
        """Input of the graph -> the columns that it takes."""
        both = {NUMBERS: self.numbers, WORDS: self.words}
        return {one: [self.names[i] for i in columns] for one, columns in both.items() if columns}

    def taken(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Rows with codes, float32 [B, D], as the graph takes them: an empty text is a gap."""
        found = (
            {NUMBERS: np.ascontiguousarray(inputs[:, list(self.numbers)])} if self.numbers else {}
        )
        columns = [
            _texts(inputs[:, column], words)
            for column, words in zip(self.words, self.known, strict=True)
        ]
        return {**found, WORDS: np.stack(columns, axis=1)}


def raw_columns(about: Description) -> RawColumns | None:
    """The columns of a student's table; None where it has no words."""
    taken, table = about.input, about.preprocessing.table
    if not taken.words:
        return None
    known = {} if table is None else {one.column: one.words for one in table.words}
    words = tuple(i for i, name in enumerate(taken.columns) if name in taken.words)
    numbers = tuple(i for i in range(len(taken.columns)) if i not in words)
    return RawColumns(numbers, words, taken.columns, tuple(known.get(i, ()) for i in words))


def _texts(codes: np.ndarray, words: Sequence[str]) -> np.ndarray:
    """Words of codes, an array of objects [B]."""
    table = np.array([*words, _NEW_WORD, ""], dtype=object)
    new, gap = len(words), len(words) + 1
    known = (codes >= 0) & (codes < len(words))
    index = np.where(np.isnan(codes), gap, np.where(known, codes, new))
    found: np.ndarray = table[index.astype(np.int64)]
    return found


def with_words(graph: Any, columns: RawColumns, name: str) -> Any:
    """An ONNX model that takes `numbers` float32 [B, P] and `words` texts [B, Q], and then does as another does.

    Args:
        graph: the other, a `ModelProto` that takes codes.
        columns: of the table.
        name: of its input.
    """
    from onnx import compose, helper

    opset = next(one.version for one in graph.opset_import if not one.domain)
    versions = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    front = helper.make_model(
        _front(columns), opset_imports=versions, ir_version=graph.ir_version, producer_name="raykd"
    )
    return compose.merge_models(front, graph, io_map=[("table_rows", name)])


def _front(columns: RawColumns) -> Any:
    """From raw columns to rows with codes, in the table's order."""
    from onnx import TensorProto, helper, numpy_helper

    sizes = {NUMBERS: len(columns.numbers), WORDS: len(columns.words)}
    kinds = {NUMBERS: TensorProto.FLOAT, WORDS: TensorProto.STRING}
    inputs = [
        helper.make_tensor_value_info(one, kinds[one], ["batch", size])
        for one, size in sizes.items()
        if size
    ]
    nodes, constants, parts = [], [], [NUMBERS] if columns.numbers else []
    for place, words in enumerate(columns.known):
        at, cell, code = (f"table_{what}_{place}" for what in ("at", "word", "code"))
        constants.append(numpy_helper.from_array(np.array([place], np.int64), at))
        nodes.append(helper.make_node("Gather", [WORDS, at], [cell], axis=1))
        nodes.append(
            helper.make_node(
                "LabelEncoder", [cell], [code], domain="ai.onnx.ml", keys_strings=[*words, ""],
                values_floats=[*map(float, range(len(words))), float("nan")],
                default_float=float(UNKNOWN_WORD),
            )
        )  # fmt: skip
        parts.append(code)
    order = np.argsort([*columns.numbers, *columns.words]).astype(np.int64)
    constants.append(numpy_helper.from_array(order, "table_order"))
    nodes.append(helper.make_node("Concat", parts, ["table_columns"], axis=1))
    nodes.append(
        helper.make_node("Gather", ["table_columns", "table_order"], ["table_rows"], axis=1)
    )
    rows = helper.make_tensor_value_info(
        "table_rows", TensorProto.FLOAT, ["batch", len(columns.names)]
    )
    return helper.make_graph(nodes, "table", inputs, [rows], constants)
