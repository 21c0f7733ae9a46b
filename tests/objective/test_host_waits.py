"""How often the objective makes the host wait for the device: on a GPU each time ends the overlap of the two.

There is no GPU here: what asks `host_sees` is told no, as there, and a spy counts what would wait.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from raykd.config.methods import WEIGHTINGS
from raykd.methods import WEIGHTING_ROWS
from raykd.methods.losses import feature_losses
from raykd.objective import Context, reduce_terms

CLASSES = 4
KNOBS: dict[str, dict[str, Any]] = {"fixed": {"weights": {"a": 1.0, "b": 3.0}}}
LOGITS = ("kl", "reverse_kl", "js", "skew_kl", "mse", "dkd", "dist", "uld")
FEATURES = tuple(
    name for name in feature_losses() if name not in ("attention_matrix", "fsp")
)  # of other shapes
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "bincount")
"""Operations of which the host has to know the result, or its size; a boolean index is one, too."""
ASKING = (
    "ensemble.combine",
    "ensemble.common",
    "ensemble.given",
    "ensemble.gradients",
    "objective.fused",
)


class Spy(TorchDispatchMode):
    """Counts what waits for numbers that come from some tensors; others were made by the host, which knows them."""

    def __init__(self, on_device):
        super().__init__()
        self.there, self.found = list(on_device), []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        given = [*torch.utils._pytree.tree_leaves((args, kwargs))]
        mine = any(one is other for one in given if torch.is_tensor(one) for other in self.there)
        indices = args[1] if name in ("index", "index_put", "index_put_", "_unsafe_index") else ()
        by_mask = any(torch.is_tensor(one) and one.dtype == torch.bool for one in indices)
        if mine and (name in WAITS or by_mask):
            self.found.append(name)
        result = function(*args, **(kwargs or {}))
        if mine:
            self.there += filter(torch.is_tensor, torch.utils._pytree.tree_leaves(result))
        return result


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    def switch(there: bool = True) -> None:
        for name in ASKING:
            monkeypatch.setattr(
                f"raykd.{name}.host_sees", lambda values: not there and values.device.type == "cpu"
            )

    return switch


@pytest.fixture
def step(make_objective, make_batch, make_answers, generator):
    """One step on the general path; its loss, its gradient, and what the host waited for."""

    def step(settings, silent=None):
        objective = make_objective(settings, "a", "b")
        for info, accuracy, error in zip(
            objective.teacher_infos, (0.9, 0.7), (0.2, 0.4), strict=True
        ):
            object.__setattr__(info, "accuracy", accuracy)
            object.__setattr__(info, "error", error)
        batch = make_batch()
        answers = make_answers("a", "b", silent=silent)
        z = torch.randn(len(batch), CLASSES, generator=generator).requires_grad_()
        features = {"tap": torch.randn(len(batch), 3, 8, 8, generator=generator).requires_grad_()}
        of_teachers = [
            tensor
            for answer in answers.values()
            for tensor in (answer.values_NC, answer.valid_N, *answer.features.values())
        ]
        with Spy([z, *features.values(), *of_teachers, batch.labels, batch.present_B]) as spy:
            terms, _ = objective(z, features, batch, answers, Context(epoch=0.5, seed=3))
            losses = reduce_terms(terms, lambda sums: sums, 1)
            losses.total.backward()
        return losses.total.detach(), z.grad, spy.found

    return step


def test_the_spy_sees_what_waits_for_the_device_and_not_what_the_host_made():
    there = torch.arange(4)
    with Spy([there]) as spy:
        if there.sum() > 3:
            there[there > 1].sum()
        torch.tensor([1, 2]).sum().item()
    assert spy.found == ["_local_scalar_dense", "index"]


CASES = {
    **{f"weighting {name}": {"soft_targets": {"temperature": 2.0}, "weighting": {"type": name, **KNOBS.get(name, {})}}
       for name in WEIGHTINGS if name != "inverse_error" and not WEIGHTING_ROWS[name].sequences},
    **{f"loss {name}": {"soft_targets": {"loss": {"type": name}}} for name in LOGITS},
    "sum of losses": {"soft_targets": {"loss": {"type": "kl"}, "combine": "losses"}},
    "of logits": {"soft_targets": {"combine": "logits"}},
    **{f"feature {name}": {"features": [{"loss": {"type": name}, "teacher": "a", "student_tap": "tap", "teacher_tap": "tap"}]}
       for name in FEATURES},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_host_waits_at_most_once_in_a_step_whatever_the_weighting_and_the_loss(
    case, step, as_on_a_gpu
):
    as_on_a_gpu()
    _, _, waited = step({"labels": {"weight": 0.5}, **CASES[case]})
    assert len(waited) <= 1, waited


@pytest.mark.parametrize(
    "silent", [None, {"b": [1] + [0] * 11}], ids=["all answer", "one is silent"]
)
@pytest.mark.parametrize("case", CASES)
def test_what_a_gpu_computes_is_what_the_processor_does(case, silent, generator, as_on_a_gpu, step):
    found = []
    for there in (False, True):
        as_on_a_gpu(there)
        generator.manual_seed(3)
        loss, gradient, _ = step({"labels": {"weight": 0.5}, **CASES[case]}, silent)
        found.append((loss, gradient))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-6)
    if found[0][1] is not None:
        torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-6)
