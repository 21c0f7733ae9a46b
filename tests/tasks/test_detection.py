"""Detection: what teachers say as one, what is learnt from it, and what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from raykd_test_boxes import SIDE, box_data

from raykd.config import load_config
from raykd.config.models import DetectorModel
from raykd.data import Dataset, build_samples
from raykd.detection.layout import (
    label_rows,
    layout_for,
    layout_of,
    packed,
    rows_of,
    true_boxes,
    unpacked,
)
from raykd.detection.locations import assigned, to_boxes
from raykd.ensemble.detectors import found_in, fused_answers, mean_answers
from raykd.errors import InputError
from raykd.losses.detection import dense_boxes, fused_boxes
from raykd.models import build_model
from raykd.models.zoo.detector import detector_layout
from raykd.tasks import find_task
from raykd.tasks.detection.metrics import found_rows
from raykd.types import is_labelled
from tests.detection.test_boxes import plain_giou

LAYOUT = layout_for(3, 16, 16, stride=4)
TASK = find_task("detection")


def answers(seed, images=2, *, knows=None, spread=2.0):
    """Made-up answers of a detector, float64."""
    random = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(images, 16, 3, generator=random, dtype=torch.float64)
    edges = 6 * torch.rand(images, 16, 4, generator=random, dtype=torch.float64) + 0.5
    return packed(logits, edges, LAYOUT, None if knows is None else torch.tensor(knows))


def labelled(*images):
    return torch.from_numpy(label_rows(images)).double()


def test_answers_and_labels_say_what_was_packed():
    rows = answers(0, knows=[True, False, True])
    assert layout_of(rows) == LAYOUT
    assert rows.shape[1] == LAYOUT.width == 4 + 3 + 16 * 7
    heads = unpacked(rows)
    assert heads.knows_BC.tolist() == [[True, False, True]] * 2
    assert not bool(heads.scores_BNC[..., 1].any())
    again = packed(heads.logits_BNC, heads.edges_BN4, LAYOUT, heads.knows_BC[0])
    assert torch.equal(again, rows)
    with pytest.raises(ValueError, match="no answers of a detector"):
        layout_of(torch.zeros(2, LAYOUT.width))
    with pytest.raises(ValueError, match="same classes, image size, stride and bins"):
        unpacked(rows, layout_for(3, 20, 16, stride=4))
    labels = labelled(([1, 2], [[0, 0, 4, 4], [2, 2, 8, 9]]), ([], []), None)
    assert is_labelled(labels).tolist() == [True, True, False]
    boxes = true_boxes(labels)
    assert boxes.present_BM.tolist() == [[True, True], [False, False], [False, False]]
    assert boxes.classes_BM[0].tolist() == [1, 2]
    with pytest.raises(ValueError, match="labels of boxes"):
        true_boxes(torch.zeros(2, 5))


def test_the_mean_of_copies_is_the_copy():
    copy = answers(0, knows=[True, True, False])
    mean = mean_answers(
        torch.stack([copy] * 3), torch.tensor([0.2, 0.3, 0.5])[:, None].expand(3, 2)
    )
    known = unpacked(copy), unpacked(mean)
    assert torch.equal(known[0].knows_BC, known[1].knows_BC)
    torch.testing.assert_close(known[0].scores_BNC, known[1].scores_BNC, rtol=0, atol=1e-6)
    torch.testing.assert_close(known[0].edges_BN4, known[1].edges_BN4, rtol=0, atol=1e-6)


def test_who_does_not_know_a_class_does_not_call_it_background():
    left, right = answers(0, knows=[True, False, False]), answers(1, knows=[True, True, False])
    mean = unpacked(mean_answers(torch.stack([left, right]), torch.ones(2, 2)))
    both, one = unpacked(left).scores_BNC, unpacked(right).scores_BNC
    torch.testing.assert_close(mean.scores_BNC[..., 0], (both + one)[..., 0] / 2)
    torch.testing.assert_close(mean.scores_BNC[..., 1], one[..., 1])
    assert mean.knows_BC[0].tolist() == [True, True, False]
    silent = torch.tensor([[1.0, 0.0], [0.0, 0.0]])  # nobody answered about the second image
    alone = unpacked(mean_answers(torch.stack([left, right]), silent, LAYOUT))
    assert alone.knows_BC.tolist() == [[True, False, False], [False, False, False]]
    torch.testing.assert_close(alone.scores_BNC[0, :, 0], both[0, :, 0])
    _, known = fused_answers(torch.stack([left, right]), silent, layout=LAYOUT)
    assert known.tolist() == [[True, False, False], [False, False, False]]


def test_fused_copies_are_the_copy():
    copy = answers(3, images=4, spread=1.0)
    alone = found_in(unpacked(copy)).above(0.3)
    found, _ = fused_answers(torch.stack([copy] * 3), torch.ones(3, 4), threshold=0.3, iou=0.6)
    rows = [rows_of(f.boxes_BN4, f.scores_BN, f.classes_BN, 20, soft=True) for f in (alone, found)]
    torch.testing.assert_close(*rows, rtol=0, atol=1e-6)
    assert bool((rows[0][:, 0] > 0).any())


def bce(q, p):
    return -(p * math.log(q) + (1 - p) * math.log(1 - q))


def plain_dense(student, teacher, beta, weight):
    own, said = unpacked(student[None]), unpacked(teacher[None])
    known = said.knows_BC[0].tolist()
    total, count = 0.0, 0.0
    for n in range(16):
        sure = max(p for p, k in zip(said.scores_BNC[0, n].tolist(), known, strict=True) if k)
        for c in range(3):
            if known[c]:
                q, p = float(own.scores_BNC[0, n, c]), float(said.scores_BNC[0, n, c])
                total += abs(q - p) ** beta * bce(q, p)
        pair = own.boxes_BN4[0, n].tolist(), said.boxes_BN4[0, n].tolist()
        total += weight * sure * (1 - plain_giou(*pair))
        count += sure
    return total / max(1.0, count)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_dense_boxes_is_its_plain_loop(beta):
    student, teacher = answers(0), answers(1, knows=[True, False, True])
    expected = [plain_dense(s, t, beta, 2.0) for s, t in zip(student, teacher, strict=True)]
    found = dense_boxes(student, teacher, beta=beta)
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-6, atol=1e-8)
    assert float(dense_boxes(student, student).abs().max()) == pytest.approx(0.0, abs=1e-12)
    student.requires_grad_()
    dense_boxes(student, teacher).sum().backward()
    (unknown,) = [unpacked(student.grad, LAYOUT).logits_BNC[..., 1]]
    assert not bool(unknown.any())


def plain_fused(student, boxes, weight):
    """Boxes as (class, corners, score)."""
    own = unpacked(student[None])
    places = LAYOUT.centres(student)
    corners = torch.tensor([[b[1] for b in boxes]]).double().reshape(1, -1, 4)
    table = (
        assigned(places, corners, torch.ones(1, len(boxes), dtype=torch.bool)).box_BN[0].tolist()
    )
    total, count = 0.0, 0.0
    for n, box in enumerate(table):
        goal = [0.0, 0.0, 0.0]
        if box >= 0:
            goal[boxes[box][0]] = boxes[box][2]
            pair = own.boxes_BN4[0, n].tolist(), [float(e) for e in boxes[box][1]]
            total += weight * boxes[box][2] * (1 - plain_giou(*pair))
            count += boxes[box][2]
        for c in range(3):
            q = float(own.scores_BNC[0, n, c])
            total += abs(q - goal[c]) ** 2 * bce(q, goal[c])
    return total / max(1.0, count)


def test_fused_boxes_is_its_plain_loop_also_without_boxes_and_at_the_border():
    student = answers(0, images=3)
    boxes = [[(1, [0, 0, 7, 6], 1.0), (2, [3, 4, 16, 16], 1.0)], [], [(0, [10, 10, 16, 16], 1.0)]]
    labels = labelled(*[([b[0] for b in one], [b[1] for b in one]) for one in boxes])
    expected = [plain_fused(s, one, 2.0) for s, one in zip(student, boxes, strict=True)]
    torch.testing.assert_close(fused_boxes(student, labels), torch.tensor(expected).double())
    soft = labels.clone()
    soft[0, 6] = 0.25  # the score of the first box
    boxes[0][0] = (1, [0, 0, 7, 6], 0.25)
    expected = [plain_fused(s, one, 2.0) for s, one in zip(student, boxes, strict=True)]
    torch.testing.assert_close(fused_boxes(student, soft), torch.tensor(expected).double())


@pytest.mark.parametrize("loss", [dense_boxes, fused_boxes])
def test_gradients_are_exact_and_the_teacher_has_none(loss):
    student = answers(0)[:, LAYOUT.classes + 4 :]
    head = answers(0)[:, : LAYOUT.classes + 4]
    teacher = answers(1) if loss is dense_boxes else labelled(([1], [[2, 2, 11, 13]]), ([], []))
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: loss(torch.cat([head, x], dim=1), teacher.detach()), (student.requires_grad_(),)
    )
    loss(torch.cat([head, student], dim=1), teacher).sum().backward()
    assert teacher.grad is None


@pytest.mark.parametrize("loss", [dense_boxes, fused_boxes])
def test_an_image_has_the_same_loss_in_any_batch(loss):
    """So that two workers, micro-batches and one batch learn the same."""
    student = answers(0, images=5)
    images = [([n % 3], [[n, n, n + 6, n + 7]]) for n in range(5)]
    teacher = answers(1, images=5) if loss is dense_boxes else labelled(*images)
    whole = loss(student, teacher)
    parts = torch.cat([loss(student[:2], teacher[:2]), loss(student[2:], teacher[2:])])
    torch.testing.assert_close(whole, parts, rtol=0, atol=0)


def test_a_crowd_is_neither_right_nor_wrong():
    student = answers(0, images=1)
    crowd = torch.from_numpy(label_rows([([0], [[0, 0, 16, 16]])], [[True]])).double()
    assert float(fused_boxes(student, crowd)) == 0.0
    nothing = labelled(([], []))
    assert float(fused_boxes(student, nothing)) > 0.0


def test_images_without_labels_teach_nothing_by_labels():
    student = answers(0).requires_grad_()
    loss, counts = TASK.rule.label_loss(None, student, labelled(None, ([0], [[2, 2, 9, 9]])))
    assert counts.tolist() == [0.0, 1.0]
    assert loss.tolist()[0] == 0.0
    (loss * counts).sum().backward()
    assert bool(student.grad.isfinite().all())
    assert not bool(student.grad[0].any())


@pytest.mark.parametrize("width", [1.0, 2.0])
def test_a_detector_is_as_large_as_it_says_and_follows_a_shift(width):
    layout = detector_layout(10, 64, 64)
    spec = DetectorModel(width=width)
    torch.manual_seed(0)
    model = build_model(spec, input_shape=(1, 64, 64), classes=layout.width, key="m").eval()
    assert sum(p.numel() for p in model.parameters()) == {1.0: 15526, 2.0: 60990}[width]
    image = torch.zeros(1, 1, 64, 64)
    image[..., 24:36, 24:36] = torch.rand(12, 12)
    with torch.inference_mode():
        one, other = (unpacked(model(x)) for x in (image, image.roll(4, 3)))
    assert one.layout == layout
    assert bool((one.edges_BN4 > 0).all())
    middle = one.logits_BNC.reshape(16, 16, 10)[4:12, 4:11]
    moved = other.logits_BNC.reshape(16, 16, 10)[4:12, 5:12]
    assert float((middle - moved).abs().max()) < 0.02 * float(middle.std() + 1)


def test_a_detector_refuses_what_is_no_detection():
    with pytest.raises(InputError, match="task: detection"):
        build_model(DetectorModel(), input_shape=(1, 32, 32), classes=10, key="student.model")
    width = detector_layout(2, 32, 32).width
    with pytest.raises(InputError, match="classes 0 to 1"):
        build_model(DetectorModel(knows=(0, 2)), input_shape=(1, 32, 32), classes=width, key="m")
    with pytest.raises(InputError, match="needs images"):
        build_model(DetectorModel(), input_shape=(7,), classes=width, key="m")


RECIPE = {
    "task": "detection",
    "data": {"source": {"type": "factory", "path": "raykd_test_boxes:box_data"}},
    "teachers": [{"name": "a", "model": "detector", "fit": {"epochs": 1}}],
    "student": {"model": "detector"},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("student.model=mlp", "says nothing of where things are"),
        ("teachers.a.model=cnn", "says nothing of where things are"),
        ('data.views.policy=[{"type": "mixup"}]', "lays two images over each other"),
        ('data.views.policy=[{"type": "cutmix"}]', "under a part of another image"),
        ('data.views.policy=[{"type": "cutout"}]', "hides objects"),
        ('data.views.policy=[{"type": "rotate", "degrees": 11}]', "at most 10"),
        ('data.views.policy=[{"type": "rand_augment", "magnitude": 11}]', "at most 10"),
        ('data.views.policy=[{"type": "random_resized_crop", "size": 16}]', "images of one size"),
        ("student.model.knows=[0]", "is for teachers"),
        ("student.preprocess.size=16", "means nothing"),
        ("objective.soft_targets.loss.type=kl", "dense_boxes, fused_boxes"),
        ("objective.soft_targets.temperature=2", "means nothing"),
        ("objective.weighting.type=entropy", "uniform, fixed, inverse_error"),
        ("teachers.a.label_map=[0, 1]", "means nothing"),
    ],
)
def test_what_detectors_cannot_do_is_refused(change, message):
    with pytest.raises(InputError) as caught:
        load_config(RECIPE, [change])
    assert message in str(caught.value)
    assert change.split("=")[0].split(".type")[0] in str(caught.value)


def test_boxes_follow_every_step_that_says_where_pixels_go():
    steps = ["noise", "flip", "pad_crop", "shift", "random_resized_crop", "color_jitter"]
    policy = [*({"type": one} for one in steps), {"type": "rotate", "degrees": 10}]
    views = {"count": 4, "policy": policy, "visible": 0.5}
    assert load_config(RECIPE, [f"data.views={json.dumps(views)}"]).data.views.visible == 0.5
    with pytest.raises(InputError, match=r"data\.views\.visible: means nothing with `task: class"):
        load_config("digits", ["data.views.visible=0.5"])
    assert "visible" not in load_config(RECIPE).data.views.identity()


def test_transfer_sets_have_no_labels_however_many_boxes_the_others_have():
    config = load_config(
        RECIPE, ["data.transfer={sets: {blends: {type: mixup, count: 7}}}", "data.labels=40"]
    )
    samples = build_samples(config.data, seed=0, task="detection")
    assert samples.labels.shape[1] > 7
    assert not is_labelled(samples.all_labels[samples.transfer["blends"]]).any()
    assert is_labelled(samples.all_labels[: -len(samples.transfer["blends"])]).all()


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([0, 5, 5, 2, 9], "x1 < x2"),
        ([0, math.nan, 5, 7, 9], "NaN or infinity"),
        ([0.5, 1, 5, 7, 9], "numbered from 0"),
        ([7, 1, 5, 7, 9], "2 names"),
    ],
)
def test_wrong_boxes_are_named_with_their_row(box, message):
    labels = label_rows([([0], [[1, 1, 5, 5]]), ([0], [[1, 1, 5, 5]])])
    labels[1, 1:6] = box
    with pytest.raises(InputError, match=message) as caught:
        Dataset(np.zeros((2, 1, 16, 16), np.float32), labels, task="detection", classes=("a", "b"))
    assert "row 1" in str(caught.value) or "row" not in message


def test_metrics_know_an_image_without_labels_from_one_without_boxes():
    rows = answers(0, images=3)
    found = found_rows(rows)
    truth = label_rows([([0], [[1, 1, 9, 9]]), ([], []), None])
    metrics = TASK.metrics
    numbers = metrics.numbers(found, torch.from_numpy(truth))
    fewer = metrics.numbers(found[:2], torch.from_numpy(truth[:2]))
    assert numbers == pytest.approx(fewer, nan_ok=True)
    alone = metrics.numbers(found[:1], torch.from_numpy(truth[:1]))
    assert alone["ap"] >= numbers["ap"]  # whatever is found in an image without boxes is wrong
    with pytest.raises(ValueError, match="none of the images"):
        metrics.numbers(found[2:], torch.from_numpy(truth[2:]))


def test_boxes_that_are_true_have_an_ap_of_1():
    data = box_data(20)
    layout = detector_layout(2, SIDE, SIDE)
    truth = torch.from_numpy(data.labels)
    boxes = true_boxes(truth)
    table = assigned(layout.centres(truth), boxes.boxes_BM4, boxes.present_BM)
    label = boxes.classes_BM.gather(1, table.box_BN.clamp(min=0))
    logits = torch.full((20, layout.locations, 2), -9.0)
    there = (table.box_BN >= 0)[..., None]
    logits = torch.where(there & (torch.arange(2) == label[..., None]), 5.0, logits)
    rows = packed(logits, table.edges_BN4, layout)
    numbers = TASK.metrics.numbers(found_rows(rows), truth)
    assert numbers["ap"] == pytest.approx(1.0)
    assert numbers["ap50"] == pytest.approx(1.0)
    assert TASK.metrics.scores(found_rows(rows), truth).tolist() == [1.0] * 20
    own = to_boxes(layout.centres(truth), table.edges_BN4)
    assert own.shape == (20, layout.locations, 4)
