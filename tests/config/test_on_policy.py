"""On-policy texts in a recipe: what is the same as none, what is counted, and what is refused."""

from __future__ import annotations

import pytest

from raykd.config import load_config
from raykd.config.on_policy import OnPolicy
from raykd.config.variants import ablation, method_variants
from raykd.errors import InputError
from raykd.objective import training_role

RECIPE = {
    "task": "language",
    "data": {"source": {"type": "corpora"}, "tokens": {"length": 16}},
    "teachers": [
        {"name": "a", "model": {"type": "ngram", "order": 3}},
        {"name": "b", "model": {"type": "ngram", "order": 2}},
    ],
    "student": {"model": {"type": "gru_lm", "width": 0.125}},
}
ON = "objective.on_policy={}"


def problems(*overrides, recipe=RECIPE):
    with pytest.raises(InputError) as caught:
        load_config(recipe, overrides)
    return {problem.key: problem.message for problem in caught.value.problems}


def test_a_share_of_0_is_the_recipe_without_it():
    plain, none = load_config(RECIPE), load_config(RECIPE, ["objective.on_policy.share=0"])
    assert plain == none
    assert plain.objective.identity() == none.objective.identity()
    assert "on_policy" not in plain.objective.identity()
    assert load_config(RECIPE, [ON]).objective.identity() != plain.objective.identity()


@pytest.mark.parametrize(
    ("overrides", "key", "why"),
    [
        ([ON, "objective.soft_targets=null"], "objective.on_policy", "only soft targets learn"),
        ([ON, "objective.soft_targets.weight=0"], "objective.on_policy", "only soft targets learn"),
        (["objective.on_policy.prompt=16"], "objective.on_policy.prompt", "leaves none to be written"),
        (["objective.on_policy.from_epoch=30"], "objective.on_policy.from_epoch", "would write nothing"),
        (["objective.on_policy.share=0.001"], "objective.on_policy.share", "less than half a text"),
        ([ON, "cluster.student.workers=2"], "cluster.student.workers", "one worker writes and learns"),
        ([ON, "targets.mode=write_through"], "targets.mode", "beside every student"),
        ([ON, "objective.soft_targets.loss.type=reverse_kl", "objective.soft_targets.tail=false"],
         "objective.soft_targets.tail", "only a mixture of probabilities"),
        (["objective.on_policy.temperature=0"], "objective.on_policy.temperature", "greater than 0"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(overrides, key, why):
    found = problems(*overrides)
    assert list(found) == [key]
    assert why in found[key]


def test_of_other_tasks_there_is_no_beginning(tiny_recipe):
    found = problems(ON, recipe=tiny_recipe)
    assert "no beginning to go on from" in found["objective.on_policy"]


def test_controls_differ_in_what_they_say_differ():
    config = load_config(RECIPE, [ON])
    own = config.objective.on_policy
    for role, expected in (
        ("student", own),
        ("best_teacher", own),
        ("hard", own),
        ("labels", None),
    ):
        found = training_role(role, config.objective, ["a", "b"], "a", always_labelled=True)
        assert found.objective.on_policy == expected


def test_a_search_and_variants_need_the_teachers_beside_all():
    space = {
        "parameters": {"objective.on_policy.share": {"space": "choice", "categories": [0, 0.5]}}
    }
    searched = {**RECIPE, "search": {"trials": 2, "metric": "bits_per_byte", **space}}
    key = "search.parameters.objective.on_policy.share"
    assert "no teacher stays" in problems(recipe=searched)[key]
    assert load_config(searched, [ON]).search is not None
    plain, on = load_config(RECIPE), load_config(RECIPE, [ON])
    with pytest.raises(InputError, match="in this variant alone"):
        method_variants(plain, others={"own": [ON]})
    found = method_variants(on, others={"off": ["objective.on_policy=null"]})
    assert [one.config.objective.on_policy is None for one in found] == [False, True]
    (part,) = (part for part in ablation(on).parts if part.name == "on_policy")
    assert part.config.objective.on_policy is None


def test_counts_of_rounds_and_texts():
    settings = OnPolicy(share=0.5, every=3, from_epoch=2)
    assert [settings.round_of(epoch) for epoch in range(9)] == [None, None, 0, 0, 0, 1, 1, 1, 2]
    assert [settings.begins(number) for number in range(3)] == [2, 5, 8]
    assert [settings.rounds(epochs) for epochs in (0, 2, 3, 5, 6, 9)] == [0, 0, 1, 1, 2, 3]
    assert settings.of_epoch(25, 8) == 4 * 3 + 1
    assert OnPolicy(share=0.3).of_batch(5) == 2
    assert (settings.prompt_of(64), settings.written_of(64)) == (16, 64)
    assert OnPolicy(prompt=5, tokens=7).written_of(64) == 12
