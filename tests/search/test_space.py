"""What is tried, what is stopped, and what stands on a front: without Ray."""

from __future__ import annotations

import numpy as np
import pytest

from raykd.config import check_search, load_config
from raykd.config.load import read_recipe
from raykd.config.search import Search
from raykd.errors import InputError
from raykd.pipeline import Options
from raykd.pipeline.preparation import vary
from raykd.search.builder import varied_within_limits
from raykd.search.scores import MedianStopping, Patience, SuccessiveHalving, cost_fronts
from raykd.search.space import all_proposals, grid_values, plain_recipe, propose, random_values
from raykd.search.sweeping import plan_sweep

T = "objective.soft_targets.temperature"
W = "student.model.width"


def search(**given):
    parameters = {
        T: {"space": "loguniform", "lower": 1, "upper": 16},
        W: {"space": "choice", "categories": [0.25, 0.5, 1.0]},
    }
    return Search.model_validate({"parameters": parameters, **given})


def test_draws_depend_on_the_seed_alone_and_more_trials_keep_the_first():
    few, many = (random_values(search(trials=n), 0) for n in (5, 200))
    assert many[:5] == few
    assert random_values(search(trials=5), 1) != few
    drawn = np.log([one[T] for one in many])
    assert 0 <= drawn.min() <= drawn.max() <= np.log(16)
    assert drawn.mean() == pytest.approx(np.log(4), abs=0.2), "as many below 4 as above"
    assert {one[W] for one in many} == {0.25, 0.5, 1.0}


def test_a_small_space_is_drawn_without_repetition_and_a_grid_is_whole():
    small = {"parameters": {W: {"space": "choice", "categories": [0.25, 0.5, 1.0]},
                            T: {"space": "randint", "lower": 1, "upper": 4}}}  # fmt: skip
    drawn = random_values(Search.model_validate({**small, "trials": 12}), 0)
    grid = grid_values(Search.model_validate({**small, "searcher": {"type": "grid"}}))
    assert len(grid) == 12
    assert sorted(map(str, drawn)) == sorted(map(str, grid))
    assert grid[:2] == [{W: 0.25, T: 1}, {W: 0.25, T: 2}]


def test_trials_are_recipes_without_a_search_and_impossible_pairs_are_named():
    tree = read_recipe("digits")
    parameters = {
        "objective.soft_targets.loss.type": {"space": "choice", "categories": ["kl", "dkd"]},
        W: {"space": "choice", "categories": [0.25, 0.5]},
    }
    given = {"parameters": parameters, "searcher": {"type": "grid"}}
    trials = all_proposals(load_config({**tree, "search": given}))
    assert [trial.name for trial in trials] == ["000", "001", "002", "003"]
    assert trials[3].config.search is None
    assert trials[3].config.objective.soft_targets.loss.type == "dkd"
    parameters["objective.soft_targets.loss.alpha"] = {"space": "choice", "categories": [1.0]}
    with pytest.raises(InputError, match=r"alpha: category 1 is refused"):
        check_search(load_config({**tree, "search": given}))
    parameters = {"student.model.type": {"space": "choice", "categories": ["cnn", "resnet"]},
                  "student.model.depth": {"space": "choice", "categories": [3, 4]}}  # fmt: skip
    wrong = load_config(
        {**tree, "search": {"parameters": parameters, "searcher": {"type": "grid"}}}
    )
    with pytest.raises(
        InputError, match=r"trial 002 \(student.model.type=resnet, .*is not possible: "
    ):
        all_proposals(wrong)


def test_rungs_let_the_best_third_go_on():
    rule = SuccessiveHalving(grace_epochs=2, reduction=3)
    assert not rule.stops("a", 1, 0.0), "no rung"
    assert not rule.stops("a", 2, 0.5), "the first to come is not judged"
    assert rule.stops("b", 2, 0.4)
    assert not rule.stops("c", 2, 0.5), "equals go on"
    assert not rule.stops("d", 2, 0.9)
    assert rule.stops("e", 2, 0.45)
    assert not rule.stops("a", 6, 0.1)
    assert rule.stops("d", 6, 0.05)
    assert not rule.stops("a", 2, 0.5), "told again after a resume"


def test_median_and_patience():
    rule = MedianStopping(grace_epochs=2, least_trials=2)
    for epoch, merit in ((1, 0.1), (2, 0.5)):
        assert not rule.stops("a", epoch, merit)
        assert not rule.stops("b", epoch, merit + 0.2)
    assert not rule.stops("c", 1, 0.0)
    assert rule.stops("c", 2, 0.3), "0.3 is below the median 0.4 of the means 0.3 and 0.5"
    waiting = Patience(2)
    told = [waiting.stops("a", e, m) for e, m in ((1, 0.5), (2, 0.6), (3, 0.6), (4, 0.6))]
    assert told == [False, False, False, True]


def test_a_front_holds_what_nothing_beats():
    points = {"a": (1, 0.5), "b": (2, 0.5), "c": (2, 0.7), "d": (3, 0.6), "e": (None, 0.9), "f": (9, 0.8)}  # fmt: skip
    scores = {name: score for name, (_, score) in points.items()}
    costs = {name: {"flops": flops} for name, (flops, _) in points.items()}
    assert cost_fronts(scores, costs)["flops"] == ["a", "c", "f"]
    assert cost_fronts({**scores, "g": 0.8}, {**costs, "g": {"flops": 9}})["flops"][-1] == "f"


def test_what_the_data_would_decide_can_be_searched(sweep_tree, tmp_path):
    """Most samples have no label: the recipe itself replaces, a trial with a weight for labels adds them."""
    parameters = {
        "objective.labels.weight": {"space": "uniform", "lower": 0.1, "upper": 0.5},
        "objective.soft_targets.temperature": {"space": "uniform", "lower": 2, "upper": 8},
    }
    plan = plan_sweep(
        load_config(sweep_tree(parameters=parameters)), Options(output=tmp_path / "sweep")
    )
    assert plan.proposals is not None
    own = vary(plan.prepared, plain_recipe(plan.prepared.config)).config.objective
    assert own.labels.replaces
    assert own.soft_targets.temperature == 1.0
    for index, proposal in enumerate(plan.proposals[:3]):
        again = propose(plan.prepared.config, index, proposal.values)
        varied, _ = varied_within_limits(plan.prepared, again.config)
        objective = varied.config.objective
        assert not objective.labels.replaces
        assert objective.labels.weight == proposal.values["objective.labels.weight"]
        assert (
            objective.soft_targets.temperature
            == proposal.values["objective.soft_targets.temperature"]
        )
