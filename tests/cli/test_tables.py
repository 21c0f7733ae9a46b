"""A stranger's table: empty cells, words, booleans and text ids, from a recipe without extra keys to its export."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import raykd
from raykd.config import load_config
from raykd.data import build_samples
from raykd.pipeline.occluding import ExplainOptions, occlusion_of

TREES = {"path": "sklearn.ensemble:RandomForestClassifier", "kwargs": {"n_estimators": 8}}
BOOST = {"path": "sklearn.ensemble:HistGradientBoostingClassifier", "kwargs": {"max_iter": 8}}
LINEAR = {"path": "sklearn.linear_model:LogisticRegression"}
RECIPE = {
    "data": {"source": {"type": "csv", "path": "people.csv", "label": "kind", "id": "pid"}},
    "teachers": [
        {"name": "trees", "model": {"type": "sklearn", **TREES}},
        {
            "name": "boost",
            "model": {"type": "sklearn", **BOOST},
            "preprocess": {"impute": None, "categories": {"type": "ordinal"}},
        },
        {"name": "linear", "model": {"type": "sklearn", **LINEAR}},
    ],
    "student": {"model": {"type": "mlp", "width": 0.25, "depth": 1}},
    "train": {"epochs": 3, "batch_size": 64, "optimizer": {"type": "adamw", "lr": 0.01}},
    "evaluate": {"controls": []},
    "tracking": {"wandb": {"mode": "disabled"}},
}
USED = "columns: 3 of numbers (age, {age} gaps; fare; member, {member} gaps), 1 of words (city: 4 words"
CITIES = ("Rome", "Oslo", "Zug", "San José, CA", "")


def people(rows: int = 240) -> str:
    """The table: who is older and from Rome is mostly `yes`."""
    random = np.random.default_rng(0)
    lines = ["pid,age,fare,city,member,ticket,empty,kind"]
    for row in range(rows):
        age, city = random.normal(40, 10), random.choice(CITIES, p=(0.5, 0.25, 0.1, 0.1, 0.05))
        member = random.choice(("True", "False", ""), p=(0.5, 0.45, 0.05))
        kind = "yes" if age / 10 - 4 + (city == "Rome") + random.normal() > 0.5 else "no"
        shown = "" if random.random() < 0.1 else f"{age:.2f}"
        cell = f'"{city}"' if "," in city else city
        lines.append(
            f"{row:04d}x,{shown},{random.exponential():.3f},{cell},{member},t{row * 7},,{kind}"
        )
    return "\n".join(lines) + "\n"


@pytest.fixture
def table(folder: Path) -> list[dict[str, str]]:
    """The table in the working directory, with its recipe."""
    (folder / "people.csv").write_text(people(), encoding="utf-8")
    (folder / "people.yaml").write_text(yaml.safe_dump(RECIPE))
    with (folder / "people.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _used(rows: list[dict[str, str]]) -> str:
    gaps = {name: sum(not row[name] for row in rows) for name in ("age", "member")}
    return USED.format(**gaps)


def _raw(rows: list[dict[str, str]], columns: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """The table's cells as they are, for the exported graph."""
    numbers = {"True": 1.0, "False": 0.0, "": np.nan}
    cells = [[numbers.get(row[n], row[n]) for n in columns["numbers"]] for row in rows]
    words = [[row[name] for name in columns["words"]] for row in rows]
    return {"numbers": np.array(cells, np.float32), "words": np.array(words, object)}


