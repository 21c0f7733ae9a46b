"""Numbers that float32 or float16 cannot hold, columns that are constant or empty: right, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from raykd.config.data import Data, Impute, Preprocess
from raykd.config.sources import ArraysSource, CsvSource, ParquetSource
from raykd.data.samples import build_samples
from raykd.errors import InputError
from raykd.models.preprocess import preprocessing_for
from raykd.targets import codec
from raykd.targets.packing import Packing

ROWS = 60


def table_of(values_ND: np.ndarray, kind: str, root: Path) -> Any:
    """The settings of a source that holds these values."""
    labels, path = np.arange(len(values_ND)) % 2, str(root / f"table.{kind}")
    if kind == "npz":
        np.savez(path, inputs=values_ND, labels=labels)
        return ArraysSource(path=path)
    table = pd.DataFrame(values_ND, columns=list("abcd"))
    table["label"] = labels
    if kind == "csv":
        table.to_csv(path, index=False)
        return CsvSource(path=path, label="label")
    table.to_parquet(path)
    return ParquetSource(path=path, label="label")


def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, 4))


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("npz", r"in 1 of 60 samples \(the first is 1e\+300 in row 5, column 2"),
        ("csv", r"table.csv#5 \('c' is infinite, or too large for float32"),
        ("parquet", r"table.parquet#5 \('c' is infinite, or too large for float32"),
    ],
)
def test_a_number_beyond_float32_is_named(kind: str, where: str, tmp_path: Path) -> None:
    """At 7d0af11, `raykd check` took 1e300 of an .npz and ended with 0; as float32 it is infinite."""
    wrong = values()
    wrong[5, 2] = 1e300
    with pytest.raises(InputError, match=where):
        build_samples(Data(source=table_of(wrong, kind, tmp_path)), seed=0)


def test_check_refuses_it(call: Any, tmp_path: Path, tiny_recipe: dict[str, Any]) -> None:
    wrong = values()
    wrong[5, 2] = -1e300
    path = table_of(wrong, "npz", tmp_path).path
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(repr(tiny_recipe | {"data": {"source": {"type": "arrays", "path": path}}}))
    ended = call("check", recipe)
    assert ended.code == 2
    assert "data.source.inputs" in ended.err
    assert "-1e+300 in row 5, column 2" in ended.err


@pytest.mark.parametrize("kind", ["npz", "csv", "parquet"])
@pytest.mark.parametrize("impute", [Impute(), Impute(type="mean", indicator=False)])
@pytest.mark.parametrize("content", ["constant", "huge constant", "empty", "empty in training"])
def test_columns_that_say_nothing(kind: str, content: str, impute: Impute, tmp_path: Path) -> None:
    given = values()
    given[:, 2] = {"constant": 7.0, "huge constant": 3e38}.get(content, np.nan)
    if content == "empty in training":
        train = build_samples(Data(source=table_of(values(), kind, tmp_path)), seed=0).splits[
            "train"
        ]
        given[:, 2] = np.where(np.isin(np.arange(ROWS), train), np.nan, 1.0)
    samples = build_samples(Data(source=table_of(given, kind, tmp_path)), seed=0)
    made = preprocessing_for(Preprocess(impute=impute), samples, key="student.preprocess")
    inputs = torch.from_numpy(np.array(samples.inputs["inputs"], np.float32))
    assert bool(made(inputs).isfinite().all())


@pytest.mark.parametrize("packing", [Packing(), Packing(top_k=2, temperatures=(1.0, 4.0))])
def test_logits_of_any_size_keep_their_probabilities(packing: Packing) -> None:
    """At 7d0af11, ±1e30 were decoded as uniform: float32 lost the differences beside the maximum."""
    rows = [
        [1e30, -1e30, 0.0],
        [-1e30, -1e30, 1e30],
        [1e7, 1e7 - 2, 1e7 - 4],
        [-3e38, -3e38, -3e38],
        [3e38, -3e38, 0.0],
        [2.0, 1.0, 0.0],
    ]
    logits = torch.tensor(rows, dtype=torch.float32)
    for temperature in (1.0, 4.0):
        answer = codec.decode(codec.encode(logits, {}, packing=packing), temperature)
        found = (answer.values_NC.double() / temperature).softmax(dim=1)
        right = ((logits.double() - logits.double().amax(1, keepdim=True)) / temperature).softmax(1)
        torch.testing.assert_close(found, right, atol=4e-3, rtol=0)
    torch.testing.assert_close(codec.decode(codec.encode(logits[-1:], {})).values_NC, logits[-1:])
