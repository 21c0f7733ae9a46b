"""What `raykd predict` reads of the files that people have."""

from __future__ import annotations

import numpy as np
import pytest

from raykd.data.texts import encode_texts
from raykd.errors import InputError
from raykd.pipeline.prediction import _as_bytes, read_samples, read_texts


def test_a_csv_as_spreadsheets_write_it(tmp_path):
    numbers, posts = tmp_path / "numbers.csv", tmp_path / "posts.csv"
    numbers.write_text("id,a,b\nk1,1,2\nk2,3,4\n", encoding="utf-8-sig")
    posts.write_text("id,body\nk1,Grüße\n", encoding="utf-8-sig")
    ids, values = read_samples(numbers)
    assert (ids.tolist(), values.tolist()) == (["k1", "k2"], [[1.0, 2.0], [3.0, 4.0]])
    ids, texts = read_texts(posts, 16)
    assert ids.tolist() == ["k1"]
    assert (texts == encode_texts(["Grüße"], 16)).all()


def test_columns_are_taken_by_name(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("label,b,id,a\nx,2,k1,1\ny,4,k2,3\n")
    ids, values = read_samples(path, ("a", "b"))
    assert (ids.tolist(), values.tolist()) == (["k1", "k2"], [[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(
        InputError, match="lacks the columns c; it has label, b, id, a, and the student takes a, c"
    ):
        read_samples(path, ("a", "c"))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_text_in_each_line_whatever_breaks_it_holds(tmp_path, end):
    lines = ["one\u2028still one", "two\x0b\x0c\x85still two", "", "three"]
    path = tmp_path / "posts.txt"
    path.write_bytes((end.join(lines) + end).encode())
    ids, texts = read_texts(path, 32)
    assert ids.tolist() == [0, 1, 2, 3]
    assert (texts == encode_texts(lines, 32)).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_bytes_of_any_type_are_bytes(dtype):
    values = np.array([[0, 128], [255, 1]], dtype)
    assert _as_bytes(values).dtype == np.uint8
    assert _as_bytes(values).tolist() == values.tolist()


def test_fractions_stay_and_what_is_neither_is_refused():
    values = np.array([[0.0, 0.5], [1.0, 0.25]], np.float32)
    assert _as_bytes(values) is values
    for wrong in (values * 200.5, values - 1, np.array([[256]]), np.array([[-1]])):
        with pytest.raises(InputError, match="whole numbers of 0 to 255, or fractions of 0 to 1"):
            _as_bytes(wrong)
