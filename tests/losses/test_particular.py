"""What single losses promise beyond the common properties."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.losses import LOSSES, kl_from_log_probs, standardised
from raykd.losses.common import unit
from raykd.methods import LOSS_ROWS

DOUBLE = torch.float64


def normal(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(seed=st.integers(0, 10_000), temperature=st.sampled_from([0.5, 1.0, 4.0, 20.0]))
def test_divergences_are_at_least_zero_and_bounded(seed, temperature):
    student, teacher = normal(4, 6, seed=seed, scale=8.0), normal(4, 6, seed=seed + 1, scale=8.0)
    squared = temperature**2
    for name in ("kl", "reverse_kl", "js", "skew_kl"):
        loss_N = LOSSES[name](student, teacher, temperature=temperature)
        assert (loss_N >= -1e-12).all()
    assert (LOSSES["js"](student, teacher, temperature=temperature) <= squared * math.log(2)).all()
    skewed_N = LOSSES["skew_kl"](student, teacher, temperature=temperature, alpha=0.1)
    assert (skewed_N <= -squared * math.log(0.1)).all()


def test_kl_has_the_gradient_t_times_q_minus_p():
    student, teacher = normal(5, 4, seed=0).requires_grad_(), normal(5, 4, seed=1)
    (gradient,) = torch.autograd.grad(
        LOSSES["kl"](student, teacher, temperature=3.0).sum(), student
    )
    expected = 3 * ((student / 3).softmax(1) - (teacher / 3).softmax(1))
    torch.testing.assert_close(gradient, expected.detach(), rtol=0, atol=1e-12)


def test_kl_from_log_probs_is_kl():
    student, teacher = normal(5, 4, seed=0), normal(5, 4, seed=1)
    for standardise in (False, True):
        source = standardised(teacher) if standardise else teacher
        found = kl_from_log_probs(
            student, F.log_softmax(source / 3, 1), temperature=3.0, standardise=standardise
        )
        expected = LOSSES["kl"](student, teacher, temperature=3.0, standardise=standardise)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_temperature_may_be_a_number_a_scalar_or_one_per_unit():
    student, teacher = normal(3, 4, seed=0), normal(3, 4, seed=1)
    values = [1.0, 2.0, 5.0]
    single = torch.stack(
        [LOSSES["kl"](student, teacher, temperature=t)[i] for i, t in enumerate(values)]
    )
    for shape in ((3, 1), (3,)):
        per_unit = torch.tensor(values, dtype=DOUBLE).reshape(shape)
        torch.testing.assert_close(LOSSES["kl"](student, teacher, temperature=per_unit), single)
    scalar = LOSSES["kl"](student, teacher, temperature=torch.tensor([2.0], dtype=DOUBLE))
    torch.testing.assert_close(scalar[1], single[1])


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "js", "skew_kl", "dkd", "dist"])
def test_a_learned_temperature_gets_the_right_gradient(name):
    student, teacher = normal(4, 5, seed=0), normal(4, 5, seed=1)
    knobs = {"labels": torch.tensor([0, 1, -1, 4])} if name == "dkd" else {}
    for shape in ((), (1,), (4, 1)):
        temperature = torch.full(shape, 3.0, dtype=DOUBLE, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda t: LOSSES[name](student, teacher, temperature=t, **knobs), (temperature,)
        )


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "js", "skew_kl", "mse", "dkd", "dist"])
def test_standardise_is_the_loss_of_z_scores(name):
    student, teacher = normal(4, 5, seed=0), 7 * normal(4, 5, seed=1) + 3
    knobs = {"labels": torch.tensor([0, 1, -1, 4])} if name == "dkd" else {}

    def z_score(x):
        return (x - x.mean(1, keepdim=True)) / (1e-7 + x.std(1, keepdim=True, unbiased=True))

    found = LOSSES[name](student, teacher, temperature=2.0, standardise=True, **knobs)
    expected = LOSSES[name](z_score(student), z_score(teacher), temperature=2.0, **knobs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_js_tends_to_a_quarter_of_kl_at_both_ends():
    student, teacher = normal(4, 5, seed=0), normal(4, 5, seed=1)
    for beta, limit in ((1e-7, "kl"), (1 - 1e-7, "reverse_kl")):
        found = LOSSES["js"](student, teacher, beta=beta)
        torch.testing.assert_close(found, LOSSES[limit](student, teacher) / 4, rtol=1e-4, atol=0)


def test_js_has_the_same_curvature_for_every_beta():
    teacher = normal(4, 5, seed=0)
    near = teacher + 1e-4 * normal(4, 5, seed=1)
    expected = LOSSES["kl"](near, teacher) / 4
    for beta in (0.1, 0.5, 0.9):
        torch.testing.assert_close(
            LOSSES["js"](near, teacher, beta=beta), expected, rtol=1e-3, atol=0
        )


def test_skew_of_zero_is_kl():
    student, teacher = normal(4, 5, seed=0), normal(4, 5, seed=1)
    torch.testing.assert_close(
        LOSSES["skew_kl"](student, teacher, alpha=0.0), LOSSES["kl"](student, teacher)
    )


def test_dkd_decomposes_kl():
    """KL = TCKD + (1 − p_y) NCKD; unlabelled samples get the plain KL."""
    student, teacher = normal(6, 5, seed=0), normal(6, 5, seed=1)
    labels = torch.arange(6) % 5
    target = LOSSES["dkd"](student, teacher, labels=labels, alpha=1.0, beta=0.0)
    other = LOSSES["dkd"](student, teacher, labels=labels, alpha=0.0, beta=1.0)
    rest = 1 - teacher.softmax(1).gather(1, labels[:, None]).squeeze(1)
    plain = LOSSES["kl"](student, teacher)
    torch.testing.assert_close(target + rest * other, plain, rtol=0, atol=1e-12)
    unlabelled = LOSSES["dkd"](student, teacher, labels=torch.full((6,), -1), beta=8.0)
    torch.testing.assert_close(unlabelled, plain, rtol=0, atol=1e-12)


def test_dkd_with_two_classes_has_no_other_classes():
    student, teacher = normal(4, 2, seed=0), normal(4, 2, seed=1)
    labels = torch.tensor([0, 1, 0, 1])
    found = LOSSES["dkd"](student, teacher, labels=labels, beta=100.0)
    torch.testing.assert_close(found, LOSSES["kl"](student, teacher), rtol=0, atol=1e-12)


def test_mse_centred_ignores_offsets_and_takes_single_values():
    student, teacher = normal(4, 5, seed=0), normal(4, 5, seed=1)
    shifted = LOSSES["mse"](student + 7, teacher - 3, centred=True)
    torch.testing.assert_close(shifted, LOSSES["mse"](student, teacher, centred=True))
    values = LOSSES["mse"](student[:, 0], teacher[:, 0])
    torch.testing.assert_close(values, (student[:, 0] - teacher[:, 0]) ** 2)


def test_dist_is_blind_to_scale_and_defines_constant_vectors():
    """ρ of a constant row or column is 0; the authors' epsilon is a knob."""
    teacher = normal(4, 5, seed=0)
    flat = torch.zeros(4, 5, dtype=DOUBLE, requires_grad=True)
    loss_N = LOSSES["dist"](flat, teacher, beta=2.0, gamma=3.0)
    torch.testing.assert_close(loss_N, torch.full((4,), 5.0, dtype=DOUBLE))
    loss_N.sum().backward()
    assert flat.grad.abs().max() == 0
    exact = LOSSES["dist"](teacher, teacher)
    assert (LOSSES["dist"](teacher, teacher, eps=1e-2) > exact + 1e-3).all()


