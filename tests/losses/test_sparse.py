"""Losses over a few classes and a bucket of the others: at K = V the full ones, below as written down in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from raykd.draws import draw
from raykd.ensemble.sparse import mixture
from raykd.errors import TargetError
from raykd.losses import LOSSES
from raykd.losses.head import head_loss
from raykd.losses.sparse import SPARSE_LOSSES, cross_entropy
from raykd.top_k import dense, take, tempered, without_tail

N, V, D = 5, 13, 3
KNOBS = {"kl": {}, "reverse_kl": {}, "js": {"beta": 0.3}, "skew_kl": {"alpha": 0.2}}
ALL = pytest.mark.parametrize("name", sorted(SPARSE_LOSSES))
AT = pytest.mark.parametrize("temperature", [1.0, 2.5])


def normal(*shape, seed=0, scale=3.0, dtype=torch.float64):
    return scale * torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def answer(size=6, seed=1, **more):
    return take(normal(N, V, seed=seed), size, temperatures=(2.5,), **more)


def buckets_of(logits, ids, temperature):
    """Log-probabilities of each row's ids and of all others together, each row written out."""
    rows = []
    for row, kept in zip(logits.numpy() / temperature, ids.tolist(), strict=True):
        log_p = row - logsumexp(row)
        rest = [v for v in range(len(row)) if v not in kept]
        rows.append([*log_p[kept], *([logsumexp(log_p[rest])] if rest else [])])
    return np.array(rows)


def divergence(name, p, q):
    def kl(a, b):
        return (np.exp(a) * (a - b)).sum(1)

    def mixed(share):
        return np.log(share * np.exp(p) + (1 - share) * np.exp(q))

    if name == "js":
        m = mixed(0.3)
        return (0.3 * kl(p, m) + 0.7 * kl(q, m)) / (4 * 0.3 * 0.7)
    return {"kl": lambda: kl(p, q), "reverse_kl": lambda: kl(q, p),
            "skew_kl": lambda: kl(p, mixed(0.2))}[name]()  # fmt: skip


def with_grad(function, *inputs):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    value = function(*inputs)
    weights = torch.linspace(0.5, 2.0, len(value), dtype=value.dtype)
    return value.detach(), torch.autograd.grad((value * weights).sum(), inputs)


@ALL
@AT
def test_of_all_classes_it_is_the_full_loss(name, temperature):
    teacher, student = normal(N, V, seed=1), normal(N, V, seed=2)
    few = take(teacher, V, temperatures=(2.5,))
    knobs = {"temperature": temperature, **KNOBS[name]}
    full = with_grad(lambda s: LOSSES[name](s, teacher, **knobs), student)
    found = with_grad(lambda s: SPARSE_LOSSES[name](s, few, **knobs), student)
    torch.testing.assert_close(found, full, rtol=1e-12, atol=1e-12)