def test_a_strangers_table_from_nothing_to_its_export(call, folder, table, ray_cluster):
    """At 7d0af11: exit 2, '24 of 240 samples cannot be decoded'; words and booleans were left out without a word."""
    told = call("run", "people.yaml", "--output", "run")
    assert told.code == 0, told.err
    assert _used(table) in told.out
    assert "left out: 'empty' has no value in any row" in told.out
    assert "left out: 'ticket' has 240 different words in 240 cells" in told.out
    told = call("predict", "run", "people.csv")
    assert (told.code, told.err) == (0, "")
    rows = list(csv.DictReader(told.out.splitlines()))
    assert [row["id"] for row in rows] == [row["pid"] for row in table]
    predicted = np.array([[float(row["p_no"]), float(row["p_yes"])] for row in rows])
    right = [row["prediction"] == one["kind"] for row, one in zip(rows, table, strict=True)]
    assert np.mean(right) > 0.6
    joined = pq.read_table(folder / "run" / "predictions.parquet").to_pylist()
    by_id, answers_of = {row["pid"]: row for row in table}, {row["id"]: row for row in rows}
    assert {one["split"] for one in joined} == {"validation", "test"}
    for one in joined:
        assert one["label"] == by_id[one["id"]]["kind"]
        assert one["student"] == answers_of[one["id"]]["prediction"]
        assert {one["teachers.trees"], one["teachers.boost"], one["ensemble"]} <= {"yes", "no"}

    assert call("export", "run", "--format", "onnx,torch").code == 0
    session = onnxruntime.InferenceSession(folder / "run" / "export" / "model.onnx")
    said = session.get_modelmeta().custom_metadata_map
    columns = json.loads(said["columns"])
    assert columns == {"numbers": ["age", "fare", "member"], "words": ["city"]}
    names = [one.name for one in session.get_outputs()]
    answers = dict(zip(names, session.run(None, _raw(table, columns)), strict=True))
    np.testing.assert_allclose(answers["probabilities"], predicted, atol=1e-4)
    new = _raw([{**table[0], "city": "Paris", "age": ""}], columns)
    assert np.isfinite(session.run(None, new)[0]).all()
    card = (folder / "run" / "export" / "README.md").read_text()
    assert 'session.run(None, {"numbers": numbers, "words": words})' in card
    assert "`words` [N, 1] (texts, empty where there is a gap): `city`" in card

    student = raykd.load_student(folder / "run")
    inputs = torch.tensor([[40.0, 1.0, 0.0, 1.0], [torch.nan, 1.0, -1.0, torch.nan]])
    assert torch.equal(student(inputs), student({"inputs": inputs}))
    program = torch.export.load(folder / "run" / "export" / "model.pt2").module()
    torch.testing.assert_close(program(inputs)[0], student(inputs))


def test_what_stands_in_hidden_cells_is_a_mean_or_the_most_frequent_word(folder, table):
    config = load_config([folder / "people.yaml"])
    samples = build_samples(config.data, seed=0)
    occlusion, told = occlusion_of(samples, ExplainOptions())
    assert told["features"] == ["age", "fare", "city", "member"]
    train = samples.inputs["inputs"][samples.splits["train"]]
    assert occlusion.reference[2] == samples.words["city"].index("Rome")
    assert occlusion.reference[0].item() == pytest.approx(np.nanmean(train[:, 0]), rel=1e-5)
    assert occlusion.shape == (4,)


def test_what_is_used_is_said_before_anything_starts(call, folder, table):
    told = call("data", "check", "people.yaml")
    assert told.code == 0
    assert _used(table) in told.out
    assert "left out: 'empty' has no value in any row" in told.out
    found = json.loads(call("data", "check", "people.yaml", "--json").out)
    assert found["columns"][0].startswith(_used(table))
    told = call("check", "people.yaml")
    assert told.code == 0, told.err
    assert _used(table) in told.out


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("student.preprocess.impute=null",
         "student.preprocess.impute: is null, but the model answers NaN where there are gaps (age, member)"),
        ("teachers.linear.preprocess.impute=null",
         "teachers.linear.model: sklearn.linear_model:LogisticRegression cannot be fitted"),
        ("student.preprocess.impute.type=nearest", "student.preprocess.impute.type"),
        ("student.preprocess.impute.value=3", "student.preprocess.impute: value 3 is for `type: constant`; found median"),
        ("student.preprocess.categories.most=0", "student.preprocess.categories.most"),
        ("data.source.inputs=[age,ticket]",
         "data.source.inputs: 'ticket' has 240 different words in 240 cells"),
        ("data.source.categories=[kind]", "data.source.categories: 'kind' is named by data.source.label too"),
        ("data.views.policy=[{type: mixup}]",
         "data.views.policy.0: mixup needs numbers; the table has columns of words (city)"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_exit_2(call, folder, table, override, error):
    told = call("check", "people.yaml", override)
    assert told.code == 2
    assert error in told.err
    if "LogisticRegression" in error:
        assert "fill the gaps by its preprocess.impute" in told.err


def test_columns_of_all_files_count(call, folder):
    """At 7d0af11 a column that the first file leaves empty, or does not have, was dropped without a word."""
    (folder / "parts").mkdir()
    first = "".join(f"{row},,{row % 2}\n" for row in range(40))
    second = "".join(f"{row},{row / 7:.2f},{row % 3},{row % 2}\n" for row in range(40, 80))
    (folder / "parts" / "a.csv").write_text(f"id,size,kind\n{first}")
    (folder / "parts" / "b.csv").write_text(f"id,size,rooms,kind\n{second}")
    source = {"type": "csv", "path": "parts", "label": "kind", "id": "id"}
    recipe = {**RECIPE, "data": {"source": source}, "teachers": RECIPE["teachers"][:1]}
    (folder / "parts.yaml").write_text(yaml.safe_dump(recipe))
    told = call("data", "check", "parts.yaml")
    assert told.code == 0, told.err
    assert "2 of numbers (size, 40 gaps; rooms, 40 gaps)" in told.out
