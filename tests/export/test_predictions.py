"""Predictions as a table: a column of one type for each answer, of every task, by the user's ids."""

from __future__ import annotations

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

from raykd.evaluate import Evaluation, SplitOutputs
from raykd.export.predictions import (
    evaluation_table,
    folds_table,
    id_column,
    predicted_table,
    write_table,
)
from raykd.tasks import find_task

IDS = {"validation": ("007", "7"), "test": ("b", "c")}


def evaluated(task: str, labels, outputs, classes, widths=(0, 0)) -> Evaluation:
    """The same two samples in both splits; the second replica says the opposite of the first."""
    answers_NC = torch.tensor(outputs, dtype=torch.float32)
    about = SplitOutputs(
        labels_N=torch.tensor(labels),
        ids_N=torch.arange(2),
        teachers={
            name: torch.nn.functional.pad(answers_NC, (0, more))
            for name, more in zip(("wide", "deep"), widths, strict=True)
        },
        ensemble=answers_NC,
        students={"student": torch.stack([answers_NC, -answers_NC]), "labels": answers_NC[None]},
        task=task,
    )
    splits = {split: replace(about, user_ids=ids) for split, ids in IDS.items()}
    return Evaluation(splits=splits, task=task, classes=classes)


def test_of_classes_the_exported_students_at_its_temperature():
    probabilities = [[0.75, 0.25], [0.1, 0.9]]
    logs = torch.tensor(probabilities).log().tolist()
    found = evaluation_table(
        evaluated("classification", [0, -1], logs, ("cat", "a b")), temperature=0.5
    )
    assert found.column_names == [
        *("id", "split", "label"),
        *("student", "student.p_cat", "student.p_a b", "ensemble", "ensemble.p_cat", "ensemble.p_a b"),
        *("teachers.wide", "teachers.wide.p_cat", "teachers.wide.p_a b"),
        *("teachers.deep", "teachers.deep.p_cat", "teachers.deep.p_a b"),
    ]  # fmt: skip
    columns = found.to_pydict()
    assert columns["id"] == ["007", "7", "b", "c"]
    assert columns["split"] == ["validation", "validation", "test", "test"]
    assert columns["label"] == ["cat", None] * 2
    assert columns["student"] == ["cat", "a b"] * 2, "replica 0, not the mean over replicas"
    squared = [p**2 / (p**2 + q**2) for p, q in probabilities]
    assert columns["student.p_cat"] == pytest.approx(squared * 2, rel=1e-5)
    assert columns["ensemble.p_cat"] == pytest.approx([0.75, 0.1] * 2, rel=1e-5)
    assert str(found.schema.field("teachers.wide.p_cat").type) == "float"


def test_of_values_there_are_no_probabilities():
    table = evaluation_table(
        evaluated("regression", [1.5, float("nan")], [[1.25], [2.0]], ("price",)), None
    )
    assert table.column_names == [
        "id", "split", "label", "student", "ensemble", "teachers.wide", "teachers.deep"
    ]  # fmt: skip
    columns = table.to_pydict()
    assert (columns["label"], columns["student"]) == ([1.5, None] * 2, [1.25, 2.0] * 2)


def test_of_several_labels_lists_and_a_probability_of_each():
    labels = [[1, 0, 1], [-1, -1, -1]]
    outputs = [[2.0, -1.0, 0.5], [-3.0, -3.0, -3.0]]
    columns = evaluation_table(
        evaluated("multilabel", labels, outputs, ("x", "y", "z")), None
    ).to_pydict()
    assert columns["label"] == [["x", "z"], None] * 2
    assert columns["teachers.wide"] == [["x", "z"], []] * 2, "an answer without labels is no gap"
    assert columns["student.p_y"][0] == pytest.approx(torch.sigmoid(torch.tensor(-1.0)).item())


def test_of_embeddings_each_models_own_vector():
    columns = evaluation_table(
        evaluated("embedding", [1, -1], [[0.5, 1.0], [2.0, 3.0]], ("n", "m"), (1, 0)), None
    ).to_pydict()
    assert columns["label"] == ["m", None] * 2
    assert columns["student"] == [[0.5, 1.0], [2.0, 3.0]] * 2
    assert columns["teachers.wide"] == [[0.5, 1.0, 0.0], [2.0, 3.0, 0.0]] * 2
    assert not any(".p_" in name for name in columns)


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        ((3, 12), "int64"),
        (("3", "-12"), "int64"),
        (("3", "012"), "string"),
        (("3", "1e5"), "string"),
        (("3", ""), "string"),
        (("3", str(2**70)), "string"),
        (("３", "4"), "string"),
    ],
)
def test_ids_join_to_the_table_that_they_are_from(ids, kind):
    found = id_column(ids)
    assert str(found.type) == kind
    assert [str(one) for one in found.to_pylist()] == [str(one) for one in ids]


def test_of_all_folds_one_table_and_a_file_is_never_half_written(tmp_path):
    say = find_task("classification").export.predict
    predicted = say(torch.tensor([[0.0, 1.0]]), ("no", "yes"))
    files = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    for file, key in zip(files, ("7", "b"), strict=True):  # one fold's ids look like numbers
        write_table(file, predicted_table([key], predicted))
    found = folds_table(files).to_pydict()
    assert (found["fold"], found["id"], found["prediction"]) == ([0, 1], ["7", "b"], ["yes"] * 2)
    assert pq.read_table(files[0]).column_names == ["id", "prediction", "p_no", "p_yes"]
    assert len(list(tmp_path.iterdir())) == 2


def test_continuous_actions_are_lists_of_numbers():
    """A label has half as many numbers as the outputs, which have a mean and a deviation for each."""
    labels = [[0.5, -1.0], [float("nan"), float("nan")]]
    evaluation = evaluated(
        "control_continuous", labels, [[0.1, 0.2, 0, 0], [0, 0, 0, 0]], ("a", "b", "c", "d")
    )
    found = evaluation_table(evaluation, None).column("label").to_pylist()
    assert found[:2] == [[0.5, -1.0], None]
