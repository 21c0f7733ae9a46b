"""A user's own outputs by sample id: read in every format, refused in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from raykd.config.data import Data
from raykd.data import Dataset
from raykd.data.samples import samples_of
from raykd.errors import InputError
from raykd.teachers.recorded import load_outputs

TEACHER = "teachers.known"
KEY = f"{TEACHER}.outputs"


@pytest.fixture
def table(samples):
    """Ids in another order than the data's, with one that the data lacks."""
    rng = np.random.default_rng(0)
    ids = np.append(samples.ids, 10**6)
    return rng.permutation(ids), rng.normal(size=(len(ids), 3)).astype(np.float32)


def written(path, ids, logits):
    if path.suffix == ".safetensors":
        save_file({"ids": np.asarray(ids), "logits": logits}, path)
        return path
    frame = pd.DataFrame({"id": ids, **{f"class{i}": logits[:, i] for i in range(logits.shape[1])}})
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
    return path


def load(path, samples, **said):
    return load_outputs(str(path), samples, key=TEACHER, **said)[0]


def refused(path, samples, match):
    with pytest.raises(InputError, match=match) as caught:
        load(path, samples)
    assert caught.value.problems[0].key == KEY


@pytest.mark.parametrize("name", ["o.safetensors", "o.csv", "o.parquet"])
def test_by_sample_id(samples, table, tmp_path, name):
    found = load(written(tmp_path / name, *table), samples)
    place = {int(i): row for row, i in enumerate(table[0])}
    expected = np.stack([table[1][place[int(i)]] for i in samples.ids])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_probabilities(samples, tmp_path, dtype):
    probs = np.zeros((len(samples), 3), dtype)
    probs[:, 1] = 1
    save_file({"ids": samples.ids, "probabilities": probs}, tmp_path / "o.safetensors")
    found = load(tmp_path / "o.safetensors", samples)
    assert np.isfinite(found).all(), "a probability of 0 must not become minus infinity"
    assert (found.argmax(axis=1) == 1).all()
    np.testing.assert_allclose(found[:, 1], 0.0, atol=1e-6)


@pytest.mark.parametrize("name", ["o.safetensors", "o.csv", "o.parquet"])
def test_what_a_table_holds_and_in_which_order(samples, table, tmp_path, name):
    """Own classes 0 to 3 of the file: the data's 2, 0, none and 2 again."""
    ids = table[0]
    logits = torch.randn(
        len(ids), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    probs = logits.softmax(1)
    place = [list(ids).index(sample) for sample in samples.ids]
    sums = {2: probs[place][:, 0] + probs[place][:, 3], 0: probs[place][:, 1]}
    for kind, numbers in (
        ("probabilities", probs),
        ("log_probabilities", probs.log()),
        ("logits", logits),
    ):
        path = written(tmp_path / name, ids, numbers.float().numpy())
        found = load(path, samples, kind=kind, label_map=(2, 0, None, 2))
        assert np.isneginf(found[:, 1]).all(), "a class that it does not know"
        for column, wanted in sums.items():
            shares = torch.from_numpy(found).double().softmax(1)[:, column]
            torch.testing.assert_close(shares, wanted / (sums[0] + sums[2]), rtol=1e-5, atol=1e-6)
    written(tmp_path / name, ids, probs.argmax(1, keepdim=True).float().numpy())
    said = load(tmp_path / name, samples, kind="top1", label_map=(2, 0, 1, 2)).argmax(1)
    assert said.tolist() == [(2, 0, 1, 2)[i] for i in probs[place].argmax(1)]


def test_ids_that_are_texts(tmp_path, samples):
    named = [f"photos/{row}.png" for row in range(len(samples))]
    data = Dataset(samples.inputs["inputs"], samples.all_labels, ids=named, classes=samples.classes)
    by_name = samples_of(data, Data(source={"type": "digits"}), seed=0)
    logits = np.random.default_rng(0).normal(size=(len(named), 3)).astype(np.float32)
    for name in ("o.csv", "o.parquet"):
        found = load(written(tmp_path / name, named[::-1], logits[::-1]), by_name)
        np.testing.assert_allclose(found, logits, rtol=1e-6)
    pd.DataFrame({"ids": named, "a": 1.0}).to_csv(tmp_path / "o.csv", index=False)
    refused(tmp_path / "o.csv", by_name, "no column 'id' in ids, a")


@pytest.mark.parametrize("name", ["o.safetensors", "o.csv", "o.parquet"])
def test_probabilities_are_not_taken_for_logits(samples, table, tmp_path, name):
    ids, logits = table
    path = written(tmp_path / name, ids, torch.from_numpy(logits).softmax(1).numpy())
    with pytest.raises(InputError, match="set it to probabilities") as caught:
        load(path, samples)
    assert caught.value.problems[0].key == f"{TEACHER}.kind"
    with pytest.raises(InputError, match="probabilities are 0 to 1") as caught:
        load(written(tmp_path / name, ids, logits), samples, kind="probabilities")
    assert caught.value.problems[0].key == f"{TEACHER}.kind"


@pytest.mark.parametrize("name", ["o.safetensors", "o.csv", "o.parquet"])
def test_missing_samples_twice_the_same_and_the_wrong_classes(samples, table, tmp_path, name):
    ids, logits = table
    path = tmp_path / name
    known = ids != samples.ids[0]
    refused(written(path, ids[known], logits[known]), samples, r"no output.* for 1 of 144 samples")
    refused(
        written(path, np.append(ids, ids[:1]), np.append(logits, logits[:1], 0)), samples, "twice"
    )
    refused(written(path, ids, logits[:, :2].copy()), samples, r"\[145, 2\] outputs; .* \[M, 3\]")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["o.safetensors", "o.csv", "o.parquet"])
