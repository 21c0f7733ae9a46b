"""Columns of tables: of what kind each is over all files, and its cells as numbers."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raykd.config.data import Data
from raykd.config.sources import CsvSource, ParquetSource
from raykd.data import Dataset
from raykd.data.decoding import load_decoded
from raykd.data.decoding.columns import parse_numbers
from raykd.errors import InputError


def loaded(root: Path, kind: type[CsvSource | ParquetSource] = CsvSource, **given: Any) -> Dataset:
    source = kind(path=str(root), label="y", **given)
    return load_decoded(Data(source=source, cache=str(root.parent / "cache")), "classification")


def write(root: Path, **files: str) -> Path:
    root.mkdir(exist_ok=True)
    for name, text in files.items():
        (root / f"{name}.csv").write_text(text)
    return root


def values(found: Dataset) -> list[list[float | None]]:
    rows = found.arrays["inputs"].tolist()
    return [[None if np.isnan(cell) else cell for cell in row] for row in rows]


def test_cells_of_a_column_of_numbers():
    cells = ["1", "-2.5e3", " 7 ", "", None, "NA", "?", "nan", "TRUE", "false", "1,5", "x", "+3"]
    parsed = parse_numbers(pa.array(cells))
    assert parsed.values.to_pylist() == [
        1, -2500, 7, None, None, None, None, None, 1, 0, None, None, 3
    ]  # fmt: skip
    assert [cells[i] for i, wrong in enumerate(parsed.wrong.to_pylist()) if wrong] == ["1,5", "x"]
    plain = parse_numbers(pa.array(["1", None, "nan"]))
    assert plain.wrong is None
    assert np.isnan(plain.values.to_numpy(zero_copy_only=False)[1:]).all()


def test_a_table_as_it_comes(tmp_path):
    """At 7d0af11: exit 2 for one empty cell; words and booleans left out without a word; False was no number."""
    text = "id,age,city,member,note,y\n"
    cities = ("Rome", "", "Oslo", "Rome")
    for row in range(8):
        age = "" if row == 3 else str(20 + row)
        text += f"k{row},{age},{cities[row % 4]},{row % 2 == 0},n{row},{row % 2}\n"
    found = loaded(write(tmp_path / "in", a=text), id="id")
    assert found.features == ("age", "city", "member")
    assert found.words == {"city": ("Rome", "Oslo")}
    assert values(found)[:4] == [[20, 0, 1], [21, None, 0], [22, 1, 1], [None, 0, 0]]
    assert found.unused.keys() == {"note"}
    assert "8 different words in 8 cells: ids or texts" in found.unused["note"]
    assert not found.left_out


def test_types_are_those_of_all_files(tmp_path):
    """At 7d0af11: `late` and `new` were dropped without a word; a word in the second file was exit 2."""
    first = "late,grade,y\n" + "".join(f",{row % 3},{row % 2}\n" for row in range(6))
    second = "grade,late,new,y\n" + "".join(f"A,{row},{row / 2},1\n" for row in range(6))
    found = loaded(write(tmp_path / "in", a=first, b=second))
    assert found.features == ("late", "grade", "new")
    assert found.words == {"grade": ("0", "1", "2", "A")}
    assert values(found)[0] == [None, 0, None]
    assert values(found)[7] == [1, 3, 0.5]
    one = loaded(write(tmp_path / "one", a=first))
    assert one.unused == {"late": "has no value in any row"}


def test_a_column_of_numbers_with_a_stray_cell(tmp_path):
    text = "age,y\n" + "".join(f"{row if row != 40 else 'old'},{row % 2}\n" for row in range(60))
    root = write(tmp_path / "in", a=text + "")
    told = (
        r"'age' has 59 numbers in 60 cells, but also 'old' in row 41 of a\.csv: inputs have to be"
    )
    with pytest.raises(InputError, match=told) as raised:
        loaded(root, inputs="age")
    assert raised.value.problems[0].key == "data.source.inputs"
    with pytest.raises(
        InputError, match="no column of numbers or words beside label and id; 'age'"
    ):
        loaded(root)
    words = loaded(root, categories=["age"]).words["age"]
    assert len(words) == 60
    with pytest.raises(InputError, match=r"categories: 'y' is named by data\.source\.label too"):
        loaded(root, categories=["y"])
    with pytest.raises(InputError, match=r"categories: 'size' is no column of the inputs"):
        loaded(root, categories=["size"])


def test_few_different_cells_are_words_even_if_most_are_numbers(tmp_path):
    text = "rooms,y\n" + "".join(
        f"{('1', '2', '3', '4+')[row % 4]},{row % 2}\n" for row in range(40)
    )
    root = write(tmp_path / "in", a=text)
    assert loaded(root).words == {"rooms": ("1", "2", "3", "4+")}
    with pytest.raises(InputError, match=r"'4\+' in row 4 of a\.csv"):
        loaded(root, inputs=["rooms"])
    assert loaded(root, inputs=["rooms"], categories=["rooms"]).words["rooms"][3] == "4+"


def test_numbers_that_are_categories(tmp_path):
    text = "shop,y\n" + "".join(f"{(17, 4)[row % 2]},{row % 2}\n" for row in range(40))
    root = write(tmp_path / "in", a=text)
    assert not loaded(root).words
    found = loaded(root, categories=["shop"])
    assert found.words == {"shop": ("17", "4")}
    assert values(found)[:2] == [[0], [1]]


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_a_parquet_of_all_kinds(tmp_path, as_dictionary):
    """At 7d0af11 `inputs` had to be given, and text among them was exit 2."""
    city = pa.array(["Rome", None, "Oslo", "Rome"] * 5)
    columns = {
        "age": pa.array([1, None, 3, 4] * 5),
        "fare": pa.array([0.5, float("nan"), 1.5, 2.0] * 5),
        "member": pa.array([True, False, None, True] * 5),
        "city": city.dictionary_encode() if as_dictionary else city,
        "born": pa.array([date(2000, 1, 1)] * 20),
        "none": pa.nulls(20),
        "y": pa.array([0, 1] * 10),
    }
    root = tmp_path / "in"
    root.mkdir()
    pq.write_table(pa.table(columns), root / "a.parquet")
    del columns["fare"]
    pq.write_table(pa.table({**columns, "age": pa.array([0.5] * 20)}), root / "b.parquet")
    found = loaded(root, ParquetSource)
    assert found.features == ("age", "fare", "member", "city")
    assert found.words == {"city": ("Rome", "Oslo")}
    assert values(found)[:3] == [[1, 0.5, 1, 0], [None, None, 0, None], [3, 1.5, None, 1]]
    assert values(found)[20] == [0.5, None, 1, 0]
    assert found.unused == {
        "born": "has date32[day], which is neither numbers nor words",
        "none": "has no value in any row",
    }
    shops = loaded(root, ParquetSource, inputs=["age"], categories=["age"])
    assert shops.words == {"age": ("1", "3", "4", "0.5")}
