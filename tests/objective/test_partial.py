"""Teachers that know only some of the classes, against the formula in float64.

T² Σ_k w_k KL(p_k ‖ q^S_k), q^S the student renormalised over the classes S that teacher k knows.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from raykd.config.objective import Objective
from raykd.ensemble import labels_of_known, mean_of_known, mean_probabilities, unknown
from raykd.objective import TeacherInfo
from raykd.objective.distill import DistillObjective
from raykd.objective.terms import NOW
from raykd.targets.codec import decode, encode
from raykd.tasks.classification.rule import RULE
from raykd.types import Batch, Dense

N, C, T = 7, 5, 3.0
KNOWN = {"all": None, "two": (0, 2), "same": (0, 2), "three": (1, 2, 4)}
WEIGHTS = {"all": 0.4, "two": 0.1, "same": 0.2, "three": 0.3}


def answers(seed=0, silent=()):
    """Logits as the codec gives them back: −65504 and less for classes that a teacher does not know."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, known in KNOWN.items():
        logits = torch.randn(N, C, generator=generator) * 3
        if known is not None:
            logits[:, [c for c in range(C) if c not in known]] = -torch.inf
        answer = decode(encode(logits, {}))
        valid = torch.tensor([name not in silent or row % 2 == 0 for row in range(N)])
        values = torch.where(valid[:, None], answer.values_NC, 0.0)
        found[name] = Dense(kind="logits", values_NC=values, valid_N=valid)
    return found


def objective(**soft):
    settings = {
        "labels": {"weight": 0.0},
        "soft_targets": {"temperature": T, **soft},
        "weighting": {"type": "fixed", "weights": WEIGHTS},
    }
    return DistillObjective(
        Objective.model_validate(settings),
        [TeacherInfo(name, known=known) for name, known in KNOWN.items()],
        rule=RULE,
        student_shapes={},
        teacher_shapes={},
    )


def batch(labels=None):
    rows = torch.arange(N)
    labels = torch.full((N,), -1) if labels is None else labels
    return Batch(ids=rows, rows=rows, view_B=torch.zeros(N).long(), inputs={}, labels=labels,
                 present_B=torch.ones(N).bool())  # fmt: skip


def reference(student, targets, loss):
    """Loss of each unit and its gradient, float64, by finite formula."""
    z = student.detach().double().numpy()
    total, slope = np.zeros(N), np.zeros((N, C))
    raw = np.stack([WEIGHTS[name] * targets[name].valid_N.numpy() for name in KNOWN])
    weights = raw / raw.sum(axis=0)
    for weight, (name, known) in zip(weights, KNOWN.items(), strict=True):
        some = list(range(C) if known is None else known)
        p = log_softmax(targets[name].values_NC.double().numpy()[:, some] / T, axis=1)
        q = log_softmax(z[:, some] / T, axis=1)
        if loss == "kl":
            own = (np.exp(p) * (p - q)).sum(axis=1)
            gradient = (np.exp(q) - np.exp(p)) / T
        else:
            own = (np.exp(q) * (q - p)).sum(axis=1)
            gradient = np.exp(q) * (q - p - own[:, None]) / T
        total += weight * T**2 * own
        slope[:, some] += weight[:, None] * T**2 * gradient
    return total, slope


@pytest.mark.parametrize("silent", [(), ("two",), ("all", "three")])
@pytest.mark.parametrize(
    ("loss", "combine"), [("kl", "losses"), ("reverse_kl", "losses"), ("kl", "probabilities")]
)
def test_the_student_is_renormalised_over_what_each_teacher_knows(loss, combine, silent):
    student = torch.randn(N, C, generator=torch.Generator().manual_seed(9), requires_grad=True)
    targets = answers(silent=silent)
    terms, weights_TN = objective(loss={"type": loss}, combine=combine)(
        student, {}, batch(), targets
    )
    found_N = terms["soft_targets"].loss_N
    (gradient,) = torch.autograd.grad(found_N.sum(), student)
    wanted, slope = reference(student, targets, loss)
    np.testing.assert_allclose(gradient, slope, atol=2e-5)
    torch.testing.assert_close(weights_TN.sum(0), torch.ones(N))
    if combine == "losses":
        np.testing.assert_allclose(found_N.detach(), wanted, rtol=1e-4, atol=1e-5)
    else:  # less by how far teachers of the same classes disagree, which no student changes
        assert (found_N.detach().numpy() <= wanted + 1e-5).all()


