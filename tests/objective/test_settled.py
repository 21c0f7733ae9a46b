"""What is made before the student sees a batch gives the losses and gradients of the general path."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from raykd.config.methods import WEIGHTINGS
from raykd.objective import Context, reduce_terms
from raykd.objective.schedules import strengths_at
from raykd.objective.settled import SettledSteps
from raykd.train.feed import parts_of

UNITS, CLASSES = 24, 4
SIZES = (10, 8, 6)
TARGETS = {
    "kl": {"temperature": 3.0},
    "at T = 1": {"temperature": 1.0},
    "of logits": {"temperature": 2.0, "combine": "logits"},
    "tempered after mixing": {"temperature": 4.0, "combine": "probabilities_then_temper"},
    "sharpened": {"temperature": 1.0, "sharpen": 0.4},
    "smoothed, half hard": {"temperature": 1.0, "sharpen": 2.5, "hard_share": 0.5},
    "hard": {"temperature": 1.0, "hard_share": 1.0},
    "by agreement": {"temperature": 2.0, "disagreement": {"type": "discount", "tau": 0.3}},
    "those that agree": {"temperature": 2.0, "disagreement": {"type": "filter", "minimum_votes": 2}},
    "scheduled": {"temperature": 2.0, "weight": {"type": "linear", "from": 0.1, "to": 1.0, "epochs": 2}},
}  # fmt: skip
LABELS = {
    "added": {"weight": 0.3, "smoothing": 0.1},
    "in place": {"mode": "replace", "smoothing": 0.1},
    "filled": {"weight": 0.5, "fill": "ensemble"},
}
KNOBS = {"fixed": {"weights": {"a": 1.0, "b": 3.0}}}
SETTLED = [
    name for name, one in WEIGHTINGS.items()
    if (row := one(**KNOBS.get(name, {})).row).stored and not row.sequences
    and not one(**KNOBS.get(name, {})).row.random
]  # fmt: skip
NOT_SETTLED = {
    "drawn": {"weighting": {"type": "sample"}},
    "looks at the student": {"weighting": {"type": "gradient"}},
    "at its losses": {"weighting": {"type": "drop"}},
    "no cross-entropy": {"soft_targets": {"loss": {"type": "mse"}}},
    "reverse": {"soft_targets": {"loss": {"type": "reverse_kl"}}},
    "sum of losses": {"soft_targets": {"loss": {"type": "kl"}, "combine": "losses"}},
    "standardised": {"soft_targets": {"loss": {"type": "kl", "standardise": True}}},
}  # fmt: skip


@pytest.fixture
def both(make_objective, make_batch, make_answers, generator):
    """Losses of three steps by the general path and by the settled one, and the gradients [N, C] of both."""

    def both(settings, *, dtype=torch.float32, mixes=False, weights=False):
        classes = torch.tensor([1.0, 0.5, 2.0, 0.5])
        objective = make_objective(
            settings, "a", "b", temperatures={"b": 1.5}, class_weights=classes
        )
        objective.teacher_infos = tuple(
            replace(info, error=0.3 + i, accuracy=0.8 - 0.2 * i)
            for i, info in enumerate(objective.teacher_infos)
        )
        assert objective.settles
        given = {"units": UNITS, "present": torch.arange(UNITS) != 4}
        if mixes:
            shares = torch.rand(UNITS, generator=generator)
            shares[::4] = 1.0
            partners = torch.randint(-1, CLASSES, (UNITS,), generator=generator)
            given |= {"partners": partners, "shares": shares}
        if weights:
            given["weights"] = torch.rand(UNITS, generator=generator)
        batch = make_batch(**given)
        silent = torch.arange(UNITS)
        answers = make_answers(
            "a", "b", units=UNITS, silent={"a": silent == 7, "b": silent % 7 == 0}
        )
        z = torch.randn(UNITS, CLASSES, generator=generator, dtype=dtype).mul_(2).requires_grad_()

        strengths = [strengths_at(objective.settings, 0.5 * step) for step in range(len(SIZES))]
        ensemble = objective.settle(batch, answers, strengths[0].temperature, dtype)
        units = objective.settled_units(batch, ensemble, CLASSES, dtype)
        steps = SettledSteps(units, SIZES, strengths, lambda sums: sums, 1)
        found = [steps.gradient(i, part) for i, part in enumerate(z.detach().split(SIZES))]
        gradient = torch.cat([gradient_NC for gradient_NC, _ in found])

        general, start = [], 0
        for step, part in enumerate(parts_of(batch, SIZES)):
            here = slice(start, start := start + len(part))
            said = {
                name: replace(one, values_NC=one.values_NC[here], valid_N=one.valid_N[here])
                for name, one in answers.items()
            }
            terms, weights_TN = objective(z[here], {}, part, said, Context(epoch=0.5 * step))
            losses = reduce_terms(terms, lambda sums: sums, 1)
            losses.total.backward()
            general.append(
                replace(
                    losses,
                    ensemble=objective.ensemble_sums([weights_TN], [said])[0],
                )
            )
        return general, steps.losses([log_q for _, log_q in found]), z.grad, gradient

    return both


def same(found, rtol, atol):
    general, settled, expected, gradient = found
    assert gradient.dtype == expected.dtype
    torch.testing.assert_close(gradient, expected, rtol=rtol, atol=atol)
    for one, other in zip(settled, general, strict=True):
        torch.testing.assert_close(one.total, other.total.detach(), rtol=rtol, atol=atol)
        assert one.terms.keys() == other.terms.keys()
        for name, share in one.terms.items():
            torch.testing.assert_close(share, other.terms[name], rtol=rtol, atol=atol)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_target(both, target, labels):
    settings = {"soft_targets": TARGETS[target], "labels": LABELS[labels]}
    same(both(settings), 1e-6, 1e-6)
    same(both(settings, weights=True), 1e-6, 1e-6)
    same(both(settings, mixes=True), 1e-6, 1e-6)
    same(both(settings, dtype=torch.float64), 1e-6, 1e-6)


@pytest.mark.parametrize("weighting", SETTLED)
def test_every_weighting(both, weighting):
    weighed = {"weighting": {"type": weighting, **KNOBS.get(weighting, {})}}
    settings = {**weighed, "soft_targets": {"temperature": 2.0}, "labels": {"weight": 0.3}}
    general, settled, *_ = found = both(settings)
    same(found, 1e-6, 1e-6)
    for one, other in zip(settled, general, strict=True):  # units ≤ 16: all are compared
        torch.testing.assert_close(one.ensemble, other.ensemble, rtol=1e-5, atol=1e-5)


def after_fifty_steps(objective, batch, answers, *, settled):
    """Weights of a float64 student that Adam has trained on the same units, a part of them at a time."""
    torch.manual_seed(1)
    student = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, CLASSES)
    ).double()
    optimizer = torch.optim.Adam(student.parameters(), 1e-2)
    x = torch.randn(UNITS, 6, dtype=torch.float64)
    ends = [sum(SIZES[: i + 1]) for i in range(len(SIZES))]
    for step in range(50):
        place = step % len(SIZES)
        here = slice(ends[place] - SIZES[place], ends[place])
        part = parts_of(batch, SIZES)[place]
        said = {
            n: replace(a, values_NC=a.values_NC[here], valid_N=a.valid_N[here])
            for n, a in answers.items()
        }
        now = strengths_at(objective.settings, step / 25)
        optimizer.zero_grad()
        if settled:
            ensemble = objective.settle(part, said, now.temperature, torch.float64)
            units = objective.settled_units(part, ensemble, CLASSES, torch.float64)
            steps = SettledSteps(units, [len(part)], [now], lambda sums: sums, 1)
            z = student(x[here])
            z.backward(steps.gradient(0, z.detach())[0])
        else:
            terms, _ = objective(student(x[here]), {}, part, said, Context(epoch=step / 25))
            reduce_terms(terms, lambda sums: sums, 1).total.backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in student.parameters()])


FIFTY = {
    **{f"{t}, {n}": {"soft_targets": TARGETS[t], "labels": LABELS[n]} for t in TARGETS for n in LABELS},
    **{w: {"weighting": {"type": w, **KNOBS.get(w, {})}, "soft_targets": {"temperature": 2.0},
           "labels": {"weight": 0.3}} for w in SETTLED},
}  # fmt: skip


BRIEF = {f"{t}, {[*LABELS][i % len(LABELS)]}" for i, t in enumerate(TARGETS)} | {*SETTLED}
"""Every target, every way of labels and every weighting once; all pairs of them are in `make soak`."""


@pytest.mark.parametrize(
    "settings",
    [pytest.param(one, id=name, marks=[] if name in BRIEF else pytest.mark.soak) for name, one in FIFTY.items()],
)  # fmt: skip
def test_weights_after_fifty_steps_in_float64(settings, make_objective, make_batch, make_answers):
    objective = make_objective(settings, "a", "b", temperatures={"b": 1.5})
    objective.teacher_infos = tuple(
        replace(info, error=0.3 + i, accuracy=0.8 - 0.2 * i)
        for i, info in enumerate(objective.teacher_infos)
    )
    batch, silent = make_batch(units=UNITS), torch.arange(UNITS)
    answers = {
        name: replace(one, values_NC=one.values_NC.double())
        for name, one in make_answers("a", "b", units=UNITS, silent={"a": silent == 7}).items()
    }
    one, other = (after_fifty_steps(objective, batch, answers, settled=s) for s in (False, True))
    torch.testing.assert_close(other, one, rtol=0, atol=1e-9)


def test_extreme_logits(make_objective, make_batch, make_answers):
    """Probabilities that no float32 holds."""
    objective = make_objective(
        {"soft_targets": {"temperature": 1.0}, "labels": {"weight": 0.0}}, "a", "b"
    )
    answers = {
        name: replace(one, values_NC=one.values_NC * 1e3)
        for name, one in make_answers("a", "b").items()
    }
    batch = make_batch()
    z = (make_answers("c")["c"].values_NC * 1e3).requires_grad_()
    units = objective.settled_units(batch, objective.settle(batch, answers, 1.0), CLASSES, z.dtype)
    steps = SettledSteps(
        units, [len(batch)], [strengths_at(objective.settings, 0.0)], lambda s: s, 1
    )
    gradient, log_q = steps.gradient(0, z.detach())
    (losses,) = steps.losses([log_q])
    terms, _ = objective(z, {}, batch, answers)
    total = reduce_terms(terms, lambda sums: sums, 1).total
    total.backward()
    torch.testing.assert_close(losses.total, total.detach())
    torch.testing.assert_close(gradient, z.grad)


def test_nothing_is_lost_where_the_student_is_the_ensemble(
    make_objective, make_batch, make_answers
):
    settings = {"soft_targets": {"temperature": 3.0}, "labels": {"weight": 0.0}}
    objective, batch, answers = make_objective(settings, "a"), make_batch(), make_answers("a")
    ensemble = objective.settle(batch, answers, 3.0)
    units = objective.settled_units(batch, ensemble, CLASSES, torch.float32)
    steps = SettledSteps(
        units, [len(batch)], [strengths_at(objective.settings, 0.0)], lambda s: s, 1
    )
    gradient, log_q = steps.gradient(0, answers["a"].values_NC)
    assert gradient.abs().max() < 1e-7
    assert abs(float(steps.losses([log_q])[0].total)) < 1e-6


@pytest.mark.parametrize("why", NOT_SETTLED)
def test_what_looks_at_the_student_is_not_settled(make_objective, why):
    assert not make_objective({"soft_targets": {}, **NOT_SETTLED[why]}, "a", "b").settles


def test_a_unit_s_target_is_the_same_bits_in_any_batch(make_objective, make_batch, make_answers):
    objective = make_objective(
        {"soft_targets": {"temperature": 1.0, "sharpen": 0.7}}, "a", "b", "c"
    )
    batch, answers = make_batch(units=301), make_answers("a", "b", "c", units=301)
    whole = objective.settle(batch, answers, 1.0)
    start = 0
    for part in parts_of(batch, (1, 7, 128, 100, 65)):
        here = slice(start, start := start + len(part))
        said = {
            name: replace(one, values_NC=one.values_NC[here], valid_N=one.valid_N[here])
            for name, one in answers.items()
        }
        alone = objective.settle(part, said, 1.0)
        assert torch.equal(alone.target_NC, whole.target_NC[here])
        assert torch.equal(alone.counts_N, whole.counts_N[here])
