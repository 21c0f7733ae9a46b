"""The losses of published code on fixed inputs: value to 1e-9, gradient where there is one; and faults that stay out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tests_losses_published import expected, inputs

from raykd.losses import LOSSES, crd, kl, queue_kl, token_similarity, unic
from raykd.losses.contrast import (
    constants_of,
    crd_parts,
    drawn_negatives,
    new_bank,
    updated_bank,
)
from raykd.losses.foundation import unic_coefficients, unic_moments, unic_terms
from raykd.losses.heads import head_logits
from raykd.objective.features import layer_normalised

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
HEAD = {"head_weight": "srrl_teacher_head_w", "head_bias": "srrl_teacher_head_b"}
PAIR, MAPS = ("zs", "zt"), ("srrl_s", "srrl_t")
VALUES = {
    "nkd_gamma1.5_T1.0": ("nkd", PAIR, {"gamma": 1.5, "temperature": 1.0, "labels": "y"}),
    "ttm_gamma0.25": ("ttm", PAIR, {"gamma": 0.25}),
    "wttm_gamma0.25": ("wttm", PAIR, {"gamma": 0.25}),
    "ttm_gamma1.0": ("ttm", PAIR, {"gamma": 1.0}),
    "wttm_gamma1.0": ("wttm", PAIR, {"gamma": 1.0}),
    "mlkd_batch_corr_T4": ("mlkd_batch", PAIR, {"temperature": 4.0}),
    "itrd_correlation_alpha1.5": ("itrd", ("itrd_s", "itrd_t"), {"alpha": 1.5}),
    "cwd_tau1.0": ("cwd", MAPS, {"tau": 1.0}),
    "pkd": ("pkd", MAPS, {}),
    "srrl_alpha1_beta5": ("srrl", MAPS, {"alpha": 1.0, "beta": 5.0, **HEAD}),
    "simkd_teacher_larger": ("simkd", ("simkd_t_small", "simkd_s_big"), {}),
    "token_similarity_kl_tau0.07": ("token_similarity", ("tokens_student", "tokens_teacher"), {}),
    "queue_kl_ts0.07_tt0.07": (
        "queue_kl",
        ("queue_student", "queue_teacher"),
        {"queue": "queue_bank"},
    ),
}
GRADIENTS = {
    **{f"nkd_gamma{g}_T{t}": ("nkd", {"gamma": g, "temperature": t, "labels": "y"})
       for g, t in ((1.5, 1.0), (1.5, 2.0), (0.5, 1.0))},
    **{f"{name}_gamma{g}": (name, {"gamma": g}) for name in ("ttm", "wttm") for g in (0.1, 0.25, 0.5, 1.0)},
}  # fmt: skip


def given(name, dtype=torch.float64):
    value = inputs()[name][0] if name == "zt" else inputs()[name]
    return value.to(dtype) if value.is_floating_point() else value


def knobs_of(knobs, dtype):
    return {
        name: given(value, dtype) if isinstance(value, str) else value
        for name, value in knobs.items()
    }


@DTYPES
@pytest.mark.parametrize("key", VALUES)
def test_the_mean_is_the_published_value(key, dtype):
    name, (student, teacher), knobs = VALUES[key]
    function = {**LOSSES, "queue_kl": queue_kl}[name]
    found = function(given(student, dtype), given(teacher, dtype), **knobs_of(knobs, dtype))
    assert found.shape == (len(given(student)),)
    assert float(found.mean()) == pytest.approx(expected()[key], rel=TOLERANCE[dtype])


@DTYPES
@pytest.mark.parametrize("key", GRADIENTS)
def test_the_gradient_is_the_published_one(key, dtype):
    name, knobs = GRADIENTS[key]
    student = given("zs", dtype).clone().requires_grad_()
    LOSSES[name](student, given("zt", dtype), **knobs_of(knobs, dtype)).mean().backward()
    torch.testing.assert_close(
        student.grad, given(f"grad_{key}", dtype), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] / 10
    )


# --- TTM, WTTM, NKD ---------------------------------------------------------------------------


def test_ttm_and_wttm_of_gamma_one_are_kl():
    for name in ("ttm", "wttm"):
        torch.testing.assert_close(
            LOSSES[name](given("zs"), given("zt"), gamma=1.0), kl(given("zs"), given("zt"))
        )


def test_wttm_weighs_by_a_sum_of_powers_that_grows_with_the_classes():
    sums = LOSSES["wttm"](given("zs"), given("zt"), gamma=0.1) / LOSSES["ttm"](
        given("zs"), given("zt"), gamma=0.1
    )
    expected_sums = torch.tensor(expected()["wttm_power_sums_gamma0.1"], dtype=torch.float64)
    torch.testing.assert_close(sums, expected_sums, rtol=1e-9, atol=0)
    assert (sums > 1).all()
    assert (sums < 17).all()


def test_the_temperature_of_a_recipe_does_nothing_to_ttm():
    for name in ("ttm", "wttm"):
        assert torch.equal(
            LOSSES[name](given("zs"), given("zt"), temperature=4.0),
            LOSSES[name](given("zs"), given("zt")),
        )


def test_nkd_is_cross_entropies_and_takes_the_argmax_of_unlabelled_units():
    """Its value at student = teacher is the teacher's own entropies, unlike that of a divergence."""
    teacher, labels = given("zt"), given("y")
    floor = LOSSES["nkd"](teacher, teacher, labels=labels)
    assert (floor > 0.1).any()
    unlabelled = torch.full_like(labels, -1)
    torch.testing.assert_close(
        LOSSES["nkd"](given("zs"), teacher, labels=unlabelled),
        LOSSES["nkd"](given("zs"), teacher, labels=teacher.argmax(1)),
        rtol=0,
        atol=0,
    )


