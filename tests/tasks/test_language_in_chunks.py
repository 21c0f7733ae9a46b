"""A student of language models whose logits of all tokens are never made as a whole: same loss, same gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from raykd.config.data import Data
from raykd.config.models import GruLmModel, TransformerLmModel
from raykd.config.objective import Objective
from raykd.config.roles import Preprocess
from raykd.config.training import Training
from raykd.data.samples import build_samples
from raykd.losses import head
from raykd.models.preprocess import preprocessing_for
from raykd.objective import TeacherInfo
from raykd.top_k import take
from raykd.train import Fit, Plan, step
from raykd.train.fit import build_module
from raykd.train.step import Lesson
from raykd.types import ORIGINAL_VIEW, Dense, Headed

NAMES = ("a", "b")


@pytest.fixture(scope="module")
def samples():
    data = {
        "source": {"type": "factory", "path": "tests_tasks_data:text_data"},
        "splits": {"validation": 8, "test": 8},
        "tokens": {"length": 24},
    }
    return build_samples(Data.model_validate(data), seed=0, task="language")


def fit_of(samples, objective, *, model=None, teachers=NAMES, **training):
    given = {"epochs": 1, "batch_size": 16, "optimizer": {"type": "adamw", "lr": 0.02}, **training}
    rows = samples.splits["train"]
    infos = [TeacherInfo("a", domains=(0,)), TeacherInfo("b", domains=(1,))]
    return Fit(
        fit_id="student/replica0",
        stage="student",
        key="student.model",
        model=model or GruLmModel(width=0.0625),
        preprocessing=preprocessing_for(Preprocess(), samples, key="p"),
        weights=None,
        objective=Objective.model_validate(objective),
        teacher_infos=tuple(one for one in infos if one.name in teachers),
        student_shapes={},
        teacher_shapes={},
        training=Training.model_validate(given),
        plan=Plan(rows=rows, epoch_rows=len(rows), batch_size=16, seed=5, views=0),
        seed=11,
        labels="budget",
        data="digest",
    )


def lesson_of(samples, module, *, kept=6, temperature=1.0, teachers=NAMES):
    rows = samples.splits["train"][:9]
    present = np.array([True] * 8 + [False])
    batch = samples.batch(rows, ORIGINAL_VIEW, present=present)
    targets = {}
    for number, name in enumerate(teachers):
        generator = torch.Generator().manual_seed(number)
        values = 3 * torch.randn(len(batch.labels), 256, generator=generator, dtype=torch.float64)
        valid_N = (batch.labels[:, 3] + number) % 5 != 0
        answer = Dense(kind="logits", values_NC=values, valid_N=valid_N)
        if kept is not None:
            answer = replace(take(values, kept, temperatures=[temperature]), valid_N=valid_N)
        targets[name] = answer
    ready = replace(batch, inputs=module.network.prepare(batch.inputs))
    return Lesson(batch=ready, targets=targets)


def stepped(module, lesson):
    """Total, terms, weights, what is measured, and the gradient of everything that is trained."""
    module.zero_grad()
    found = module(lesson, lambda counts: counts, 1)
    found.losses.total.backward()
    gradients = {name: one.grad for name, one in module.named_parameters() if one.grad is not None}
    return found, gradients


OBJECTIVES = [
    {"soft_targets": {"temperature": 2.0}},
    {"labels": {"weight": 0.0}, "soft_targets": {"temperature": 1.0}},
    {"labels": {"weight": 0.0}, "soft_targets": {"temperature": 1.0, "tail": False}},
    {"soft_targets": {"temperature": 1.0, "loss": {"type": "reverse_kl"}, "combine": "losses"}},
    {"soft_targets": {"temperature": 1.0, "loss": {"type": "skew_kl", "alpha": 0.3}, "combine": "losses"}},
    {"soft_targets": {"temperature": 1.0, "loss": {"type": "js"}, "combine": "losses"}, "mean": "domains"},
    {"weighting": {"type": "bayesian", "forgetting": 0.9}, "soft_targets": {"temperature": 1.0}},
    {"weighting": {"type": "routed"}, "soft_targets": {"temperature": 1.0, "hard_share": 0.3}},
]  # fmt: skip


@pytest.mark.parametrize("model", [None, TransformerLmModel(width=0.25, depth=1)])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_gradient_are_those_of_all_logits(samples, objective, model, monkeypatch):
    monkeypatch.setattr(head, "_CACHED", 5 * 256)  # five tokens at a time
    module = build_module(fit_of(samples, objective, model=model), samples).double().eval()
    lesson = lesson_of(
        samples, module, temperature=objective["soft_targets"].get("temperature", 1.0)
    )
    found, gradients = stepped(module, lesson)
    assert isinstance(found.outputs, Headed)
    module.make_whole()
    expected, whole = stepped(module, lesson)
    assert isinstance(expected.outputs, torch.Tensor)
    close = {"rtol": 1e-6, "atol": 1e-12}
    torch.testing.assert_close(found.losses.total, expected.losses.total, **close)
    assert found.losses.terms.keys() == expected.losses.terms.keys()
    for name, term in expected.losses.terms.items():
        torch.testing.assert_close(found.losses.terms[name], term, **close)
    torch.testing.assert_close(found.losses.measured, expected.losses.measured, **close)
    assert torch.equal(found.weights_TN, expected.weights_TN)
    assert gradients.keys() == whole.keys() == dict(module.named_parameters()).keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-6, atol=1e-9)


def test_in_bfloat16_it_is_the_same_product(samples):
    fit = fit_of(samples, {"soft_targets": {"temperature": 1.0}}, precision="bfloat16")
    module = build_module(fit, samples).eval()
    lesson = lesson_of(samples, module)
    found, gradients = stepped(module, lesson)
    assert found.outputs.hidden_ND.dtype == torch.bfloat16
    module.make_whole()
    expected, whole = stepped(module, lesson)
    torch.testing.assert_close(
        found.losses.total, expected.losses.total, rtol=1e-3, atol=0, check_dtype=False
    )
    for name, gradient in whole.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradients[name], gradient, rtol=0.05, atol=0.02 * scale)


@pytest.mark.parametrize(
    ("change", "given", "chunked"),
    [
        ({}, {}, True),
        ({}, {"kept": None}, False),  # all of the teachers' tokens are there anyway
        ({"objective": {"labels": {"smoothing": 0.1}, "soft_targets": {"temperature": 1.0}}}, {}, False),
        ({"compile": True}, {}, False),
        ({"teachers": ()}, {"teachers": ()}, False),  # of 256 tokens
    ],
)  # fmt: skip
def test_what_decides_is_the_fit_and_its_targets(samples, change, given, chunked):
    objective = change.pop("objective", {"soft_targets": {"temperature": 1.0}})
    if not change.get("teachers", NAMES):
        objective = {"labels": {"weight": 1.0}, "soft_targets": None}
    module = build_module(fit_of(samples, objective, **change), samples).eval()
    lesson = lesson_of(samples, module, **given)
    if given.get("kept", 6) is None:
        lesson = replace(lesson, targets={
            name: replace(one, values_NC=one.values_NC.float()) for name, one in lesson.targets.items()
        })  # fmt: skip
    found, _ = stepped(module, lesson)
    assert isinstance(found.outputs, Headed) == chunked


def test_text_alone_over_many_tokens_is_learnt_in_chunks(samples, monkeypatch):
    objective = {"labels": {"weight": 1.0}, "soft_targets": None}
    module = build_module(fit_of(samples, objective, teachers=()), samples).double().eval()
    lesson = lesson_of(samples, module, teachers=())
    expected, whole = stepped(module, lesson)
    monkeypatch.setattr(step, "_WHOLE", 255)
    found, gradients = stepped(module, lesson)
    assert isinstance(found.outputs, Headed)
    assert isinstance(expected.outputs, torch.Tensor)
    torch.testing.assert_close(found.losses.total, expected.losses.total, rtol=1e-6, atol=0)
    for name, gradient in whole.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-6, atol=1e-9)


def test_a_model_with_a_cap_on_its_logits_is_asked_for_all(samples):
    fit = fit_of(samples, {"soft_targets": {"temperature": 1.0}})
    module = build_module(fit, samples)
    assert module._tokens == 256

    def refuse(_self):
        raise ValueError("the model has final_logit_softcapping")

    from raykd.models.causal import linear_head

    model = module.network.model
    assert linear_head(model)
    assert not linear_head(torch.nn.Linear(2, 2))
    type(model).head_weights, kept = refuse, type(model).head_weights
    try:
        assert not linear_head(model)
        assert build_module(fit, samples)._tokens is None
    finally:
        type(model).head_weights = kept