def test_rkd_ignores_scale_and_does_not_count_coincident_samples():
    features = normal(6, 3, seed=0)
    features[1] = features[0]
    student = (3 * features).requires_grad_()
    for name in ("rkd_distance", "rkd_angle"):
        loss_B = LOSSES[name](student, features)
        assert loss_B.abs().max() < 1e-12
    teacher = normal(6, 3, seed=1)
    for name in ("rkd_distance", "rkd_angle"):
        (gradient,) = torch.autograd.grad(LOSSES[name](student, teacher).sum(), student)
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e3
    distance = torch.cdist(teacher, teacher)
    one = features.clone()
    found = LOSSES["rkd_distance"](one, teacher).mean()
    d = torch.cdist(one, one, compute_mode="donot_use_mm_for_euclid_dist")
    expected = F.smooth_l1_loss(d / d[d > 0].mean(), distance / distance[distance > 0].mean())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_attention_matrix_ignores_padding_and_adapts_heads():
    teacher = normal(2, 4, 3, 3, seed=0)
    student = teacher.clone()
    student[..., 2] = -10_000.0
    teacher[..., 2] = float("-inf")
    assert LOSSES["attention_matrix"](student, teacher).abs().max() == 0
    fewer = teacher.mean(1, keepdim=True).nan_to_num(neginf=-1e4)
    assert LOSSES["attention_matrix"](fewer, teacher).abs().max() < 1e-12


