"""`search:` in a recipe: what is accepted, and that every wrong space is refused before anything starts."""

from __future__ import annotations

import pytest

from raykd.cli import main
from raykd.config import check_search, load_config
from raykd.config.check_search import combinations_of, overrides, values_of
from raykd.config.load import read_recipe
from raykd.errors import InputError

T = "objective.soft_targets.temperature"
W = "student.model.width"
FEW = {W: {"space": "choice", "categories": [0.25, 0.5]}}


def recipe(**search):
    tree = read_recipe("digits")
    return {**tree, "search": {"parameters": FEW, "trials": 2, "finalists": None, **search}}


def space(key=T, /, **given):
    return {"parameters": {key: given}}


WRONG = {
    "no such key": (space("objective.soft_targets.temprature", space="uniform", lower=1, upper=2),
                    r"temprature: lower 1 is refused: unknown key; did you mean 'temperature'"),
    "shared by all": (space("data.labels", space="choice", categories=[1, 2]), r"data.labels: only keys under obj"),
    "a teacher's": (space("teachers.cnn.temperature", space="uniform", lower=1, upper=2), r"only keys under"),
    "a section": (space("train", space="choice", categories=[{}]), r"train: only keys under"),
    "a limit": (space("student.limits.parameters", space="randint", lower=1, upper=9), r"limits are what a search"),
    "lower bound": (space(space="uniform", lower=-1, upper=2), r"temperature: lower -1 is refused: .* found -1"),
    "upper bound": (space("objective.labels.smoothing", space="uniform", lower=0, upper=2), r"upper 2 is refused"),
    "category": (space("objective.soft_targets.loss.type", space="choice", categories=["kl", "klx"]),
                 r"category 'klx' is refused: .*unknown type 'klx'; allowed: kl"),
    "whole numbers": (space("student.model.depth", space="uniform", lower=2, upper=4),
                      r"depth: between the bounds 2\.76393 is refused: .*valid integer"),
    "between": (space("student.model", space="choice", categories=[{"type": "resnet", "depth": 9}]), r"6n \+ 2"),
    "turned bounds": (space(space="uniform", lower=3, upper=2), r"lower: found 3, must be less than upper"),
    "log of 0": (space(space="loguniform", lower=0, upper=2), r"lower: found 0, must be above 0"),
    "step": (space(space="quniform", lower=1, upper=2, step=3), r"step: found 3, is more than"),
    "no categories": (space(space="choice", categories=[]), r"categories: needs at least one entry"),
    "twice": (space(space="choice", categories=[1, 1]), r"categories: names 1 twice"),
    "no such space": (space(space="normal", mean=1), r"unknown space 'normal'; allowed: choice"),
    "no space": (space(lower=1, upper=2), r"needs a `space`"),
    "missing bound": (space(space="uniform", lower=1), r"temperature\.upper: is required"),
    "unknown field": (space(space="uniform", lower=1, upper=2, uper=3), r"uper: unknown key; did you mean 'upper'"),
    "empty": ({"parameters": {}}, r"search\.parameters: "),
    "inside": ({"parameters": {**FEW, "student.model": {"space": "choice", "categories": [{"type": "cnn"}]}}},
               r"lies inside student\.model"),
    "the loss": ({"metric": "train_loss"}, r"metric: found train_loss: the objective's own value cannot judge"),
    "the objective": ({"metric": "objective"}, r"cannot judge"),
    "another task's": ({"metric": "rmse"}, r"validation has accuracy, nll"),
    "mode": ({"metric": "nll", "mode": "max"}, r"mode: found max, but of nll less is better"),
    "a cost alone": ({"metric": "parameters"}, r"metric: found parameters in the first place: .*\[accuracy, parameters\]"),
    "a cost first": ({"metric": ["flops", "accuracy"], "scheduler": {"type": "none"}}, r"found flops in the first place"),
    "metric twice": ({"metric": ["accuracy", "accuracy"], "scheduler": {"type": "none"}}, r"names accuracy twice"),
    "no such cost": ({"metric": ["accuracy", "latency"], "scheduler": {"type": "none"}},
                     r"metric: found latency; .* has accuracy, nll, parameters, flops, latency_ms"),
    "mode of several": ({"metric": ["accuracy", "flops"], "mode": "max", "scheduler": {"type": "none"}},
                        r"mode: found max, but search\.metric names 2"),
    "halving of several": ({"metric": ["accuracy", "flops"], "scheduler": {"type": "asha"}},
                           r"scheduler: found asha, which compares trials by accuracy alone .*\{type: none\}"),
    "one in a list": ({"metric": ["accuracy"]}, r"search\.metric"),
    "endless grid": ({**space(space="uniform", lower=1, upper=2), "trials": None, "searcher": {"type": "grid"}},
                     r"no end of values, which a grid needs"),
    "trials of a grid": ({"searcher": {"type": "grid"}}, r"a grid tries all its 2 combinations"),
    "too many": ({"trials": 3}, r"trials: found 3, but there are only 2 combinations"),
    "searcher": ({"searcher": {"type": "bayes"}}, r"unknown type 'bayes'; allowed: random, grid, optuna"),
    "grace": ({"scheduler": {"type": "asha", "grace_epochs": 60}}, r"none would ever be stopped"),
    "finalists": ({"finalists": {"top": 3}}, r"top: found 3, more than the 2 trials"),
    "one replica": ({"finalists": {"seeds": 1}}, r"finalists\.seeds"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_search_is_refused(wrong):
    search, told = wrong
    with pytest.raises(InputError, match=told):
        check_search(load_config(recipe(**search)))


def test_a_search_that_does_not_fit_is_in_nobodys_way_but_a_sweeps(capsys):
    given = ["train.epochs=10", "objective.soft_targets=null"]
    config = load_config("digits", given)
    with pytest.raises(InputError, match="none would ever be stopped"):
        check_search(config)
    assert main(["config", "validate", "digits", *given]) == 2
    assert "search.scheduler.grace_epochs" in capsys.readouterr().err
    assert main(["config", "show", "digits", *given]) == 0


def test_the_command_ends_with_exit_code_2_and_says_all(tmp_path, capsys):
    wrong = [
        "search.metric=loss",
        "search.mode=max",
        f"search.parameters={{'{T}': {{space: uniform, lower: -1, upper: 2}}}}",
    ]
    output = tmp_path / "sweep"
    assert main(["sweep", "digits", *wrong, "--output", str(output)]) == 2
    told = capsys.readouterr().err
    assert "search.metric: " in told
    assert f"search.parameters.{T}: " in told
    assert not output.exists()


def test_a_right_one_is_accepted_and_defaults_hold():
    parameters = {
        T: {"space": "loguniform", "lower": 1, "upper": 16},
        "objective.soft_targets.loss.type": {"space": "choice", "categories": ["kl", "dkd"]},
        "student.model.depth": {"space": "randint", "lower": 2, "upper": 4},
        "train.optimizer.lr": {
            "space": "grid",
            "lower": 1e-3,
            "upper": 1e-1,
            "points": 3,
            "log": True,
        },
        "objective.labels.weight": {"space": "quniform", "lower": 0, "upper": 0.3, "step": 0.1},
    }
    config = load_config(recipe(parameters=parameters, trials=None, finalists={}))
    search = config.search
    assert (search.count, search.scheduler.type, search.searcher.type) == (20, "asha", "random")
    assert combinations_of(search) is None
    spaces = search.parameters
    assert values_of(spaces["train.optimizer.lr"]) == [0.001, 0.01, 0.1]
    assert values_of(spaces["objective.labels.weight"]) == [0, 0.1, 0.2, 0.3]
    assert values_of(spaces["student.model.depth"]) == [2, 3, 4]
    check_search(config)
    assert load_config(config.model_dump(mode="json")) == config


def test_several_metrics_are_accepted_and_the_first_one_ranks():
    given = ["search.metric=[accuracy, parameters]", "search.scheduler={type: none}"]
    config = load_config(recipe(), given)
    check_search(config)
    search = config.search
    assert search.judged_by("accuracy") == ("accuracy", "parameters")
    assert load_config(recipe(metric="nll")).search.judged_by("accuracy") == ("nll",)
    assert load_config(recipe()).search.judged_by("accuracy") == ("accuracy",)
    for good in (recipe(), recipe(metric="nll")):
        check_search(load_config(good))


def test_overrides_name_types_first_and_survive_yaml():
    made = overrides(
        {"train.optimizer.lr": 1e-05, "train.optimizer.type": "adamw", "train.clip_norm": None}
    )
    assert made[0] == "train.optimizer.type=adamw"
    config = load_config(read_recipe("digits"), made)
    assert config.train.optimizer.lr == 1e-05
    assert config.train.clip_norm is None
