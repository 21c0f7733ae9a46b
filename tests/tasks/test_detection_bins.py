"""Edges as distributions over bins: what is packed, DFL and LD against plain loops, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raykd.config import load_config
from raykd.config.models import DetectorModel
from raykd.config.root import TeacherCluster
from raykd.detection.layout import layout_for, layout_of, packed, unpacked
from raykd.detection.locations import expected_edges
from raykd.ensemble.detectors import mean_answers
from raykd.errors import InputError
from raykd.losses.detection import (
    distribution_focal,
    fused_boxes,
    localisation,
    localisation_of_answers,
)
from raykd.models import build_model
from raykd.models.zoo.detector import detector_layout
from raykd.objective import DistillObjective, TeacherInfo
from raykd.pipeline.preparation import prepare
from raykd.targets.codec import decode
from raykd.tasks import find_task
from raykd.teachers.model import host

LAYOUT = layout_for(2, 16, 16, stride=4, bins=5)
TASK = find_task("detection")
MODEL = {"type": "detector", "depth": 2, "bins": 6}
RECIPE = {
    "task": "detection",
    "data": {"source": {"type": "factory", "path": "raykd_test_boxes:box_data"}},
    "teachers": [
        {"name": "a", "model": {**MODEL, "width": 2.0}, "fit": {"epochs": 1}},
        {"name": "b", "model": MODEL, "fit": {"epochs": 1}},
    ],
    "student": {"model": MODEL},
    "objective": {"soft_targets": {"loss": {"type": "dense_boxes", "localisation": 0.015}}},
}


def answers(seed, images=2):
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, 16, 2, generator=random, dtype=torch.float64)
    bins = torch.randn(images, 16, 4, 5, generator=random, dtype=torch.float64)
    return packed(logits, expected_edges(bins, stride=4), LAYOUT, None, bins)


def test_an_answer_says_its_bins():
    rows = answers(0)
    assert layout_of(rows) == LAYOUT
    heads = unpacked(rows)
    assert heads.bins_BN4K.shape == (2, 16, 4, 5)
    torch.testing.assert_close(expected_edges(heads.bins_BN4K, stride=4), heads.edges_BN4)
    with pytest.raises(ValueError, match="do not fit"):
        packed(heads.logits_BNC, heads.edges_BN4, LAYOUT)
    with pytest.raises(ValueError, match="and bins"):
        unpacked(rows, layout_for(2, 16, 16, stride=4))


def test_the_mean_of_distributions_has_the_mean_edges():
    mean = unpacked(mean_answers(torch.stack([answers(0), answers(1)]), torch.ones(2, 2)))
    torch.testing.assert_close(
        expected_edges(mean.bins_BN4K, stride=4), mean.edges_BN4, rtol=1e-5, atol=1e-5
    )
    copies = unpacked(mean_answers(torch.stack([answers(0)] * 3), torch.ones(3, 2)))
    torch.testing.assert_close(
        copies.bins_BN4K.softmax(-1), unpacked(answers(0)).bins_BN4K.softmax(-1), rtol=0, atol=1e-6
    )


def plain_focal(logits, distances):
    total = 0.0
    for row, distance in zip(logits, distances, strict=True):
        y = min(max(distance, 0.0), len(row) - 1)
        lower = min(int(y), len(row) - 2)
        log_sum = math.log(sum(math.exp(x) for x in row))
        total -= (lower + 1 - y) * (row[lower] - log_sum) + (y - lower) * (row[lower + 1] - log_sum)
    return total / 4


def test_the_distribution_focal_loss_is_its_plain_loop():
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, 5, generator=random, dtype=torch.float64)
    distances = 6 * torch.rand(6, 4, generator=random, dtype=torch.float64) - 0.5
    distances[0] = torch.tensor([0.0, 4.0, 2.0, 9.0])
    expected = [
        plain_focal(*pair) for pair in zip(logits.tolist(), distances.tolist(), strict=True)
    ]
    found = distribution_focal(logits, distances)
    torch.testing.assert_close(found, torch.tensor(expected).double())
    assert torch.autograd.gradcheck(
        lambda x: distribution_focal(x, distances), (logits.requires_grad_(),)
    )
    with pytest.raises(ValueError, match="K ≥ 2"):
        distribution_focal(torch.zeros(3, 4, 1), torch.zeros(3, 4))


def test_labels_teach_the_bins():
    rows = answers(0, images=1).requires_grad_()
    labels = torch.zeros(1, 7).double()
    labels[0] = torch.tensor([1.0, 1, 2, 3, 13, 12, 1])
    with_bins = fused_boxes(rows, labels)
    without = fused_boxes(rows, labels, bin_weight=0.0)
    assert with_bins.item() > without.item()
    with_bins.sum().backward()
    assert bool(unpacked(rows.grad, LAYOUT).bins_BN4K.any())


def test_localisation_of_answers_is_the_sum_over_locations():
    student, teacher = answers(0), answers(1)
    sure = torch.rand(2, 16, generator=torch.Generator().manual_seed(2)).double()
    own, said = unpacked(student), unpacked(teacher)
    expected = [
        sum(
            m.item() * localisation(s[None], t[None], temperature=3.0).item()
            for m, s, t in zip(sure[b], own.bins_BN4K[b], said.bins_BN4K[b], strict=True)
        )
        for b in range(2)
    ]
    found = localisation_of_answers(student, teacher, sure, temperature=3.0)
    torch.testing.assert_close(found, torch.tensor(expected).double())
    plain = layout_for(2, 16, 16, stride=4)
    bare = packed(own.logits_BNC, own.edges_BN4, plain)
    with pytest.raises(ValueError, match="with bins"):
        localisation_of_answers(bare, bare, sure, temperature=3.0)


def test_a_recipe_reaches_localisation_distillation():
    prepared = prepare(load_config(RECIPE))
    config, samples = prepared.config, prepared.samples
    assert samples.class_count == detector_layout(2, 32, 32, 6).width
    rows = samples.splits["train"][:6]
    batch, said = samples.batch(rows, 0), {}
    for seed, (name, teacher) in enumerate(prepared.teachers.items()):
        torch.manual_seed(seed)
        network = teacher.network(samples)
        torch.nn.init.normal_(network.model.head.weight)
        spec = teacher.spec(network.model.state_dict(), samples, TeacherCluster(batch_size=6))
        said[name] = decode(host(spec).score(samples, rows, np.zeros(6, np.int64)))
    outputs = prepared.teachers["b"].network(samples)(batch.inputs).detach().requires_grad_()

    def loss(settings):
        objective = DistillObjective(
            settings,
            [TeacherInfo(name) for name in said],
            rule=TASK.rule,
            student_shapes={},
            teacher_shapes={},
        )
        terms, _ = objective(outputs, {}, batch, said)
        return terms["soft_targets"].loss_N

    without = load_config(RECIPE, ["objective.soft_targets.loss.localisation=0"]).objective
    more = loss(config.objective) - loss(
        without.model_copy(update={"labels": config.objective.labels})
    )
    layout, weights = layout_of(outputs), torch.full((6,), 0.5)
    total = count = 0.0
    for answer in said.values():
        sure = unpacked(answer.values_NC, layout).scores_BNC.amax(-1) * weights[:, None]
        total = total + localisation_of_answers(outputs, answer.values_NC, sure, temperature=10.0)
        count = count + sure.sum(1)
    torch.testing.assert_close(more, 0.015 * total / count.clamp(min=1.0), rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(more.sum(), outputs)
    assert bool(unpacked(gradient, layout).bins_BN4K.any())


def test_a_detector_with_bins_begins_with_boxes_of_a_usual_size():
    layout = detector_layout(2, 32, 32, 8)
    spec = DetectorModel(bins=8)
    torch.manual_seed(0)
    model = build_model(spec, input_shape=(1, 32, 32), classes=layout.width, key="m").eval()
    with torch.inference_mode():
        heads = unpacked(model(torch.rand(2, 1, 32, 32)))
    assert heads.layout == layout
    assert 6 < float(heads.edges_BN4.mean()) < 11
    exported = TASK.export.of_network_for(2, (1, 32, 32))
    with torch.inference_mode():
        assert exported(model(torch.rand(2, 1, 32, 32)), 1.0)[1].shape[-1] == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("teachers.a.model.bins=8", "teachers.a.model.bins: found 8, and student.model.bins is 6"),
        (
            "student.model.bins=null",
            "teachers.a.model.bins: found 6, and student.model.bins is none",
        ),
        ("student.model.bins=null", "objective.soft_targets.loss.localisation"),
        ("student.model.bins=1", "student.model.bins"),
    ],
)
def test_other_bins_are_refused(change, message):
    with pytest.raises(InputError) as caught:
        load_config(RECIPE, [change])
    assert message in str(caught.value)


def test_what_came_later_changes_no_identity_at_its_default():
    loss = {"type": "dense_boxes", "beta": 1.0, "box_weight": 2.0}
    settings = load_config(RECIPE, ["objective.soft_targets.loss={type: dense_boxes}"]).objective
    assert settings.soft_targets.loss.identity() == loss
    changed = load_config(RECIPE).objective.soft_targets.loss.identity()
    assert changed == {**loss, "localisation": 0.015}
    assert "bins" not in DetectorModel().identity()
