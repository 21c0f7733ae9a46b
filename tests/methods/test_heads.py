"""Teachers' heads beside the student: the loss that asks one, and shares of the terms by what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from raykd.config import load_config
from raykd.config.objective import Objective
from raykd.config.variants import ablation
from raykd.errors import InputError
from raykd.losses import LOSSES
from raykd.losses.heads import Head
from raykd.objective import DistillObjective, TeacherInfo, reduce_terms
from raykd.tasks.classification.rule import RULE
from raykd.types import Mixed

CLASSES = 5
WIDTHS = {"a": ("map", 4), "b": ("vector", 9), "c": ("map", 4)}
STUDENT_SHAPES = {"map": (3, 6, 6), "vector": (7,)}
TEACHER_SHAPES = {"map": (4, 3, 3), "vector": (9,)}


def heads(*names):
    generator = torch.Generator().manual_seed(5)
    return {
        name: Head(
            torch.randn(CLASSES, WIDTHS[name][1], generator=generator),
            torch.randn(CLASSES, generator=generator),
        )
        for name in names
    }


def term(name, loss="hint", **given):
    tap = WIDTHS[name][0]
    return {
        "loss": {"type": loss},
        "teacher": name,
        "student_tap": tap,
        "teacher_tap": tap,
        **given,
    }


@pytest.fixture
def objective_of():
    def make(names="ab", loss="hint", **settings):
        torch.manual_seed(0)
        terms = [term(name, loss) for name in names]
        return DistillObjective(
            Objective.model_validate({"features": terms, "soft_targets": None, **settings}),
            [TeacherInfo(name) for name in names],
            rule=RULE,
            student_shapes=STUDENT_SHAPES,
            teacher_shapes={(n, tap): s for n in names for tap, s in TEACHER_SHAPES.items()},
            heads=heads(*names),
        )

    return make


def losses_of(terms):
    return torch.stack(
        [one.loss_N for name, one in terms.items() if name.startswith("features")]
    ).detach()


def test_srrl_asks_the_teacher_s_own_head(objective_of, make_batch, make_answers, make_student):
    objective = objective_of("ab", "srrl")
    logits, features = make_student()
    answers = make_answers("a", "b")
    terms, _ = objective(logits, features, make_batch(), answers)
    for index, name in enumerate("ab"):
        head, tap = heads("a", "b")[name], WIDTHS[name][0]
        student = objective.projectors[index](features[tap])
        expected = LOSSES["srrl"](
            student, answers[name].features[tap], head_weight=head.weight, head_bias=head.bias
        )
        torch.testing.assert_close(terms[f"features.{index}"].loss_N, expected)
    reduce_terms(terms, lambda counts: counts, 1).total.backward()
    assert all(p.grad.abs().sum() > 0 for p in objective.parameters())
    assert not [name for name in objective.state_dict() if "head" in name]


def test_terms_are_shared_out_by_how_well_the_heads_read_the_label(
    objective_of, make_batch, make_answers, make_student
):
    """CA-MKD's weights of features: (1 − softmax_k CE_k)/(K − 1), without gradient, equal where there is no label."""
    logits, features = make_student()
    batch, answers = make_batch(), make_answers("a", "b", "c")
    plain, _ = objective_of("abc")(logits, features, batch, answers)
    objective = objective_of("abc", feature_weighting="heads")
    shared, _ = objective(logits, features, batch, answers)
    entropies = []
    for projector, (name, head) in zip(objective.projectors, heads(*"abc").items(), strict=True):
        adapted = projector(features[WIDTHS[name][0]]).flatten(2 if name != "b" else 1)
        pooled = adapted.mean(2) if name != "b" else adapted
        said = pooled @ head.weight.T + head.bias
        entropies.append(F.cross_entropy(said, batch.labels.clamp(min=0), reduction="none"))
    shares = (1 - torch.stack(entropies).softmax(0)) / 2
    shares = torch.where(batch.labels >= 0, shares, torch.full_like(shares, 1 / 3)).detach()
    torch.testing.assert_close(losses_of(shared), shares * losses_of(plain), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses_of(shared) / losses_of(plain), shares, rtol=1e-4, atol=1e-5)
    assert torch.equal(shared["labels"].loss_N, plain["labels"].loss_N)
    student = features["map"]
    for terms in (plain, shared):
        student.grad = None
        loss = terms["features.0"].loss_N
        loss.sum().backward(retain_graph=True)
        (gradient,) = torch.autograd.grad(loss[0], student, retain_graph=True)
        terms["own"] = gradient
    torch.testing.assert_close(shared["own"], shares[0, 0] * plain["own"], rtol=1e-4, atol=1e-6)