def test_tokens_are_maps_of_one_row():
    tokens_s, tokens_t = normal(2, 6, 4, seed=0), normal(2, 6, 4, seed=1)
    maps_s, maps_t = (x.transpose(1, 2).reshape(2, 4, 2, 3) for x in (tokens_s, tokens_t))
    for name in ("attention", "nst", "cosine", "smooth_l1"):
        torch.testing.assert_close(
            LOSSES[name](tokens_s, tokens_t), LOSSES[name](maps_s, maps_t), rtol=0, atol=1e-12
        )


def test_maps_are_pooled_to_the_smaller_height_and_width():
    student, teacher = normal(2, 3, 4, 2, seed=0), normal(2, 3, 2, 4, seed=1)
    pooled_s, pooled_t = (F.adaptive_avg_pool2d(x, (2, 2)) for x in (student, teacher))
    torch.testing.assert_close(
        LOSSES["attention"](student, teacher), LOSSES["attention"](pooled_s, pooled_t)
    )


def test_cosine_of_the_flattened_map_and_of_vectors():
    student, teacher = normal(3, 4, 2, 2, seed=0), normal(3, 4, 2, 2, seed=1)
    expected = 1 - F.cosine_similarity(student.flatten(1), teacher.flatten(1))
    torch.testing.assert_close(LOSSES["cosine"](student, teacher, flatten=True), expected)
    torch.testing.assert_close(LOSSES["cosine"](student.flatten(1), teacher.flatten(1)), expected)


def test_vid_takes_log_variance_and_teaches_it():
    student, teacher = normal(3, 4, seed=0), normal(3, 4, seed=1)
    raw = normal(4, seed=2).requires_grad_()
    log_variance = (F.softplus(raw) + 1e-5).log().detach()
    torch.testing.assert_close(
        LOSSES["vid"](student, teacher, raw_variance=raw).detach(),
        LOSSES["vid"](student, teacher, log_variance=log_variance),
    )
    assert torch.autograd.gradcheck(
        lambda v: LOSSES["vid"](student, teacher, raw_variance=v), (raw,)
    )


def test_bounded_stops_at_the_teacher_and_margin_moves_the_bound():
    labels = torch.zeros(3, dtype=DOUBLE)
    teacher = torch.tensor([1.0, 1.0, 1.0], dtype=DOUBLE)
    student = torch.tensor([0.5, 2.0, 0.9], dtype=DOUBLE, requires_grad=True)
    bounded = LOSSES["bounded"]
    assert bounded(student, teacher, labels=labels).tolist() == [0.0, 4.0, 0.0]
    assert bounded(student, teacher, labels=labels, margin=0.5).tolist() == [0.0, 4.0, 0.9**2]


@pytest.mark.parametrize("name", ["bounded", "imitation"])
def test_unlabelled_values_are_left_to_the_teacher(name):
    student = normal(3, 2, seed=0).requires_grad_()
    teacher, labels = normal(3, 2, seed=1), normal(3, 2, seed=2)
    labels[1, 0] = float("nan")
    knobs = {"error_range": 50.0, "alpha": 0.25} if name == "imitation" else {}
    loss_N = LOSSES[name](student, teacher, labels=labels, **knobs)
    loss_N.sum().backward()
    assert student.grad.isfinite().all()
    alone = 0.75 * ((student - teacher)[1] ** 2).sum() if name == "imitation" else 0.0 * loss_N[1]
    torch.testing.assert_close(loss_N[1], alone)


def test_imitation_never_pushes_away_from_the_teacher():
    student, teacher, labels = torch.tensor([[0.0], [9.0], [0.0]]).unbind(0)
    found = LOSSES["imitation"](student, teacher, labels=labels, error_range=1.0, alpha=0.0)
    assert found.item() == 0.0


def test_unit_leaves_short_vectors_at_zero_without_gradient():
    values = torch.zeros(2, 3, requires_grad=True)
    unit(values, dim=1).sum().backward()
    assert values.grad.abs().max() == 0


