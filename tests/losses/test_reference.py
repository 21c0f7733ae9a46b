"""Every loss against a float64 NumPy reference written from its formula, and what all must obey."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
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
    "hint": (maps(0), maps(1), {}),
    "attention": (maps(0, 3, 4), maps(1, 5, 2), {}),
    "attention_matrix": (normal(N, 2, 3, 3, seed=0), normal(N, 4, 3, 3, seed=1), {}),
    "nst": (maps(0, 3, 4), maps(1, 5, 2), {}),
    "fsp": ((maps(0, 3, 4), maps(1, 5, 2)), (maps(2, 3, 4), maps(3, 5, 2)), {}),
    "vid": (maps(0), maps(1), {"raw_variance": normal(3, seed=2)}),
    "cosine": (maps(0), maps(1), {"mean": normal(3, seed=2), "std": normal(3, seed=3).exp()}),
    "smooth_l1": (maps(0), maps(1), {"mean": normal(3, seed=2), "std": normal(3, seed=3).exp()}),
    "similarity": (maps(0), maps(1, 5), {}),
    "rkd_distance": (maps(0), maps(1, 5), {}),
    "rkd_angle": (maps(0), maps(1, 5), {}),
    "pkt": (maps(0), maps(1, 5), {}),
    "huber": (normal(N, seed=0), normal(N, seed=1), {"delta": 0.7}),
    "bounded": (normal(N, 2, seed=0), normal(N, 2, seed=1), {"labels": normal(N, 2, seed=2)}),
    "imitation": (
        normal(N, 2, seed=0),
        normal(N, 2, seed=1),
        {"labels": normal(N, 2, seed=2), "error_range": 30.0, "alpha": 0.3},
    ),
}
ALL = pytest.mark.parametrize("name", sorted(LOSSES))


def knobs_to_match(name):
    """Knobs under which student = teacher is the loss's floor of 0."""
    knobs = dict(CASES[name][2])
    if name in ("cosine", "smooth_l1"):
        return {}
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


# --- references -------------------------------------------------------------------------------


def log_softmax(z):
    return z - logsumexp(z, axis=-1, keepdims=True)


def kl_rows(p, q):
    return (np.exp(p) * (p - q)).sum(-1)


def ref_kl(s, t, temperature):
    return temperature**2 * kl_rows(log_softmax(t / temperature), log_softmax(s / temperature))


def ref_bernoulli_kl(s, t, temperature):
    p, q = (1 / (1 + np.exp(-x / temperature)) for x in (t, s))
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return temperature**2 * divergence.mean(1)


def ref_reverse_kl(s, t, temperature):
    return ref_kl(t, s, temperature)


def ref_js(s, t, temperature, beta):
    p, q = np.exp(log_softmax(t / temperature)), np.exp(log_softmax(s / temperature))
    m = beta * p + (1 - beta) * q
    jsd = beta * (p * np.log(p / m)).sum(-1) + (1 - beta) * (q * np.log(q / m)).sum(-1)
    return temperature**2 * jsd / (4 * beta * (1 - beta))


def ref_skew_kl(s, t, temperature, alpha):
    p, q = np.exp(log_softmax(t / temperature)), np.exp(log_softmax(s / temperature))
    return temperature**2 * (p * np.log(p / (alpha * p + (1 - alpha) * q))).sum(-1)


def ref_uld(s, t, temperature):
    p, q = (-np.sort(-np.exp(log_softmax(x / temperature)), axis=-1) for x in (t, s))
    width = max(p.shape[1], q.shape[1])
    p, q = (np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in (p, q))
    return temperature**2 * np.abs(p - q).sum(-1)


def ref_mse(s, t):
    return ((s - t) ** 2).mean(-1)


def ref_dkd(s, t, temperature, labels, beta, alpha=1.0):
    out = []
    for row_s, row_t, y in zip(s, t, labels, strict=True):
        q, p = np.exp(log_softmax(row_s / temperature)), np.exp(log_softmax(row_t / temperature))
        if y < 0:
            out.append((p * np.log(p / q)).sum())
            continue
        target = p[y] * np.log(p[y] / q[y]) + (1 - p[y]) * np.log((1 - p[y]) / (1 - q[y]))
        rest_p, rest_q = np.delete(p, y), np.delete(q, y)
        rest_p, rest_q = rest_p / rest_p.sum(), rest_q / rest_q.sum()
        out.append(alpha * target + beta * (rest_p * np.log(rest_p / rest_q)).sum())
    return temperature**2 * np.array(out)


def ref_dist(s, t, temperature, beta, gamma):
    q, p = np.exp(log_softmax(s / temperature)), np.exp(log_softmax(t / temperature))
    rows = np.array([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)])
    columns = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)])
    return temperature**2 * (beta * rows + gamma * columns)