def test_a_teacher_that_is_silent_and_a_sample_that_is_blended(
    objective_of, make_batch, make_answers, make_student
):
    logits, features = make_student()
    batch = make_batch(labels=torch.arange(8) % CLASSES)
    silent = {"b": torch.arange(8) < 3}
    answers = make_answers("a", "b", silent=silent)
    plain, _ = objective_of("ab")(logits, features, batch, answers)
    shared, _ = objective_of("ab", feature_weighting="heads")(logits, features, batch, answers)
    ratio = losses_of(shared) / losses_of(plain)
    torch.testing.assert_close(ratio[0, :3], torch.ones(3))
    torch.testing.assert_close(ratio[:, 3:].sum(0), torch.ones(5))
    assert (ratio[0, 3:] - 0.5).abs().max() > 1e-3
    mixed = Mixed(partner_labels_B=batch.labels.flip(0), share_B=torch.full((8,), 0.4))
    blended, _ = objective_of("ab", feature_weighting="heads")(
        logits, features, replace(batch, mixed=mixed), answers
    )
    ratio = losses_of(blended) / losses_of(plain)
    torch.testing.assert_close(ratio[:, 3:], torch.full((2, 5), 0.5))


def test_one_term_counts_fully(objective_of, make_batch, make_answers, make_student):
    """As of the control `best_teacher`, to which the terms of one teacher are left."""
    logits, features = make_student()
    batch, answers = make_batch(), make_answers("a")
    plain, _ = objective_of("a")(logits, features, batch, answers)
    shared, _ = objective_of("a", feature_weighting="heads")(logits, features, batch, answers)
    torch.testing.assert_close(losses_of(shared), losses_of(plain))


# --- what a recipe may say --------------------------------------------------------------------


def recipe(features, head="head", task="classification", **objective):
    model = {"type": "cnn"}
    return {
        "task": task,
        "data": {"source": {"type": "digits"}},
        "teachers": [{"name": n, "model": model, "fit": {"epochs": 1}, "head": head} for n in "ab"],
        "student": {"model": model},
        "objective": {"features": features, **objective},
    }


def problems(tree):
    with pytest.raises(InputError) as caught:
        load_config(tree)
    return {problem.key: problem.message for problem in caught.value.problems}


def test_a_recipe_with_heads_loads_and_older_ones_keep_their_identity():
    loaded = load_config(recipe([term("a", "srrl"), term("b")], feature_weighting="heads"))
    assert load_config(loaded.model_dump(mode="json")) == loaded
    assert loaded.teachers[0].identity()["head"] == "head"
    assert loaded.objective.identity()["feature_weighting"] == "heads"
    older = load_config(recipe([term("a")], head=None))
    assert "head" not in older.teachers[0].identity()
    assert "feature_weighting" not in older.objective.identity()


def test_shares_by_heads_are_a_part_that_ablation_leaves_out():
    tree = recipe([term("a"), term("b")], feature_weighting="heads")
    found = {part.name: part.config.objective for part in ablation(load_config(tree)).parts}
    assert found["feature_weighting"].feature_weighting is None
    assert len(found["feature_weighting"].features) == 2
    assert found["term.features.0"].feature_weighting == "heads", "the other term counts in full"


HEADS = {"feature_weighting": "heads"}


@pytest.mark.parametrize(
    ("tree", "key", "said"),
    [(recipe([term("a", "srrl")], head=None), "teachers.a.head", "required by srrl"),
     (recipe([term("a"), term("b")], head=None, **HEADS), "teachers.b.head", "required by objective.feature_weighting"),
     (recipe([], **HEADS), "objective.feature_weighting", "without feature terms"),
     (recipe([term("a"), term("b", "similarity")], **HEADS), "objective.feature_weighting", "no projector"),
     (recipe([term("a"), term("b", target="layer_norm")], **HEADS), "objective.features.1.target", "knows nothing"),
     (recipe([term("a"), term("b", "cosine")], **HEADS), "objective.features.1.loss.standardise", "give false"),
     (recipe([term("a", "srrl", target="layer_norm")]), "objective.features.0.target", "asked by srrl")],
)  # fmt: skip
def test_what_lacks_a_head_or_its_scale_is_refused(tree, key, said):
    assert said in problems(tree)[key]


def test_outputs_without_a_model_have_no_head():
    tree = recipe([term("b")])
    tree["teachers"][0] = {"name": "a", "outputs": "logits.npz", "head": "head"}
    assert "does nothing beside" in problems(tree)["teachers.a.head"]