def test_matrix_products_keep_float32_under_autocast():
    student, teacher = normal(4, 8, seed=0).float(), normal(4, 8, seed=1).float()
    expected = LOSSES["similarity"](student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(LOSSES["similarity"](student, teacher), expected)


BAD = [
    ("kl", (4, 5), (4, 6), {}),
    ("kl", (4,), (4,), {}),
    ("kl", (4, 5), (4, 5), {"temperature": 0.0}),
    ("kl", (4, 5), (4, 5), {"temperature": torch.ones(2, 5)}),
    ("js", (4, 5), (4, 5), {"beta": 0.0}),
    ("js", (4, 5), (4, 5), {"beta": 1.0}),
    ("skew_kl", (4, 5), (4, 5), {"alpha": 1.0}),
    ("mse", (4, 5), (4,), {}),
    ("mse", (4,), (4,), {"centred": True}),
    ("dkd", (4, 5), (4, 5), {"labels": torch.zeros(3, dtype=torch.int64)}),
    ("dkd", (4, 1), (4, 1), {"labels": torch.zeros(4, dtype=torch.int64)}),
    ("gaussian_kl", (4, 5), (4, 5), {}),
    ("gaussian_kl", (4, 4), (4, 6), {}),
    ("huber_means", (4, 4), (4, 4), {"delta": 0.0}),
    ("hint", (4, 5), (4, 6), {}),
    ("attention", (4, 5), (4, 5), {}),
    ("attention", (4, 5, 3), (4, 6, 3), {}),
    ("attention_matrix", (4, 3, 3), (4, 3, 3), {}),
    ("attention_matrix", (4, 2, 3, 3), (4, 2, 5, 5), {}),
    ("vid", (4, 5), (4, 5), {}),
    ("vid", (4, 5), (4, 5), {"raw_variance": torch.ones(4)}),
    ("vid", (4, 5), (4, 5), {"raw_variance": torch.ones(5), "log_variance": torch.ones(5)}),
    ("cosine", (4, 5), (4, 5), {"mean": torch.ones(4)}),
    ("cosine", (5,), (5,), {}),
    ("smooth_l1", (4, 5), (4, 5), {"beta": 0.0}),
    ("similarity", (4, 5), (3, 5), {}),
    ("ttm", (4, 5), (4, 5), {"gamma": 0.0}),
    ("wttm", (4, 5), (4, 5), {"gamma": 1.5}),
    ("nkd", (4, 5), (4, 5), {"labels": torch.zeros(3, dtype=torch.int64)}),
    ("nkd", (4, 1), (4, 1), {"labels": torch.zeros(4, dtype=torch.int64)}),
    ("mlkd_class", (4, 5), (4, 6), {}),
    ("mlkd_batch", (4,), (4,), {}),
    ("itrd", (4, 5), (4, 6), {}),
    ("itrd", (4, 5), (4, 5), {"alpha": 0.0}),
    ("itrd_mutual", (4, 5), (3, 5), {}),
    ("cwd", (4, 5, 3, 3), (4, 6, 3, 3), {}),
    ("cwd", (4, 5), (4, 5), {}),
    ("cwd", (4, 5, 3), (4, 5, 3), {"tau": 0.0}),
    ("pkd", (4, 5), (4, 6), {}),
    ("token_similarity", (4, 5), (4, 5), {}),
    ("token_similarity", (4, 5, 3), (4, 5, 3), {"tau": 0.0}),
    ("srrl", (4, 5), (4, 5), {"head_weight": torch.zeros(3, 4)}),
    ("simkd", (4, 5, 3, 3), (4, 6, 3, 3), {}),
    ("huber", (4,), (4,), {"delta": 0.0}),
    ("bounded", (4,), (4,), {"labels": torch.zeros(4, 1)}),
    ("imitation", (4,), (4,), {"labels": torch.zeros(4), "error_range": 0.0}),
    ("imitation", (4,), (4,), {"labels": torch.zeros(4), "error_range": 1.0, "alpha": 2.0}),
]


@pytest.mark.parametrize(("name", "student", "teacher", "knobs"), BAD)
def test_wrong_arguments_are_refused(name, student, teacher, knobs):
    with pytest.raises(ValueError, match=r"must|needs|rows"):
        LOSSES[name](torch.zeros(student), torch.zeros(teacher), **knobs)


def test_info_is_frozen():
    with pytest.raises(AttributeError):
        LOSS_ROWS["kl"].formula = "x"
