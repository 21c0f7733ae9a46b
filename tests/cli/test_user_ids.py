"""Samples are called as their user calls them, wherever a person or a program joins."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from raykd.config.data import Data
from raykd.data import Dataset, Samples, build_samples

Call = Callable[..., Any]


def recipe(folder: Path, source: dict[str, Any], **data: Any) -> Path:
    """A recipe on some source, as `raykd data check` takes it."""
    path = folder / "recipe.yaml"
    given = {
        "data": {"source": source, **data},
        "teachers": [{"name": "one", "model": {"type": "mlp"}, "fit": {}}],
        "student": {"model": {"type": "mlp"}},
    }
    path.write_text(yaml.safe_dump(given))
    return path


def write_rows(path: Path, ids: list[str], name: str = "id") -> dict[str, Any]:
    """A CSV of two classes; the first two samples are equal."""
    values = [0, *range(len(ids) - 1)]
    rows = [
        f"{key},{value},{row % 2}" for row, (key, value) in enumerate(zip(ids, values, strict=True))
    ]
    path.write_text("\n".join([f"{name},x,label", *rows]) + "\n")
    return {"type": "csv", "path": str(path), "label": "label", "id": name}


def loaded(source: dict[str, Any], **data: Any) -> Samples:
    return build_samples(Data.model_validate({"source": source, **data}), seed=0)


def test_data_check_names_samples_as_the_user_does(tmp_path: Path, call: Call) -> None:
    """At 7d0af11 it named them by hashes of 19 digits."""
    source = write_rows(tmp_path / "people.csv", [f"A{row:02d}" for row in range(40)])
    found = call("data", "check", recipe(tmp_path, source), "--json")
    assert found.code == 0
    (pair,) = json.loads(found.out)["conflicts"]["examples"]
    assert {name for name, _ in pair} == {"A00", "A01"}
    assert f"(ids {pair[0][0]} is " in call("data", "check", recipe(tmp_path, source)).out


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (None, ["0", "1", "2"]),
        (np.array([7, 90, 3]), ["7", "90", "3"]),
        (["A12", "090", "é"], ["A12", "090", "é"]),
        (np.array([4.0, 2.0, 1.0]), ["4", "2", "1"]),
    ],
)
def test_ids_of_arrays_are_kept_as_texts(ids: Any, names: list[str]) -> None:
    assert Dataset(inputs=np.eye(3, dtype=np.float32), ids=ids).user_ids.to_pylist() == names


def test_they_go_with_the_rows_of_a_source_without_ids(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "people.csv", list(map(str, range(40))))
    assert loaded({**source, "id": None}).named(np.array([3, 1])) == [
        "people.csv#3",
        "people.csv#1",
    ]


def test_they_travel_with_the_samples(tmp_path: Path) -> None:
    samples = loaded(write_rows(tmp_path / "people.csv", [f"A{row}" for row in range(40)]))
    buffers: list[Any] = []
    packed = pickle.dumps(samples, protocol=5, buffer_callback=buffers.append)
    back = pickle.loads(packed, buffers=buffers)  # noqa: S301
    assert back.named(np.array([11, 0])) == ["A11", "A0"]
