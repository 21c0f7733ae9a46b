"""Stages as ordinary recipes: what each inherits, what it refuses, and that nothing changes without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from raykd.config import check_search, load_config
from raykd.config.chain import searching
from raykd.config.load import chain_of
from raykd.errors import InputError
from raykd.seeding import derive


@pytest.fixture
def chain(tiny_recipe):
    stages = [
        {"name": "first", "student": {"model": {"width": 1.0}, "limits": {"parameters": 9}}, "train": {"epochs": 3, "batch_size": 64}},
        {"name": "second", "teachers": ["first", "conv"], "objective": {"weighting": {"type": "sample"}}},
        {"name": "last", "teachers": ["second"], "train": {"epochs": 4}},
    ]  # fmt: skip
    return {**tiny_recipe, "evaluate": {}, "stages": stages}


def test_a_stage_is_the_recipe_with_its_keys_replaced(chain):
    config = load_config(chain, ["student.limits.parameters=20000"])
    stages, controls = chain_of(config, Path("/run"))
    first, second, last = (stage.config for stage in stages)
    assert [t.name for t in first.teachers] == ["wide", "conv"]
    assert [t.name for t in second.teachers] == ["first", "conv"]
    assert [t.name for t in last.teachers] == ["second"]
    made = second.teachers[0]
    assert (made.model, made.stage, made.learns, made.is_ours) == (first.student.model, "first", False, True)  # fmt: skip
    assert made.weights == "/run/stages/first/student/model.safetensors"
    assert (first.student.model.width, first.student.model.depth) == (1.0, 1)
    assert (second.student.model, last.student.model) == (config.student.model,) * 2
    limits = [one.student.limits.parameters for one in (first, second, last)]
    assert limits == [9, None, 20000], "the recipe's limits are of the last student"
    assert (second.objective.weighting.type, last.objective.weighting.type) == ("sample", "uniform")
    assert [stage.before for stage in stages] == [(), ("first",), ("second",)]
    assert all(one.stages == () and one.search is None for one in (first, second, last))
    assert [control.name for control in controls] == ["direct", "longer"]
    direct, longer = (control.config for control in controls)
    assert direct.teachers == longer.teachers == config.teachers
    assert direct.student == longer.student == last.student
    # Updates: 3 epochs of 64, 2 and 4 of 128.
    assert (direct.train.epochs, longer.train.epochs) == (4, 2 * 3 + 2 + 4)


def searched(chain, key, **more):
    space = {"space": "choice", "categories": [0.25, 0.5]}
    return {**chain, "search": {"parameters": {key: space}, "scheduler": {"type": "none"}, "trials": 2, "finalists": None, **more}}  # fmt: skip


def test_a_search_is_of_the_last_stage(chain):
    config = load_config(searched(chain, "student.model.width"))
    check_search(config)
    stages, _ = chain_of(config, Path("/run"))
    assert stages[-1].config.search is None, "a run leaves it aside"
    last = searching(stages[-1], config)
    assert last.config.search == last.plan.search == config.search
    assert last.config.teachers == stages[-1].config.teachers
    chain["stages"][2]["student"] = {"model": "cnn"}
    norms = {"space": "choice", "categories": ["group", "batch"]}
    tree = searched(chain, "student.model.width")
    tree["search"]["parameters"]["student.model.norm"] = norms
    check_search(load_config(tree))  # which the student of the recipe, and of other stages, has not
    del chain["stages"][2]["student"]
    with pytest.raises(InputError, match=r"student\.model\.norm"):
        check_search(load_config(tree))


def test_finalists_have_no_more_replicas_than_teach_them(chain):
    chain["stages"][1]["teach"] = "each"
    tree = searched(chain, "student.model.width", finalists={"top": 1, "seeds": 3})
    with pytest.raises(InputError, match=r"search\.finalists\.seeds: found 3, but each replica has a teacher of its own.* seeds=2"):  # fmt: skip
        check_search(load_config(tree, ["seeds=2"]))
    check_search(load_config(tree, ["seeds=3"]))
    chain["stages"][1]["teach"] = "best"
    check_search(
        load_config(searched(chain, "student.model.width", finalists={"top": 1, "seeds": 3}))
    )
    chain["stages"][2] |= {"start": "second", "teachers": None}
    chain["stages"][1]["student"] = {}
    tree = searched(chain, "train.optimizer.lr", finalists={"top": 1, "seeds": 3})
    with pytest.raises(InputError, match="each replica starts from weights of its own"):
        check_search(load_config(tree, ["seeds=2"]))
    with pytest.raises(InputError, match=r"student\.model\.width: varies the network"):
        check_search(load_config(searched(chain, "student.model.width")))


def test_seeds_of_later_stages_come_from_their_names(chain):
    config = load_config(chain)
    stages, controls = chain_of(config, Path("/run"))
    seeds = [stage.config.student.seed for stage in stages]
    assert seeds == [None, derive(0, "stage", "second"), derive(0, "stage", "last")]
    assert {control.config.student.seed for control in controls} == {seeds[-1]}, "they pair up"


def test_only_the_last_stage_has_controls(chain):
    config = load_config(chain)
    assert config.evaluate.controls == ("labels", "best_teacher", "hard", "direct", "longer")
    first, second, last = (stage.config.evaluate for stage in chain_of(config, Path("/run"))[0])
    assert first.controls == second.controls == ()
    assert last.controls == ("labels", "hard"), "of one teacher the best one is the student again"


def test_a_single_stage_is_the_recipe_itself(tiny_recipe):
    plain = load_config(tiny_recipe)
    one = load_config({**tiny_recipe, "stages": [{"name": "only"}]})
    assert one.evaluate == plain.evaluate
    (stage,), controls = chain_of(one, Path("/run"))
    assert (stage.config, controls) == (plain, [])
    assert "stages" not in plain.identity()
    assert "seed" not in plain.identity()["student"]
    assert "stage" not in plain.identity()["teachers"][0]


def test_the_student_may_stand_in_the_last_stage_alone(tiny_recipe):
    student = tiny_recipe.pop("student")
    stages = [{"name": "big", "student": {"model": "mlp"}}, {"name": "small", "teachers": ["big"], "student": student}]  # fmt: skip
    config = load_config({**tiny_recipe, "stages": stages})
    big, small = (stage.config.student.model for stage in chain_of(config, Path("/run"))[0])
    assert (config.student.model, small) == (small, config.student.model)
    assert (big.width, small.width) == (1.0, 0.25)


def test_replicas_start_where_those_of_an_earlier_stage_ended(chain):
    chain["stages"][2] |= {"start": "second", "teachers": None}
    stages, controls = chain_of(load_config(chain), Path("/run"))
    files = "/run/stages/second/checkpoints/student/replica{replica}/best.safetensors"
    assert stages[2].config.student.weights == files
    assert stages[2].plan.student.weights is None, "which is not there before the stage is trained"
    assert all(control.config.student.weights is None for control in controls)
    assert stages[2].before == ("second",)


@pytest.mark.parametrize("teach", ["each", "ensemble"])
def test_every_replica_of_a_stage_may_teach(chain, teach):
    chain["stages"][0]["teach"] = teach
    stages, _ = chain_of(load_config(chain, ["seeds=3"]), Path("/run"))
    *made, conv = stages[1].config.teachers
    assert [t.name for t in made] == ["first-0", "first-1", "first-2"]
    assert [t.weights for t in made] == [
        f"/run/stages/first/checkpoints/student/replica{r}/best.safetensors" for r in range(3)
    ]
    assert {t.stage for t in made} == {"first"}
    assert [t.teaches for t in made] == ([0, 1, 2] if teach == "each" else [None] * 3)
    assert conv.teaches is None
    assert [[t.is_heard_by(r) for t in (*made, conv)].count(True) for r in range(3)] == (
        [2] * 3 if teach == "each" else [4] * 3
    )
    assert [stage.teach for stage in stages] == [teach, "best", "best"]
    assert [t.name for t in stages[1].plan.teachers if t.fit] == ["first-0", "first-1", "first-2", "conv"]  # fmt: skip


def test_every_replica_has_a_teacher(chain):
    chain["stages"][1]["teach"] = "each"
    last = chain_of(load_config(chain, ["seeds=2"]), Path("/run"))[0][-1].config
    tree = last.model_dump(mode="json")
    assert load_config(tree) == last
    for change in ({"seeds": 3}, {"teachers": tree["teachers"][:1]}):
        with pytest.raises(InputError, match=r"replica . of the student would have none"):
            load_config({**tree, **change})


def test_of_one_teacher_for_each_replica_the_best_is_the_student_again(chain):
    chain["stages"][1]["teach"] = "each"
    stages, _ = chain_of(load_config(chain, ["seeds=3"]), Path("/run"))
    assert stages[2].config.evaluate.controls == ("labels", "hard")
    chain["stages"][2]["teachers"] = ["second", "first"]
    stages, _ = chain_of(load_config(chain, ["seeds=3"]), Path("/run"))
    assert stages[2].config.evaluate.controls == ("labels", "best_teacher", "hard")


def test_rounds_are_stages_of_their_own(chain):
    chain["stages"][1] |= {"rounds": 3, "teach": "ensemble"}
    config = load_config(chain)
    names = ["first", "second_round1", "second_round2", "second", "last"]
    assert [stage.name for stage in config.stages] == names
    assert [stage.teachers for stage in config.stages] == [
        None, ("first", "conv"), ("second_round1",), ("second_round2",), ("second",),
    ]  # fmt: skip
    assert [stage.teach for stage in config.stages] == ["best", *3 * ["ensemble"], "best"]
    assert {stage.objective["weighting"]["type"] for stage in config.stages[1:4]} == {"sample"}
    assert load_config(config.model_dump(mode="json")) == config, "a folder has every round"
    stages, _ = chain_of(config, Path("/run"))
    assert len({stage.config.student.seed for stage in stages}) == 5


def test_rounds_of_the_only_stage_are_a_chain(tiny_recipe):
    given = {**tiny_recipe, "evaluate": {}, "stages": [{"name": "self", "rounds": 2, "join": True, "teach": "each"}]}  # fmt: skip
    config = load_config(given)
    first, last = config.stages
    assert (first.teachers, last.teachers) == (None, ("wide", "conv", "self_round1"))
    assert (first.teach, last.teach) == ("each", "best"), "the last round teaches nobody"
    assert config.evaluate.controls[-2:] == ("direct", "longer")


def test_a_plan_fits_what_earlier_stages_are_to_make(chain):
    stages, _ = chain_of(load_config(chain), Path("/run"))
    made = stages[1].plan.teachers[0]
    assert (made.weights, made.fit.epochs, made.fit.batch_size) == (None, 3, 64)
    assert stages[1].plan.teachers[1] == stages[1].config.teachers[1]


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        (["stages.second.teachers=[frist]"], "stages.second.teachers", "did you mean 'first'"),
        (["stages.second.teachers=[last]"], "stages.second.teachers", "the stages before this one"),
        (["stages.second.teachers=[first,first]"], "stages.second.teachers", "twice"),
        (["stages.last.start=first", "stages.last.student={weights: w.pt}"], "stages.last.start", "student.weights"),
        (["stages.last.start=last"], "stages.last.start", "the stages before this one: first, second"),
        (["stages.last.teachers=[conv]"], "stages.second", "no later stage names it"),
        (["stages.first.name=conv"], "stages.conv.name", "choose another name"),
        (["stages.first.name=direct"], "stages.direct.name", "choose another name"),
        (["folds=3"], "stages", "cross-validated"),
        (["stages.last.join=true"], "stages.last.join", "more rounds"),
        (["stages.last.rounds=101"], "stages.2.rounds", "100"),
        ([f"stages.last.name={60 * 'n'}", "stages.2.rounds=2"], f"stages.{60 * 'n'}_round1.name", "shorter"),
        (["stages.last.teach=each"], "stages.last.teach", "teach nobody"),
        (["stages.first.teach=all"], "stages.0.teach", "ensemble"),
        (["stages.first.teach=each", "teachers.wide.name=first-0"], "stages.first.name", "choose another name"),
        (["stages.first.student={model: {widht: 1}}"], "stages.first.student.model.widht", "unknown"),
        (["stages.first.train={epochs: 0}"], "stages.first.train.epochs", "greater"),
        (["stages.second.objective={weighting: {type: fixed, weights: {wide: 1}}}"], "stages.second.objective.weighting", "wide"),
    ],
)  # fmt: skip
def test_stages_that_cannot_be(chain, overrides, key, message):
    with pytest.raises(InputError) as caught:
        load_config(chain, overrides)
    found = [problem for problem in caught.value.problems if problem.key.startswith(key)]
    assert found, caught.value
    assert message in str(found[0])


@pytest.mark.parametrize("control", ["direct", "longer"])
def test_controls_of_a_chain_need_one(tiny_recipe, control):
    given = [f"evaluate.controls=[{control}]"]
    with pytest.raises(InputError, match="without earlier stages"):
        load_config(tiny_recipe, given)
    with pytest.raises(InputError, match="without earlier stages"):
        load_config({**tiny_recipe, "stages": [{"name": "only"}]}, given)


@pytest.mark.parametrize("task", ["embedding", "language"])
def test_tasks_whose_students_cannot_teach_say_so(chain, task):
    with pytest.raises(InputError) as caught:
        load_config(chain, [f"task={task}", "student.dimension=8"])
    assert caught.value.problems
