"""Teachers of detection without dense heads: files of found boxes, and models behind an adapter."""

from __future__ import annotations

import json
import math
import re
from importlib import resources

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
from raykd.models.taps import Taps
from raykd.models.zoo.detector import detector_layout
from raykd.objective import DistillObjective, TeacherInfo, training_role
from raykd.pipeline.preparation import prepare
from raykd.pipeline.teachers import network_of
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


ARMS = {
    "fused": ["objective.soft_targets.loss={type: fused_boxes}"],
    "dense_pkd": ["objective.features=[{loss: {type: pkd}, foreground: ensemble, %s}]"],
    "dense_cwd": ["objective.features=[{loss: {type: cwd}, foreground: truth, %s}]"],
}
TAPS = "teacher: wide, student_tap: blocks.1, teacher_tap: blocks.0"


def arms_recipe():
    model = {"type": "detector", "depth": 2}
    return {
        "task": "detection",
        "data": {
            "source": {"type": "factory", "path": "raykd_test_boxes:box_data"},
            "labels": 40,
        },
        "teachers": [
            {"name": "wide", "model": {**model, "width": 2.0}, "fit": {"epochs": 1}},
            {"name": "half", "model": {**model, "knows": [1]}, "fit": {"epochs": 1}},
        ],
        "student": {"model": model},
        "evaluate": {"controls": ["labels", "best_teacher", "hard", "all_labels"]},
        "train": {"batch_size": 8},
    }


@pytest.mark.parametrize("arm", ["student", "labels", "best_teacher", "hard", "all_labels", *ARMS])
def test_a_step_of_each_arm_changes_the_student(arm):
    """As in training, with the teachers in this process: every term has a gradient, and those of features a projector's."""
    changes = [change.replace("%s", TAPS) for change in ARMS.get(arm, [])]
    prepared = prepare(load_config(arms_recipe(), changes))
    config, samples = prepared.config, prepared.samples
    role = training_role(
        "student" if arm in ARMS else arm, config.objective, ["wide", "half"], "wide"
    )
    rows = samples.splits["train"][:8]
    if role.labelled_only:
        known = samples.labelled_rows("train", "all" if role.all_labels else "budget")
        assert len(known) == (len(samples.splits["train"]) if role.all_labels else 40)
        rows = known[:8]
    batch = samples.batch(rows, ORIGINAL_VIEW, labels="all" if role.all_labels else "budget")
    answers = {}
    for number, name in enumerate(role.teachers):
        torch.manual_seed(number)
        teacher = prepared.teachers[name]
        weights = teacher.network(samples).model.state_dict()
        spec = teacher.spec(weights, samples, TeacherCluster(batch_size=8))
        answers[name] = decode(host(spec).score(samples, rows, np.zeros(8, np.int64)))
    torch.manual_seed(9)
    network = prepared.teachers["wide"].network(samples)
    student = network_of(
        config.student.model, network.preprocessing, samples, samples.class_count, "student.model"
    )
    objective = DistillObjective(
        role.objective,
        [TeacherInfo(name) for name in answers],
        rule=TASK.rule,
        student_shapes=prepared.student_shapes,
        teacher_shapes=prepared.teacher_shapes,
    )
    taps = tuple(prepared.student_shapes)
    with Taps(student, taps, key="objective.features") as kept:
        outputs = student(batch.inputs)
        features = kept.take() if taps else {}
    terms, _ = objective(outputs, features, batch, answers)
    total = sum((t.loss_N * t.valid_N).sum() * t.weight for t in terms.values())
    total.backward()
    assert math.isfinite(total.item())
    assert any(bool(p.grad is not None and p.grad.any()) for p in student.parameters())
    for term in (t for name, t in terms.items() if name.startswith("features")):
        assert (term.loss_N * term.valid_N).sum().item() > 0
        assert all(bool(p.grad.any()) for p in objective.features.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("objective.features=[{loss: {type: hint}, foreground: truth, %s}]", "use cwd, pkd"),
        ("data.labels=null", "holds all_labels"),
    ],
)
def test_arms_that_cannot_be_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        load_config(arms_recipe(), [change.replace("%s", TAPS)])


def test_the_recipe_s_own_command_is_read():
    """The variants that the head of `digit_scenes` names."""
    text = (resources.files("raykd.recipes") / "digit_scenes.yaml").read_text()
    head = " ".join(
        line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")
    )
    variants = dict(re.findall(r"--variant '(\w+): ([^']+)'", head))
    assert list(variants) == ["fused", "dense_pkd"]
    config = load_config("digit_scenes")
    for change in variants.values():
        varied = load_config(config.model_dump(mode="json"), [change])
        assert varied.objective != config.objective
    assert "all_labels" in config.evaluate.controls
