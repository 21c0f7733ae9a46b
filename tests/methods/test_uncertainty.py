"""Weights of the feature terms that are learnt with the student: the published value, the gradient, where they go."""

from __future__ import annotations

import pytest
import torch

from raykd.config import load_config
from raykd.config.objective import Objective
from raykd.errors import InputError
from raykd.objective import DistillObjective, TeacherInfo, reduce_terms
from raykd.objective.terms import Term
from raykd.objective.uncertainty import UncertaintyWeighting
from raykd.tasks.classification.rule import RULE

LOSSES = torch.tensor([1.0, 0.2, 5.0], dtype=torch.float64)
LOG_VARIANCES = torch.tensor([0.0, -1.0, 0.7], dtype=torch.float64)
EXPECTED = 1.8632914423244282
"""Of the reference values for these, in float64, from the formula and not from this code: `uncertainty_weighting`."""
STUDENT_SHAPES = {"map": (3, 6, 6), "vector": (7,)}
TEACHER_SHAPES = {"map": (4, 3, 3), "vector": (9,)}


def weighted(losses, log_variance_F, units=4):
    module = UncertaintyWeighting(len(losses)).double()
    module.log_variance_F.data = log_variance_F.clone()
    ones = torch.ones(units)
    terms = {f"features.{i}": Term(loss * ones.double(), ones, 1.0) for i, loss in enumerate(losses)}  # fmt: skip
    return module, reduce_terms(module(terms), lambda counts: counts, 1).total


def test_the_reference_value_and_its_gradient():
    losses, log_variance_F = LOSSES.clone().requires_grad_(), LOG_VARIANCES
    module, total = weighted(losses, log_variance_F)
    assert float(total.detach()) == pytest.approx(EXPECTED, rel=1e-9)
    total.backward()
    precision_F = torch.exp(-log_variance_F)
    torch.testing.assert_close(losses.grad, 0.5 * precision_F)
    torch.testing.assert_close(
        module.log_variance_F.grad, 0.5 - 0.5 * precision_F * losses.detach()
    )


def test_at_the_log_of_the_loss_terms_of_any_scale_pull_alike():
    losses = torch.tensor([1e-3, 1.0, 500.0], dtype=torch.float64, requires_grad=True)
    module, total = weighted(losses, losses.detach().log())
    total.backward()
    torch.testing.assert_close(module.log_variance_F.grad, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)  # fmt: skip
    torch.testing.assert_close(losses.grad * losses.detach(), torch.full_like(losses, 0.5).detach())


def objective_of(weight=1.0):
    torch.manual_seed(0)
    terms = [
        {"loss": {"type": "hint"}, "teacher": name, "student_tap": tap, "teacher_tap": tap, "weight": weight}
        for name, tap in (("a", "map"), ("b", "vector"))
    ]  # fmt: skip
    return DistillObjective(
        Objective.model_validate({"features": terms, "soft_targets": None, "feature_weighting": "uncertainty"}),
        [TeacherInfo("a"), TeacherInfo("b")],
        rule=RULE,
        student_shapes=STUDENT_SHAPES,
        teacher_shapes={(n, tap): s for n in "ab" for tap, s in TEACHER_SHAPES.items()},
    )  # fmt: skip


def test_it_is_part_of_the_objective(make_batch, make_answers, make_student):
    objective = objective_of(weight=3.0)
    logits, features = make_student()
    batch, targets = make_batch(), make_answers("a", "b")
    terms, _ = objective(logits, features, batch, targets)
    plain = objective.uncertainty
    objective.uncertainty = None
    bare, _ = objective(logits, features, batch, targets)
    objective.uncertainty = plain
    for index, s in enumerate([0.0, 0.0]):
        name = f"features.{index}"
        torch.testing.assert_close(terms[name].loss_N, 0.5 * bare[name].loss_N + 0.5 * s)
        assert terms[name].weight == 3.0
    assert "uncertainty.log_variance_F" in objective.state_dict(), "a resume goes on with them"
    total = reduce_terms(terms, lambda counts: counts, 1).total
    total.backward()
    assert (objective.uncertainty.log_variance_F.grad != 0).all()
    alone = DistillObjective(Objective.model_validate({"soft_targets": None, "feature_weighting": "uncertainty"}), [], rule=RULE,
                             student_shapes={}, teacher_shapes={})  # fmt: skip
    assert alone.uncertainty is None, "a control without feature terms has none"


def recipe(tiny_recipe, **term):
    tap = {"teacher": "conv", "student_tap": "blocks.0", "teacher_tap": "blocks.0", **term}
    return {**tiny_recipe, "objective": {"feature_weighting": "uncertainty", "features": [tap]}}


def test_recipes(tiny_recipe):
    found = load_config(recipe(tiny_recipe, loss={"type": "hint"}, weight=1.0)).objective
    assert found.feature_weighting == "uncertainty"
    for changed, key in (
        (recipe(tiny_recipe, loss={"type": "hint"}), "objective.features.0.weight"),
        (recipe(tiny_recipe, loss={"type": "vid"}, weight=1.0), "objective.features.0.loss"),
        ({**tiny_recipe, "objective": {"feature_weighting": "uncertainty"}}, "objective.feature_weighting"),
    ):  # fmt: skip
        with pytest.raises(InputError) as caught:
            load_config(changed)
        assert key in [problem.key for problem in caught.value.problems]