def test_kl_is_summed_over_classes():
    """Code that divides by the classes (`KLDivLoss()`) teaches C times less: a class that nobody names changes nothing."""
    wider = [F.pad(given(name), (0, 5), value=-1e4) for name in PAIR]
    torch.testing.assert_close(kl(*wider), kl(given("zs"), given("zt")))


# --- MLKD, ITRD -------------------------------------------------------------------------------


def test_the_class_relations_grow_with_the_square_of_the_batch_unless_they_are_divided_by_it():
    twice = [torch.cat([given(name)] * 2) for name in PAIR]
    for per_sample, factor in ((False, 4.0), (True, 1.0)):
        one, two = (
            LOSSES["mlkd_class"](*pair, temperature=4.0, per_sample=per_sample).mean()
            for pair in ([given("zs"), given("zt")], twice)
        )
        assert float(two / one) == pytest.approx(factor)


def test_a_part_of_the_samples_is_compared_by_itself():
    """The authors' masks multiply the mean over all samples, so that half of them halves the term."""
    half = slice(0, 6)
    student, teacher = given("zs").clone(), given("zt")
    before = LOSSES["mlkd_batch"](student[half], teacher[half])
    student[6:] += 1.0 * torch.arange(17)
    torch.testing.assert_close(LOSSES["mlkd_batch"](student[half], teacher[half]), before)
    assert (LOSSES["mlkd_batch"](student, teacher)[half] - before).abs().max() > 1e-6


def test_itrd_has_a_floor_and_survives_features_that_do_not_vary():
    teacher, alpha = given("itrd_t"), 1.5
    rows, width = teacher.shape
    floor = math.log2(width) - 2 * alpha * math.log2(rows)
    assert float(LOSSES["itrd"](3 * teacher + 1, teacher).mean()) == pytest.approx(floor)
    assert LOSSES["itrd"](given("itrd_s"), teacher).min() > floor
    student = given("itrd_s").clone()
    student[:, 0] = 2.0
    student.requires_grad_()
    loss = LOSSES["itrd"](student, teacher).mean()
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert student.grad[:, 0].abs().max() == 0
    single = LOSSES["itrd"](given("itrd_s")[:1], teacher[:1])
    assert single.tolist() == [math.log2(width)]


def test_the_mutual_term_of_itrd_is_computed_from_its_formula():
    student, teacher = given("itrd_s"), given("itrd_t")
    own = F.normalize(student) @ F.normalize(student).T
    joint = own * (F.normalize(teacher) @ F.normalize(teacher).T)
    value = ((own / own.trace()) ** 2 - (joint / joint.trace()) ** 2).sum()
    torch.testing.assert_close(LOSSES["itrd_mutual"](student, teacher).mean(), value)


# --- maps, heads ------------------------------------------------------------------------------


def test_cwd_of_two_images_is_their_mean_whatever_the_batch():
    parts = [
        LOSSES["cwd"](given("srrl_s")[i : i + 1], given("srrl_t")[i : i + 1]) for i in range(4)
    ]
    torch.testing.assert_close(torch.cat(parts), LOSSES["cwd"](given("srrl_s"), given("srrl_t")))


def test_pkd_depends_on_the_batch_and_is_one_minus_the_correlation():
    """Its standardised maps belong to a batch: what is stored are the teacher's raw ones."""
    student, teacher = given("srrl_s"), given("srrl_t")
    whole = LOSSES["pkd"](student, teacher)
    assert (LOSSES["pkd"](student[:2], teacher[:2]) - whole[:2]).abs().max() > 1e-3
    rows = [x.transpose(0, 1).reshape(8, -1) for x in (student, teacher)]
    correlations = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*rows, strict=True)]
    n = rows[0].shape[1]
    expected_value = (1 - torch.stack(correlations).mean()) * (n - 1) / n
    torch.testing.assert_close(whole.mean(), expected_value, rtol=1e-5, atol=0)


