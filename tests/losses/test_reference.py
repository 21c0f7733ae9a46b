"""Every loss against a float64 NumPy reference written from its formula, and what all must obey."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from tests_losses_references import REFERENCES
from torch.autograd import gradcheck

from raykd.losses import LOSSES
from raykd.methods import LOSS_ROWS, loss_table

N, C = 6, 5
LABELS = torch.tensor([0, 4, 2, -1, 1, 3])


def normal(*shape, seed, scale=2.0):
    return scale * torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def logits(seed):
    return normal(N, C, seed=seed)


def maps(seed, channels=3, size=4):
    return normal(N, channels, size, size, seed=seed)


T3 = {"temperature": 3.0}
CASES = {
    "kl": (logits(0), logits(1), T3),
    "reverse_kl": (logits(0), logits(1), T3),
    "js": (logits(0), logits(1), {"temperature": 2.0, "beta": 0.3}),
    "skew_kl": (logits(0), logits(1), {"temperature": 2.0, "alpha": 0.2}),
    "mse": (logits(0), logits(1), {}),
    "dkd": (logits(0), logits(1), {"temperature": 4.0, "labels": LABELS, "beta": 3.0}),
    "dist": (logits(0), logits(1), {"temperature": 4.0, "beta": 1.5, "gamma": 0.5}),
    "uld": (logits(0), normal(N, C + 2, seed=1), {"temperature": 2.0}),
    "bernoulli_kl": (logits(0), logits(1), T3),
    "gaussian_kl": (normal(N, 4, seed=0, scale=0.7), normal(N, 4, seed=1, scale=0.7), {}),
    "huber_means": (normal(N, 4, seed=0), normal(N, 4, seed=1), {"delta": 0.7}),
    "hint": (maps(0), maps(1), {}),
    "attention": (maps(0, 3, 4), maps(1, 5, 2), {}),
    "attention_matrix": (normal(N, 2, 3, 3, seed=0), normal(N, 4, 3, 3, seed=1), {}),
    "nst": (maps(0, 3, 4), maps(1, 5, 2), {}),
    "fsp": ((maps(0, 3, 4), maps(1, 5, 2)), (maps(2, 3, 4), maps(3, 5, 2)), {}),
    "vid": (maps(0), maps(1), {"raw_variance": normal(3, seed=2)}),
    "cosine": (maps(0), maps(1), {"mean": normal(3, seed=2), "std": normal(3, seed=3).exp()}),
    "smooth_l1": (maps(0), maps(1), {"mean": normal(3, seed=2), "std": normal(3, seed=3).exp()}),
    "cosine_smooth_l1": (maps(0), maps(1), {"share": 0.3}),
    "similarity": (maps(0), maps(1, 5), {}),
    "rkd_distance": (maps(0), maps(1, 5), {}),
    "rkd_angle": (maps(0), maps(1, 5), {}),
    "pkt": (maps(0), maps(1, 5), {}),
    "ttm": (logits(0), logits(1), {"gamma": 0.3}),
    "wttm": (logits(0), logits(1), {"gamma": 0.3}),
    "nkd": (logits(0), logits(1), {"temperature": 2.0, "labels": LABELS, "gamma": 0.7}),
    "mlkd_class": (logits(0), logits(1), T3),
    "mlkd_batch": (logits(0), logits(1), T3),
    "itrd": (normal(N, 4, seed=0), normal(N, 4, seed=1), {"alpha": 1.2}),
    "itrd_mutual": (normal(N, 4, seed=0), normal(N, 7, seed=1), {}),
    "cwd": (maps(0), maps(1), {"tau": 2.0}),
    "pkd": (maps(0), maps(1), {}),
    "token_similarity": (maps(0, 3, 4), maps(1, 5, 2), {"tau": 0.5}),
    "srrl": (maps(0), maps(1), {"head_weight": normal(5, 3, seed=2), "alpha": 2.0, "beta": 3.0}),
    "simkd": (maps(0, 3, 4), maps(1, 3, 2), {}),
    "huber": (normal(N, seed=0), normal(N, seed=1), {"delta": 0.7}),
    "bounded": (normal(N, 2, seed=0), normal(N, 2, seed=1), {"labels": normal(N, 2, seed=2)}),
    "imitation": (
        normal(N, 2, seed=0),
        normal(N, 2, seed=1),
        {"labels": normal(N, 2, seed=2), "error_range": 30.0, "alpha": 0.3},
    ),
}
OF_BOXES = {name for name, row in LOSS_ROWS.items() if row.kind == "boxes"}
"""Of answers of their own layout: tests/tasks/test_detection.py holds them against plain loops."""
ALL = pytest.mark.parametrize("name", sorted(set(LOSSES) - OF_BOXES))
NOT_ZERO = ("nkd", "itrd", "itrd_mutual")
"""Cross-entropies, a logarithm, and an entropy less an information: not 0 at student = teacher."""


def knobs_to_match(name):
    """Knobs under which student = teacher is the loss's floor of 0."""
    knobs = dict(CASES[name][2])
    if name in ("cosine", "smooth_l1"):
        return {}
    if name in ("ttm", "wttm"):
        knobs["gamma"] = 1.0
    if name in ("bounded", "imitation"):
        knobs["labels"] = CASES[name][1]
    if name == "vid":
        knobs["raw_variance"] = torch.full((3,), np.log(np.expm1(1 - 1e-5)), dtype=torch.float64)
    return knobs


