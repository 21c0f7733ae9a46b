"""`raykd predict` of a detector: a results file of COCO in pixels of the images, and pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from raykd import predict
from raykd.cli import main
from raykd.config import load_config
from raykd.export.weights_format import DESCRIPTION, WEIGHTS
from raykd.folders import write_json
from raykd.models.weights import fingerprint, save_weights
from raykd.pipeline.preparation import prepare
from raykd.pipeline.student import _describe

MODEL = {"type": "detector", "depth": 2}


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """One that finds something everywhere."""
    recipe = {
        "task": "detection",
        "data": {"source": {"type": "factory", "path": "raykd_test_boxes:box_data"}},
        "teachers": [{"name": "a", "model": MODEL, "fit": {"epochs": 1}}],
        "student": {"model": MODEL},
    }
    prepared = prepare(load_config(recipe))
    torch.manual_seed(0)
    weights = prepared.teachers["a"].network(prepared.samples).model.state_dict()
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    weights["head.bias"][0] = 2.0
    folder = tmp_path_factory.mktemp("student")
    save_weights(weights, folder / WEIGHTS)
    about = _describe(prepared, fingerprint(weights), None)
    write_json(folder / DESCRIPTION, about.to_json())
    return folder


@pytest.fixture
def coco(tmp_path):
    """Two images of other sizes than the student's, and one that is none."""
    random = np.random.default_rng(0)
    for name, size in (("a", (64, 128, 3)), ("b", (32, 32, 3))):
        pixels = random.integers(0, 255, size=size, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_text("nothing")
    tree = {
        "images": [{"id": n + 5, "file_name": f"{name}.png"} for n, name in enumerate("abc")],
        "categories": [{"id": 30, "name": "frame"}, {"id": 4, "name": "square"}],
    }
    file = tmp_path / "images.json"
    file.write_text(json.dumps(tree))
    return file


def test_a_results_file_is_in_pixels_and_categories_of_the_coco_file(
    student, coco, tmp_path, capsys
):
    out, folder = tmp_path / "found.json", tmp_path / "shown"
    argv = ["predict", str(student), str(coco), "--output", str(out), "--pictures", str(folder)]
    assert main([*argv, "--most-pictures", "1"]) == 0
    said = capsys.readouterr()
    assert "c.png cannot be read" in said.err
    assert "1 of 2 images drawn" in said.err
    found = json.loads(out.read_text())
    assert {one["image_id"] for one in found} == {5, 6}
    assert {one["category_id"] for one in found} <= {4, 30}
    right = {
        image: max(one["bbox"][0] + one["bbox"][2] for one in found if one["image_id"] == image)
        for image in (5, 6)
    }
    assert right[5] > 100 > 40 > right[6]  # of 128 and 32 pixels
    assert all(0 < one["score"] <= 1 for one in found)
    (picture,) = sorted(folder.iterdir())
    with Image.open(picture) as shown:
        assert shown.size == (256, 256)
        assert len(shown.getcolors(10**6)) > 10
    again = predict(student, coco)
    assert [len(one.score_M) for one in again.boxes] == [
        sum(one["image_id"] == image for one in found) for image in (5, 6)
    ]


def test_a_folder_of_images_and_arrays(student, coco, tmp_path):
    (coco.parent / "c.png").unlink()
    out = tmp_path / "found.json"
    assert main(["predict", str(student), str(coco.parent), "--output", str(out)]) == 0
    found = json.loads(out.read_text())
    assert {one["image_id"] for one in found} == {"a", "b"}
    assert {one["category_id"] for one in found} <= {1, 2}
    values = np.random.default_rng(0).random((3, 1, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "new.npz", inputs=values)
    out = tmp_path / "found.npz"
    assert main(["predict", str(student), str(tmp_path / "new.npz"), "--output", str(out)]) == 0
    with np.load(out) as arrays:
        assert arrays["boxes"].shape == (len(arrays["images"]), 4)
        assert set(arrays["images"].tolist()) == {0, 1, 2}


def test_what_is_read_again_are_boxes_of_a_teacher(student, tmp_path):
    """What `predict` writes is what `teachers[].outputs` reads."""
    values = np.random.default_rng(0).random((3, 1, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "new.npz", inputs=values)
    out = tmp_path / "found.json"
    assert main(["predict", str(student), str(tmp_path / "new.npz"), "--output", str(out)]) == 0
    recipe = {
        "task": "detection",
        "data": {"source": {"type": "factory", "path": "raykd_test_boxes:box_data"}},
        "teachers": [{"name": "a", "outputs": str(out)}],
        "student": {"model": MODEL},
        "objective": {"soft_targets": {"loss": {"type": "fused_boxes"}}},
    }
    prepared = prepare(load_config(recipe))
    assert any("has no box for 217 of 220" in note for note in prepared.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--output", "found.txt"], "needs .csv, .npz, .parquet, .json"),
        (["--most-pictures", "0"], "needs 1 or more"),
    ],
)
def test_wrong_options_are_refused(student, coco, change, message, capsys):
    assert main(["predict", str(student), str(coco), *change]) == 2
    assert message in capsys.readouterr().err


def test_categories_that_lack_a_class_are_refused(student, coco, capsys):
    tree = json.loads(coco.read_text())
    tree["categories"].pop()
    coco.write_text(json.dumps(tree))
    assert main(["predict", str(student), str(coco)]) == 2
    assert "no category 'square'" in capsys.readouterr().err
