"""The parts that a task reaches: codec, networks, teachers' checks, what a recipe may say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tests_tasks_data import data_of, marks_data, values_data
from torch import nn

from raykd.config import load_config
from raykd.config.roles import Expect
from raykd.data import Dataset
from raykd.data.samples import samples_of
from raykd.errors import InputError, TeacherError
from raykd.models.network import Network
from raykd.targets import EntryKey, codec
from raykd.tasks import BUILT_IN, find_task
from raykd.tasks.multilabel.selftest import check_decisions
from raykd.tasks.registry import FACETS
from raykd.tasks.regression.selftest import check_values
from raykd.teachers.answers import log_odds
from raykd.teachers.model import Recorded, host
from raykd.teachers.recorded import load_outputs
from raykd.types import Scale


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_the_facets_of_a_task_agree(name):
    task = find_task(name)
    assert BUILT_IN[name].keys() == set(FACETS)
    assert all(getattr(task, facet) is getattr(find_task(name), facet) for facet in FACETS)
    assert task.text.metric.key == task.metrics.metric
    assert task.metrics.lower == (task.metrics.merit(1.0) < 0)
    assert task.settings.select == (task.metrics.metric, task.metrics.ties)
    assert task.metrics.kind in codec.VERSIONS
    assert task.settings.class_logits == task.rule.labels_are_classes


@pytest.mark.parametrize("kind", ["logits", "value", "label_logits", "embedding"])
def test_the_codec_keeps_kind_and_values(kind):
    values = torch.randn(5, 1 if kind == "value" else 4) * 5 + 3
    found = codec.decode(codec.encode(values, {"tap": torch.ones(5, 2)}, kind))
    assert found.kind == kind
    assert found.features["tap"].shape == (5, 2)
    if kind in ("value", "embedding"):
        assert torch.equal(found.values_NC, values)
    torch.testing.assert_close(found.values_NC, values, rtol=2e-3, atol=1e-2)


def test_label_logits_are_not_shifted():
    arrays = codec.encode(torch.tensor([[1e5, -3.0]]), {}, "label_logits")
    assert list(arrays) == ["label_logits"]
    assert codec.decode(arrays).values_NC.tolist() == [[65504.0, -3.0]]


def test_entries_of_different_kinds_lie_apart():
    folders = {EntryKey("teacher", "original", codec=v).folder for v in codec.VERSIONS.values()}
    assert len(folders) == len(codec.VERSIONS)
    assert EntryKey("teacher", "original").codec == codec.VERSIONS["logits"]


def test_a_network_with_a_scale_answers_in_original_units():
    model = nn.Linear(3, 1)
    inputs = {"inputs": torch.randn(4, 3)}
    scaled = Network(model, scale=Scale(mean=150.0, std=77.0))
    torch.testing.assert_close(scaled(inputs), Network(model)(inputs) * 77 + 150)
    assert scaled.to(torch.bfloat16)(inputs).dtype == torch.float32


def test_probabilities_of_labels_become_log_odds():
    probabilities = torch.tensor([[0.2, 0.9, 1.0, 0.0]])
    found = log_odds(probabilities, "label_logits")
    torch.testing.assert_close(found.sigmoid(), probabilities, atol=1e-6, rtol=1e-4)
    assert found.isfinite().all()


def test_recorded_values_and_marks(tmp_path):
    samples = samples_of(values_data(), data_of(), seed=0)
    said = np.arange(len(samples), dtype=np.float32)
    save_file(
        {"ids": samples.ids[::-1].copy(), "values": said[::-1].copy()}, tmp_path / "v.safetensors"
    )
    found, _ = load_outputs(str(tmp_path / "v.safetensors"), samples, key="k", answers="value")
    assert found[:, 0].tolist() == said.tolist()
    teacher = host(Recorded(name="known", logits_NC=found, answers="value"))
    rows = np.array([5, 2])
    answer = codec.decode(teacher.score(samples, rows, np.array([-1, -1])))
    assert (answer.kind, answer.values_NC[:, 0].tolist()) == ("value", [5.0, 2.0])
    save_file({"ids": samples.ids.copy(), "logits": found.copy()}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="it needs ids and values"):
        load_outputs(str(tmp_path / "w.safetensors"), samples, key="k", answers="value")


def test_a_regressor_must_beat_the_mean():
    truth = torch.linspace(100, 200, 50)
    good = truth[:, None] + 5
    assert check_values("wide", good, truth, Expect()) == pytest.approx(5)
    with pytest.raises(TeacherError, match="no better than always saying their mean"):
        check_values("wide", torch.full((50, 1), 150.0), truth, Expect())
    with pytest.raises(TeacherError, match=r"R² would be 1.000 for 100 · answer"):
        check_values("wide", truth[:, None] / 100, truth, Expect())
    with pytest.raises(TeacherError, match=r"expect.rmse=3"):
        check_values("wide", good, truth, Expect(rmse=3))
    with pytest.raises(TeacherError, match=r"expect.r2=0.999"):
        check_values("wide", good, truth, Expect(r2=0.999))
    assert check_values("wide", -good, truth, Expect(r2=-1e9)) > 100


def test_a_teacher_of_labels_must_order_samples():
    truth = (torch.arange(60)[:, None] % torch.tensor([2, 10]) == 0).long()
    good = 2.0 * truth - 4  # never above one half, and yet in the right order
    assert check_decisions("wide", good.float(), truth, Expect()) == pytest.approx(0.7)
    with pytest.raises(TeacherError, match=r"mean ROC area of 0\.\d+, no better than chance"):
        check_decisions("wide", torch.zeros(60, 2), truth, Expect())
    with pytest.raises(TeacherError, match=r"expect.accuracy=0.9"):
        check_decisions("wide", good.float(), truth, Expect(accuracy=0.9))


REGRESSION = {
    "task": "regression",
    "data": {"source": {"type": "diabetes"}},
    "teachers": [{"name": "wide", "model": "mlp", "fit": {}}],
    "student": {"model": "mlp"},
}
MULTILABEL = {**REGRESSION, "task": "multilabel", "data": {"source": {"type": "digits"}}}


def test_what_a_task_takes_where_the_recipe_says_nothing():
    soft = load_config(REGRESSION).objective.soft_targets
    assert (soft.loss.type, soft.temperature, soft.mixing) == ("mse", 1.0, "values")
    assert load_config(MULTILABEL).objective.soft_targets.loss.type == "bernoulli_kl"
    without = load_config(REGRESSION, ["objective.soft_targets=null"])
    assert without.objective.soft_targets is None
    huber = load_config(REGRESSION, ["objective.soft_targets.loss={type: huber, delta: 0.5}"])
    assert huber.objective.soft_targets.loss.delta == 0.5
    again = load_config(json.loads(huber.model_dump_json()))
    assert again == huber  # a run's config.json is a recipe


@pytest.mark.parametrize(
    ("tree", "override", "message"),
    [
        (REGRESSION, "objective.soft_targets.temperature=4", "soft_targets.temperature: means nothing"),
        (REGRESSION, "objective.soft_targets.loss={type: kl}", "allowed are mse, huber, bounded"),
        (REGRESSION, "objective.weighting={type: entropy}", "allowed are uniform, fixed, inverse_error"),
        (REGRESSION, "train.select=accuracy", "allowed are rmse, mae"),
        (REGRESSION, "train={select: last, early_stopping: {patience_epochs: 3}}", "does nothing with train.select=last.*rmse, mae"),
        (REGRESSION, "objective.labels.smoothing=0.1", "labels.smoothing: means nothing"),
        (REGRESSION, "objective.labels.class_weights=balanced", "class_weights: means nothing"),
        (REGRESSION, "teachers.wide.temperature=fit", "teachers.wide.temperature: means nothing"),
        (REGRESSION, "teachers.wide.fit.label_smoothing=0.1", "wide.fit.label_smoothing: means nothing"),
        (REGRESSION, "teachers.wide.expect={accuracy: 0.5}", "wide.expect: found accuracy"),
        (REGRESSION, "teachers.wide.fit.select=nll", "wide.fit.select: found nll"),
        (MULTILABEL, "objective.soft_targets.loss={type: kl}", "allowed are bernoulli_kl"),
        (MULTILABEL, "objective.labels.loss={type: huber}", "labels.loss.type: found huber"),
        (MULTILABEL, "teachers.wide.expect={r2: 0.5}", "wide.expect: found r2"),
        (MULTILABEL, "task=ranking", "task"),
    ],
)  # fmt: skip
def test_what_a_task_does_not_know_is_refused(tree, override, message):
    with pytest.raises(InputError, match=message):
        load_config(tree, [override])


def test_a_dataset_says_its_task():
    marked = samples_of(marks_data(), data_of(), seed=0)
    assert (marked.task, marked.class_count, marked.scale) == ("multilabel", 3, None)
    assert isinstance(marks_data(), Dataset)
