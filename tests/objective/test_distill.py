"""The whole objective against float64 NumPy, and what each of its parts must not do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax

from raykd.objective import Context, reduce_terms

UNITS, CLASSES = 12, 4
KL = {"labels": {"weight": 0.3}, "soft_targets": {"temperature": 3.0, "weight": 0.7}}


def f64(tensor):
    return tensor.detach().numpy().astype(np.float64)


def total(objective, logits, batch, answers, features=None):
    terms, _ = objective(logits, features or {}, batch, answers)
    return reduce_terms(terms, lambda counts: counts, 1)


@pytest.fixture
def logits(generator):
    return (torch.randn(UNITS, CLASSES, generator=generator) * 2).requires_grad_()


def reference_labels(z, labels, valid, smoothing):
    logp = log_softmax(z, axis=1)
    target = np.full(z.shape, smoothing / z.shape[1])
    target[np.arange(len(z)), np.maximum(labels, 0)] += 1 - smoothing
    return -(target * logp).sum(1), valid


def reference_kl(z, teachers, weights_TN, factors, temperature, combine):
    """T² KL(mixture ‖ student at T), [N]."""
    if combine == "probabilities":
        logs = [
            log_softmax(t / (f * temperature), axis=1)
            for t, f in zip(teachers, factors, strict=True)
        ]
        with np.errstate(divide="ignore"):
            mixed = logsumexp(np.stack(logs) + np.log(weights_TN)[:, :, None], axis=0)
    else:
        mean = sum(
            w[:, None] * t / f for w, t, f in zip(weights_TN, teachers, factors, strict=True)
        )
        mixed = log_softmax(mean / temperature, axis=1)
    student = log_softmax(z / temperature, axis=1)
    return temperature**2 * (np.exp(mixed) * (mixed - student)).sum(1)


def reference_attention(student, teacher):
    """Mean squared difference of normalised maps of mean squared activation; student pooled 8×8 -> 4×4."""
    pooled = student.reshape(*student.shape[:2], 4, 2, 4, 2).mean((3, 5))
    maps = []
    for feature in (pooled, teacher):
        flat = np.square(feature).mean(1).reshape(len(feature), -1)
        maps.append(flat / np.linalg.norm(flat, axis=1, keepdims=True))
    return np.square(maps[0] - maps[1]).mean(1)


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_the_whole_objective_equals_numpy_in_float64(
    make_objective, make_batch, make_answers, logits, generator, combine
):
    settings = {
        "labels": {"weight": 0.3, "smoothing": 0.1},
        "soft_targets": {"temperature": 3.0, "weight": 0.7, "combine": combine},
        "weighting": {"type": "fixed", "weights": {"a": 1.0, "b": 3.0}},
        "features": [
            {"loss": {"type": "attention"}, "teacher": "b", "student_tap": "tap", "teacher_tap": "tap",
             "weight": 50.0},
            {"loss": {"type": "hint"}, "teacher": "a", "student_tap": "tap", "teacher_tap": "tap",
             "weight": 2.0},
        ],
    }  # fmt: skip
    class_weights = torch.tensor([0.5, 1.0, 2.0, 1.5])
    silent = torch.zeros(UNITS)
    silent[2:4] = 1
    objective = make_objective(
        settings, "a", "b", temperatures={"b": 1.5}, class_weights=class_weights
    )
    present = torch.ones(UNITS, dtype=torch.bool)
    present[-1] = False
    sample_weights = torch.rand(UNITS, generator=generator) + 0.5
    batch = make_batch(present=present, weights=sample_weights)
    answers = make_answers("a", "b", silent={"a": silent})
    feature = torch.randn(UNITS, 3, 8, 8, generator=generator)

    found = total(objective, logits, batch, answers, {"tap": feature})

    z, labels = f64(logits), batch.labels.numpy()
    heard = present.numpy().astype(float)
    valid = (labels >= 0) * heard * f64(class_weights)[np.maximum(labels, 0)] * f64(sample_weights)
    loss, valid = reference_labels(z, labels, valid, 0.1)
    expected = {"labels": (loss * valid).sum() / valid.sum()}
    weights = np.array([[0.25], [0.75]]).repeat(UNITS, axis=1)
    weights[:, 2:4] = [[0.0], [1.0]]
    kl = reference_kl(
        z, [f64(answers[n].values_NC) for n in "ab"], weights, [1.0, 1.5], 3.0, combine
    )
    expected["soft_targets"] = (kl * heard).sum() / heard.sum()
    at = reference_attention(f64(feature), f64(answers["b"].features["tap"]))
    expected["features.0"] = (at * heard).sum() / heard.sum()
    projector = {n.split(".")[-1]: f64(p) for n, p in objective.projectors[1].named_parameters()}
    pooled = f64(feature).reshape(UNITS, 3, 4, 2, 4, 2).mean((3, 5))
    hinted = np.einsum("bchw,dc->bdhw", pooled, projector["weight"][:, :, 0, 0])
    hinted += projector["bias"][None, :, None, None]
    hint = np.square(hinted - f64(answers["a"].features["tap"])).mean((1, 2, 3))
    answered = heard * ~silent.bool().numpy()
    expected["features.1"] = (hint * answered).sum() / answered.sum()
    assert {n: float(v) for n, v in found.terms.items()} == pytest.approx(expected, rel=2e-5)
    whole = (
        0.3 * expected["labels"]
        + 0.7 * expected["soft_targets"]
        + 50 * expected["features.0"]
        + 2 * expected["features.1"]
    )
    assert float(found.total.detach()) == pytest.approx(whole, rel=2e-5)


def test_every_active_term_moves_the_student_and_the_projector(
    make_objective, make_batch, make_answers, generator
):
    term = {"teacher": "a", "student_tap": "tap", "teacher_tap": "tap", "weight": 1.0}
    objective = make_objective(
        {**KL, "features": [{**term, "loss": {"type": "hint"}}, {**term, "loss": {"type": "attention"}}]},
        "a",
    )  # fmt: skip
    batch, answers = make_batch(), make_answers("a")
    logits = torch.randn(UNITS, CLASSES, generator=generator).requires_grad_()
    feature = torch.randn(UNITS, 3, 8, 8, generator=generator).requires_grad_()
    terms, _ = objective(logits, {"tap": feature}, batch, answers)
    assert set(terms) == {"labels", "soft_targets", "features.0", "features.1"}
    reached = {
        "labels": logits,
        "soft_targets": logits,
        "features.0": feature,
        "features.1": feature,
    }
    for name, leaf in reached.items():
        only = reduce_terms({name: terms[name]}, lambda counts: counts, 1).total
        (gradient,) = torch.autograd.grad(only, leaf, retain_graph=True)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0, name
    reduce_terms(terms, lambda counts: counts, 1).total.backward()
    parameters = list(objective.parameters())
    assert parameters, "hint has a projector"
    assert all(p.grad.abs().sum() > 0 for p in parameters)


def test_teachers_get_no_gradient(make_objective, make_batch, make_answers, logits):
    answers = make_answers("a")
    answers["a"].values_NC.requires_grad_()
    total(make_objective(KL, "a"), logits, make_batch(), answers).total.backward()
    assert answers["a"].values_NC.grad is None


def test_strength_depends_neither_on_batch_size_nor_on_the_number_of_teachers(
    make_objective, make_batch, make_answers, logits
):
    batch, answers = make_batch(), make_answers("a")
    once = total(make_objective(KL, "a"), logits, batch, answers)
    doubled = make_batch(
        units=2 * UNITS, labels=batch.labels.repeat(2), present=batch.present_B.repeat(2)
    )
    answer = replace(
        answers["a"], values_NC=answers["a"].values_NC.repeat(2, 1), valid_N=torch.ones(24).bool()
    )
    twice = total(make_objective(KL, "a"), logits.repeat(2, 1), doubled, {"a": answer})
    copies = total(
        make_objective(KL, "a", "b"), logits, batch, {"a": answers["a"], "b": answers["a"]}
    )
    torch.testing.assert_close(twice.total, once.total)
    torch.testing.assert_close(copies.total, once.total)


def test_zero_labels(make_objective, make_batch, make_answers, logits):
    batch = make_batch(labels=torch.full((UNITS,), -1))
    losses = total(
        make_objective({"labels": {"weight": 1.0}, "soft_targets": None}), logits, batch, {}
    )
    losses.total.backward()
    assert float(losses.total.detach()) == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))
    losses = total(make_objective(KL, "a"), logits, batch, make_answers("a"))
    assert float(losses.terms["labels"]) == 0.0
    assert float(losses.terms["soft_targets"]) > 0.0


def test_padding_counts_in_no_term(make_objective, make_batch, make_answers, generator):
    present = torch.zeros(UNITS, dtype=torch.bool)
    present[:5] = True
    labels = torch.randint(0, CLASSES, (UNITS,), generator=generator)
    logits = torch.randn(UNITS, CLASSES, generator=generator)
    answers = make_answers("a")
    padded = total(
        make_objective(KL, "a"), logits, make_batch(labels=labels, present=present), answers
    )
    cut = {
        "a": replace(
            answers["a"], values_NC=answers["a"].values_NC[:5], valid_N=torch.ones(5).bool()
        )
    }
    short = total(make_objective(KL, "a"), logits[:5], make_batch(units=5, labels=labels[:5]), cut)
    torch.testing.assert_close(padded.total, short.total)


def test_an_absent_teacher_leaves_its_weight_to_the_others(
    make_objective, make_batch, make_answers, logits
):
    settings = {**KL, "weighting": {"type": "fixed", "weights": {"a": 0.6, "b": 0.3, "c": 0.1}}}
    silent = torch.zeros(UNITS)
    silent[3] = 1
    answers = make_answers("a", "b", "c", silent={"a": silent})
    answers["a"].values_NC[3] = float("nan")
    objective = make_objective(settings, "a", "b", "c")
    terms, weights = objective(logits, {}, make_batch(), answers)
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(UNITS))
    torch.testing.assert_close(weights[:, 3], torch.tensor([0.0, 0.75, 0.25]))
    torch.testing.assert_close(weights[:, 4], torch.tensor([0.6, 0.3, 0.1]))
    assert torch.isfinite(terms["soft_targets"].loss_N).all()


def test_a_unit_that_no_teacher_answered_counts_only_for_its_label(
    make_objective, make_batch, make_answers, logits
):
    silent = torch.zeros(UNITS)
    silent[4] = 1
    answers = make_answers("a", silent={"a": silent})
    terms, weights = make_objective(KL, "a")(logits, {}, make_batch(), answers)
    assert weights[0, 4] == 0
    assert not terms["soft_targets"].valid_N[4]
    assert terms["labels"].valid_N[4] == 1


def test_a_lost_teacher_s_feature_term_is_zero_but_keeps_its_projector_in_the_graph(
    make_objective, make_batch, make_answers, logits, generator
):
    """`on_failure: renormalise`: the fleet answers for a teacher left out, without its features."""
    from raykd.targets import codec

    term = {"loss": {"type": "hint"}, "teacher": "a", "student_tap": "tap", "teacher_tap": "tap",
            "weight": 1.0}  # fmt: skip
    objective = make_objective({**KL, "features": [term]}, "a", "b")
    answers = make_answers("a", "b")
    answers["a"] = codec.absent(answers["b"])
    feature = torch.randn(UNITS, 3, 8, 8, generator=generator)
    losses = total(objective, logits, make_batch(), answers, {"tap": feature})
    losses.total.backward()
    assert float(losses.terms["features.0"]) == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())


def test_temperature_of_a_teacher_is_on_its_own_side_only(
    make_objective, make_batch, make_answers, logits
):
    """Dividing a teacher's logits by f beforehand is the same as giving it the temperature f."""
    answers = make_answers("a", "b")
    settings = {"labels": {"weight": 0.0}, "soft_targets": {"temperature": 2.0, "weight": 1.0}}
    for combine in ("probabilities", "logits"):
        settings["soft_targets"]["combine"] = combine
        hot = total(
            make_objective(settings, "a", "b", temperatures={"a": 2.5}),
            logits,
            make_batch(),
            answers,
        )
        cooled = {**answers, "a": replace(answers["a"], values_NC=answers["a"].values_NC / 2.5)}
        plain = total(make_objective(settings, "a", "b"), logits, make_batch(), cooled)
        torch.testing.assert_close(hot.total, plain.total)