def call(name, student=None, teacher=None, knobs=None):
    given = CASES[name]
    return LOSSES[name](
        given[0] if student is None else student,
        given[1] if teacher is None else teacher,
        **(given[2] if knobs is None else knobs),
    )


def mapped(function, value):
    return tuple(function(v) for v in value) if isinstance(value, tuple) else function(value)


# --- properties of all ------------------------------------------------------------------------


def test_registry_info_cases_and_references_have_the_same_names():
    assert list(LOSSES) == list(LOSS_ROWS)
    assert set(LOSSES) - OF_BOXES == set(CASES) == set(REFERENCES)


@ALL
def test_info_tells_the_truth_about_the_signature(name):
    parameters = inspect.signature(LOSSES[name]).parameters
    info = LOSS_ROWS[name]
    assert list(parameters)[:2] == ["student", "teacher"]
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[2:])
    assert ("gather" in parameters) == info.scope
    assert set(info.needs) <= set(parameters)
    assert info.per_sample != info.scope
    if info.kind == "logits":
        assert {"standardise", "temperature"} <= set(parameters)


@ALL
def test_value_equals_the_reference(name):
    def to_numpy(x):
        return mapped(lambda v: v.numpy() if isinstance(v, torch.Tensor) else v, x)

    student, teacher, knobs = CASES[name]
    knobs = {key: to_numpy(value) for key, value in knobs.items()}
    expected = REFERENCES[name](to_numpy(student), to_numpy(teacher), **knobs)
    found = call(name)
    assert found.shape == (N,)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("fast_mode", [True, pytest.param(False, marks=pytest.mark.soak)])
@ALL
def test_gradcheck(name, fast_mode):
    """Along random directions; all entries of the Jacobian take a minute."""
    student = mapped(lambda x: x.clone().requires_grad_(), CASES[name][0])
    flat = student if isinstance(student, tuple) else (student,)

    def run(*parts):
        return call(name, student=parts if isinstance(student, tuple) else parts[0])

    assert gradcheck(run, flat, fast_mode=fast_mode)


@ALL
def test_gradient_reaches_the_student_and_never_the_teacher(name):
    student = mapped(lambda x: x.clone().requires_grad_(), CASES[name][0])
    teacher = mapped(lambda x: x.clone().requires_grad_(), CASES[name][1])
    call(name, student, teacher).mean().backward()
    for part in student if isinstance(student, tuple) else (student,):
        assert part.grad.isfinite().all()
        assert part.grad.abs().sum() > 1e-8
    for part in teacher if isinstance(teacher, tuple) else (teacher,):
        assert part.grad is None


@pytest.mark.parametrize("name", sorted({*LOSSES} - OF_BOXES - {*NOT_ZERO}))
def test_zero_with_zero_gradient_at_student_equals_teacher(name):
    teacher = CASES[name][1]
    student = mapped(lambda x: x.clone().requires_grad_(), teacher)
    loss_N = call(name, student, teacher, knobs_to_match(name))
    assert loss_N.abs().max() < 1e-12
    loss_N.sum().backward()
    for part in student if isinstance(student, tuple) else (student,):
        assert part.grad.abs().max() < 1e-6


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    def as_half(x):
        return mapped(
            lambda v: v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else v, x
        )

    def raised(x):
        return mapped(
            lambda v: v.float() if isinstance(v, torch.Tensor) and v.is_floating_point() else v, x
        )

    student, teacher, knobs = CASES[name]
    student, teacher = as_half(student), as_half(teacher)
    knobs = {key: raised(value) for key, value in knobs.items()}
    found = LOSSES[name](student, teacher, **knobs)
    assert found.dtype == torch.float32
    assert torch.equal(found, LOSSES[name](raised(student), raised(teacher), **knobs))