def test_outputs_that_are_not_finite(samples, table, tmp_path, name, value):
    ids, logits = table
    logits[list(ids).index(samples.ids[3]), 1] = value
    text = r"not finite, for 1 of 144 samples \(e.g. .*, its output 1 from 0\)"
    refused(written(tmp_path / name, ids, logits), samples, text)


@pytest.mark.parametrize("name", ["o.safetensors", "o.csv", "o.parquet"])
@pytest.mark.parametrize("raw", [b"", b"no such thing", b"\xff\xfe\x00" * 9])
def test_damaged_files(samples, tmp_path, name, raw):
    (tmp_path / name).write_bytes(raw)
    refused(tmp_path / name, samples, "cannot be read as outputs")


def test_truncated(samples, table, tmp_path):
    path = written(tmp_path / "o.safetensors", *table)
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, samples, "cannot be read as outputs")


def test_other_things_that_are_no_outputs(samples, table, tmp_path):
    refused(tmp_path / "none.csv", samples, "no file at")
    (tmp_path / "o.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    refused(tmp_path / "o.pkl", samples, r"allowed are .safetensors, .csv, .tsv and .parquet")
    save_file({"ids": samples.ids}, tmp_path / "o.safetensors")
    refused(tmp_path / "o.safetensors", samples, "it needs ids and logits")
    save_file({"ids": table[0], "logits": table[1][:-3]}, tmp_path / "o.safetensors")
    refused(tmp_path / "o.safetensors", samples, r"holds \[145\] ids and \[142, 3\] outputs")
    save_file({"ids": table[0][:, None], "logits": table[1]}, tmp_path / "o.safetensors")
    refused(tmp_path / "o.safetensors", samples, r"`ids` is \[145, 1\], not \[M\]")
    (tmp_path / "o.csv").write_text("id,a,b,c\n1,2,3,words\n")
    refused(tmp_path / "o.csv", samples, "cannot be read as outputs")
    (tmp_path / "o.csv").write_text("name,a,b,c\n1,2,3,4\n")
    refused(tmp_path / "o.csv", samples, "it needs ids and logits")


def test_bfloat16_is_read_or_refused_in_words(samples, tmp_path):
    logits = torch.ones(len(samples), 3, dtype=torch.bfloat16)
    save_torch(
        {"ids": torch.from_numpy(samples.ids.copy()), "logits": logits}, tmp_path / "o.safetensors"
    )
    try:
        found = load(tmp_path / "o.safetensors", samples)
    except InputError as error:
        assert "cannot be read as outputs" in str(error)  # noqa: PT017 - either way is right
    else:
        assert (found == 1).all()
