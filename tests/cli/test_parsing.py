"""Words, layers, overrides and options, in any order; what is light stays light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from raykd.cli.entry import parse
from raykd.cli.options import address_of, overrides_of, read_config, recipe_of
from raykd.config.optimizers import DEFAULTS
from raykd.errors import InputError

HEAVY = ("torch", "ray", "wandb", "numpy", "matplotlib", "sklearn", "raykd.pipeline")


@pytest.mark.parametrize(
    "line",
    [
        "run recipe.yaml seeds=2 train.epochs=7 --output out --quiet",
        "run --output out --quiet recipe.yaml seeds=2 train.epochs=7",
        "run recipe.yaml --output out seeds=2 --quiet train.epochs=7",
        "run --quiet recipe.yaml seeds=2 --output=out train.epochs=7",
        "run seeds=2 train.epochs=7 recipe.yaml --quiet --output out",
    ],
)
def test_options_may_stand_anywhere(recipe, line):
    args = parse(line.split())
    assert (args.output, args.quiet, args.resume) == (Path("out"), True, False)
    assert recipe_of(args) == "recipe.yaml"
    assert overrides_of(args) == ["seeds=2", "train.epochs=7"]
    config = read_config(args)
    assert (config.seeds, config.train.epochs) == (2, 7)


def test_layers_lie_over_the_recipe_and_overrides_over_all(recipe, folder):
    (folder / "a.yaml").write_text("{seed: 1, seeds: 2, train: {epochs: 3}}")
    (folder / "b.yaml").write_text("{seeds: 4}")
    config = read_config(
        parse(["run", "recipe.yaml", "-c", "a.yaml", "train.epochs=9", "-c", "b.yaml"])
    )
    assert (config.seed, config.seeds, config.train.epochs) == (1, 4, 9)
    config = read_config(
        parse(["run", "-c", "recipe.yaml", "-c", "b.yaml", "teachers.conv.temperature=2"])
    )
    assert config.seeds == 4
    assert config.teachers[1].temperature == 2


def test_resume_takes_the_runs_own_recipe(recipe, folder, call):
    (folder / "out").mkdir()
    shown = call("config", "show", recipe, "seeds=3", "--json")
    (folder / "out" / "config.json").write_text(shown.out)
    assert read_config(parse(["run", "--resume", "--output", "out"])).seeds == 3


def test_the_address_follows_the_environment(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert address_of(parse(["run", "x"])) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert address_of(parse(["run", "x"])) == "10.0.0.1:6379"
    assert address_of(parse(["run", "x", "--address", "auto"])) == "auto"
    assert address_of(parse(["run", "x", "--address", "local"])) is None


def test_two_recipes_are_refused(recipe):
    with pytest.raises(InputError, match="-c FILE"):
        read_config(parse(["run", "recipe.yaml", "other.yaml"]))


@pytest.mark.parametrize(
    "argv",
    [[], ["rnu"], ["run", "x", "--outptu", "y"], ["report"], ["report", "a", "b"], ["config"]],
)
def test_wrong_arguments_end_with_2_and_usage(call, argv):
    ended = call(*argv)
    assert ended.code == 2
    assert "usage: raykd" in ended.err
    assert not ended.out


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["run", "--help"], ["init", "-h"]])
def test_help_ends_with_0(call, argv):
    ended = call(*argv)
    assert ended.code == 0
    assert "raykd" in ended.out


def test_help_lists_every_command(call):
    listed = call("--help").out
    commands = (
        "run teachers targets distill evaluate report predict status inspect recipes init check "
        "config data plan explain"
    )
    assert not [command for command in commands.split() if f"\n    {command} " not in listed]


def _python(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["recipes"], ["config", "validate", "digits"], ["config", "schema"],
     ["run", "digits", "seeds=0"], ["run", "digit"]],
)  # fmt: skip
def test_light_commands_import_neither_torch_nor_ray(argv):
    loaded = _python(
        f"import sys\nfrom raykd.cli import main\nmain({argv!r})\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert loaded.splitlines()[-1] == "[]"


def test_python_dash_m_is_the_same_command():
    ended = subprocess.run(
        [sys.executable, "-m", "raykd", "recipes"], capture_output=True, text=True
    )
    assert ended.returncode == 0
    assert ended.stdout.startswith("cartpole")


@pytest.mark.parametrize(
    ("overrides", "mode", "comments"),
    [
        (["objective.labels.weight=0.2", "objective.soft_targets.temperature=2"], "add", 0),
        (["objective.labels={mode: replace}"], "replace", 1),
        (["objective.soft_targets=null"], "add", 0),
        ([], None, 2),
    ],
)
def test_config_show_says_what_labels_do(recipe, call, overrides, mode, comments):
    ended = call("config", "show", recipe, *overrides)
    assert ended.code == 0
    assert yaml.safe_load(ended.out)["objective"]["labels"]["mode"] == mode
    assert sum(line.startswith("# objective.") for line in ended.out.splitlines()) == comments


def test_config_show_says_which_optimizers_are_defaults(recipe, call):
    named = call("config", "show", recipe)
    assert "the default of" not in named.out
    ended = call(
        "config", "show", recipe, "train.optimizer=null", "teachers.conv.fit.optimizer=null"
    )
    tree = yaml.safe_load(ended.out)
    assert tree["train"]["optimizer"] == DEFAULTS["mlp"].model_dump(mode="json")
    assert tree["teachers"][1]["fit"]["optimizer"] == DEFAULTS["cnn"].model_dump(mode="json")
    *_, teacher, student = ended.out.splitlines()
    assert student.startswith("# train.optimizer: ")
    assert student.endswith("the default of mlp")
    assert teacher.startswith("# teachers.conv.fit.optimizer: ")
    assert teacher.endswith("the default of cnn")


def test_config_show_resolves_and_is_a_recipe_again(recipe, call, folder):
    shown = call("config", "show", recipe, "seeds=3")
    assert shown.code == 0
    again = folder / "resolved.yaml"
    again.write_text(shown.out)
    tree = yaml.safe_load(shown.out)
    assert tree["seeds"] == 3
    assert tree["train"]["precision"] == "float32"
    assert call("config", "show", again).out == shown.out
    assert json.loads(call("config", "show", again, "--json").out) == tree


def test_config_validate_says_ok(recipe, call):
    ended = call("config", "validate", recipe)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("ok")


def test_config_schema_documents_its_fields(call):
    schema = json.loads(call("config", "schema").out)
    assert schema["properties"]["seeds"]["description"].startswith("Paired replicas")


def test_recipes_are_listed_with_their_first_line(call):
    lines = call("recipes").out.splitlines()
    assert any(line.startswith("digits") and "digits" in line[10:] for line in lines)
