"""One target for every unit: the label where it is known, else the mixture, sharpened or hard in part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax, xlogy

from raykd.config.objective import Objective
from raykd.config.resolving import is_hard, resolutions, resolved
from raykd.ensemble import calibration_half
from raykd.objective import TeacherInfo, reduce_terms, training_role
from raykd.objective.rule import Validated
from raykd.tasks.classification.rule import RULE

UNITS, CLASSES = 12, 4
REPLACE = {"labels": {"mode": "replace"}, "soft_targets": {"weight": 1.0}}


def with_soft(**soft):
    return {**REPLACE, "soft_targets": {"weight": 1.0, **soft}}


def total(objective, logits, batch, answers):
    terms, _ = objective(logits, {}, batch, answers)
    return reduce_terms(terms, lambda counts: counts, 1).total


@pytest.fixture
def logits(generator):
    return (torch.randn(UNITS, CLASSES, generator=generator) * 2).requires_grad_()


def target_of(answers, temperatures, sharpen, share):
    probs = [
        softmax(answers[n].values_NC.double().numpy() / temperatures.get(n, 1.0), axis=1)
        for n in answers
    ]
    mixed = np.mean(probs, axis=0)
    target = (1 - share) * softmax(np.log(mixed) / sharpen, axis=1)
    target[np.arange(len(target)), mixed.argmax(1)] += share
    return target


@pytest.mark.parametrize(("sharpen", "share"), [(None, 0.0), (0.4, 0.0), (None, 0.3), (2.5, 0.5)])
def test_the_whole_equals_numpy_in_float64(
    make_objective, make_batch, make_answers, logits, sharpen, share
):
    soft = {"sharpen": sharpen, "hard_share": share}
    objective = make_objective(with_soft(**soft), "a", "b", temperatures={"b": 1.5})
    present = torch.ones(UNITS, dtype=torch.bool)
    present[-1] = False
    batch, answers = make_batch(present=present), make_answers("a", "b")
    found = total(objective, logits, batch, answers)
    target = target_of(answers, {"b": 1.5}, sharpen or 1.0, share)
    labels = batch.labels.numpy()
    known = labels >= 0
    target[known] = np.eye(CLASSES)[labels[known]]
    log_q = log_softmax(logits.detach().double().numpy(), axis=1)
    loss = (xlogy(target, target) - target * log_q).sum(1)[present.numpy()]
    assert float(found.detach()) == pytest.approx(loss.mean(), rel=2e-5)


def test_the_gradient_is_that_of_one_cross_entropy(
    make_objective, make_batch, make_answers, logits
):
    objective = make_objective(with_soft(sharpen=0.5, hard_share=0.25), "a", "b")
    batch, answers = make_batch(), make_answers("a", "b")
    total(objective, logits, batch, answers).backward()
    target = target_of(answers, {}, 0.5, 0.25)
    labels = batch.labels.numpy()
    target[labels >= 0] = np.eye(CLASSES)[labels[labels >= 0]]
    expected = (softmax(logits.detach().double().numpy(), axis=1) - target) / UNITS
    assert logits.grad.numpy() == pytest.approx(expected, abs=1e-6)


def test_nothing_is_lost_at_the_target_itself(make_objective, make_batch, make_answers):
    batch = make_batch(labels=[-1] * UNITS)
    answers = make_answers("a", "b")
    objective = make_objective(with_soft(sharpen=0.5), "a", "b")
    target = torch.from_numpy(np.log(target_of(answers, {}, 0.5, 0.0))).float().requires_grad_()
    loss = total(objective, target, batch, answers)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert target.grad.abs().max() < 1e-6


def test_teachers_come_in_any_order(make_objective, make_batch, make_answers, logits):
    batch, answers = make_batch(), make_answers("a", "b")
    soft = with_soft(sharpen=0.3, hard_share=0.5)
    one, other = (
        total(make_objective(soft, *names), logits, batch, answers) for names in ("ab", "ba")
    )
    assert float(one.detach()) == pytest.approx(float(other.detach()), rel=1e-6)


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_all_hard_is_the_hard_control(
    make_objective, make_batch, make_answers, logits, generator, combine
):
    """By its own arithmetic to 1e-6; with no features, phases or disagreement by the control's code."""
    whole = with_soft(hard_share=1.0, combine=combine)
    batch, answers = make_batch(), make_answers("a", "b")
    mixture = make_objective(whole, "a", "b")
    settings = Objective.model_validate(whole)
    hard = training_role("hard", settings, ["a", "b"], "a").objective
    assert is_hard(settings)
    assert training_role("student", settings, ["a", "b"], "a").objective == hard
    if combine == "probabilities":
        control = make_objective(hard.model_dump(by_alias=True), "a", "b")
        values = [total(one, logits, batch, answers) for one in (mixture, control)]
        gradients = [torch.autograd.grad(value, logits)[0] for value in values]
        assert float(values[0].detach()) == pytest.approx(float(values[1].detach()), abs=1e-6)
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"mode": "add"}},
        {"soft_targets": {"weight": 1.0, "hard_share": 0.9}},
        {"soft_targets": {"weight": 0.5, "hard_share": 1.0}},
        {"weighting": {"type": "gradient"}},
        {"features": [{"loss": {"type": "hint"}, "teacher": "a", "student_tap": "s", "teacher_tap": "t"}]},
    ],
)  # fmt: skip
def test_what_is_not_only_hard_labels(change):
    given = {**with_soft(hard_share=1.0), **change}
    assert not is_hard(Objective.model_validate(given))