@ALL
def test_arguments_are_not_edited(name):
    student, teacher, _ = CASES[name]
    before = mapped(torch.clone, student), mapped(torch.clone, teacher)
    call(name)
    for old, new in zip(before, (student, teacher), strict=True):
        pairs = zip(old, new, strict=True) if isinstance(old, tuple) else [(old, new)]
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", [name for name in CASES if LOSS_ROWS[name].per_sample])
def test_micro_batches_equal_the_big_batch_exactly_where_promised(name):
    student, teacher, knobs = CASES[name]

    def part(x, where):
        return mapped(lambda v: v[where] if isinstance(v, torch.Tensor) and len(v) == N else v, x)

    whole = call(name).mean()
    pieces = [slice(0, 4), slice(4, N)]
    small = [
        LOSSES[name](
            part(student, p), part(teacher, p), **{k: part(v, p) for k, v in knobs.items()}
        )
        for p in pieces
    ]
    weighted = sum(len(loss) * loss.mean() for loss in small) / N
    torch.testing.assert_close(weighted, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in LOSSES if LOSS_ROWS[n].kind not in ("pairs", "boxes")])
def test_relabelling_the_samples_permutes_the_loss(name):
    student, teacher, knobs = CASES[name]
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = {
        key: value[order] if isinstance(value, torch.Tensor) and len(value) == N else value
        for key, value in knobs.items()
    }
    found = LOSSES[name](student[order], teacher[order], **moved)
    torch.testing.assert_close(found, call(name)[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", [n for n in LOSSES if LOSS_ROWS[n].kind == "logits"])
@pytest.mark.parametrize("standardise", [False, True])
def test_extreme_logits_stay_finite(name, classes, dtype, standardise):
    torch.manual_seed(0)
    sign = torch.randint(0, 2, (8, classes)) * 2 - 1
    student = (200.0 * sign).to(dtype).requires_grad_()
    teacher = (200.0 * sign.flip(0)).to(dtype)
    labels = torch.arange(8) % (classes + 1) - 1
    knobs = {"labels": labels} if "labels" in LOSS_ROWS[name].needs else {}
    for temperature in (1.0, 4.0):
        loss_N = LOSSES[name](
            student, teacher, temperature=temperature, standardise=standardise, **knobs
        )
        (gradient,) = torch.autograd.grad(loss_N.sum(), student)
        assert loss_N.isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("value", [0.0, 1.0, 200.0])
@ALL
def test_constant_inputs_stay_finite(name, value):
    _, teacher, knobs = CASES[name]
    for target in (teacher, mapped(lambda x: torch.full_like(x, value), teacher)):
        student = mapped(
            lambda x: torch.full_like(x, value, dtype=torch.float32).requires_grad_(),
            CASES[name][0],
        )
        loss_N = call(name, student, mapped(lambda x: x.float(), target), knobs)
        assert loss_N.isfinite().all()
        loss_N.sum().backward()
        for part in student if isinstance(student, tuple) else (student,):
            assert part.grad.isfinite().all()
            assert part.grad.abs().max() < 1e6


@ALL
def test_one_sample(name):
    def first(x):
        return mapped(lambda v: v[:1] if isinstance(v, torch.Tensor) and len(v) == N else v, x)

    student, teacher, knobs = CASES[name]
    student = mapped(lambda x: x.clone().requires_grad_(), first(student))
    loss_N = LOSSES[name](student, first(teacher), **{k: first(v) for k, v in knobs.items()})
    assert loss_N.shape == (1,)
    assert loss_N.isfinite().all()
    loss_N.sum().backward()
    for part in student if isinstance(student, tuple) else (student,):
        assert part.grad.isfinite().all()


def test_table_has_a_line_for_every_loss():
    lines = loss_table().splitlines()
    assert len(lines) == len(LOSSES) + 2
    assert all(f"`{name}`" in line for name, line in zip(LOSSES, lines[2:], strict=True))
    assert len({line.count(" | ") for line in lines if line[2] != "-"} - {4}) == 0
