"""Every loss, weighting and way to combine, through the whole objective."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax
from torch import nn

from raykd.config.objective import Objective
from raykd.losses import LOSSES
from raykd.methods import WEIGHTING_ROWS
from raykd.objective import (
    Context,
    TeacherInfo,
    ensemble_rows,
    ensemble_values,
    reduce_terms,
    training_role,
)
from raykd.types import Mixed

UNITS, CLASSES = 8, 5
SOFT = (
    "kl",
    "reverse_kl",
    "js",
    "skew_kl",
    "mse",
    "dkd",
    "dist",
    "mlkd_class",
    "mlkd_batch",
    "uld",
)
POOLED = ("ttm", "wttm", "nkd")
PROJECTED = ("hint", "vid", "cosine", "smooth_l1", "cosine_smooth_l1", "itrd", "cwd", "pkd")
TAPS = {
    "hint": ("map", "map"), "vid": ("map", "map"), "cosine": ("tokens", "tokens"),
    "smooth_l1": ("vector", "vector"), "cosine_smooth_l1": ("tokens", "tokens"), "attention": ("map", "map"), "nst": ("tokens", "tokens"),
    "attention_matrix": ("heads", "heads"), "fsp": (["map", "wide"], ["same", "wide"]),
    "similarity": ("map", "vector"), "rkd_distance": ("vector", "map"), "rkd_angle": ("vector", "vector"),
    "pkt": ("vector", "vector"), "itrd": ("vector", "vector"), "itrd_mutual": ("vector", "vector"),
    "cwd": ("map", "map"), "pkd": ("map", "map"), "token_similarity": ("tokens", "tokens"),
}  # fmt: skip
VOICES = (
    TeacherInfo("a", 1.0, 0.3, 0.9, stacked=0.5),
    TeacherInfo("b", 1.5, 0.6, 0.7, stacked=0.2),
    TeacherInfo("c", 1.0, 0.9, 0.5, stacked=0.3),
)
WEIGHTINGS = [name for name, row in WEIGHTING_ROWS.items() if row.for_all_tasks]
WEIGHTING = {
    "uniform": {}, "fixed": {"weights": {"a": 1, "b": 2, "c": 5}}, "accuracy": {"power": 2},
    "inverse_error": {}, "entropy": {}, "confidence": {"unlabelled": "ensemble_argmax"},
    "stacking": {}, "gradient": {}, "agreement": {}, "sample": {}, "drop": {},
}  # fmt: skip


def one(terms, name):
    return reduce_terms({name: terms[name]}, lambda counts: counts, 1).total


def feature(name, **given):
    student, teacher = TAPS[name]
    return {
        "loss": {"type": name},
        "teacher": "a",
        "student_tap": student,
        "teacher_tap": teacher,
        **given,
    }


def f64(tensor):
    return tensor.detach().numpy().astype(np.float64)


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("name", SOFT)
def test_a_logit_loss_moves_the_student_and_no_teacher(
    make_objective, make_batch, make_answers, make_student, name, standardise
):
    loss = {"type": name, "standardise": standardise}
    objective = make_objective({"soft_targets": {"loss": loss}}, "a", "b")
    answers = make_answers("a", "b", silent={"b": torch.arange(UNITS) == 2})
    answers["b"].values_NC[2] = torch.nan
    answers["a"].values_NC.requires_grad_()
    logits, _ = make_student()
    terms, _ = objective(logits, {}, make_batch(), answers)
    total = one(terms, "soft_targets")
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0
    assert answers["a"].values_NC.grad is None


@pytest.mark.parametrize("name", TAPS)
def test_a_feature_loss_moves_the_student_and_its_own_parts(
    make_objective, make_batch, make_answers, make_student, name
):
    objective = make_objective({"features": [feature(name)]}, "a", "b")
    logits, features = make_student()
    terms, _ = objective(logits, features, make_batch(), make_answers("a", "b"))
    one(terms, "features.0").backward()
    for tap in np.atleast_1d(TAPS[name][0]):
        assert torch.isfinite(features[str(tap)].grad).all()
        assert features[str(tap)].grad.abs().sum() > 0
    own = list(objective.parameters())
    assert bool(own) == (name in PROJECTED)
    assert all(p.grad.abs().sum() > 0 for p in own)


@pytest.mark.parametrize("name", POOLED)
def test_several_teachers_are_mixed_before_the_power(
    make_objective, make_batch, make_answers, make_student, name
):
    """γ comes after pooling; a single teacher gives the loss itself, whatever the way to combine."""
    batch, (logits, _) = make_batch(), make_student()
    answers = make_answers("a", "b", silent={"b": torch.arange(UNITS) == 2})
    terms, _ = make_objective(
        {"soft_targets": {"loss": {"type": name}, "temperature": 1.0}}, "a", "b"
    )(logits, {}, batch, answers)
    weights = torch.stack([a.valid_N.double() for a in answers.values()])
    probs = torch.stack([a.values_NC.double().softmax(1) for a in answers.values()])
    pooled = ((weights / weights.sum(0))[..., None] * probs).sum(0).log()
    knobs = {"labels": batch.labels} if name == "nkd" else {}
    expected = LOSSES[name](logits.double(), pooled, **knobs)
    torch.testing.assert_close(terms["soft_targets"].loss_N, expected.float(), rtol=1e-4, atol=1e-5)
    one_each = []
    for combine in ("probabilities_then_temper", "logits", "losses"):
        soft = {"loss": {"type": name}, "temperature": 1.0, "combine": combine}
        alone, _ = make_objective({"soft_targets": soft}, "a")(logits, {}, batch, answers)
        one_each.append(alone["soft_targets"].loss_N)
    for other in one_each[1:]:
        torch.testing.assert_close(other, one_each[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mlkd_batch", "itrd", "itrd_mutual", "pkd"])
def test_losses_of_a_batch_compare_the_samples_that_count_and_no_others(
    make_objective, make_batch, make_answers, make_student, name
):
    """Of those that do not, nothing reaches the value: published masks only make the mean smaller."""
    of_logits = name == "mlkd_batch"
    settings = (
        {"soft_targets": {"loss": {"type": name}}} if of_logits else {"features": [feature(name)]}
    )
    key = "soft_targets" if of_logits else "features.0"
    silent = {"a": torch.arange(UNITS) >= 5}
    objective, batch, answers = (
        make_objective(settings, "a"),
        make_batch(),
        make_answers("a", silent=silent),
    )
    logits, features = make_student()
    found = []
    for noise in (0.0, 50.0):
        moved = torch.where(torch.arange(UNITS) >= 5, noise, 0.0)
        shifted = {k: f + moved.view(-1, *[1] * (f.ndim - 1)) * f for k, f in features.items()}
        terms, _ = objective(logits + moved[:, None] * logits, shifted, batch, answers)
        found.append(one(terms, key))
    torch.testing.assert_close(found[0], found[1])
    assert found[0].isfinite()


def test_an_orthogonal_projector_and_a_normalised_target(
    make_objective, make_batch, make_answers, make_student
):
    loss = {"type": "smooth_l1", "standardise": False}
    for taps in (("map", "map"), ("tokens", "tokens"), ("vector", "vector")):
        settings = {"features": [{"loss": loss, "teacher": "a", "student_tap": taps[0], "teacher_tap": taps[1],
                                  "projector": "orthogonal", "target": "layer_norm"}]}  # fmt: skip
        objective, answers = make_objective(settings, "a"), make_answers("a")
        logits, features = make_student()
        terms, _ = objective(logits, features, make_batch(), answers)
        (projector,) = objective.projectors
        target = answers["a"].features[taps[1]]
        channels = 1 if target.ndim == 4 else -1
        mean = target.mean(channels, keepdim=True)
        spread = (target.var(channels, unbiased=False, keepdim=True) + 1e-5).sqrt()
        expected = LOSSES["smooth_l1"](projector(features[taps[0]]), (target - mean) / spread)
        torch.testing.assert_close(terms["features.0"].loss_N, expected, rtol=1e-4, atol=1e-5)
        one(terms, "features.0").backward()
        assert all(p.grad.abs().sum() > 0 for p in objective.parameters())


@pytest.mark.parametrize(
    "settings",
    [*({"soft_targets": {"loss": {"type": name}}} for name in (*SOFT, *POOLED)),
     *({"soft_targets": None, "labels": {"weight": 0}, "features": [feature(name)]} for name in TAPS),
     *({"weighting": {"type": name, **knobs}} for name, knobs in WEIGHTING.items())],
    ids=str,
)  # fmt: skip
def test_two_steps_of_training(make_objective, make_batch, make_answers, make_student, settings):
    objective = make_objective(settings, *VOICES)
    logits, features = make_student()
    parameters = nn.ParameterList([logits.detach(), *(f.detach() for f in features.values())])
    answers, batch = make_answers("a", "b", "c"), make_batch()
    before = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.SGD([*parameters, *objective.parameters()], lr=1e-3)
    for step in range(2):
        tapped = dict(zip(features, parameters[1:], strict=True))
        terms, _ = objective(parameters[0], tapped, batch, answers, Context(epoch=step, seed=step))
        optimizer.zero_grad()
        reduce_terms(terms, lambda counts: counts, 1).total.backward()
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in [*parameters, *objective.parameters()])
    assert any(not torch.equal(p, q) for p, q in zip(parameters, before, strict=True))


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weights_sum_to_one_over_the_teachers_that_answered(
    make_objective, make_batch, make_answers, make_student, name
):
    settings = {"weighting": {"type": name, **WEIGHTING[name]}}
    silent = {
        "b": torch.arange(UNITS) < 3,
        "a": torch.arange(UNITS) == 0,
        "c": torch.arange(UNITS) == 0,
    }
    logits, _ = make_student()
    answers = make_answers("a", "b", "c", silent=silent)
    terms, weights = make_objective(settings, *VOICES)(logits, {}, make_batch(), answers)
    assert set(WEIGHTING) == set(WEIGHTINGS)
    torch.testing.assert_close(
        weights.sum(dim=0), torch.ones(UNITS).index_fill(0, torch.tensor(0), 0)
    )
    assert (weights >= 0).all()
    assert not weights[1, :3].any()
    assert not terms["soft_targets"].valid_N[0]
    assert torch.isfinite(reduce_terms(terms, lambda c: c, 1).total)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_one_teacher_has_all_the_weight(
    make_objective, make_batch, make_answers, make_student, name
):
    settings = {"weighting": {"type": name, **WEIGHTING[name]}}
    logits, _ = make_student()
    answers, batch = make_answers("a"), make_batch()
    terms, weights = make_objective(settings, VOICES[0])(logits, {}, batch, answers)
    assert torch.equal(weights, torch.ones(1, UNITS))
    plain, _ = make_objective({}, "a")(logits, {}, batch, answers)
    torch.testing.assert_close(terms["soft_targets"].loss_N, plain["soft_targets"].loss_N)


def standard(z):
    return (z - z.mean(-1, keepdims=True)) / (1e-7 + z.std(-1, keepdims=True, ddof=1))


def kl(p, q):
    """From log probabilities."""
    return (np.exp(p) * (p - q)).sum(-1)


def reference(combine, z, teachers, weights, temperature):
    """KL by each way to combine, in float64; teachers carry their own temperatures already."""
    log_q = log_softmax(z / temperature, axis=-1)
    log_w = np.log(weights)[:, :, None]
    if combine == "probabilities":
        target = logsumexp(log_w + log_softmax(teachers / temperature, axis=-1), axis=0)
    elif combine == "probabilities_then_temper":
        target = log_softmax(
            logsumexp(log_w + log_softmax(teachers, axis=-1), axis=0) / temperature, axis=-1
        )
    elif combine == "logits":
        target = log_softmax((weights[:, :, None] * teachers).sum(0) / temperature, axis=-1)
    else:
        own = np.stack([kl(log_softmax(t / temperature, axis=-1), log_q) for t in teachers])
        return temperature**2 * (weights * own).sum(0)
    return temperature**2 * kl(target, log_q)


@pytest.mark.parametrize(
    ("combine", "standardise"),
    [("probabilities", False), ("probabilities", True), ("logits", False), ("logits", True),
     ("losses", False), ("losses", True), ("probabilities_then_temper", False)],
)  # fmt: skip
def test_kl_by_each_way_to_combine_equals_numpy(
    make_objective, make_batch, make_answers, make_student, combine, standardise
):
    settings = {
        "soft_targets": {
            "loss": {"type": "kl", "standardise": standardise}, "combine": combine, "temperature": 3.0,
        },
        "weighting": {"type": "fixed", "weights": {"a": 1, "b": 2, "c": 5}},
    }  # fmt: skip
    logits, _ = make_student()
    logits = logits.detach().double()
    answers = {
        n: replace(a, values_NC=a.values_NC.double()) for n, a in make_answers(*"abc").items()
    }
    terms, _ = make_objective(settings, *VOICES)(logits, {}, make_batch(), answers)
    scale = standard if standardise else np.asarray
    teachers = np.stack([scale(f64(answers[v.name].values_NC) / v.temperature) for v in VOICES])
    weights = np.repeat(np.array([[1], [2], [5]]) / 8, UNITS, axis=1)
    expected = reference(combine, scale(f64(logits)), teachers, weights, 3.0)
    # The objective's own temperatures are float32.
    np.testing.assert_allclose(terms["soft_targets"].loss_N.numpy(), expected, rtol=1e-6)


def test_added_kl_has_the_gradient_of_kl_to_the_mean(
    make_objective, make_batch, make_answers, make_student
):
    gradients = []
    logits, _ = make_student()
    batch, answers = make_batch(), make_answers("a", "b")
    for loss, ways in (("kl", ("probabilities", "losses")), ("reverse_kl", ("logits", "losses")),
                       ("mse", ("logits", "losses"))):  # fmt: skip
        found = []
        for combine in ways:
            settings = {"soft_targets": {"loss": {"type": loss}, "combine": combine}}
            terms, _ = make_objective(settings, "a", "b")(logits, {}, batch, answers)
            found.append(torch.autograd.grad(one(terms, "soft_targets"), logits)[0])
        gradients.append(found)
    for first, second in gradients:
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_dkd_of_an_unlabelled_sample_is_kl(make_objective, make_batch, make_answers, make_student):
    logits, _ = make_student()
    answers, batch = make_answers("a"), make_batch()
    found = {}
    for name in ("kl", "dkd"):
        terms, _ = make_objective({"soft_targets": {"loss": {"type": name}}}, "a")(
            logits, {}, batch, answers
        )
        found[name] = terms["soft_targets"].loss_N
    unlabelled = batch.labels == -1
    torch.testing.assert_close(
        found["dkd"][unlabelled], found["kl"][unlabelled], rtol=1e-4, atol=1e-5
    )
    assert not torch.isclose(found["dkd"][~unlabelled], found["kl"][~unlabelled]).any()
    blended = Mixed(partner_labels_B=batch.labels, share_B=torch.full((UNITS,), 0.5))
    terms, _ = make_objective({"soft_targets": {"loss": {"type": "dkd"}}}, "a")(
        logits, {}, replace(batch, mixed=blended), answers
    )
    torch.testing.assert_close(terms["soft_targets"].loss_N, found["kl"], rtol=1e-4, atol=1e-5)


def test_disagreement(make_objective, make_batch, make_answers, make_student):
    logits, _ = make_student()
    answers, batch = make_answers("a", "b"), make_batch()
    answers["b"] = replace(answers["b"], values_NC=answers["b"].values_NC.clone())
    answers["b"].values_NC[:4] = answers["a"].values_NC[:4]
    top = answers["b"].values_NC[4:].argmax(1)
    answers["a"].values_NC[torch.arange(4, 8), (top + 1) % CLASSES] += 20
    settings = {"soft_targets": {"disagreement": {"type": "filter"}}}
    terms, _ = make_objective(settings, "a", "b")(logits, {}, batch, answers)
    assert terms["soft_targets"].valid_N.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    settings = {"soft_targets": {"disagreement": {"type": "discount", "tau": 0.5}}}
    terms, _ = make_objective(settings, "a", "b")(logits, {}, batch, answers)
    valid = terms["soft_targets"].valid_N
    torch.testing.assert_close(valid[:4], torch.ones(4))
    p = [softmax(f64(answers[n].values_NC), axis=1) for n in "ab"]
    middle = np.log((p[0] + p[1]) / 2)
    jsd = sum((q * (np.log(q) - middle)).sum(1) for q in p) / 2
    np.testing.assert_allclose(valid.numpy(), np.exp(-jsd / 0.5), rtol=1e-4)


def test_draws_are_a_function_of_the_step_and_the_sample(
    make_objective, make_batch, make_answers, make_student
):
    for kind in ({"type": "sample"}, {"type": "sample", "per": "batch"}, {"type": "drop"}):
        objective = make_objective({"weighting": kind}, "a", "b", "c")
        logits, _ = make_student()
        batch, answers = make_batch(), make_answers("a", "b", "c")
        draws = []
        for seed in range(20):
            torch.manual_seed(seed)
            draws.append(objective(logits, {}, batch, answers, Context(seed=seed))[1])
            torch.manual_seed(99)
            again = objective(logits, {}, batch, answers, Context(seed=seed))[1]
            assert torch.equal(draws[-1], again)
        assert len({tuple(d.flatten().tolist()) for d in draws}) > 2
    part = {
        n: replace(a, values_NC=a.values_NC[5:], valid_N=a.valid_N[5:], features={})
        for n, a in answers.items()
    }
    few = replace(batch, ids=batch.ids[5:], labels=batch.labels[5:], present_B=batch.present_B[5:])
    alone = objective(logits[5:], {}, few, part, Context(seed=19))[1]
    assert torch.equal(alone, draws[-1][:, 5:])


def test_weights_and_temperature_follow_their_schedules(
    make_objective, make_batch, make_answers, make_student
):
    settings = {
        "labels": {"weight": {"type": "linear", "from": 0, "to": 1, "epochs": 4}},
        "soft_targets": {"temperature": {"type": "step", "milestones": [2], "values": [1.0, 5.0]}},
    }
    objective = make_objective(settings, "a", "b")
    logits, _ = make_student()
    batch, answers = make_batch(), make_answers("a", "b")
    for epoch, weight, temperature in ((0.0, 0.0, 1.0), (1.0, 0.25, 1.0), (2.5, 0.625, 5.0)):
        terms, _ = objective(logits, {}, batch, answers, Context(epoch=epoch))
        fixed = make_objective({"soft_targets": {"temperature": temperature}}, "a", "b")
        expected, _ = fixed(logits, {}, batch, answers)
        assert terms["labels"].weight == weight
        torch.testing.assert_close(terms["soft_targets"].loss_N, expected["soft_targets"].loss_N)


def test_a_term_of_weight_0_leaves_its_parameters_in_the_graph(
    make_objective, make_batch, make_answers, make_student
):
    settings = {
        "features": [feature("vid")],
        "phases": [{"until_epoch": 1, "features": {"weight": 0}}],
    }
    objective = make_objective(settings, "a")
    logits, features = make_student()
    terms, _ = objective(logits, features, make_batch(), make_answers("a"))
    reduce_terms(terms, lambda c: c, 1).total.backward()
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())


@pytest.mark.parametrize("name", TAPS)
def test_a_lost_teacher_s_features_count_nowhere(
    make_objective, make_batch, make_answers, make_student, name
):
    objective = make_objective({"features": [feature(name)]}, "a", "b")
    answers = make_answers("a", "b", silent={"a": torch.ones(UNITS)})
    answers["a"] = replace(answers["a"], features={})
    logits, features = make_student()
    terms, _ = objective(logits, features, make_batch(), answers)
    reduce_terms(terms, lambda c: c, 1).total.backward()
    assert not terms["features.0"].valid_N.any()
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())
    assert all(f.grad is None or not f.grad.any() for f in features.values())


@pytest.mark.parametrize("name", ["similarity", "rkd_distance", "rkd_angle", "pkt", "dist"])
def test_samples_that_do_not_count_are_compared_with_nobody(
    make_objective, make_batch, make_answers, make_student, name
):
    if name == "dist":
        settings = {"soft_targets": {"loss": {"type": name}}}
    else:
        settings = {"features": [feature(name)]}
    objective, term = (
        make_objective(settings, "a"),
        next(iter(settings)).replace("features", "features.0"),
    )
    logits, features = make_student()
    present = torch.arange(UNITS) < 5
    answers = make_answers("a")
    padded, _ = objective(logits, features, make_batch(present=present), answers)
    short = {t: f[:5] for t, f in features.items()}
    cut = replace(answers["a"], values_NC=answers["a"].values_NC[:5], valid_N=torch.ones(5).bool(),
                  features={t: f[:5] for t, f in answers["a"].features.items()})  # fmt: skip
    alone, _ = objective(logits[:5], short, make_batch(units=5), {"a": cut})
    torch.testing.assert_close(one(padded, term), one(alone, term))


def test_controls_of_an_objective_with_everything():
    objective = Objective.model_validate(
        {
            "labels": {"weight": {"type": "linear", "from": 0, "to": 1, "epochs": 2}},
            "soft_targets": {"loss": {"type": "dkd"}, "disagreement": {"type": "filter"}},
            "weighting": {"type": "sample", "probabilities": {"a": 1, "b": 3}},
            "features": [{**feature("hint"), "teacher": n} for n in ("a", "b")],
            "phases": [
                {"until_epoch": 1, "labels": {"weight": 0}, "soft_targets": {"weight": 0},
                 "features": [{"weight": 5}, {"weight": 0}]},
                {"until_epoch": 2, "features": [{"weight": 6}, {"weight": 7}]},
                {"until_epoch": 3, "features": {"weight": 8}},
            ],
        }
    )  # fmt: skip
    taught = partial(training_role, objective=objective, teachers=["a", "b"])
    hard = taught("hard", best_teacher="a").objective
    assert (hard.labels.weight, hard.phases, hard.soft_targets) == (1.0, (), None)
    assert hard.weighting.type == "fixed"
    assert hard.weighting.weights == {"a": 1, "b": 3}
    assert taught("labels", best_teacher="a").objective.phases == ()
    first = taught("best_teacher", best_teacher="a").objective
    assert first.weighting.type == "uniform"
    assert first.soft_targets.disagreement is None
    assert [p.features[0].weight for p in first.phases] == [5, 6, 8]
    second = taught("best_teacher", best_teacher="b").objective
    assert [(p.until_epoch, p.features[0].weight) for p in second.phases] == [(2, 7), (3, 8)]
    for stray in ("drop", "gradient"):
        own = objective.model_copy(update={"weighting": Objective.model_validate(
            {"weighting": {"type": stray}}).weighting})  # fmt: skip
        assert training_role("hard", own, ["a", "b"], "a").objective.weighting.type == "uniform"


def test_what_is_logged_of_the_ensemble(make_objective, make_batch, make_answers, make_student):
    weights = torch.tensor([[0.5, 1.0, 0.0], [0.5, 0.0, 0.0]])
    jsd = torch.tensor([0.2, 0.4, 9.0])  # of the last nobody answered
    twice = ensemble_rows(weights, jsd).sum(0) + ensemble_rows(weights).sum(0)
    values = ensemble_values(twice, ["a", "b"])
    assert values["weights"] == pytest.approx({"a": 0.75, "b": 0.25})
    assert values["effective_teachers"] == pytest.approx(1.5)
    assert values["jsd_nats"] == pytest.approx(0.3)
    assert ensemble_values(ensemble_rows(torch.zeros(2, 3)).sum(0), ["a", "b"]) == {}
    objective = make_objective({}, "a", "b")
    answers = make_answers("a", "b")
    alike = {"a": answers["a"], "b": answers["a"]}
    halves = torch.full((2, UNITS), 0.5)
    found = [
        ensemble_values(sums, ["a", "b"])["jsd_nats"]
        for sums in objective.ensemble_sums([halves, halves], [answers, alike])
    ]
    assert 0.01 < found[0] < np.log(2)
    assert found[1] < 1e-6


@pytest.mark.parametrize(("name", "factor"), [("entropy", 2 / 3), ("confidence", 1 / 3)])
def test_the_scale_of_the_published_code_weakens_the_soft_targets_alone(
    make_objective, make_batch, make_answers, make_student, name, factor
):
    """CA-MKD's repository divides by K weights that sum to 1, and to K - 1 in its EBKD."""
    logits, _ = make_student()
    batch, answers = make_batch(), make_answers("a", "b", "c")

    def terms_of(**weighting):
        objective = make_objective({"weighting": {"type": name, **weighting}}, *VOICES)
        return objective(logits, {}, batch, answers)

    (ours, weights_TN), (theirs, same_TN) = terms_of(), terms_of(paper_code_scale=True)
    assert torch.equal(weights_TN, same_TN)
    assert one(theirs, "soft_targets").item() == pytest.approx(
        factor * one(ours, "soft_targets").item()
    )
    assert one(theirs, "labels").item() == one(ours, "labels").item()
