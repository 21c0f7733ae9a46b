"""What a student of values or of labels is taught, against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from raykd.config.objective import Labels, Objective, SoftTargets
from raykd.ensemble.binary import mean_label_probabilities
from raykd.losses.binary import bernoulli_kl, two_class
from raykd.objective import DistillObjective, TeacherInfo
from raykd.tasks import find_task
from raykd.types import Batch, Dense, Mixed, Scale

SCALE = Scale(mean=150.0, std=50.0)


def batch_of(labels: Tensor, mixed: Mixed | None = None) -> Batch:
    count = len(labels)
    return Batch(
        ids=torch.arange(count),
        rows=torch.arange(count),
        view_B=torch.full((count,), -1),
        inputs={"inputs": torch.zeros(count, 2)},
        labels=labels,
        present_B=torch.ones(count, dtype=torch.bool),
        mixed=mixed,
    )


def answers(kind: str, *values: Tensor) -> dict[str, Dense]:
    valid = torch.ones(len(values[0]), dtype=torch.bool)
    return {f"t{i}": Dense(kind=kind, values_NC=one, valid_N=valid) for i, one in enumerate(values)}


def objective(task: str, settings: dict, teachers: int = 2, facts=None, **given):
    teacher_infos = [TeacherInfo(f"t{i}", error=float(i + 1)) for i in range(teachers)]
    rule = find_task(task).rule
    return DistillObjective(
        rule.with_facts(Objective.model_validate(settings), facts or {}),
        teacher_infos,
        rule=rule,
        student_shapes={},
        teacher_shapes={},
        **given,
    )


def reduced(term) -> float:
    counted = term.valid_N.double()
    loss = term.loss_N.detach().double()
    return float((torch.where(counted > 0, loss, 0.0) * counted).sum() / counted.sum())


@pytest.fixture
def values() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = 150 + 50 * torch.randn(12, generator=generator)
    labels = truth.clone()
    labels[::3] = torch.nan
    noise = [30 * torch.randn(12, 1, generator=generator) for _ in range(3)]
    one, other, student = (truth[:, None] + part for part in noise)
    return {"labels": labels, "one": one, "other": other, "student": student.requires_grad_()}


def run_values(values: dict[str, Tensor], settings: dict, **given):
    taught = objective("regression", settings, scale=SCALE, **given)
    targets = answers("value", values["one"], values["other"])
    return taught(values["student"], {}, batch_of(values["labels"]), targets)


def test_labels_and_soft_targets_of_values_are_squared_errors_in_deviations(values):
    terms, weights_TN = run_values(
        values, {"soft_targets": {"loss": {"type": "mse"}, "temperature": 1.0}}
    )
    student = values["student"].detach().double().numpy()[:, 0]
    labels = values["labels"].double().numpy()
    mean = (values["one"] + values["other"]).double().numpy()[:, 0] / 2
    assert reduced(terms["labels"]) == pytest.approx(
        np.nanmean((student - labels) ** 2) / 2500, rel=1e-5
    )
    assert reduced(terms["soft_targets"]) == pytest.approx(
        np.mean((student - mean) ** 2) / 2500, rel=1e-5
    )
    assert weights_TN.sum(dim=0).tolist() == [1.0] * 12
    assert all(term.loss_N.isfinite().all() for term in terms.values())
    sum(term.loss_N.sum() for term in terms.values()).backward()
    assert values["student"].grad.isfinite().all()
    assert (values["student"].grad != 0).all()


def test_the_unit_of_the_target_changes_nothing(values):
    settings = {"soft_targets": {"loss": {"type": "huber"}, "temperature": 1.0}}
    terms, _ = run_values(values, settings)
    in_grams = {name: one.detach() * 1000 for name, one in values.items()}
    taught = objective("regression", settings, scale=Scale(mean=150_000.0, std=50_000.0))
    again, _ = taught(
        in_grams["student"], {}, batch_of(in_grams["labels"]),
        answers("value", in_grams["one"], in_grams["other"]),
    )  # fmt: skip
    for name, term in terms.items():
        assert reduced(again[name]) == pytest.approx(reduced(term), rel=1e-4)


def test_inverse_error_weights(values):
    settings = {"soft_targets": {"loss": {"type": "mse"}}, "weighting": {"type": "inverse_error"}}
    _, weights_TN = run_values(values, settings)
    torch.testing.assert_close(weights_TN[:, 0], torch.tensor([2 / 3, 1 / 3]))


def test_bounded_counts_labelled_samples_only(values):
    terms, _ = run_values(values, {"soft_targets": {"loss": {"type": "bounded"}}})
    term = terms["soft_targets"]
    assert (term.valid_N > 0).tolist() == (~values["labels"].isnan()).tolist()
    standard = lambda x: (x.double() - 150) / 50  # noqa: E731
    mean = standard((values["one"] + values["other"])[:, 0] / 2)
    student, labels = standard(values["student"].detach()[:, 0]), standard(values["labels"])
    active = (student - labels) ** 2 > (mean - labels) ** 2
    expected = torch.where(active, (student - labels) ** 2, 0.0)[~labels.isnan()].mean()
    assert reduced(term) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("loss", ["bounded", "imitation"])
def test_of_blended_samples_the_blended_label_counts(values, loss):
    """As if the label had been blended before, at any share; without one of both there is none."""
    share_B = torch.linspace(0.4, 1.0, 12)
    partners = values["labels"].roll(1)
    blended = share_B * values["labels"] + (1 - share_B) * partners
    blended[-1] = values["labels"][-1]  # share 1: nothing of another
    settings = {"soft_targets": {"loss": {"type": loss}}, "labels": {"weight": 0.0}}
    taught = objective("regression", settings, scale=SCALE, facts={"error_range": 2.0})
    targets, mixed = (
        answers("value", values["one"], values["other"]),
        Mixed(partner_labels_B=partners, share_B=share_B),
    )
    found, wanted = (
        taught(values["student"], {}, batch, targets)[0]["soft_targets"]
        for batch in (batch_of(values["labels"], mixed), batch_of(blended))
    )
    assert (found.valid_N == wanted.valid_N).all()
    assert reduced(found) == pytest.approx(reduced(wanted), rel=1e-6)


def test_imitation_measures_by_the_given_range(values):
    given, _ = run_values(
        values, {"soft_targets": {"loss": {"type": "imitation", "error_range": 2.0}}}
    )
    told, _ = run_values(
        values, {"soft_targets": {"loss": {"type": "imitation"}}}, facts={"error_range": 2.0}
    )
    assert reduced(given["soft_targets"]) == reduced(told["soft_targets"])
    wide, _ = run_values(
        values, {"soft_targets": {"loss": {"type": "imitation"}}}, facts={"error_range": 1e9}
    )
    assert reduced(wide["soft_targets"]) > reduced(told["soft_targets"])


def test_unlabelled_values_take_the_ensembles_mean_where_asked(values):
    settings = {"labels": {"fill": "ensemble", "weight": 1.0}, "soft_targets": None}
    terms, _ = run_values(values, settings)
    assert (terms["labels"].valid_N == 1).all()
    mean = (values["one"] + values["other"])[:, 0] / 2
    known = torch.where(values["labels"].isnan(), mean, values["labels"])
    expected = ((values["student"].detach()[:, 0] - known) / 50).square().mean()
    assert reduced(terms["labels"]) == pytest.approx(float(expected), rel=1e-5)


def test_blended_values(values):
    labels = values["labels"].nan_to_num(150.0)
    share = torch.linspace(0.5, 1.0, 12)
    mixed = Mixed(partner_labels_B=labels.flip(0), share_B=share)
    taught = objective("regression", {"soft_targets": None}, teachers=0, scale=SCALE)
    terms, _ = taught(values["student"], {}, batch_of(labels, mixed), {})
    error = lambda y: ((values["student"].detach()[:, 0] - y) / 50).square()  # noqa: E731
    expected = share * error(labels) + (1 - share) * error(labels.flip(0))
    torch.testing.assert_close(terms["labels"].loss_N.detach(), expected)


def test_huber_labels(values):
    settings = {"labels": {"loss": {"type": "huber", "delta": 0.1}}, "soft_targets": None}
    terms, _ = run_values(values, settings)
    plain, _ = run_values(values, {"soft_targets": None})
    assert reduced(terms["labels"]) < reduced(plain["labels"])


@pytest.fixture
def marks() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(10, 4, generator=generator) < 0.5).long()
    labels[::4] = -1
    one, other, student = (3 * torch.randn(10, 4, generator=generator) for _ in range(3))
    return {"labels": labels, "one": one, "other": other, "student": student.requires_grad_()}


def run_marks(marks: dict[str, Tensor], settings: dict):
    taught = objective("multilabel", settings)
    targets = answers("label_logits", marks["one"], marks["other"])
    return taught(marks["student"], {}, batch_of(marks["labels"]), targets)


def bernoulli(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def sigmoid(logits: Tensor, temperature: float = 1.0) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.detach().double().numpy() / temperature))


def test_labels_are_binary_cross_entropies_and_soft_targets_bernoulli_kl(marks):
    soft = {"loss": {"type": "bernoulli_kl"}, "temperature": 3.0}
    terms, _ = run_marks(marks, {"soft_targets": soft})
    known = (marks["labels"][:, 0] >= 0).numpy()
    truth, q = marks["labels"].numpy()[known], sigmoid(marks["student"])[known]
    nll = -(truth * np.log(q) + (1 - truth) * np.log(1 - q)).mean()
    assert reduced(terms["labels"]) == pytest.approx(nll, rel=1e-5)
    mean = (sigmoid(marks["one"], 3.0) + sigmoid(marks["other"], 3.0)) / 2
    kl = 9 * bernoulli(mean, sigmoid(marks["student"], 3.0)).mean()
    assert reduced(terms["soft_targets"]) == pytest.approx(kl, rel=1e-4)
    sum(term.loss_N.sum() for term in terms.values()).backward()
    assert (marks["student"].grad != 0).all()


def test_logits_of_labels_can_be_mixed_too(marks):
    soft = {"loss": {"type": "bernoulli_kl"}, "temperature": 1.0, "combine": "logits"}
    terms, _ = run_marks(marks, {"soft_targets": soft})
    mean = sigmoid((marks["one"] + marks["other"]) / 2)
    kl = bernoulli(mean, sigmoid(marks["student"])).mean()
    assert reduced(terms["soft_targets"]) == pytest.approx(kl, rel=1e-4)


def test_unlabelled_marks_take_the_ensembles_where_asked(marks):
    settings = {"labels": {"fill": "ensemble", "smoothing": 0.1}, "soft_targets": None}
    terms, _ = run_marks(marks, settings)
    assert (terms["labels"].valid_N == 1).all()
    assert terms["labels"].loss_N.isfinite().all()


def test_bernoulli_kl_is_finite_and_zero_at_the_teacher():
    extreme = torch.tensor([[200.0, -200.0, 0.0]], dtype=torch.float64)
    assert bernoulli_kl(extreme, extreme, temperature=2.0).abs().max() < 1e-12
    student = (-extreme).requires_grad_()
    loss = bernoulli_kl(student, extreme, temperature=1.0)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert student.grad.isfinite().all()
    assert torch.autograd.gradcheck(
        lambda s: bernoulli_kl(s, extreme / 100, temperature=2.0),
        (torch.randn(1, 3).double().requires_grad_(),),
    )
    torch.testing.assert_close(two_class(extreme).softmax(dim=-1)[..., 0], extreme.sigmoid())


def test_the_order_of_teachers_does_not_matter():
    logits = 5 * torch.randn(3, 6, 2, dtype=torch.float64)
    weights = torch.rand(3, 6, dtype=torch.float64)
    weights /= weights.sum(dim=0)
    found = mean_label_probabilities(logits, weights)
    torch.testing.assert_close(found, mean_label_probabilities(logits.flip(0), weights.flip(0)))
    expected = (logits.sigmoid() * weights[:, :, None]).sum(dim=0)
    torch.testing.assert_close(found.sigmoid(), expected)


def test_the_defaults_are_those_of_classification():
    assert Labels().loss is None
    assert SoftTargets().loss.type == "kl"
