"""Samples are called as their user calls them, wherever a person or a program joins."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from raykd.config.data import Data
from raykd.data import Dataset, Samples, build_samples
from raykd.errors import InputError
from raykd.evaluate import Evaluation
from raykd.teachers.recorded import load_outputs

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
    dataset = Dataset(inputs=np.eye(3, dtype=np.float32), ids=ids)
    assert [str(one) for one in dataset.user_ids] == names


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


ODD_IDS = {
    "words": ["A12", "090", "A13", "7e"],
    "zeros": ["007", "7", "0", "000"],
    "versions": ["1.1", "1.10", "1.2", "2"],
    "dates": ["2024-01-01", "2024-01-02", "2024-02-01", "2025-01-01"],
    "negative": ["-1", "-2", "-3", "4"],
    "floats": ["1e5", "100000", "nan", "NA"],
    "nothing": ["null", "None", "N/A", "#N/A"],
    "long": ["12345678901234567890", "12345678901234567891", "0x1F", "31"],
}


@pytest.fixture(params=ODD_IDS)
def odd_ids(request: pytest.FixtureRequest) -> list[str]:
    """40 different ids of one kind."""
    return [*ODD_IDS[request.param], *(f"{row}x" for row in range(36))]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_ids_are_texts_in_every_reader(
    odd_ids: list[str], kind: str, tmp_path: Path, call: Call
) -> None:
    """At 7d0af11 a CSV of these was exit 2 ("repeated", "found dtype object"), or lost labels of its table."""
    for number, ids in enumerate((odd_ids, odd_ids[:4] * 10)):
        source = write_rows(tmp_path / "rows.csv", ids) | {"type": kind}
        if kind == "parquet":
            table = pa.table({"id": ids, "x": range(40), "label": [0, 1] * 20})
            pq.write_table(table, tmp_path / "rows.parquet")
            source |= {"path": str(tmp_path / "rows.parquet"), "inputs": ["x"]}
        ended = call("data", "check", recipe(tmp_path, source))
        assert ended.code == (0, 2)[number]
        assert "36 ids are repeated" in ended.err or not number
    samples = loaded(write_rows(tmp_path / "rows.csv", odd_ids))
    assert samples.user_ids.to_pylist() == odd_ids


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_of_labels_is_joined_by_texts(
    odd_ids: list[str], suffix: str, tmp_path: Path, call: Call
) -> None:
    """At 7d0af11 the table's `0995` was 995 and its sample unlabelled, without a word."""
    ids = [*(f"{row:04d}" for row in range(995, 1015)), *odd_ids]
    pq.write_table(pa.table({"id": ids, "x": range(len(ids))}), tmp_path / "rows.parquet")
    labels = pa.table({"id": [*ids, "995", "1e4"], "label": ["a", "b"] * (len(ids) // 2 + 1)})
    if suffix == "csv":
        lines = [f"{key},{label}" for key, label in zip(*labels.to_pydict().values(), strict=True)]
        (tmp_path / "labels.csv").write_text("\n".join(["id,label", *lines]))
    else:
        pq.write_table(labels, tmp_path / "labels.parquet")
    source = {
        "type": "parquet",
        "path": str(tmp_path / "rows.parquet"),
        "inputs": ["x"],
        "id": "id",
    }
    path = recipe(tmp_path, source | {"labels": {"path": str(tmp_path / f"labels.{suffix}")}})
    found = call("data", "check", path, "--json")
    report = json.loads(found.out)
    assert sum(report["labelled"].values()) == len(ids)
    (told,) = (text for text in report["warnings"] if "match no sample" in text)
    assert told.startswith("2 of 62 keys of")
    assert "('995', '1e4')" in told
    assert "zeros" not in told


def test_keys_that_only_look_different_are_matched_and_told(tmp_path: Path, call: Call) -> None:
    """At 7d0af11 half of the samples stayed unlabelled, without a word."""
    ids = [
        "café/1.png",
        "b\\2.png",
        "c/3.PNG",
        "d/4.png ",
        "./e/5.png",
        *(f"f/{i}.png" for i in range(35)),
    ]
    keys = ["cafe\u0301/1.png", "b/2.png", "c/3.png", "d/4.png", "e/5.png", *ids[5:]]
    write_rows(tmp_path / "rows.csv", ids)
    lines = [f"{key},{'ab'[row % 2]}" for row, key in enumerate(keys)]
    (tmp_path / "labels.csv").write_text("\n".join(["key,kind", *lines, "g/1.png,a"]))
    table = {"path": str(tmp_path / "labels.csv"), "key": "key", "column": "kind"}
    source = {
        "type": "csv",
        "path": str(tmp_path / "rows.csv"),
        "id": "id",
        "inputs": "x",
        "labels": table,
    }
    report = json.loads(call("data", "check", recipe(tmp_path, source), "--json").out)
    assert sum(report["labelled"].values()) == 40
    told = "\n".join(report["warnings"])
    assert "1 of 41 keys of" in told
    assert "5 keys of" in told
    assert "('g/1.png')" in told
    assert loaded(source).classes == ("a", "b")


def test_keys_that_may_be_two_samples_are_left_alone(tmp_path: Path) -> None:
    ids = ["a/1.png ", "a/1.PNG", *(f"f/{i}.png" for i in range(38))]
    write_rows(tmp_path / "rows.csv", ids)
    lines = [f"{key},{'ab'[row % 2]}" for row, key in enumerate(["a/1.png", *ids[2:]])]
    (tmp_path / "labels.csv").write_text("\n".join(["id,label", *lines]))
    table = {"path": str(tmp_path / "labels.csv")}
    samples = loaded(
        {
            "type": "csv",
            "path": str(tmp_path / "rows.csv"),
            "id": "id",
            "inputs": "x",
            "labels": table,
        }
    )
    assert samples.all_labels[:2].tolist() == [-1, -1]
    assert "1 of 39 keys" in samples.notes[0]
    assert "2 samples have no row in it" in samples.notes[0]


def test_types_are_those_of_all_files(tmp_path: Path) -> None:
    """At 7d0af11: "columns are of another type from file to file"."""
    write_rows(tmp_path / "1.csv", [f"{row:03d}" for row in range(20)])
    rows = [f"b{row},{row},{'yes' if row % 2 else 'no'}" for row in range(20)]
    (tmp_path / "2.csv").write_text("\n".join(["id,x,label", *rows]))
    source = {"type": "csv", "path": str(tmp_path), "label": "label", "id": "id"}
    samples = loaded(source)
    assert samples.named(np.array([7, 20])) == ["007", "b0"]
    assert samples.classes == ("0", "1", "no", "yes")


def test_a_row_without_id_is_named(tmp_path: Path, call: Call) -> None:
    source = write_rows(tmp_path / "rows.csv", [*"abc", "", *(f"{row}x" for row in range(36))])
    ended = call("data", "check", recipe(tmp_path, source))
    assert ended.code == 2
    assert "data.source.id: 1 of 40 rows have no id, the first is row 4 of rows.csv" in ended.err


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_outputs_by_texts(odd_ids: list[str], suffix: str, tmp_path: Path, call: Call) -> None:
    """At 7d0af11: "has no output for 20 of 20", an AttributeError, or the wrong rows' outputs."""
    source = write_rows(tmp_path / "rows.csv", odd_ids)
    order = np.random.default_rng(0).permutation(40)
    logits = np.random.default_rng(1).normal(size=(40, 2))
    table = pa.table(
        {"id": [odd_ids[i] for i in order], "a": logits[order, 0], "b": logits[order, 1]}
    )
    path = tmp_path / f"outputs.{suffix}"
    if suffix == "csv":
        lines = [",".join(map(str, row)) for row in zip(*table.to_pydict().values(), strict=True)]
        path.write_text("\n".join(["id,a,b", *lines]))
    else:
        pq.write_table(table, path)
    found, told = load_outputs(str(path), loaded(source), key="teachers.known")
    np.testing.assert_allclose(found, logits, rtol=1e-6)
    assert told == []
    if suffix == "csv":
        path.write_text("\n".join(["id,a,b", *lines[1:], "stranger,1,2"]))
        with pytest.raises(
            InputError, match=r"for 1 of 40 samples \(e\.g\. '.*no sample has e\.g\. 'stranger'"
        ):
            load_outputs(str(path), loaded(source), key="teachers.known")


def test_numbers_of_earlier_versions_are_drawn_as_they_were(tmp_path: Path) -> None:
    """Splits of runs that began before ids were texts are the same: whole numbers stand for themselves."""
    plain = loaded(write_rows(tmp_path / "rows.csv", [str(row) for row in range(40)]))
    padded = loaded(write_rows(tmp_path / "rows.csv", [f"{row:03d}" for row in range(40)]))
    assert plain.ids.tolist() == padded.ids.tolist() == list(range(40))
    assert plain.named(np.array([7])) == ["7"]
    assert padded.named(np.array([7])) == ["007"]


def test_ids_of_parquet_files_of_different_types(tmp_path: Path, call: Call) -> None:
    """At 7d0af11: "'id' is int64 in ...; string in ...; make it one type"."""
    (tmp_path / "in").mkdir()
    for name, ids in (("1", range(20)), ("2", [f"b{row}" for row in range(20)])):
        kind = pa.int32() if name == "1" else pa.int64()
        rows = {"id": list(ids), "x": range(20), "label": pa.array([0, 1] * 10, kind)}
        pq.write_table(pa.table(rows), tmp_path / "in" / f"{name}.parquet")
    source = {
        "type": "parquet",
        "path": str(tmp_path / "in"),
        "inputs": ["x"],
        "id": "id",
        "label": "label",
    }
    samples = loaded(source)
    assert samples.named(np.array([7, 20])) == ["7", "b0"]
    assert samples.all_labels[:3].tolist() == [0, 1, 0]
    pq.write_table(pa.table({**rows, "label": ["a", "b"] * 10}), tmp_path / "in" / "2.parquet")
    ended = call("data", "check", recipe(tmp_path, source))
    assert ended.code == 2
    assert "data.source.label: 'label' is int32 in" in ended.err


@pytest.mark.ray
@pytest.mark.soak
def test_a_run_joins_by_the_users_ids(
    ray_cluster: None, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 7d0af11: "repeated"; without `id`, hashes in evaluation.safetensors, and labels lost without a word."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ids = ["007", "7", "0995", "1.10", "1.1", "NA", *(f"A{row}" for row in range(114))]
    rng = np.random.default_rng(0)
    x_ND, truth = rng.normal(size=(120, 3)), np.arange(120) % 2
    x_ND[:, 0] += 4 * truth
    rows = [",".join([key, *map(str, row)]) for key, row in zip(ids, x_ND.tolist(), strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(["id,a,b,c", *rows]))
    labels = [f"{key},{bool(one)}" for key, one in zip(ids, truth.tolist(), strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["id,label", *labels, "A995,True"]))
    said = [
        f"{key},{2 - 4 * one},{4 * one - 2}" for key, one in zip(ids, truth.tolist(), strict=True)
    ]
    (tmp_path / "said.csv").write_text("\n".join(["id,no,yes", *reversed(said), "B1,0,0"]))
    source = {"type": "csv", "path": "rows.csv", "id": "id", "labels": {"path": "labels.csv"}}
    given = {
        "data": {"source": source, "splits": {"validation": 30, "test": 30}},
        "teachers": [{"name": "known", "outputs": "said.csv"}],
        "student": {"model": {"type": "mlp", "width": 0.25, "depth": 1}},
        "train": {"epochs": 2, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 0.01}},
        "evaluate": {"controls": []},
        "tracking": {"wandb": {"mode": "disabled"}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(given))
    ended = call("run", "recipe.yaml", "--output", "out")
    assert ended.code == 0, ended.err
    assert "1 of 121 keys of labels.csv match no sample ('A995')" in ended.out
    assert "teacher 'known': 1 of 121 keys of said.csv match no sample ('B1')" in ended.out
    test = Evaluation.load(tmp_path / "out" / "evaluation.safetensors").splits["test"]
    for key, label, answer in zip(
        test.user_ids, test.labels_N.tolist(), test.ensemble.argmax(1).tolist(), strict=True
    ):
        assert label == answer == truth[ids.index(key)]
    ended = call("predict", "out", "rows.csv")
    assert [line.split(",")[0] for line in ended.out.splitlines()[1:]] == ids
    assert ended.out.splitlines()[0] == "id,prediction,p_False,p_True"


@pytest.mark.parametrize(("name", "delimiter"), [("L.CSV", ","), ("l.csv", ";"), ("l.tsv", "\t")])
def test_tables_as_spreadsheets_write_them(
    tmp_path: Path, call: Call, name: str, delimiter: str
) -> None:
    """At 7d0af11: "needs a .csv or .parquet file", and 0995 to 0999 unlabelled without a word."""
    ids = [f"{row:04d}" for row in range(980, 1020)]
    write_rows(tmp_path / "rows.csv", ids)
    lines = [f"{int(key)}{delimiter}{'ab'[row % 2]}" for row, key in enumerate(ids)]
    (tmp_path / name).write_text("\n".join([f"id{delimiter}label", *lines]), encoding="utf-8-sig")
    table = {"path": str(tmp_path / name)}
    source = {
        "type": "csv",
        "path": str(tmp_path / "rows.csv"),
        "id": "id",
        "inputs": "x",
        "labels": table,
    }
    told = "\n".join(loaded(source).notes)
    assert "20 of 40 keys of" in told
    assert "match no sample (e.g. '980', '981', '982'); 20 samples have no row in it; zeros" in told
