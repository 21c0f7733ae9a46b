"""A teacher's classes held against the data's: other order, names, some, more, several for one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from raykd_foreign_models import fitted, flat
from scipy.special import log_softmax, logsumexp, softmax

from raykd.config import load_config
from raykd.errors import InputError
from raykd.pipeline.preparation import prepare
from raykd.targets.codec import decode
from raykd.teachers.model import TeacherModel, host

FULL = list(range(10))
HALF = [7, 1, 4, 2, 9]
ODD_OR_EVEN = [["even", "odd"][digit % 2] for digit in range(10)]


def recipe(tree, label_map, own=FULL, **given):
    teacher = {
        "name": "mine",
        "model": {"type": "factory", "path": "raykd_foreign_models:regression",
                  "kwargs": {"classes": own}},
        "preprocess": {"normalize": "none"},
        "label_map": label_map,
        **given,
    }  # fmt: skip
    return {**tree, "teachers": [teacher]}


def answers(prepared, rows):
    spec = prepared.specs({"mine": prepared.teachers["mine"].weights})["mine"]
    return decode(
        TeacherModel(spec).score(prepared.samples, rows, np.full(len(rows), -1))
    ).values_NC


@pytest.mark.parametrize(
    ("own", "label_map", "known"),
    [
        (HALF[::-1] + [0, 3, 5, 6, 8], [9, 2, 4, 1, 7, 0, 3, 5, 6, 8], None),
        (HALF, HALF, (1, 2, 4, 7, 9)),
        (HALF, [str(c) for c in HALF], (1, 2, 4, 7, 9)),
        (FULL, [0, None, 2, None, 4, 5, 6, 7, 8, 9], (0, 2, 4, 5, 6, 7, 8, 9)),
        (FULL, [0, 1, 1, 0, 4, 5, 6, 7, 8, 8], (0, 1, 4, 5, 6, 7, 8)),
    ],
)
def test_every_form_against_a_reference_in_float64(tiny_recipe, own, label_map, known):
    prepared = prepare(load_config(recipe(tiny_recipe, label_map, own)))
    assert prepared.teachers["mine"].known == known
    rows = prepared.samples.splits["validation"][:30]
    images = flat(prepared.samples.batch(rows, -1).inputs["inputs"].numpy())
    model = fitted(tuple(own))
    z = images @ model.coef_.T + model.intercept_
    found = answers(prepared, rows).double().numpy()
    some = sorted({int(c) for c in label_map if c is not None})
    wanted = np.stack(
        [
            logsumexp(
                z[:, [i for i, c in enumerate(label_map) if c in (target, str(target))]], axis=1
            )
            for target in some
        ],
        axis=1,
    )
    np.testing.assert_allclose(
        log_softmax(found[:, some], axis=1), log_softmax(wanted, axis=1), rtol=2e-3, atol=2e-2
    )
    silent = sorted(set(FULL) - set(some))
    assert (softmax(found / 20, axis=1)[:, silent] == 0).all(), "also at a high temperature"


@pytest.mark.parametrize(
    ("label_map", "own", "words"),
    [
        (["zero", *range(1, 10)], FULL, "'zero', no class of the data; nearest"),
        ([12, *range(1, 10)], FULL, "holds 12; classes are 0 to 9"),
        ([0, 1, 2], FULL, "has 3 entries; the model answers [10] per sample"),
        ([3, None, 3], [3, 4, 5], "fewer than two"),
    ],
)
def test_maps_that_cannot_be(tiny_recipe, label_map, own, words):
    with pytest.raises(InputError) as caught:
        prepare(load_config(recipe(tiny_recipe, label_map, own)))
    (problem,) = caught.value.problems
    assert problem.key == "teachers.mine.label_map"
    assert words in problem.message


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("objective.weighting={type: entropy}", "objective.weighting.type"),
        ("objective.soft_targets.loss={type: dkd}", "objective.soft_targets.loss.type"),
        ("objective.soft_targets.combine=logits", "objective.soft_targets.combine"),
        ("objective.soft_targets.loss={type: kl, standardise: true}",
         "objective.soft_targets.loss.standardise"),
        ("objective.soft_targets.disagreement={type: discount}", "objective.soft_targets.disagreement"),
        ("targets={full_up_to: 2, top_k: 2}", "targets.full_up_to"),
    ],
)  # fmt: skip
def test_what_compares_all_classes_is_refused(tiny_recipe, override, key):
    with pytest.raises(InputError) as caught:
        prepare(load_config(recipe(tiny_recipe, HALF, HALF), [override]))
    problems = {problem.key: problem.message for problem in caught.value.problems}
    assert "teacher 'mine' knows 5 of 10 classes" in problems[key]
    whole = recipe(tiny_recipe, None)
    prepare(load_config(whole, [override]))


def test_top1_is_for_classes(tiny_recipe):
    tree = {**recipe(tiny_recipe, None, kind="top1"), "task": "multilabel"}
    with pytest.raises(InputError, match=r"teachers\.mine\.kind: found top1"):
        load_config(tree)


def test_of_recorded_outputs(tiny_recipe, tmp_path):
    prepared = prepare(load_config(tiny_recipe))
    ids, path = prepared.samples.ids, tmp_path / "own.csv"
    rows = np.random.default_rng(0).dirichlet(np.ones(5), len(ids))
    pd.DataFrame({"id": ids, **{f"own{i}": rows[:, i] for i in range(5)}}).to_csv(path, index=False)
    one = {"name": "mine", "outputs": str(path), "label_map": HALF, "kind": "probabilities"}
    still = {**tiny_recipe["data"], "views": {"count": 1, "policy": []}}
    prepared = prepare(load_config({**tiny_recipe, "teachers": [one], "data": still}))
    assert prepared.teachers["mine"].known == tuple(sorted(HALF))
    asked = prepared.samples.splits["validation"][:9]
    recorded = host(prepared.specs({})["mine"])
    found = decode(recorded.score(prepared.samples, asked, np.full(9, -1))).values_NC
    shares = softmax(found.double().numpy(), axis=1)
    np.testing.assert_allclose(shares[:, HALF], rows[asked], atol=1e-3)
    np.testing.assert_allclose(shares[:, HALF].sum(1), 1.0, atol=1e-12)