@ALL
@AT
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_a_few_classes_it_is_the_loss_over_buckets(name, temperature, dtype):
    teacher, student = normal(N, V, seed=1), normal(N, V, seed=2)
    few = take(teacher.to(dtype), 6, temperatures=(2.5,))
    p, q = (buckets_of(z, few.ids_NK, temperature) for z in (teacher, student))
    found = SPARSE_LOSSES[name](student.to(dtype), few, temperature=temperature, **KNOBS[name])
    expected = torch.from_numpy(temperature**2 * divergence(name, p, q)).to(dtype)
    accuracy = (
        {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
    )
    torch.testing.assert_close(found, expected, **accuracy)
    full = LOSSES[name](student, teacher, temperature=temperature, **KNOBS[name])
    assert (found <= full + 1e-5).all(), "buckets hide differences and make none"


@ALL
@AT
@pytest.mark.parametrize("mass", [None, 0.7, 0.999])
def test_gradients_are_right(name, temperature, mass):
    few = answer(V if mass == 0.999 else 6, mass=mass)
    student = normal(N, V, seed=2).requires_grad_()
    knobs = {"temperature": temperature, **KNOBS[name]}
    assert gradcheck(lambda s: SPARSE_LOSSES[name](s, few, **knobs), (student,), fast_mode=True)


@ALL
@AT
@pytest.mark.parametrize("mass", [None, 0.7])
def test_a_student_like_the_teacher_costs_nothing(name, temperature, mass):
    teacher = normal(N, V, seed=1)
    few = take(teacher, 6, mass=mass, temperatures=(2.5,))
    value, (gradient,) = with_grad(
        lambda s: SPARSE_LOSSES[name](s, few, temperature=temperature, **KNOBS[name]), teacher
    )
    assert value.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12


@ALL
def test_it_is_never_negative_where_the_student_is_surer_than_the_teacher(name):
    """Without the bucket the sum over the classes kept is negative there."""
    teacher = normal(N, V, seed=1)
    few = take(teacher, 3)
    student = (teacher * 4).requires_grad_()
    loss_N = SPARSE_LOSSES[name](student, few, **KNOBS[name])
    assert (loss_N > 1e-3).all()
    (gradient,) = torch.autograd.grad(loss_N.sum(), student)
    assert (gradient.abs().sum(1) > 1e-6).all()


def test_reverse_kl_without_a_tail_is_refused():
    for few in (without_tail(answer()), tempered(without_tail(answer()))):
        with pytest.raises(
            ValueError, match=r"needs the tail of the 7 classes.*leaves all of these"
        ):
            SPARSE_LOSSES["reverse_kl"](normal(N, V), few)
        with pytest.raises(ValueError, match="needs the tail"):
            head_loss(normal(N, D), normal(V, D), few, loss="reverse_kl")
    whole = without_tail(take(normal(N, V, seed=1), V))
    assert SPARSE_LOSSES["reverse_kl"](normal(N, V), whole).isfinite().all()


@pytest.mark.parametrize("name", ["kl", "js", "skew_kl"])
def test_without_a_tail_the_teacher_is_sure_that_it_is_one_of_the_few(name):
    few = answer()
    full_p = dense(tempered(without_tail(few)))
    assert (full_p.exp().sum(1) - 1).abs().max() < 1e-12
    student = normal(N, V, seed=2)
    found = SPARSE_LOSSES[name](student, without_tail(few), **KNOBS[name])
    expected = LOSSES[name](student, full_p.clamp(min=-1e3), **KNOBS[name])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_another_temperature_and_other_shapes_are_refused():
    with pytest.raises(TargetError, match=r"at temperature 1, 2\.5, not at 3"):
        SPARSE_LOSSES["kl"](normal(N, V), answer(), temperature=3.0)
    with pytest.raises(ValueError, match=r"\(5, 12\) and the teacher speaks of \(5, 13\)"):
        SPARSE_LOSSES["kl"](normal(N, V - 1), answer())
    with pytest.raises(ValueError, match="loss must be one of"):
        head_loss(normal(N, D), normal(V, D), answer(), loss="l2")
    for knob in ({"beta": 1.0}, {"beta": 0.0}):
        with pytest.raises(ValueError, match="beta must be within"):
            SPARSE_LOSSES["js"](normal(N, V), answer(), **knob)
    with pytest.raises(ValueError, match="alpha must be within"):
        SPARSE_LOSSES["skew_kl"](normal(N, V), answer(), alpha=1.0)


# --- from hidden states -------------------------------------------------------------------------


def student_parts(dtype=torch.float64):
    return [
        x.to(dtype)
        for x in (
            normal(N, D, seed=3, scale=0.6),
            normal(V, D, seed=4, scale=1.0),
            normal(V, seed=5, scale=1.0),
        )
    ]


def targets():
    return {
        "few": answer(),
        "all": answer(V),
        "mass": answer(mass=0.7),
        "all by mass": answer(V, mass=0.9999),
        "no tail": without_tail(answer()),
        "mixture": mixture([tempered(answer(), 2.5), tempered(answer(9, seed=8), 2.5)], torch.full((2, N), 0.5)),
    }  # fmt: skip


@ALL
@AT
@pytest.mark.parametrize("kind", sorted(targets()))
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_in_chunks_from_hidden_states_it_is_the_same(name, temperature, kind, dtype, close):
    target = targets()[kind]
    if (kind, name) == ("no tail", "reverse_kl"):
        return
    knobs = {"temperature": temperature, **KNOBS[name]}
    naive = with_grad(
        lambda h, w, b: SPARSE_LOSSES[name](h @ w.t() + b, target, **knobs), *student_parts(dtype)
    )
    found = with_grad(
        lambda h, w, b: head_loss(h, w, target, bias_V=b, loss=name, elements=3 * V, **knobs),
        *student_parts(dtype),
    )
    scale = max(1.0, *(x.abs().max().item() for x in (naive[0], *naive[1])))
    for one, other in zip((found[0], *found[1]), (naive[0], *naive[1]), strict=True):
        assert one.dtype == other.dtype == dtype
        assert (one - other).abs().max() <= close * scale


@ALL
@pytest.mark.parametrize("kind", ["few", "all by mass", "mixture"])
def test_its_gradients_are_right(name, kind):
    target = targets()[kind]
    parts = [x.requires_grad_() for x in student_parts()]
    knobs = {"temperature": 2.5, **KNOBS[name]}

    def loss(h, w, b):
        return head_loss(h, w, target, bias_V=b, loss=name, elements=2 * V, **knobs)

    assert gradcheck(loss, parts, fast_mode=True)
    assert gradcheck(lambda h: loss(h, parts[1].detach(), None), parts[:1])


def test_what_the_student_gives_to_a_few_among_thousands_keeps_its_digits():
    """The rest of the student is 1e-14: 1 - Σ q would have none of its digits in float32."""
    few = take(torch.cat([normal(4, 3, seed=1), torch.full((4, 1997), -8.0)], 1).float(), 3)
    hidden = torch.eye(4, 2000)
    head = torch.full((2000, 2000), -40.0)
    head[:3, :4] = normal(3, 4, seed=2).float()
    value, (gradient, _) = with_grad(lambda h, w: head_loss(h, w, few), hidden, head)
    exact, (exact_gradient, _) = with_grad(
        lambda h, w: SPARSE_LOSSES["kl"](h @ w.t(), few), hidden.double(), head.double()
    )
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
    assert (gradient - exact_gradient).abs().max() < 1e-5 * exact_gradient.abs().max()


def test_the_student_s_logits_never_exist_as_a_whole():
    units, classes, rows = 64, 1000, 4
    sizes = []

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in tree_flatten(out)[0] if isinstance(x, torch.Tensor))
            return out

    teacher = take(normal(units, classes, seed=1), 8)
    parts = [normal(*shape, seed=2).requires_grad_() for shape in ((units, D), (classes, D))]
    with Largest():
        head_loss(*parts, teacher, elements=rows * classes).sum().backward()
    assert max(sizes) == rows * classes < units * classes / 10
    assert all(x.grad.abs().max() > 0 for x in parts)