def test_a_blended_sample_with_an_unknown_part_is_learnt_from_the_ensemble(
    make_objective, make_batch, make_answers, logits
):
    """Sample 0 knows one of its two labels, sample 1 both, sample 2 is whole."""
    labels = [0, 1, 2] + [-1] * (UNITS - 3)
    partners = [-1, 2] + [-1] * (UNITS - 2)
    shares = [0.6, 0.6] + [1.0] * (UNITS - 2)
    batch = make_batch(labels=labels, partners=partners, shares=shares)
    answers = make_answers("a")
    objective = make_objective(REPLACE, "a")
    target = target_of(answers, {}, 1.0, 0.0)
    log_q = log_softmax(logits.detach().double().numpy(), axis=1)
    loss = (xlogy(target, target) - target * log_q).sum(1)
    loss[1] = -0.6 * log_q[1, 1] - 0.4 * log_q[1, 2]
    loss[2] = -log_q[2, 2]
    found = total(objective, logits, batch, answers)
    assert float(found.detach()) == pytest.approx(loss.mean(), rel=2e-5)


class TestFittedSharpening:
    @pytest.fixture
    def validated(self, generator):
        count = 400
        labels = torch.randint(0, CLASSES, (count,), generator=generator)
        answers = {}
        for name in "ab":
            noise = torch.randn(count, CLASSES, generator=generator)
            logits = 1.5 * torch.nn.functional.one_hot(labels, CLASSES) + noise
            answers[name] = logits.log_softmax(1)
        labels[::7] = -1
        infos = [TeacherInfo("a"), TeacherInfo("b", temperature=0.7)]
        return Validated(
            teacher_infos=infos,
            answers=answers,
            labels_N=labels,
            ids_N=torch.arange(count),
            scale=None,
        )

    @pytest.mark.parametrize("weights", [{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 3.0}])
    def test_it_has_the_least_nll_on_its_half(self, validated, weights):
        given = {**with_soft(sharpen="fit"), "weighting": {"type": "fixed", "weights": weights}}
        objective = Objective.model_validate(given)
        facts = RULE.facts(objective, validated)
        rows = (calibration_half(validated.ids_N) & (validated.labels_N >= 0)).numpy()
        labels = validated.labels_N.numpy()[rows]
        mixed = sum(
            w
            / sum(weights.values())
            * softmax(validated.answers[n].double().numpy()[rows] / t, axis=1)
            for (n, w), t in zip(weights.items(), (1.0, 0.7), strict=True)
        )

        def nll(temperature):
            return -log_softmax(np.log(mixed) / temperature, axis=1)[
                np.arange(len(labels)), labels
            ].mean()

        best = minimize_scalar(nll, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8})
        assert facts["sharpen"] == pytest.approx(best.x, rel=1e-4)
        assert facts["sharpen"] < 1, "a mean of teachers is under-confident"
        assert RULE.with_facts(objective, facts).soft_targets.sharpen == facts["sharpen"]

    def test_the_other_half_says_nothing(self, validated):
        objective = Objective.model_validate(with_soft(sharpen="fit"))
        before = RULE.facts(objective, validated)
        validated.labels_N[~calibration_half(validated.ids_N)] = 0
        assert RULE.facts(objective, validated) == before

    def test_without_labels_it_is_1(self, validated):
        validated.labels_N.fill_(-1)
        objective = Objective.model_validate(with_soft(sharpen="fit"))
        assert RULE.facts(objective, validated) == {"sharpen": 1.0}

    def test_a_given_one_needs_no_facts(self, validated):
        objective = Objective.model_validate(with_soft(sharpen=0.5))
        assert RULE.facts(objective, validated) == {}


@pytest.mark.parametrize(
    ("written", "labelled", "mode", "label_weight", "weight", "temperature"),
    [
        ({}, 100, None, 0.1, 0.9, 4.0),
        ({}, 50, None, 0.1, 0.9, 1.0),
        ({}, 49, "replace", None, 1.0, 1.0),
        ({}, 0, "replace", None, 1.0, 1.0),
        ({"labels": {"weight": 0.3}}, 10, None, 0.3, 0.9, 1.0),
        ({"labels": {"mode": "add"}}, 10, None, 0.1, 0.9, 1.0),
        ({"labels": {"fill": "ensemble"}}, 10, None, 0.1, 0.9, 1.0),
        ({"labels": {"mode": "replace"}}, 80, "replace", None, 1.0, 1.0),
        ({"soft_targets": {"temperature": 4.0, "weight": 0.5}}, 10, "replace", None, 0.5, 4.0),
        ({"soft_targets": {"sharpen": "fit"}}, 100, None, 0.1, 0.9, 1.0),
        ({"soft_targets": {"hard_share": 0.5}}, 100, None, 0.1, 0.9, 1.0),
    ],
)  # fmt: skip
def test_what_a_recipe_leaves_to_the_data(
    written, labelled, mode, label_weight, weight, temperature
):
    """At 7d0af11: T = 4 whatever the labels; without any the student lost to hard labels by 1.98 points."""
    objective = Objective.model_validate(written)
    found = resolved(objective, labelled=labelled, samples=100, classes=True)
    assert (found.labels.mode, found.labels.weight) == (mode, label_weight)
    assert (found.soft_targets.weight, found.soft_targets.temperature) == (weight, temperature)
    assert found in resolutions(objective, classes=True)
    assert resolved(found, labelled=labelled, samples=100, classes=True) == found


def test_other_tasks_add_their_labels():
    found = resolved(Objective(), labelled=0, samples=100, classes=False)
    assert (found.labels.mode, found.labels.weight, found.soft_targets.weight) == (None, 0.1, 0.9)
