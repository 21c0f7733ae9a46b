"""`data.transfer` and `student.learns_from` in recipes: what is refused, who learns from what, what is asked of teachers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raykd.config import check_search, load_config
from raykd.data import build_samples
from raykd.errors import InputError
from raykd.evaluate.at_home import at_home
from raykd.evaluate.outputs import SplitOutputs
from raykd.pipeline.fits import student_fits, teacher_fit
from raykd.pipeline.preparation import prepare, vary
from raykd.pipeline.taught import labelled_student_rows, rows_to_score, student_rows
from raykd.pipeline.teacher_validation import TeacherValidation
from raykd.tasks import find_task

BLENDS = {"type": "mixup", "count": 60}
NOISE = {"type": "noise", "count": 40}


def with_sets(tree, *overrides, replace=False, sets=None, **student):
    tree["data"]["transfer"] = {
        "sets": sets or {"blends": BLENDS, "noise": NOISE},
        "replace": replace,
    }
    tree["student"] |= student
    return load_config(tree, overrides)


def problems(tree, *overrides, **given):
    with pytest.raises(InputError) as caught:
        with_sets(tree, *overrides, **given)
    return {problem.key: problem.message for problem in caught.value.problems}


def test_sets_have_names_by_which_they_are_overridden(tiny_recipe):
    tiny_recipe["data"]["transfer"] = {"sets": {"noise": NOISE}}
    config = load_config(tiny_recipe, ["data.transfer.sets.noise.count=7"])
    assert config.data.transfer.sets["noise"].count == 7
    again = load_config(config.model_dump(mode="json"))
    assert again == config


def test_recipes_without_sets_keep_their_identity(tiny_recipe):
    config = load_config(tiny_recipe)
    assert "transfer" not in config.data.identity()
    assert "learns_from" not in config.student.identity()


def test_what_does_not_go_together_is_refused_by_its_key(tiny_recipe):
    outputs = {"name": "known", "outputs": "known.safetensors"}
    tiny_recipe["teachers"].append(outputs)
    found = problems(
        tiny_recipe,
        "data.views.policy=[{type: mixup}]",
        "data.labels=0",
        "evaluate.controls=[]",
        "teachers.wide.labels=all",
        "teachers.conv.labels=all",
        sets={"own": NOISE, "blends": {**BLENDS, "of": "labelled"}},
        replace=True,
        learns_from=["blend"],
    )
    assert set(found) == {
        "data.transfer.sets.own",
        "data.transfer.sets.blends",
        "student.learns_from",
        "teachers.known.outputs",
        "data.views.policy.0",
    }
    assert "did you mean 'blends'" in found["student.learns_from"]
    assert "`data.labels: 0` leaves none" in found["data.transfer.sets.blends"]
    assert "blends in the recipe's own samples" in found["data.views.policy.0"]


def test_learns_from_needs_sets_and_sets_need_samples_of_their_own(tiny_recipe):
    tiny_recipe["student"]["learns_from"] = ["own"]
    with pytest.raises(InputError, match=r"student\.learns_from: chooses among the sets"):
        load_config(tiny_recipe)
    text = {**tiny_recipe, "task": "language"}
    assert "chunks of texts" in problems(text)["data.transfer"]


def test_sets_are_not_searched_but_which_of_them_is_learnt_from(tiny_recipe):

    tree = tiny_recipe | {"search": None}
    for key, values in (
        ("data.transfer.sets.noise.count", (3, 4)),
        ("data.transfer.sets.munge.p", (0.1, 0.5)),
    ):
        tree["search"] = {"parameters": {key: {"space": "choice", "categories": list(values)}}, "trials": 2,
                          "finalists": None, "scheduler": {"type": "none"}}  # fmt: skip
        with pytest.raises(
            InputError, match=r"a transfer set is made once.*search student\.learns_from"
        ):
            check_search(with_sets(tree))
    key = "student.learns_from"
    tree["search"] = {"parameters": {key: {"space": "choice", "categories": [["own"], ["noise"]]}}, "trials": 2,
                      "finalists": None, "scheduler": {"type": "none"}}  # fmt: skip
    check_search(with_sets(tree))


def test_a_student_learns_from_the_sets_that_it_names(tiny_recipe):
    config = with_sets(tiny_recipe)
    samples = build_samples(config.data, seed=0)
    own, noise = samples.own_training_rows, samples.transfer["noise"]

    def rows(**given):
        data = config.data.transfer.model_copy(update={"replace": given.pop("replace", False)})
        student = config.student.model_copy(update=given)
        changed = config.data.model_copy(update={"transfer": data})
        return config.model_copy(update={"data": changed, "student": student})

    np.testing.assert_array_equal(student_rows(rows(), samples), samples.splits["train"])
    whole = rows(replace=True)
    assert len(student_rows(whole, samples)) == 100
    assert not np.isin(own, student_rows(whole, samples)).any()
    assert not len(labelled_student_rows(whole, samples))
    named = rows(replace=True, learns_from=("noise", "own"))
    np.testing.assert_array_equal(student_rows(named, samples), np.concatenate([own, noise]))
    assert len(labelled_student_rows(named, samples)) == 200
    asked = rows_to_score([whole, rows(learns_from=("own",))], samples)
    np.testing.assert_array_equal(asked, samples.splits["train"])
    np.testing.assert_array_equal(rows_to_score([rows(learns_from=("noise",))], samples), noise)


def known(prepared):
    """As if validation had been scored."""
    names = list(prepared.teachers)
    rows = prepared.samples.splits["validation"]
    zeros = {name: torch.zeros(len(rows), 10) for name in names}
    outputs = SplitOutputs(
        labels_N=torch.from_numpy(prepared.samples.labels[rows]), ids_N=torch.from_numpy(prepared.samples.ids[rows]),
        teachers=zeros, ensemble=zeros[names[0]], students={},
    )  # fmt: skip
    return TeacherValidation(
        fingerprints={name: name for name in names}, temperatures=dict.fromkeys(names, 1.0), validation=outputs,
        best_teacher=names[0], scale=None, task=find_task("classification").metrics,
    )  # fmt: skip


def test_teachers_do_not_know_of_sets_and_controls_learn_as_they_would(tiny_recipe):
    plain = prepare(load_config(tiny_recipe))
    prepared = prepare(with_sets(tiny_recipe, replace=True))
    assert plain.own_data == plain.data == prepared.own_data != prepared.data
    for name, one in plain.teachers.items():
        other = prepared.teachers[name]
        assert other.preprocessing.describe() == one.preprocessing.describe()
        fits = [teacher_fit(p, p.teachers[name].settings) for p in (plain, prepared)]
        assert fits[0].identity == fits[1].identity
    made = np.concatenate(list(prepared.samples.transfer.values()))
    np.testing.assert_array_equal(prepared.asked, made)
    fits = {fit.fit_id: fit for fit in student_fits(prepared, known(prepared))}
    np.testing.assert_array_equal(fits["student/replica0"].plan.rows, made)
    np.testing.assert_array_equal(
        fits["labels/replica0"].plan.rows, plain.samples.labelled_rows("train")
    )
    assert {fit.plan.epoch_rows for fit in fits.values()} == {len(made)}  # as many updates
    assert "of which the student learns from 100" in prepared.in_words


def test_a_variant_that_learns_from_others_is_asked_about_too(tiny_recipe):
    config = with_sets(tiny_recipe, replace=True, learns_from=["noise"])
    other = load_config(config.model_dump(mode="json"), ["student.learns_from=[own]"])
    prepared = prepare(config, [other])
    own = prepared.samples.own_training_rows
    np.testing.assert_array_equal(
        prepared.asked, np.sort(np.concatenate([own, prepared.samples.transfer["noise"]]))
    )
    (fit, *_) = student_fits(vary(prepared, other), known(prepared))
    np.testing.assert_array_equal(fit.plan.rows, own)


def split(answers, labels):
    probs = torch.tensor(answers, dtype=torch.float64)  # [T, N, C]
    whole = probs.mean(dim=0).log()
    return SplitOutputs(
        labels_N=labels, ids_N=torch.arange(len(labels)), ensemble=whole,
        teachers={f"t{i}": one.log() for i, one in enumerate(probs)}, students={"student": whole[None]},
    )  # fmt: skip


def test_how_much_an_ensemble_is_at_home_follows_the_formulas():
    rng = np.random.default_rng(0)
    answers = {
        name: rng.dirichlet(np.full(4, sure), size=(3, 50))
        for name, sure in (("validation", 0.2), ("made", 5.0))
    }
    unknown = torch.full((50,), -1)
    found = at_home({name: split(one.tolist(), unknown) for name, one in answers.items()})
    entropy = lambda p: -(p * np.log(p)).sum(axis=-1)  # noqa: E731
    usual = answers["validation"].mean(axis=0)
    for name, each in answers.items():
        whole = each.mean(axis=0)
        share = np.bincount(whole.argmax(axis=1), minlength=4) / 50
        usual_share = np.bincount(usual.argmax(axis=1), minlength=4) / 50
        wanted = {
            "n": 50,
            "entropy_nats": entropy(whole).mean(),
            "confidence": whole.max(axis=1).mean(),
            "as_sure": (whole.max(axis=1) >= np.median(usual.max(axis=1))).mean(),
            "jsd_nats": entropy(whole).mean() - entropy(each).mean(),
            "unanimous": np.mean([len(set(each[:, n].argmax(axis=1))) == 1 for n in range(50)]),
            "alternatives": np.exp(-sum(s * np.log(s) for s in share if s)),
            "shift": np.abs(share - usual_share).sum() / 2,
        }
        assert found[name] == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert found["validation"]["shift"] == 0
    assert found["made"]["entropy_nats"] > found["validation"]["entropy_nats"]


def test_values_have_a_spread_and_a_range():
    values = {"validation": [[1.0], [3.0]], "made": [[2.0], [9.0]]}
    of = {
        name: SplitOutputs(
            labels_N=torch.zeros(2), ids_N=torch.arange(2), ensemble=torch.tensor(one),
            teachers={"a": torch.tensor(one) + 1, "b": torch.tensor(one) - 1}, students={}, task="regression",
        )
        for name, one in values.items()
    }  # fmt: skip
    found = at_home(of)
    assert found["made"] == {"n": 2, "disagreement": pytest.approx(1.0), "inside": 0.5}
    assert found["validation"]["inside"] == 1.0