def test_half_precision_and_autocast():
    few = answer()
    hidden, head, bias = student_parts(torch.float32)
    expected = head_loss(hidden.bfloat16(), head.bfloat16(), few, bias_V=bias.bfloat16())
    assert expected.dtype == torch.float32
    exact = head_loss(hidden, head, few, bias_V=bias)
    torch.testing.assert_close(expected, exact, rtol=0.1, atol=0.2)
    leaves = [x.clone().requires_grad_() for x in (hidden, head, bias)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_N = head_loss(*leaves[:2], few, bias_V=leaves[2])
    loss_N.sum().backward()
    torch.testing.assert_close(loss_N, exact, rtol=0.1, atol=0.2)
    assert all(x.grad.dtype == torch.float32 for x in leaves)


# --- draws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("flatness", [1.0, 0.5])
def test_the_gradient_of_drawn_targets_has_no_bias(flatness):
    teacher, draws = normal(3, V, seed=1), 3000
    student = normal(3, V, seed=2).requires_grad_()
    exact, (gradient,) = with_grad(lambda s: LOSSES["kl"](s, teacher, temperature=2.0), student)
    drawn = draw(teacher, draws, seed=1, temperature=2.0, flatness=flatness)
    value, (found,) = with_grad(lambda s: cross_entropy(s, drawn), student)
    p = (teacher / 2).softmax(1)
    entropy = -4 * (p * p.log()).sum(1)
    torch.testing.assert_close(value, exact + entropy, rtol=0.05, atol=0.05)
    assert (found - gradient).abs().max() < 12 / draws**0.5
    assert gradcheck(lambda s: cross_entropy(s, drawn), (student,))


def test_drawn_targets_in_chunks_from_hidden_states():
    drawn = draw(normal(N, V, seed=1), 12, seed=5, temperature=2.0, flatness=0.7)
    assert (drawn.ids_NK[:, 1:] == drawn.ids_NK[:, :-1]).any(), "some class is drawn twice"
    naive = with_grad(lambda h, w, b: cross_entropy(h @ w.t() + b, drawn), *student_parts())
    found = with_grad(
        lambda h, w, b: head_loss(h, w, drawn, bias_V=b, elements=2 * V), *student_parts()
    )
    torch.testing.assert_close(found, naive, rtol=1e-12, atol=1e-12)