def test_srrl_is_made_of_its_two_parts():
    knobs = knobs_of(HEAD, torch.float64)
    for name, weights in (("feature", (1.0, 0.0)), ("logits", (0.0, 1.0))):
        found = LOSSES["srrl"](
            given("srrl_s"), given("srrl_t"), alpha=weights[0], beta=weights[1], **knobs
        )
        assert float(found.mean()) == pytest.approx(expected()["srrl_parts"][name], rel=1e-9)


def test_the_student_of_simkd_predicts_with_the_teacher_s_head():
    found = head_logits(given("simkd_s_big"), given(HEAD["head_weight"]), given(HEAD["head_bias"]))
    assert found[0].tolist() == pytest.approx(expected()["simkd_prediction_row0"], rel=1e-9)


@DTYPES
def test_the_orthogonal_projector_with_a_layer_normalised_target(dtype):
    projected = F.linear(given("vkd_s", dtype), given("vkd_projector", dtype))
    found = LOSSES["smooth_l1"](projected, layer_normalised(given("vkd_t", dtype))).mean()
    assert float(found) == pytest.approx(expected()["vkd_smooth_l1"], rel=TOLERANCE[dtype])


# --- foundation teachers ----------------------------------------------------------------------


def test_places_of_a_queue_that_are_still_empty_count_nowhere():
    """In published code the queue starts as zeros, to which everything has similarity 0."""
    student, teacher, queue = (given(f"queue_{name}") for name in ("student", "teacher", "bank"))
    found = queue_kl(student, teacher, queue=queue)
    for empty in (torch.zeros(30, 8), torch.zeros(1, 8)):
        padded = torch.cat([queue, empty.double()])
        torch.testing.assert_close(queue_kl(student, teacher, queue=padded), found)
    student = student.clone().requires_grad_()
    nothing = queue_kl(student, teacher, queue=torch.zeros(4, 8).double())
    nothing.sum().backward()
    assert nothing.tolist() == [0.0] * 6
    assert student.grad.abs().max() == 0


@pytest.mark.parametrize(("function", "knobs"), [(queue_kl, {"queue": "queue_bank"})])
def test_similarities_are_zero_at_the_teacher_and_pass_gradcheck(function, knobs):
    student, teacher = given("queue_student").clone().requires_grad_(), given("queue_teacher")
    knobs = knobs_of(knobs, torch.float64)
    assert function(teacher, teacher, **knobs).abs().max() < 1e-12
    assert torch.autograd.gradcheck(lambda x: function(x, teacher, **knobs), (student,))
    for bad in ({"queue": given("queue_bank")[:, :3]}, {**knobs, "student_temperature": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            function(student, teacher, **bad)


def test_token_similarity_is_a_function_of_the_package_and_takes_widths_apart():
    student, teacher = given("tokens_student"), given("tokens_teacher")
    rotated = teacher @ torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    assert token_similarity(rotated, teacher).abs().max() < 1e-12
    assert token_similarity(student[..., :5], teacher).isfinite().all()


def test_unic_drops_by_image_and_keeps_the_one_of_the_largest_loss():
    losses, draws = given("unic_losses_TB"), given("unic_draws")
    assert torch.equal(unic_coefficients(losses, draws), given("unic_coefficients_TB"))
    for index, name in enumerate("abc"):
        pairs = [given(f"unic_{name}_{x}") for x in ("s_cls", "t_cls", "s_patch", "t_patch")]
        torch.testing.assert_close(unic_terms(*pairs), losses[index], rtol=1e-9, atol=0)
    as_coded = unic(losses, draws, per_image=False).mean()
    assert float(as_coded) == pytest.approx(expected()["unic_loss_code"], rel=1e-9)
    assert float(unic(losses, draws, probability=0.0).mean()) == pytest.approx(
        expected()["unic_loss_no_drop"], rel=1e-9
    )
    torch.testing.assert_close(unic(losses, draws, probability=0.0), losses.mean(0))


def test_images_of_which_fewer_teachers_are_left_count_as_much_as_others():
    """The authors divide by the coefficients of the whole batch, which their own comment says they do not."""
    losses, draws = torch.ones(3, 2).double(), torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.9]])
    losses[2] = 2.0
    assert unic(losses, draws).tolist() == pytest.approx([4 / 3, 2.0])
    coded = unic(losses, draws, per_image=False)
    assert coded.tolist() == pytest.approx([2.0, 1.0])
    found = unic(given("unic_losses_TB"), given("unic_draws")).mean()
    assert float(found) == pytest.approx(0.8692, abs=5e-5)