def ref_hint(s, t):
    return ((s - t) ** 2).reshape(len(s), -1).mean(-1)


def halved(x):
    return x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).mean((3, 5))


def ref_attention(s, t):
    a = (halved(s) ** 2).mean(1).reshape(len(s), -1)
    b = (t**2).mean(1).reshape(len(t), -1)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return ((a - b) ** 2).mean(1)


def ref_attention_matrix(s, t):
    return ((s.mean(1) - t.mean(1)) ** 2).mean((1, 2))


def ref_nst(s, t):
    a, b = (x.reshape(*x.shape[:2], -1) for x in (halved(s), t))
    a, b = (x / np.linalg.norm(x, axis=2, keepdims=True) for x in (a, b))

    def kernel(x, y):
        return np.array(
            [np.mean([[(u @ v) ** 2 for u in i] for v in j]) for i, j in zip(x, y, strict=True)]
        )

    return kernel(b, b) + kernel(a, a) - 2 * kernel(a, b)


def ref_fsp(s, t):
    def flow(pair):
        return np.einsum("bihw,bjhw->bij", halved(pair[0]), pair[1]) / 4

    return ((flow(s) - flow(t)) ** 2).mean((1, 2))


def ref_vid(s, t, raw_variance):
    variance = (np.log1p(np.exp(raw_variance)) + 1e-5)[None, :, None, None]
    return (0.5 * ((s - t) ** 2 / variance + np.log(variance))).mean((1, 2, 3))


def ref_cosine(s, t, mean, std):
    t = (t - mean[:, None, None]) / std[:, None, None]
    cos = (s * t).sum(1) / np.sqrt((s**2).sum(1) * (t**2).sum(1))
    return (1 - cos).mean((1, 2))


def huber_of(a, delta=1.0):
    return np.where(np.abs(a) < delta, a**2 / 2, delta * (np.abs(a) - delta / 2))


def ref_smooth_l1(s, t, mean, std):
    return huber_of(s - (t - mean[:, None, None]) / std[:, None, None]).mean((1, 2, 3))


def ref_similarity(s, t):
    def gram(x):
        g = x.reshape(len(x), -1) @ x.reshape(len(x), -1).T
        return g / np.linalg.norm(g, axis=1, keepdims=True)

    return ((gram(s) - gram(t)) ** 2).sum(1) / len(s)


def ref_rkd_distance(s, t):
    def relative(x):
        x = x.reshape(len(x), -1)
        d = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
        return d / d[d > 0].mean()

    return huber_of(relative(s) - relative(t)).mean(1)


def ref_rkd_angle(s, t):
    def angles(x):
        x = x.reshape(len(x), -1)
        out = np.zeros((len(x),) * 3)
        for i, j, k in np.ndindex(out.shape):
            if i not in (j, k):
                a, b = x[j] - x[i], x[k] - x[i]
                out[i, j, k] = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        return out

    return huber_of(angles(s) - angles(t)).mean((1, 2))


def ref_pkt(s, t, eps=1e-7):
    def neighbours(x):
        x = x.reshape(len(x), -1)
        x = x / (np.linalg.norm(x, axis=1, keepdims=True) + eps)
        a = (x @ x.T + 1) / 2
        return a / a.sum(1, keepdims=True)

    p, q = neighbours(t), neighbours(s)
    return (p * np.log((p + eps) / (q + eps))).mean(1)


def ref_huber(s, t, delta):
    return huber_of(s - t, delta)


def ref_bounded(s, t, labels):
    own, teacher = ((s - labels) ** 2).sum(1), ((t - labels) ** 2).sum(1)
    return np.where(own > teacher, own, 0.0)


def ref_imitation(s, t, labels, error_range, alpha):
    trust = np.maximum(0, 1 - ((t - labels) ** 2).sum(1) / error_range)
    follow = trust * ((s - t) ** 2).sum(1)
    return alpha * ((s - labels) ** 2).sum(1) + (1 - alpha) * follow


REFERENCES = {name[4:]: value for name, value in list(globals().items()) if name[:4] == "ref_"}


# --- properties of all ------------------------------------------------------------------------


def test_registry_info_cases_and_references_have_the_same_names():
    assert list(LOSSES) == list(LOSS_ROWS)
    assert set(LOSSES) == set(CASES) == set(REFERENCES)


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


@ALL
def test_gradcheck(name):
    student = mapped(lambda x: x.clone().requires_grad_(), CASES[name][0])
    flat = student if isinstance(student, tuple) else (student,)

    def run(*parts):
        return call(name, student=parts if isinstance(student, tuple) else parts[0])

    assert gradcheck(run, flat)


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


@ALL
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


@pytest.mark.parametrize("name", [n for n in LOSSES if LOSS_ROWS[n].kind != "pairs"])
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
    knobs = {"labels": torch.arange(8) % (classes + 1) - 1} if name == "dkd" else {}
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