def test_what_a_student_says_of_other_classes_is_left_to_it():
    """No teacher knows class 3 but `all`; without it, its logit has no gradient at all."""
    targets = {name: answer for name, answer in answers().items() if name == "three"}
    teacher_infos = [TeacherInfo("three", known=KNOWN["three"])]
    settings = Objective.model_validate(
        {"labels": {"weight": 0}, "soft_targets": {"temperature": T}}
    )
    alone = DistillObjective(
        settings, teacher_infos, rule=RULE, student_shapes={}, teacher_shapes={}
    )
    student = torch.zeros(N, C)
    student[:, [1, 2, 4]] = targets["three"].values_NC[:, [1, 2, 4]]
    student[:, [0, 3]] = 50.0
    student.requires_grad_()
    loss_N = alone(student, {}, batch(), targets)[0]["soft_targets"].loss_N
    (gradient,) = torch.autograd.grad(loss_N.sum(), student)
    torch.testing.assert_close(loss_N, torch.zeros(N), atol=1e-4, rtol=0)
    torch.testing.assert_close(gradient, torch.zeros(N, C), atol=1e-5, rtol=0)


def test_teachers_that_know_all_are_heard_as_before():
    """The same bits with and without a word of what they know."""
    student = torch.randn(N, C, generator=torch.Generator().manual_seed(9))
    targets = {"all": answers()["all"]}
    settings = Objective.model_validate({"soft_targets": {"temperature": T}})
    plain, told = (
        DistillObjective(settings, [teacher], rule=RULE, student_shapes={}, teacher_shapes={})
        for teacher in (TeacherInfo("all"), TeacherInfo("all", known=tuple(range(C))))
    )
    one, other = (o(student, {}, batch(), targets)[0]["soft_targets"].loss_N for o in (plain, told))
    torch.testing.assert_close(one, other)


def test_unknown_classes_survive_the_codec():
    for name, answer in answers().items():
        known = KNOWN[name] or range(C)
        assert unknown(answer.values_NC).tolist() == [c not in known for c in range(C)]
        labels = torch.tensor([0, 1, 2, 3, 4, -1, 2])
        wanted = [label if label in known else -1 for label in labels.tolist()]
        assert labels_of_known(answer.values_NC, labels).tolist() == wanted


def test_the_ensemble_hears_of_each_class_those_who_know_it():
    targets = answers()
    logits_TNC = torch.stack([targets[name].values_NC for name in KNOWN])
    weights_TN = torch.tensor(list(WEIGHTS.values()))[:, None].expand(-1, N)
    said, heard = np.zeros((N, C)), np.zeros(C)
    for name, known in KNOWN.items():
        some = list(known or range(C))
        values = targets[name].values_NC.double().numpy()[:, some]
        said[:, some] += WEIGHTS[name] * np.exp(log_softmax(values, axis=1))
        heard[some] += WEIGHTS[name]
    wanted = said / heard
    wanted /= wanted.sum(axis=1, keepdims=True)
    found = mean_of_known(logits_TNC, weights_TN)
    np.testing.assert_allclose(found.exp(), wanted, rtol=1e-4, atol=1e-6)
    nobody = mean_of_known(logits_TNC[1:3], weights_TN[1:3] / 0.3)
    assert torch.isfinite(nobody).all(), "also of classes that nobody knows"
    full = logits_TNC[:1].expand(2, -1, -1)
    assert torch.equal(mean_of_known(full, torch.full((2, N), 0.5)),
                       mean_probabilities(full, torch.full((2, N), 0.5)))  # fmt: skip


def test_the_ensemble_s_guess_for_unlabelled_samples():
    """`three` alone knows class 4 for certain; the others say nothing against it."""
    targets = answers()
    sure = torch.full((N, C), -1e5)
    sure[:, [1, 2, 4]] = torch.tensor([0.0, 0.0, 20.0])
    flat = {"all": torch.zeros(N, C)}
    for name in ("two", "same"):
        flat[name] = torch.full((N, C), -1e5).index_fill_(1, torch.tensor([0, 2]), 0.0)
    values = {**flat, "three": sure}
    targets = {name: Dense(kind="logits", values_NC=values[name], valid_N=torch.ones(N).bool())
               for name in KNOWN}  # fmt: skip
    student = torch.zeros(N, C, requires_grad=True)
    taught = objective()
    weights = torch.tensor(list(WEIGHTS.values()))[:, None].expand(-1, N)
    teacher_batch = taught._batch(student, batch(), targets, 1.0, NOW)
    assert taught.rule.pseudo_labels(teacher_batch, weights).tolist() == [4] * N
    (sums,) = taught.ensemble_sums([weights], [targets])
    assert sums[-2:].tolist() == [0, 0], "teachers of other classes are not compared"
    del student
