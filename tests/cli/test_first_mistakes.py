"""What people write in their first hour, and what they are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from raykd.folders import home
from raykd.pipeline.job import not_decoded
from raykd.tracking import JsonLines
from raykd.tracking.progress import failure_line


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("student.epochs=5", "train.epochs"),
        ("student.train.epochs=5", "train.epochs"),
        ("epochs=5", "train.epochs"),
        ("lr=0.1", "train.optimizer.lr"),
        ("temperature=2", "objective.soft_targets.temperature"),
        ("train.epoch=5", "epochs"),
        ("trian.epochs=5", "train"),
    ],
)
def test_a_key_in_the_wrong_place_is_found(recipe, call, override, meant):
    """At 7d0af11: `student.epochs: unknown key; did you mean 'preprocess'?`, exit 2."""
    ended = call("run", recipe, override)
    assert (ended.code, ended.out) == (2, "")
    assert f"unknown key; did you mean {meant!r}?" in ended.err


SEARCH = {
    "parameters": {
        "objective.soft_targets.temperatures": {"space": "uniform", "lower": 1, "upper": 4},
        "train.epoch": {"space": "choice", "categories": [1, 2]},
        "pupil.model.width": {"space": "uniform", "lower": 0.1, "upper": 1},
    }
}


@pytest.mark.parametrize(
    ("elsewhere", "key"),
    [
        (["train.epochs=0"], "train.epochs"),
        (["data.labelled=3"], "data.labelled"),
        (["objective.weighting={type: fixed, weights: {wide: 1}}"], "objective.weighting.weights"),
    ],
)
def test_wrong_keys_of_a_search_are_told_beside_one_elsewhere(
    folder, recipe, call, tiny_recipe, elsewhere, key
):
    """At 7d0af11 the wrong keys of a search were told only once the rest was right."""
    recipe.write_text(yaml.safe_dump({**tiny_recipe, "search": SEARCH}))
    ended = call("sweep", recipe, *elsewhere, "--dry-run")
    assert ended.code == 2
    told = [line.removeprefix("error  ").split(": ")[0] for line in ended.err.splitlines()]
    searched = [f"search.parameters.{name}" for name in SEARCH["parameters"]]
    assert told[0].startswith(key)
    assert sorted(told[1:]) == sorted(searched)
    assert call("config", "show", recipe).code == 0, "who does not search is not told"


def test_a_loss_by_another_name(recipe, call):
    """At 7d0af11: `did you mean 'cosine'?`, and losses of embeddings were offered."""
    ended = call("compare", recipe, "--losses", "ce", "--dry-run")
    assert ended.code == 2
    assert (
        "--losses: knows no 'ce'; did you mean 'kl'?; of task classification there are kl, "
        in ended.err
    )
    assert "bernoulli_kl" not in ended.err
    soft, features = ended.err.split("and of features, with --taps, ")
    assert "cosine" not in soft
    assert "hint" in features


@pytest.mark.parametrize(
    ("overrides", "controls", "why"),
    [
        (["data.labels=0", "teachers.wide.labels=all", "teachers.conv.labels=all"],
         ["best_teacher", "hard"], "no control labels: no training sample keeps its label"),
        (["teachers=[{name: own, model: mlp, fit: {}}]"],
         ["labels", "hard"], "no control best_teacher: there is one teacher"),
    ],
)  # fmt: skip
def test_usual_controls_that_show_nothing_are_left_out_and_it_is_said(
    recipe, call, tiny_recipe, overrides, controls, why
):
    """At 7d0af11: an error about `labels`, exit 2; the only teacher's control was trained again."""
    del tiny_recipe["evaluate"]
    recipe.write_text(yaml.safe_dump(tiny_recipe))
    shown = call("config", "show", recipe, *overrides, "--json")
    assert json.loads(shown.out)["evaluate"]["controls"] == controls
    checked = call("check", recipe, *overrides)
    assert checked.code == 0, checked
    assert why in checked.out
    named = call("config", "show", recipe, *overrides, "evaluate.controls=[hard]", "--json")
    assert json.loads(named.out)["evaluate"]["controls"] == ["hard"]


def test_home_may_begin_with_a_tilde(monkeypatch, tmp_path):
    """At 7d0af11 it was a folder `./~/kd`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAYKD_HOME", "~/kd")
    assert home() == tmp_path / "kd"


WORKER = """
import os, sys
from importlib.util import find_spec
del sys.path[0]
package = os.path.dirname(find_spec("ray").origin)
sys.argv = [os.path.join(package, "_private", "workers", "default_worker.py")]
sys.path[:0] = [{folder!r}, os.path.join(package, "thirdparty_files")]  # as Ray starts a process
import raykd
for name in ("wandb", "torch", "yaml", "my_own"):
    print(find_spec(name).origin)
"""


@pytest.fixture
def own_files(folder):
    """Files of a user's that have the names of packages."""
    for name in ("torch", "wandb", "yaml", "types"):
        (folder / f"{name}.py").write_text("raise RuntimeError('a user\\'s file was imported')\n")
    (folder / "my_own.py").write_text("")
    return folder


def test_files_with_the_names_of_packages_are_not_imported_by_workers(own_files):
    """At 7d0af11 Ray's processes imported `torch.py` and `wandb.py`, and a teacher was blamed."""
    code = WORKER.format(folder=str(own_files))
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    *packages, own = found.stdout.split()
    assert not [path for path in packages if path.startswith(str(own_files))]
    assert own == str(own_files / "my_own.py")


def test_files_with_the_names_of_packages_are_not_imported_by_the_command(own_files):
    words = [sys.executable, "-m", "raykd", "config", "validate", "recipe.yaml"]
    (own_files / "recipe.yaml").write_text(
        "data: {source: {type: digits}}\nteachers: [{model: mlp, fit: {}}]\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ["PYTHONPATH"]])
    found = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert found.returncode == 2, found
    assert "error  student: is required and missing" in found.stderr


def test_a_file_that_its_name_does_not_import_is_named(own_files, recipe, call):
    ended = call("check", recipe, "student.model=types:make")
    assert ended.code == 2
    assert (
        f"error  student.model.path: {own_files / 'types.py'} has the name of another module"
        in ended.err
    )
    assert "give your file another name" in ended.err


@pytest.mark.soak
def test_a_run_among_such_files_and_in_such_a_folder(own_files, recipe, tmp_path):
    (own_files / "my_own.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    long = tmp_path / (60 * "x")
    long.mkdir()
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ["PYTHONPATH"]])
    words = ["run", str(recipe), "--quiet", "--output", "out", "student.model=my_own:make",
             "evaluate.controls=[]", "tracking.wandb.mode=offline"]  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-m", "raykd", *words], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": paths, "TMPDIR": str(long)},
    )  # fmt: skip
    assert ended.returncode == 0, ended
    assert list((own_files / "out" / "wandb").glob("offline-run-*"))


def test_five_of_many_samples_that_cannot_be_decoded_are_named(tmp_path):
    """At 7d0af11 all 967 ids were on one line."""
    names = [f"photos/{number:04}.png (cut off)" for number in range(967)]
    event = not_decoded(names)
    line = failure_line(event)
    assert line.count(".png") == 5
    assert "967 samples cannot be decoded: photos/0000.png (cut off), " in line
    assert "and 962 more, see events.jsonl" in line
    log = JsonLines(tmp_path)
    log.on(event)
    log.close(None)
    [written] = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert written["samples"] == names
    assert failure_line(not_decoded(names[:2])).endswith("0001.png (cut off)  (skip)")
