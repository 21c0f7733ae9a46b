"""Several foundation teachers into one encoder: heads, fitted scales, dropping by loss; and faults of published code."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raykd.config import load_config
from raykd.config.objective import Objective
from raykd.config.scales import Scaled
from raykd.ensemble.stochastic import drop
from raykd.errors import InputError, TargetError
from raykd.losses import LOSSES
from raykd.losses.foundation import unic_terms
from raykd.models.scales import fit_scale
from raykd.objective import Context, DistillObjective, TeacherInfo, reduce_terms
from raykd.objective.rule import OUTPUT
from raykd.pipeline.preparation import prepare
from raykd.pipeline.token_scales import scale_rows, token_scales
from raykd.tasks import find_task
from raykd.types import Batch, Dense

WIDTHS = {"a": 7, "b": 3}
MAPS = {"a": (5, 2, 2), "b": (6, 2, 2)}
LOSS = {"type": "cosine_smooth_l1"}
CONTEXT = Context(seed=17)


def dense(teacher):
    return {"loss": LOSS, "teacher": teacher, "student_tap": "maps", "teacher_tap": "maps", "projector": "mlp", "target": "global"}  # fmt: skip


def answers(count=12, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: Dense(
            kind="embedding",
            values_NC=5 + 2 * torch.randn(count, WIDTHS[name], generator=generator),
            valid_N=torch.ones(count, dtype=torch.bool),
            features={"maps": torch.randn(count, *MAPS[name], generator=generator)},
        )
        for name in WIDTHS
    }


@pytest.fixture
def scales():
    said = answers(200, seed=2)
    found = {Scaled(n, OUTPUT, "phis"): fit_scale(one.values_NC, "phis") for n, one in said.items()}
    for name, one in said.items():
        tokens = one.features["maps"].movedim(1, -1).reshape(-1, MAPS[name][0])
        found[Scaled(name, "maps", "global")] = fit_scale(tokens, "global")
    return found


@pytest.fixture
def make(scales):
    def make(probability=0.5, features=(), **more):
        torch.manual_seed(3)
        settings = Objective.model_validate({
            "labels": {"weight": 0.0, "mode": "add"},
            "soft_targets": {"loss": LOSS, "temperature": 1.0, "weight": 1.0, "projector": "mlp", "target": "phis"},
            "weighting": {"type": "drop", "probability": probability},
            "features": features, **more,
        })  # fmt: skip
        shapes = {(name, OUTPUT): (width,) for name, width in WIDTHS.items()}
        shapes |= {(name, "maps"): shape for name, shape in MAPS.items()}
        return DistillObjective(
            settings,
            [TeacherInfo(name) for name in WIDTHS],
            rule=find_task("embedding").rule,
            student_shapes={OUTPUT: (4,), "maps": (3, 2, 2)},
            teacher_shapes=shapes,
            scales=scales,
        )

    return make


def lesson(count=12):
    generator = torch.Generator().manual_seed(0)
    every = torch.arange(count)
    batch = Batch(ids=100 + every, rows=every, view_B=torch.zeros(count, dtype=torch.int64), inputs={},
                  labels=torch.full((count,), -1), present_B=torch.ones(count, dtype=torch.bool))  # fmt: skip
    student = torch.randn(count, 4, generator=generator)
    return batch, student, {"maps": torch.randn(count, 3, 2, 2, generator=generator)}


def each_loss(objective, scales, student, said):
    """ℓ_kb of the vectors, by hand: half a cosine, half a smooth L1, of scaled targets."""
    found = []
    for part, (name, one) in zip(objective.matches, said.items(), strict=True):
        target = scales[Scaled(name, OUTPUT, "phis")](one.values_NC)
        guess = part.projector(student)
        smooth = F.smooth_l1_loss(guess, target, reduction="none").mean(1)
        found.append(0.5 * (1 - F.cosine_similarity(guess, target)) + 0.5 * smooth)
    return torch.stack(found)


def test_the_loss_is_a_half_of_unic_s_on_one_kind_of_token():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        torch.randn(5, 9, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    ones = torch.ones(5, 1, 9, dtype=torch.float64)
    published = 2 * unic_terms(student, teacher, ones, ones)  # the patches agree, and cost nothing
    assert torch.allclose(LOSSES["cosine_smooth_l1"](student, teacher), published, atol=1e-12)
    leaf = student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: LOSSES["cosine_smooth_l1"](s, teacher, share=0.9), leaf
    )
    assert float(LOSSES["cosine_smooth_l1"](teacher, teacher).abs().max()) < 1e-12
    with pytest.raises(ValueError, match="share must be within"):
        LOSSES["cosine_smooth_l1"](student, teacher, share=1.5)


def test_every_image_counts_alike_however_many_teachers_are_dropped(make, scales):
    """The published code divides by the sum over the batch, so that images with fewer teachers count less."""
    objective, (batch, student, _), said = make(), lesson(), answers()
    terms, weights_TN = objective(student, {}, batch, said, CONTEXT)
    losses_TN = each_loss(objective, scales, student, said)
    expected = drop(torch.zeros(2, 12, 1), losses_TN=losses_TN, seed=17, units_N=batch.ids)
    assert torch.equal(weights_TN, expected)
    kept_N = (expected > 0).sum(0)
    assert set(kept_N.tolist()) == {1, 2}, "some images have one teacher, some have both"
    assert torch.equal(expected.sum(0), torch.ones(12))
    assert torch.allclose(terms["soft_targets"].loss_N, (expected * losses_TN).sum(0))
    assert bool((expected.gather(0, losses_TN.argmax(0)[None]) > 0).all()), (
        "the worst followed stays"
    )
    again, _ = objective(student, {}, batch, said, CONTEXT)
    assert torch.equal(again["soft_targets"].loss_N, terms["soft_targets"].loss_N), "seeded"


def test_without_dropping_it_is_the_mean_of_the_teachers(make, scales):
    objective, (batch, student, _), said = make(0.0), lesson(), answers()
    terms, _ = objective(student, {}, batch, said, CONTEXT)
    expected = each_loss(objective, scales, student, said).mean(0)
    assert torch.allclose(terms["soft_targets"].loss_N, expected)


def test_nothing_of_the_batch_is_in_a_target(make):
    """Published code standardises by the batch's own or moving statistics; here a sample's loss is its own in any batch."""
    objective, (batch, student, maps), said = (
        make(features=[dense("a")], feature_weighting="teachers"),
        lesson(),
        answers(),
    )
    whole, weights_TN = objective(student, maps, batch, said, CONTEXT)
    some = torch.tensor([7, 2, 3])
    part = Batch(**{
        field.name: value[some] if isinstance(value := getattr(batch, field.name), torch.Tensor) else value
        for field in dataclasses.fields(Batch)
    })  # fmt: skip
    said_part = {n: dataclasses.replace(one, values_NC=one.values_NC[some], valid_N=one.valid_N[some],
                                        features={"maps": one.features["maps"][some]}) for n, one in said.items()}  # fmt: skip
    terms, weights_TM = objective(
        student[some], {"maps": maps["maps"][some]}, part, said_part, CONTEXT
    )
    assert torch.equal(weights_TM, weights_TN[:, some])
    for name in ("soft_targets", "features.0"):
        assert torch.allclose(terms[name].loss_N, whole[name].loss_N[some], atol=1e-6), name


def test_dense_tokens_are_dropped_with_their_teacher_and_count_in_who_is(make, scales):
    said, (batch, student, maps) = answers(), lesson()
    objective = make(features=[dense("a"), {**dense("b"), "weight": 50.0}], feature_weighting="teachers")  # fmt: skip
    terms, weights_TN = objective(student, maps, batch, said, CONTEXT)
    own_TN = each_loss(objective, scales, student, said)
    a_N, b_N = (
        part(maps, batch, said[name], CONTEXT)[0]
        for part, name in zip(objective.features, WIDTHS, strict=True)
    )

    def dropped(losses_TN):
        return drop(torch.zeros(2, 12, 1), losses_TN=losses_TN, seed=17, units_N=batch.ids)

    expected = dropped(own_TN + torch.stack([a_N, 50 * b_N]))
    assert torch.equal(weights_TN, expected)
    assert bool((expected[1] > 0).all()), "b is followed worst by far, in its dense tokens"
    assert not bool((dropped(own_TN)[1] > 0).all()), "by the vectors alone it is not"
    assert torch.allclose(terms["features.0"].loss_N, expected[0] * a_N)
    assert torch.allclose(terms["features.1"].loss_N, expected[1] * b_N)


def test_both_parts_are_told_in_units_of_the_teacher_s_spread(make, scales):
    objective, (batch, student, _), said = make(), lesson(200), answers(200)
    for part in objective.matches:  # heads that always say the mean
        for parameter in part.projector.parameters():
            torch.nn.init.zeros_(parameter)
    terms, _ = objective(student, {}, batch, said, CONTEXT)
    for name in WIDTHS:
        told = terms[f"smooth_l1.{name}"]
        assert (told.weight, told.loss_N.requires_grad) == (0.0, False)
        assert float(told.loss_N.mean()) == pytest.approx(1.0, abs=0.15)
        assert float(terms[f"cosine.{name}"].loss_N.mean()) == pytest.approx(1.0, abs=0.05)
    total = reduce_terms(terms, lambda counts: counts, 1).total.detach()
    assert float(total) == pytest.approx(float(terms["soft_targets"].loss_N.detach().mean()))


def test_a_lost_teacher_counts_nowhere(make):
    objective, (batch, student, maps), said = (
        make(features=[dense("b")], feature_weighting="teachers"),
        lesson(),
        answers(),
    )
    said["b"] = dataclasses.replace(said["b"], values_NC=torch.zeros(12, 7), valid_N=torch.zeros(12, dtype=torch.bool), features={})  # fmt: skip
    terms, weights_TN = objective(student, maps, batch, said, CONTEXT)
    assert weights_TN.tolist() == [[1.0] * 12, [0.0] * 12]
    assert not bool((terms["features.0"].valid_N > 0).any())
    assert "cosine.b" not in terms
    reduce_terms(terms, lambda counts: counts, 1).total.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in objective.parameters())


def test_a_recipe_of_heads_and_scales():
    config = load_config("digits_foundation")
    assert "target" not in load_config("digits_embedding").objective.identity()["soft_targets"]
    assert config.objective.identity()["soft_targets"]["target"] == "phis"
    assert list(config.students) == ["small", "tiny"]


@pytest.mark.parametrize(
    ("override", "key", "says"),
    [
        ("objective.soft_targets.loss.type=pkt", "objective.soft_targets.projector", "has no heads"),
        ("objective.soft_targets.loss={type: smooth_l1}", "objective.soft_targets.loss.standardise", "fitted once"),
        ("objective.features.0.loss={type: similarity}", "objective.features.0.projector", "has no heads"),
        ("objective.features=[]", "objective.feature_weighting", "without feature terms"),
        ("objective.soft_targets={loss: {type: pkt}, projector: null, target: null}", "objective.weighting.type", "by themselves"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_by_its_key(override, key, says):
    with pytest.raises(InputError) as error:
        load_config("digits_foundation", [override])
    assert key in [problem.key for problem in error.value.problems]
    assert says in str(error.value)


def test_other_tasks_have_no_heads_for_vectors():
    with pytest.raises(InputError, match="it is for vectors"):
        load_config("digits", ["objective.soft_targets.target=phis"])


@pytest.fixture
def prepared():
    return prepare(load_config("digits_foundation", ["students={}", "data.labels=60"]))


def test_scales_are_fitted_once_on_training_samples_and_kept(prepared):
    rows = scale_rows(prepared)
    widest = max(one.answers for one in prepared.teachers.values())
    assert len(rows) == min(10 * widest, len(prepared.samples.splits["train"]))
    assert set(rows) <= set(prepared.samples.splits["train"])
    assert len(prepared.scaled) == 5
    asked = []

    def score(some):
        asked.append(some)
        generator = torch.Generator().manual_seed(int(some[0]))
        return {
            name: Dense(
                kind="embedding",
                values_NC=torch.randn(len(some), one.answers, generator=generator),
                valid_N=torch.ones(len(some), dtype=torch.bool),
                features={tap: torch.randn(len(some), *shape, generator=generator) for tap, shape in one.shapes.items()},
            )
            for name, one in prepared.teachers.items()
        }  # fmt: skip

    keys = {name: _Keys(f"entry-of-{name}") for name in prepared.teachers}
    first = token_scales(prepared, keys, score)
    assert np.array_equal(np.concatenate(asked), rows)
    asked.clear()
    again = token_scales(prepared, keys, score)
    assert not asked
    for one, scale in first.items():
        assert all(torch.equal(again[one].tensors()[n], t) for n, t in scale.tensors().items())
    keys["mlp"] = _Keys("another-entry")
    token_scales(prepared, keys, score)
    assert asked, "another teacher's scale is another one"


def test_tokens_that_do_not_vary_have_no_scale(prepared):
    def score(some):
        return {
            name: Dense(kind="embedding", values_NC=torch.ones(len(some), one.answers), valid_N=torch.ones(len(some), dtype=torch.bool),
                        features={tap: torch.ones(len(some), *shape) for tap, shape in one.shapes.items()})
            for name, one in prepared.teachers.items()
        }  # fmt: skip

    keys = {name: _Keys(f"constant-{name}") for name in prepared.teachers}
    with pytest.raises(TargetError, match="no scale for teacher 'cnn': features must vary"):
        token_scales(prepared, keys, score)


class _Keys:
    """The entries of a teacher, of which the folder of the views counts here."""

    def __init__(self, folder):
        self.views = self
        self.folder = folder
