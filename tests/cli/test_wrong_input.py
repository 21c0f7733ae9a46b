"""Whatever is wrong with the input: exit 2, the key named, no traceback, nothing started or left."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import save_file

CODE = """
from torch import nn

number = 3

def no_module():
    return 3

def seven_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))

def ten_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def no_data():
    return {}
"""


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("marker"),))


@pytest.fixture
def files(folder, recipe, tiny_recipe):
    """Everything that the wrong recipes below name."""
    (folder / "cli_user_code.py").write_text(CODE)
    (folder / "bad.yaml").write_text("train: {epochs: [3\nseeds: 1")
    (folder / "list.yaml").write_text("- train\n- seeds")
    (folder / "empty.yaml").write_text("")
    twice = [tiny_recipe["teachers"][0]] * 2
    (folder / "twice.yaml").write_text(yaml.safe_dump({**tiny_recipe, "teachers": twice}))
    state = {"weight": np.zeros((200, 200), np.float32)}
    save_file(state, folder / "whole.safetensors")
    data = (folder / "whole.safetensors").read_bytes()
    (folder / "truncated.safetensors").write_bytes(data[: len(data) // 2])
    (folder / "malicious.pt").write_bytes(pickle.dumps(Malicious()))
    torch.save({"module": Malicious()}, folder / "malicious_zip.pt")
    np.savez(folder / "objects.npz", inputs=np.array([Malicious(), None], dtype=object))
    np.savez(folder / "nameless.npz", values=np.zeros((9, 3)))
    outputs = {"ids": np.arange(5), "logits": np.zeros((5, 10), np.float32)}
    save_file(outputs, folder / "few.safetensors")
    (folder / "taken").mkdir()
    (folder / "taken" / "thesis.txt").write_text("do not touch")
    (folder / "file").write_text("")
    (folder / "keys.yaml").write_text("train: {epochs: 3}\nseeds: 1\ntrain: {batch_size: 8}\n")
    for name, labels in (("one", [0] * 300), ("from_one", [1, 2] * 150), ("none", [])):
        rows = [f"{row / 7},{row % 5},{label}\n" for row, label in enumerate(labels)]
        (folder / f"{name}.csv").write_text("".join(["a,b,said\n", *rows]))
    return folder


FEATURE = (
    "objective.features=[{{loss: {{type: hint}}, teacher: {}, student_tap: {}, teacher_tap: {}}}]"
)
ORIGINALS = ["data.views.count=1", "data.views.policy=[]"]
WITHOUT = ["teachers.wide.fit=null"]
FACTORY = [*WITHOUT, "teachers.wide.model=cli_user_code:{}"]


def factory(name: str) -> list[str]:
    return [word.format(name) for word in FACTORY]


# what is wrong: (arguments after `raykd run`, what the message names)
RECIPE = {
    "unknown key": (["train.epoch=3"], ["train.epoch", "did you mean 'epochs'"]),
    "unknown section": (["trains.epochs=3"], ["trains", "did you mean 'train'"]),
    "wrong type": (["train.epochs=many"], ["train.epochs", "'many'"]),
    "truth for a number": (["train.epochs=true"], ["train.epochs"]),
    "out of range": (["train.batch_size=0"], ["train.batch_size"]),
    "negative weight": (["objective.labels.weight=-1"], ["objective.labels.weight"]),
    "not a number": (["objective.labels.weight=.nan"], ["objective.labels.weight"]),
    "nothing to learn": (
        ["objective.labels.weight=0", "objective.soft_targets=null"],
        ["objective"],
    ),
    "unknown loss": (["objective.soft_targets.loss.type=kll"], ["objective.soft_targets.loss"]),
    "unknown optimizer": (["train.optimizer.type=adamv"], ["train.optimizer", "'adamw'"]),
    "unknown model": (["student.model=resnt"], ["student.model", "did you mean 'resnet'"]),
    "bad override": (["train.epochs.x=3"], ["train.epochs.x"]),
    "override without a key": (["=3"], ["=3", "key.sub=value"]),
    "override of an unknown teacher": (["teachers.wid.temperature=2"], ["wid", "'wide'"]),
    "override in bad YAML": (["seeds=[1"], ["seeds", "YAML"]),
    "teacher without fit or weights": (WITHOUT, ["teachers.wide"]),
    "bad resnet depth": (["student.model={type: resnet, depth: 9}"], ["student.model.depth", "9"]),
    "fixed weighting misses a teacher": (
        ["objective.weighting={type: fixed, weights: {wide: 1}}"],
        ["objective.weighting.weights.conv"],
    ),
    "stored targets of endless views": (
        ["targets.mode=stored", "data.views.count=null"],
        ["targets.mode", "data.views.count"],
    ),
    "tap on an unknown teacher": (
        [FEATURE.format("wid", "fc", "fc")],
        ["objective.features.0.teacher", "did you mean 'wide'"],
    ),
    "requirement on nothing": (["evaluate.require=[student.test.acc > 0]"], ["evaluate.require.0"]),
    "reserved teacher name": (["teachers.0.name=student"], ["teachers.student.name"]),
    "lanes of several workers": (
        ["cluster.student.workers=2", "cluster.student.parallel_fits=2"],
        ["cluster.student.parallel_fits"],
    ),
    "lanes of Ray Train": (
        ["cluster.student.trainer=train", "cluster.student.parallel_fits=2"],
        ["cluster.student.parallel_fits", "trainer=auto"],
    ),
    "labels in place of values": (
        ["objective.labels={mode: replace}", "task=regression"],
        ["objective.labels.mode", "only class probabilities"],
    ),
    "labels in place of answers, with a weight of their own": (
        ["objective.labels={mode: replace, weight: 0.2}"],
        ["objective.labels.weight", "set the mode to add"],
    ),
    "sharpening at a temperature": (
        ["objective.soft_targets.sharpen=fit", "objective.soft_targets.temperature=4"],
        ["objective.soft_targets.temperature", "found 4", "leave it out"],
    ),
    "sharpening of another loss": (
        ["objective.soft_targets={sharpen: 0.5, loss: {type: dist}}"],
        ["objective.soft_targets.sharpen", "needs the loss kl, found dist"],
    ),
    "hard share of losses that are added up": (
        ["objective.soft_targets={hard_share: 0.5, combine: losses}"],
        ["objective.soft_targets.combine", "probabilities, logits"],
    ),
    "sharpening to nothing": (
        ["objective.soft_targets.sharpen=0"],
        ["objective.soft_targets.sharpen"],
    ),
    "malformed requirement": (["evaluate.require=[accuracy is fine]"], ["evaluate.require.0"]),
    "tap that is not there": (
        [FEATURE.format("wide", "hiddens", "fc")],
        ["objective.features.0", "'hiddens'"],
    ),
    "zero labels": (["data.labels=0"], ["data.labels"]),
    "labels as a part above 1": (["data.labels=1.5"], ["data.labels"]),
    "validation too large": (["data.splits.validation=100000"], ["data.splits"]),
    "too many class names": (["data.classes=[a, b]"], ["data.classes"]),
    "IDX folder missing": (
        ["data.source={type: fashion_mnist, root: nowhere}"],
        ["data.source.root", "nowhere"],
    ),
    "npz missing": (["data.source={type: arrays, path: no.npz}"], ["data.source.path", "no.npz"]),
    "npz with a pickle": (
        ["data.source={type: arrays, path: objects.npz}"],
        ["data.source.path", "pickles"],
    ),
    "npz without inputs": (
        ["data.source={type: arrays, path: nameless.npz}"],
        ["data.source.path", "inputs"],
    ),
    "data factory returns no dataset": (
        ["data.source={type: factory, path: 'cli_user_code:no_data'}"],
        ["data.source.path", "Dataset"],
    ),
    "factory not importable": (
        [*WITHOUT, "teachers.wide.model=no_such_module:make"],
        ["teachers.wide.model.path", "no_such_module"],
    ),
    "factory not callable": (factory("number"), ["teachers.wide.model.path", "number"]),
    "factory not there": (factory("sevn_classes"), ["teachers.wide.model.path", "seven_classes"]),
    "factory returns no module": (factory("no_module"), ["teachers.wide.model.path", "int"]),
    "factory does not take that": (
        [*factory("ten_classes"), "teachers.wide.model.kwargs.width=2"],
        ["teachers.wide.model.kwargs", "width"],
    ),
    "a name for a whole setting": (
        ["objective.soft_targets.loss=kl", "train.optimizer=sgd", "objective.weighting=entropi"],
        [
            "write {type: kl}; found 'kl'",
            "write {type: sgd}; found 'sgd'",
            "did you mean 'entropy'?",
        ],
    ),
    "a name in a list of settings": (
        ["data.views.policy=[flip]"],
        ["data.views.policy.0: needs keys and values: write {type: flip}; found 'flip'"],
    ),
    "a name for a list": (["evaluate.slices=age"], ["evaluate.slices: needs a list; found 'age'"]),
    "a list for keys": (["student=[1]"], ["student: needs keys and values; found [1]"]),
    "one class": (
        ["data.source={type: csv, path: one.csv, label: said}"],
        ["data.source", "every label is '0'", "two classes"],
    ),
    "classes from one": (
        ["data.source={type: csv, path: from_one.csv, label: said}"],
        [
            "1 of 3 classes have no labelled training sample (0)",
            "number the classes from 0 without gaps",
        ],
    ),
    "no row": (
        ["data.source={type: csv, path: none.csv, label: said}"],
        ["data.source.path", "none.csv has no row below its header"],
    ),
    "a pattern of files": (
        ["data.source={type: csv, path: x, label: said}", "data.source.path=*.tsv"],
        ["data.source.path", "*.tsv"],
    ),
    "class count mismatch": (factory("seven_classes"), ["teachers.wide.model", "7", "10"]),
    "label map out of range": (
        [*factory("ten_classes"), "teachers.wide.label_map=[0,1,2,3,4,5,6,7,8,12]"],
        ["teachers.wide.label_map", "12"],
    ),
    "weights missing": (["teachers.wide.weights=no.safetensors"], ["teachers.wide.weights"]),
    "truncated weights": (
        ["teachers.wide.weights=truncated.safetensors"],
        ["teachers.wide.weights", "damaged"],
    ),
    "weights of another model": (
        ["teachers.wide.weights=whole.safetensors"],
        ["teachers.wide.weights", "missing"],
    ),
    "malicious pickle": (["teachers.wide.weights=malicious.pt"], ["teachers.wide.weights"]),
    "malicious archive": (["student.weights=malicious_zip.pt"], ["student.weights"]),
    "outputs lack samples": (
        [*ORIGINALS, *WITHOUT, "teachers.wide.model=null", "teachers.wide.outputs=few.safetensors"],
        ["teachers.wide.outputs", "no output", "1792"],
    ),
    "student over its limit": (
        ["student.limits.parameters=10"],
        ["student.limits.parameters", "10"],
    ),
    "GPU asked but absent": (["cluster.student.gpus=64"], ["cluster.student.gpus", "64"]),
    "teachers ask for absent GPUs": (["cluster.teachers.gpus=64"], ["cluster.teachers.gpus"]),
    "more workers than CPUs": (
        ["cluster.student.workers=2000", "train.batch_size=4000", "data.labels=null"],
        ["cluster.student.workers", "2000"],
    ),
}
WORDS = {
    "recipe missing": (["nosuch.yaml"], ["recipe", "nosuch.yaml"]),
    "unknown recipe": (["digit"], ["recipe", "did you mean 'digits'"]),
    "bad YAML": (["bad.yaml"], ["bad.yaml", "YAML"]),
    "not a mapping": (["list.yaml"], ["list.yaml", "a list"]),
    "nothing in it": (["empty.yaml"], ["data", "teachers", "student"]),
    "no recipe": (["seeds=2"], ["recipe"]),
    "two recipes": (["recipe.yaml", "digits"], ["recipe", "-c FILE"]),
    "a folder that is no run's": (["taken"], ["recipe", "'taken' is a folder and no run's"]),
    "a key twice": (["keys.yaml"], ["keys.yaml", "the key 'train' is given twice", "line 3"]),
    "same name twice": (["twice.yaml"], ["teachers.wide", "unique"]),
    "resume without a folder": (["recipe.yaml", "--resume"], ["--resume", "--output"]),
    "folder exists": (["recipe.yaml", "--output", "taken"], ["--output", "--resume"]),
    "resume in another's folder": (
        ["recipe.yaml", "--output", "taken", "--resume"],
        ["--output", "config.json"],
    ),
    "resume nothing": (["--output", "taken", "--resume"], ["--resume", "config.json"]),
    "output is a file": (["recipe.yaml", "--output", "file", "--resume"], ["--output"]),
}
CASES = {name: (["recipe.yaml", *words], found) for name, (words, found) in RECIPE.items()} | WORDS


@pytest.fixture
def nothing_may_start(session_module, monkeypatch):
    def refuse(address):
        raise AssertionError("a cluster was asked for")

    monkeypatch.setattr(session_module, "is_connected", lambda: False)
    monkeypatch.setattr(session_module, "connect", refuse)


@pytest.mark.usefixtures("nothing_may_start")
@pytest.mark.parametrize("wrong", CASES)
def test_it_is_refused_before_anything_starts(files, call, wrong):
    words, named = CASES[wrong]
    before = sorted(files.rglob("*"))
    ended = call("run", *words)
    assert ended.code == 2, ended
    assert ended.out == ""
    lines = ended.err.splitlines()
    assert lines
    assert all(line.startswith("error  ") for line in lines), ended.err
    assert [text for text in named if text not in ended.err] == [], ended.err
    assert "Traceback" not in ended.err
    left = {path for path in set(files.rglob("*")) - set(before) if "__pycache__" not in path.parts}
    assert not left
    assert (files / "taken" / "thesis.txt").read_text() == "do not touch"


def test_there_are_thirty_and_more():
    assert len(CASES) >= 30


@pytest.mark.usefixtures("nothing_may_start")
def test_all_problems_come_at_once(files, call):
    ended = call("run", "recipe.yaml", "train.epochs=0", "sede=1", "student.model.type=cn")
    assert len(ended.err.splitlines()) == 3


@pytest.mark.usefixtures("nothing_may_start")
def test_resuming_with_another_recipe_is_refused(files, call):
    (files / "run").mkdir()
    shown = call("config", "show", "recipe.yaml", "--json").out
    (files / "run" / "config.json").write_text(shown)
    ended = call("run", "recipe.yaml", "seed=3", "--resume", "--output", "run")
    assert ended.code == 2
    assert "--resume" in ended.err
    assert "seed" in ended.err


@pytest.mark.usefixtures("nothing_may_start")
@pytest.mark.parametrize("command", ["check", "plan"])
def test_looking_ahead_refuses_the_same(files, call, command):
    ended = call(command, "recipe.yaml", "student.limits.parameters=10")
    assert ended.code == 2
    assert "error  student.limits.parameters" in ended.err


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["report", "taken"], "taken"),
        (["status", "taken"], "error  RUN: "),
        (["predict", "taken", "nameless.npz"], "error  taken: holds no student"),
        (["predict", "taken", "whole.npy", "--output", "x.txt"], "error  --output: "),
        (["inspect"], "error  MODEL_SPEC: "),
        (["inspect", "resnt"], "did you mean 'resnet'"),
        (["inspect", "resnet", "depth=9"], "error  model.depth: "),
        (["inspect", "mlp", "--input", "a,b"], "error  --input: "),
        (["inspect", "mlp", "--classes", "0"], "error  --classes: "),
        (["inspect", "mlp", "--recipe", "digits"], "error  MODEL_SPEC: "),
        (["inspect", "--recipe", "digits", "--model", "teachers.wid"], "error  --model: "),
        (["inspect", "ngram"], "error  model: "),
        (["inspect", "gru_lm", "--input", "3,3"], "error  --input: "),
        (["inspect", "cli_user_code:number"], "error  model.path: "),
        (
            ["compare", "recipe.yaml", "--losses", "kl", "--reference", "foo", "--dry-run"],
            "error  --reference: knows no",
        ),
        (["data", "check", "recipe.yaml", "data.labels=100000"], "error  data.labels: "),
        (["config", "show", "recipe.yaml", "sede=1"], "error  sede: "),
    ],
)
def test_other_commands_refuse_in_the_same_way(files, call, argv, named):
    ended = call(*argv)
    assert ended.code == 2, ended
    assert named in ended.err
    assert all(line.startswith("error  ") for line in ended.err.splitlines())
    assert not (files / "marker").exists()