def test_a_student_equal_to_its_teacher_has_no_soft_loss(make_objective, make_batch, make_answers):
    answers = make_answers("a")
    logits = answers["a"].values_NC.clone().requires_grad_()
    losses = total(
        make_objective({"labels": {"weight": 0.0}, "soft_targets": {"weight": 1.0}}, "a"),
        logits, make_batch(), answers,
    )  # fmt: skip
    losses.total.backward()
    assert float(losses.total.detach()) == pytest.approx(0.0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6


def test_labels_of_mixed_samples_are_blended(make_objective, make_batch, logits):
    labels = torch.arange(UNITS) % CLASSES
    partners = (torch.arange(UNITS) + 1) % CLASSES
    shares = torch.linspace(0.05, 1.0, UNITS)
    labels[2], partners[5], partners[-1] = -1, -1, -1  # the last one's share is 1: nothing blended
    batch = make_batch(labels=labels, partners=partners, shares=shares)
    settings = {"labels": {"weight": 1.0, "smoothing": 0.2}, "soft_targets": None}
    terms, _ = make_objective(settings)(logits, {}, batch, {})
    z, share = f64(logits), f64(shares)
    own = reference_labels(z, labels.numpy(), None, 0.2)[0]
    other = reference_labels(z, partners.numpy(), None, 0.2)[0]
    counts = np.ones(UNITS)
    counts[[2, 5]] = 0
    np.testing.assert_allclose(f64(terms["labels"].valid_N), counts, rtol=1e-6)
    where = counts > 0
    np.testing.assert_allclose(
        f64(terms["labels"].loss_N)[where], (share * own + (1 - share) * other)[where], rtol=1e-5
    )


def test_class_weights_of_mixed_samples_count_each_label_by_its_own_class(
    make_objective, make_batch, logits
):
    weights = torch.tensor([1.0, 5.0, 0.0, 2.0])
    labels, partners = torch.tensor([0, 2, 2]), torch.tensor([1, 3, 2])
    share = torch.tensor([0.25, 0.5, 0.5])
    batch = make_batch(units=3, labels=labels, partners=partners, shares=share)
    settings = {"labels": {"weight": 1.0}, "soft_targets": None}
    terms, _ = make_objective(settings, class_weights=weights)(logits[:3], {}, batch, {})
    logp = log_softmax(f64(logits[:3]), axis=1)
    valid = np.array([0.25 * 1 + 0.75 * 5, 0.5 * 2, 0.0])
    np.testing.assert_allclose(f64(terms["labels"].valid_N), valid, rtol=1e-6)
    summed = np.array([-(0.25 * logp[0, 0] + 3.75 * logp[0, 1]), -logp[1, 3], 0.0])
    found = f64(terms["labels"].loss_N * terms["labels"].valid_N)
    np.testing.assert_allclose(found, summed, rtol=1e-5)


def test_unlabelled_samples_take_the_ensemble_s_class(
    make_objective, make_batch, make_answers, logits
):
    answers = make_answers("a", "b")
    batch = make_batch()
    settings = {"labels": {"weight": 1.0, "fill": "ensemble"}, "soft_targets": None}
    terms, _ = make_objective(settings, "a", "b")(logits, {}, batch, answers)
    mean = sum(softmax(f64(answers[n].values_NC), axis=1) for n in "ab") / 2
    filled = np.where(batch.labels.numpy() >= 0, batch.labels.numpy(), mean.argmax(1))
    expected = -log_softmax(f64(logits), axis=1)[np.arange(UNITS), filled]
    np.testing.assert_allclose(f64(terms["labels"].loss_N), expected, rtol=1e-5)
    assert terms["labels"].valid_N.tolist() == [1.0] * UNITS


def test_a_blend_with_one_unknown_label_takes_the_ensemble_s_class_of_the_blend(
    make_objective, make_batch, make_answers, logits
):
    answers = make_answers("a", units=3)
    labels, partners = torch.tensor([0, 1, -1]), torch.tensor([-1, 2, 3])
    shares = torch.tensor([0.5, 0.5, 1.0])
    batch = make_batch(units=3, labels=labels, partners=partners, shares=shares)
    settings = {"labels": {"weight": 1.0, "fill": "ensemble"}, "soft_targets": None}
    terms, _ = make_objective(settings, "a")(logits[:3], {}, batch, answers)
    logp = log_softmax(f64(logits[:3]), axis=1)
    pseudo = answers["a"].values_NC.argmax(dim=1).numpy()
    expected = [-logp[0, pseudo[0]], -(logp[1, 1] + logp[1, 2]) / 2, -logp[2, pseudo[2]]]
    np.testing.assert_allclose(f64(terms["labels"].loss_N), expected, rtol=1e-5)


def test_routed_units_learn_from_the_teacher_of_their_domain_alone(
    make_batch, make_answers, make_objective, generator
):
    batch, answers = make_batch(), make_answers("a", "b")
    z = torch.randn(UNITS, CLASSES, generator=generator, dtype=torch.float64)
    objective = make_objective({**KL, "weighting": {"type": "routed"}}, "a", "b")
    _, weights_TN = objective(z, {}, batch, answers, Context(epoch=0.0, seed=0))
    mine_TN = {-1: [0.5, 0.5], 0: [1.0, 0.0], 1: [0.0, 1.0]}
    wanted = torch.tensor([mine_TN[domain] for domain in batch.domain_B.tolist()]).T
    torch.testing.assert_close(weights_TN.float(), wanted)