def test_running_moments_are_of_all_batches_so_far_and_the_first_batch_is_not_standardised_by_itself():
    moments = torch.zeros(8).double(), torch.ones(8).double()
    for momentum, name in ((1.0, "a"), (0.1, "b")):
        moments = unic_moments(*moments, given(f"unic_{name}_t_cls"), momentum=momentum)
    for found, name in zip(moments, ("mean", "std"), strict=True):
        assert found.tolist() == pytest.approx(
            expected()["unic_ema_after_two_batches"][name], rel=1e-9
        )


def test_unic_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match=r"\[T, B\]"):
        unic(torch.ones(3, 2), torch.ones(2, 3))
    with pytest.raises(ValueError, match="probability"):
        unic(torch.ones(3, 2), torch.ones(3, 2), probability=1.5)


# --- CRD --------------------------------------------------------------------------------------


def embedded(features, side):
    vectors = features @ given(f"crd_w{side}").T + given(f"crd_b{side}")
    return F.normalize(vectors, dim=1)


def crd_arguments(student=None):
    return {
        "student": embedded(given("crd_fs") if student is None else student, "s"),
        "teacher": embedded(given("crd_ft"), "t"),
        "student_bank": given("crd_memory1"),
        "teacher_bank": given("crd_memory2"),
        "contrasted": given("crd_contrast_idx"),
    }


def test_crd_with_given_constants():
    student, teacher = crd_parts(**crd_arguments(), constants=(37.5, 52.25))
    value = expected()["crd_fixed_Z"]
    assert float(student.mean()) == pytest.approx(value["student"], rel=1e-9)
    assert float(teacher.mean()) == pytest.approx(value["teacher"], rel=1e-9)
    both = crd(**crd_arguments(), constants=(37.5, 52.25))
    assert float(both.mean()) == pytest.approx(value["total"], rel=1e-9)


@pytest.mark.parametrize(("key", "constants"), [("fixed_Z", (37.5, 52.25)), ("first_batch", None)])
def test_the_gradient_of_crd(key, constants):
    student = given("crd_fs").clone().requires_grad_()
    crd(**crd_arguments(student), constants=constants).mean().backward()
    torch.testing.assert_close(student.grad, given(f"grad_crd_{key}"), rtol=1e-9, atol=1e-12)


def test_constants_are_those_of_the_first_batch_and_stay():
    constants = constants_of(**crd_arguments())
    torch.testing.assert_close(crd(**crd_arguments()), crd(**crd_arguments(), constants=constants))
    other = crd_arguments(given("crd_fs").flip(0) * 2 + 1)
    assert constants_of(**other)[0] != pytest.approx(constants[0])


def test_banks_after_a_batch():
    for bank, features, side in (("crd_memory1", "crd_fs", "s"), ("crd_memory2", "crd_ft", "t")):
        before = given(bank).clone()
        found = updated_bank(before, given("crd_idx"), embedded(given(features), side))
        torch.testing.assert_close(found, given(f"{bank}_after"), rtol=1e-9, atol=1e-12)
        assert torch.equal(before, given(bank)), "a new one is returned"


def test_banks_begin_with_vectors_of_length_one():
    """The authors' begin with uniform coordinates."""
    bank = new_bank(50, 8, torch.Generator().manual_seed(0))
    torch.testing.assert_close(bank.norm(dim=1), torch.ones(50))
    assert torch.equal(bank, new_bank(50, 8, torch.Generator().manual_seed(0)))


def test_negatives_are_of_other_classes_and_the_sample_comes_first():
    classes = torch.tensor([0, 0, 0, 1, 2, 0])
    rows = torch.tensor([0, 3])
    drawn = drawn_negatives(classes, rows, 200, torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 201)
    assert torch.equal(drawn[:, 0], rows)
    assert set(drawn[0, 1:].tolist()) == {3, 4}
    assert set(drawn[1, 1:].tolist()) == {0, 1, 2, 4, 5}
    alone = drawn_negatives(torch.zeros(4).long(), rows, 200, torch.Generator().manual_seed(0))
    assert set(alone[0, 1:].tolist()) == {1, 2, 3}


def test_crd_refuses_shapes_that_do_not_match():
    with pytest.raises(ValueError, match="equal shape"):
        crd(**{**crd_arguments(), "teacher": torch.zeros(6, 3)})
    with pytest.raises(ValueError, match="temperature"):
        crd(**crd_arguments(), temperature=0.0)
