"""Teachers of detection without dense heads: files of found boxes, and models behind an adapter."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from raykd_test_boxes import SIDE, box_data

from raykd.config import load_config
from raykd.config.data import Data
from raykd.config.roles import Expect
from raykd.config.root import TeacherCluster
from raykd.data import build_samples
from raykd.data.named.box_terms import terms_of
from raykd.detection.structured import candidates_in, used
from raykd.errors import InputError
from raykd.models.zoo.detector import detector_layout
from raykd.objective import DistillObjective, TeacherInfo
from raykd.pipeline.preparation import prepare
from raykd.targets.codec import decode
from raykd.tasks import find_task
from raykd.teachers.model import host
from raykd.teachers.recorded_boxes import load_boxes
from raykd.types import ORIGINAL_VIEW

TASK = find_task("detection")
LAYOUT = detector_layout(2, SIDE, SIDE)


def entry(image, category=1, bbox=(1, 2, 10, 12), score=0.5):
    return {"image_id": image, "category_id": category, "bbox": list(bbox), "score": score}


def recipe(file, **changes):
    return {
        "task": "detection",
        "data": {"source": {"type": "factory", "path": "raykd_test_boxes:box_data"}},
        "teachers": [
            {"name": "file", "outputs": str(file), "expect": {"ap": 0.0}},
            {"name": "own", "model": "detector", "fit": {"epochs": 1}},
        ],
        "student": {"model": "detector"},
        "objective": {"soft_targets": {"loss": {"type": "fused_boxes"}}},
        **changes,
    }


def written(tmp_path, entries):
    file = tmp_path / "found.json"
    file.write_text(json.dumps(entries))
    return file


def true_entries(count=220):
    """What is there, found with a score of 0.9."""
    labels = box_data(count).labels
    for image, row in enumerate(labels):
        for box in row[1:].reshape(-1, 6)[: int(row[0])]:
            x1, y1, x2, y2 = box[1:5].tolist()
            yield entry(image, int(box[0]) + 1, (x1, y1, x2 - x1, y2 - y1), 0.9)


def test_a_file_of_found_boxes_is_a_teacher(tmp_path):
    file = written(tmp_path, list(true_entries()))
    prepared = prepare(load_config(recipe(file)))
    teacher = prepared.teachers["file"]
    assert teacher.recorded_NC.shape == (220, used(LAYOUT))
    assert any("has no box for" in note for note in prepared.notes)
    spec = teacher.spec(None, prepared.samples, TeacherCluster())
    rows = np.arange(50)
    arrays = host(spec).score(prepared.samples, rows, np.full(50, ORIGINAL_VIEW))
    answer = decode(arrays)
    assert answer.values_NC.shape == (50, prepared.samples.class_count)
    assert teacher.empty_answer(prepared.samples, 50).keys() == arrays.keys()
    truth = torch.from_numpy(prepared.samples.all_labels[rows])
    assert TASK.selftest("file", answer.values_NC, truth, Expect()) == pytest.approx(1.0)


def test_a_student_learns_from_boxes_and_locations_together(tmp_path):
    """Fused boxes, and the classes that only the dense teacher knows are not background."""
    entries = [one for one in true_entries() if one["category_id"] == 1]
    some = recipe(written(tmp_path, entries))
    some["teachers"][0]["categories"] = {1: "square", 9: None}
    some["teachers"][1]["model"] = {"type": "detector", "knows": [0]}
    prepared = prepare(load_config(some))
    config, samples = prepared.config, prepared.samples
    rows = np.arange(16)
    batch = samples.batch(rows, ORIGINAL_VIEW)
    answers = {}
    for name, teacher in prepared.teachers.items():
        weights = None
        if teacher.recorded_NC is None:
            torch.manual_seed(0)
            weights = teacher.network(samples).model.state_dict()
        spec = teacher.spec(weights, samples, TeacherCluster(batch_size=16))
        arrays = host(spec).score(samples, rows, np.full(16, ORIGINAL_VIEW))
        answers[name] = decode(arrays)
    found = candidates_in(answers["file"].values_NC)
    assert found.knows_BC[0].tolist() == [True, False]
    objective = DistillObjective(
        config.objective,
        [TeacherInfo(name) for name in answers],
        rule=TASK.rule,
        student_shapes={},
        teacher_shapes={},
    )
    outputs = prepared.teachers["own"].network(samples)(batch.inputs).detach()
    outputs[:, 4:6] = 1.0  # a student knows all
    outputs.requires_grad_()
    terms, _ = objective(outputs, {}, batch, answers)
    terms["soft_targets"].loss_N.sum().backward()
    logits = outputs.grad[:, 6 : 6 + 2 * LAYOUT.locations].reshape(16, -1, 2)
    assert bool(logits[..., 0].any())
    assert not bool(logits[..., 1].any())  # nobody knows class 1


def test_an_adapter_of_a_model_says_boxes(tmp_path):
    model = {"type": "factory", "path": "raykd_test_boxes:BrightBoxes"}
    teachers = [{"name": "rule", "model": model, "expect": {"ap": 0.0}}]
    prepared = prepare(load_config(recipe("-", teachers=teachers)))
    assert prepared.teachers["rule"].packing.first == used(LAYOUT)
    change = "objective.soft_targets.loss={type: dense_boxes}"
    dense = load_config(recipe("-", teachers=teachers), [change])
    with pytest.raises(InputError) as caught:
        prepare(dense)
    assert "objective.soft_targets.loss.type" in str(caught.value)
    assert "fused_boxes" in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry(999)], "entry 0 (from 0) of image 999: the data have no such image"),
        ([entry(1), entry(2, category=7)], "entry 1 (from 0) of image 2: its category 7"),
        ([entry(3, bbox=(9, 9, -3, 4))], "image 3: its bbox has the size -3×4"),
        ([entry(3, bbox=(1, 1, math.nan, 4))], "image 3: NaN or infinity"),
        ([entry(3, bbox=(40, 1, 3, 4))], "image 3: its box (40, 1) to (43, 5) lies outside"),
        ([entry(3, score=1.5)], "image 3: its score is 1.5"),
        ([entry(3, bbox=(1, 1, 2))], "image 3: it has bbox [1, 1, 2]"),
        ([entry(n + 1000) for n in range(14)], "4 mistakes more"),
        ({"annotations": []}, "no results file of COCO"),
        ([], "holds no box"),
    ],
)
def test_bad_files_are_named_with_image_and_entry(tmp_path, entries, message):
    file = written(tmp_path, entries)
    with pytest.raises(InputError) as caught:
        prepare(load_config(recipe(file)))
    assert message in str(caught.value)
    assert "teachers.file.outputs" in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("objective.soft_targets.loss={type: dense_boxes}", "use fused_boxes"),
        ("teachers.file.outputs=found.csv", "needs a results file of COCO"),
        ("teachers.own.categories={1: 0}", "there is no `outputs`"),
        ("teachers.file.categories={}", "teachers.file.categories"),
        ("teachers.file.outputs=gone.json", "no file at"),
        ("teachers.file.categories={1: 5}", "teachers.file.categories.1"),
        ("teachers.file.categories={1: round}", "square, frame"),
        ("teachers.file.categories={1: null}", "says nothing"),
    ],
)
def test_what_cannot_be_said_of_a_file_is_refused(tmp_path, change, message):
    file = written(tmp_path, [entry(1)])
    with pytest.raises(InputError, match=message.split("=")[0]):
        prepare(load_config(recipe(file), [change]))


def test_categories_are_for_boxes_alone():
    tables = {
        "data": {"source": {"type": "digits"}},
        "teachers": [{"name": "a", "outputs": "x.csv", "categories": {1: 0}}],
        "student": {"model": "mlp"},
    }
    with pytest.raises(InputError, match="label_map"):
        load_config(tables)


def test_a_file_speaks_of_the_ids_and_pixels_of_a_coco_file(tmp_path):
    """Images of 48×24 pixels are shown as 16×16: the file is in those of the images."""
    tree = {
        "images": [{"id": n + 7, "file_name": f"{n}.png"} for n in range(12)],
        "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
        "annotations": [
            {"id": 2 * n + c, "image_id": n + 7, "category_id": (4, 9)[c], "bbox": [2, 3, 18, 16]}
            for n in range(12)
            for c in range(2)
        ],
    }
    for n in range(12):
        pixels = np.full((24, 48, 3), 9 * n, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    (tmp_path / "truth.json").write_text(json.dumps(tree))
    source = {"type": "coco", "path": str(tmp_path / "truth.json"), "size": 16}
    data = Data.model_validate({"source": source})
    terms = terms_of(data.source, ("cat", "dog"))
    assert terms.class_of == {4: 0, 9: 1}
    assert terms.sizes == {str(n + 7): (48, 24) for n in range(12)}
    assert terms_of(None, ("cat", "dog")).class_of == {1: 0, 2: 1}
    samples, layout = build_samples(data, seed=0, task="detection"), detector_layout(2, 16, 16)
    file = written(tmp_path, [entry(8, category=9, bbox=(24, 12, 30, 12))])
    rows, notes = load_boxes(str(file), samples, layout, terms, key="teachers.a")
    found = candidates_in(
        torch.from_numpy(np.pad(rows, [(0, 0), (0, layout.width - rows.shape[1])]))
    )
    row = samples.named(np.arange(12)).index("8")
    assert found.boxes_BN4[row, 0].tolist() == [8.0, 8.0, 16.0, 16.0]
    assert found.scores_BNC[row, 0].tolist() == [0.0, 0.5]
    assert not bool(np.delete(found.scores_BNC.numpy(), row, axis=0).any())
    assert any("cut at its border" in note for note in notes)
