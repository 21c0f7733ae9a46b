"""Texts from recipe to report, prediction and export: three teachers that cut them differently, one student."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from raykd.cli import main
from raykd.config import load_config
from raykd.models.weights import load_weights
from raykd.pipeline import Options, run
from raykd.pipeline.preparation import prepare

TOPICS = {
    "food": ["bread", "soup", "salt", "oven", "apple", "the", "and", "with", "of"],
    "space": ["orbit", "moon", "rocket", "star", "comet", "the", "and", "with", "of"],
    "sport": ["goal", "team", "ball", "score", "match", "the", "and", "with", "of"],
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV of 240 posts; every word of a topic stands in many of them."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("texts") / "posts.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "post", "topic"])
        for row in range(240):
            topic = list(TOPICS)[row % 3]
            words = rng.choice(TOPICS[topic], rng.integers(4, 16))
            writer.writerow([f"p{row}", " ".join(words).capitalize() + ".", topic])
    return path


@pytest.fixture
def recipe(table):
    fit = {"epochs": 25, "batch_size": 16, "optimizer": {"type": "adamw", "lr": 0.01}}
    small = {"type": "hashed", "size": 512, "length": 16}
    return {
        "data": {
            "source": {"type": "csv", "path": str(table), "text": "post", "label": "topic", "id": "id"},
            "splits": {"validation": 30, "test": 60},
            "labels": 60,
            "views": {"count": 2, "policy": [{"type": "drop_words", "probability": 0.2}]},
        },
        "teachers": [
            {"name": "bag", "model": {"type": "bag", "width": 0.5}, "fit": fit,
             "preprocess": {"tokenizer": {**small, "ngrams": 2, "length": 32}}},
            {"name": "cnn", "model": {"type": "text_cnn", "width": 0.25}, "fit": fit,
             "preprocess": {"tokenizer": {"type": "words", "size": 100, "length": 16}}},
            {"name": "former", "model": {"type": "text_transformer", "width": 0.25, "depth": 1}, "fit": fit,
             "preprocess": {"tokenizer": {"type": "bytes", "length": 48}}},
        ],
        "student": {"model": {"type": "bag", "width": 0.125}, "preprocess": {"tokenizer": small}},
        "train": {"epochs": 20, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 0.02}},
        "evaluate": {"controls": ["labels"]},
        "tracking": {"wandb": {"mode": "disabled"}},
    }  # fmt: skip


@pytest.mark.soak  # half a minute; its parts are tested each by itself
def test_texts_from_recipe_to_report(ray_cluster, recipe, table, tmp_path, capsys):
    config = load_config(recipe)
    folder = tmp_path / "run"
    summary = run(config, Options(output=folder)).summary
    assert summary["status"] == "complete"
    assert summary["ensemble"]["test"]["accuracy"] > 0.8
    assert summary["student"]["test"]["accuracy"]["mean"] > 0.6
    assert (folder / "report" / "index.html").is_file()
    (student,) = {
        load_weights(folder / "student" / "model.safetensors", key="k")["embed.table.weight"].shape
    }
    assert student == (513, 8)
    about = json.loads((folder / "student" / "model.json").read_text())
    assert about["input"] == {"name": "text", "shape": [2000], "dtype": "uint8"}

    capsys.readouterr()
    (tmp_path / "new.txt").write_text("soup and bread with salt\nThe rocket: the moon!\n\n")
    assert main(["predict", str(folder), str(tmp_path / "new.txt")]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["prediction"] for row in rows[:2]] == ["food", "space"]
    assert len(rows) == 3, "an empty line is an empty text"
    new = tmp_path / "new.csv"
    new.write_text('id,post\na,"soup, and\nbread"\nb,team and goal\n')
    assert main(["predict", str(folder), str(new)]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["id"], row["prediction"]) for row in rows] == [("a", "food"), ("b", "sport")]
    assert main(["predict", str(folder), str(table)]) == 2, "two columns, none of them `text`"
    assert "call that of the texts 'text'" in capsys.readouterr().err

    assert main(["export", str(folder), "--format", "safetensors"]) == 0
    index = json.loads((folder / "export" / "export.json").read_text())
    assert index["input"] == {"name": "tokens", "shape": [16], "dtype": "int64"}


def test_looking_at_texts_before_a_run(recipe, tmp_path, capsys):
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(recipe))
    picture = tmp_path / "views.png"
    assert main(["data", "check", str(file), "--picture", str(picture)]) == 0
    assert "bytes in the median, 2,000 are kept" in capsys.readouterr().out
    assert picture.is_file()
    assert main(["inspect", "--recipe", str(file), "--model", "teachers.former"]) == 0
    assert "blocks.0.attention" in capsys.readouterr().out
    assert main(["inspect", "text_cnn", "depth=2", "--input", "20"]) == 0
    shown = capsys.readouterr().out
    assert "20×64" in shown
    assert "windows.window5" in shown
    assert main(["inspect", "bag", "--input", "3,8,8"]) == 2
    assert (
        "--input: found 3 sides; for a model of texts give the number of ids"
        in capsys.readouterr().err
    )


def test_every_model_s_tokenizer_is_in_its_fingerprint(recipe):
    prepared = prepare(load_config(recipe))
    shapes = {
        name: candidate.preprocessing.output_shape((2000,)).vocabulary
        for name, candidate in prepared.teachers.items()
    }
    words = len(set().union(*TOPICS.values()))
    assert shapes == {"bag": 513, "cnn": words + 2, "former": 257}
    told = [candidate.preprocessing.describe() for candidate in prepared.teachers.values()]
    assert [one["tokens"]["type"] for one in told] == ["hashed", "words", "bytes"]
