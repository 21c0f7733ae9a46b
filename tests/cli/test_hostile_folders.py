"""A run's folder from a stranger: nothing outside it is touched, no code that it names is run, what is damaged is named."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time

import numpy as np
import pytest
import torch

from raykd.config import load_config
from raykd.evaluate import Evaluation, summarise
from raykd.folders import RunFolder, read_json, write_json
from raykd.models.weights import save_weights
from raykd.pipeline.evaluation import student_network
from raykd.pipeline.fits import known_weights
from raykd.pipeline.kept_answers import split_outputs
from raykd.pipeline.preparation import prepare
from raykd.pipeline.session import open_folder
from raykd.pipeline.student import save_student
from raykd.runtime import Resources
from raykd.search.ledger import write_recipe
from raykd.targets.codec import decode
from raykd.teachers.model import host
from raykd.train.validation import predict

NEW = "new.npy"


def recipe_in(root):
    """A table of three numbers in two classes, two teachers with weights, a student of the zoo; wants no Ray."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 3))
    lines = [f"{a:.4f},{b:.4f},{c:.4f},{'yes' if a + b > 0 else 'no'}" for a, b, c in rows]
    (root / "table.csv").write_text("a,b,c,label\n" + "\n".join(lines) + "\n")
    model = {"type": "mlp", "width": 0.1, "depth": 1}
    return {
        "data": {
            "source": {"type": "csv", "path": str(root / "table.csv"), "label": "label"},
            "splits": {"validation": 15, "test": 15},
        },
        "teachers": [
            {
                "name": name,
                "model": model,
                "weights": str(root / f"{name}.safetensors"),
                "expect": {"accuracy": 0},
            }
            for name in ("one", "two")
        ],
        "student": {"model": model},
        "evaluate": {"controls": []},
        "tracking": {"wandb": {"mode": "disabled"}},
    }


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder as a run leaves it."""
    root = tmp_path_factory.mktemp("sound")
    recipe = recipe_in(root)
    bare = {**recipe, "teachers": [{**one, "weights": None, "fit": {"epochs": 1}}
                                   for one in recipe["teachers"]]}  # fmt: skip
    for name, teacher in (prepared := prepare(load_config(bare))).teachers.items():
        save_weights(
            teacher.network(prepared.samples).model.state_dict(), root / f"{name}.safetensors"
        )
    config = load_config(recipe)
    prepared, run = prepare(config), RunFolder(root / "run")
    torch.manual_seed(7)
    student = student_network(prepared)
    best = run.checkpoints("student/replica0") / "best.safetensors"
    save_weights(student.model.state_dict(), best)
    save_student(prepared, run)
    specs = prepared.specs(known_weights(prepared))
    splits = {split: answers(prepared, specs, student, split) for split in ("validation", "test")}
    evaluation = Evaluation(
        splits=splits, task=config.task, classes=prepared.samples.classes
    )  # fmt: skip
    evaluation.save(run.evaluation)
    write_json(run.config, prepared.config.model_dump(mode="json"))
    cost = {"parameters": 9, "flops": 9, "bytes": 36, "latency_ms": {"1": 0.1, "256": 1.0}}
    summary = summarise(
        evaluation, dict.fromkeys(("student", "one", "two"), cost), task=config.task, status="complete",
        labels_used={"student": 30, "validation": 15, "teachers": {}}, test_scored_times=1, timing={"total_s": 1.0},
        targets={"mode": "stored", "teacher_samples_scored": 60, "retries": 0, "store_bytes": 9, "hit_rate": 1.0,
                 "teacher_wait_fraction": 0.0},
    )  # fmt: skip
    write_json(run.summary, summary)
    for name in specs:
        write_json(run.card(name), {"spec": {"type": "mlp"}, "fingerprint": "8c", "metrics": {}})
    epoch = {"time": 1.8e9, "stage": "student", "kind": "epoch", "fit": "student/replica0", "step": 9, "epoch": 1,
             "train_loss": 0.5, "lr": 0.1, "validation": {"accuracy": 0.5, "nll": 0.7}}  # fmt: skip
    (run.path / "metrics.jsonl").write_text(json.dumps(epoch) + "\n")
    (run.path / "events.jsonl").write_text("")
    return run.path


def answers(prepared, specs, student, split):
    rows = prepared.samples.splits[split]
    view = np.full(len(rows), -1)
    said = {name: decode(host(spec).score(prepared.samples, rows, view))
            for name, spec in specs.items()}  # fmt: skip
    own = predict(student, prepared.samples, rows, torch.device("cpu"))[None]
    return split_outputs(prepared.samples, split, said, {"student": own}, {})


@pytest.fixture
def run(sound, folder):
    """A copy, to be changed, in the working directory."""
    np.save(folder / NEW, np.zeros((2, 3), np.float32))
    return shutil.copytree(sound, folder / "run")


COMMANDS = {
    "status": lambda run: ("status", run),
    "report": lambda run: ("report", run, "--quiet"),
    "measure": lambda run: ("report", run, "--measure", "--quiet"),
    "predict": lambda run: ("predict", run, run.parent / NEW),
    "export": lambda run: ("export", run, "--format", "safetensors", "--quiet"),
    "explain": lambda run: ("explain", run, "--samples", "2", "--json"),
    "evaluate": lambda run: ("evaluate", run, "--dry-run"),
    "resume": lambda run: ("run", "--resume", "--output", run, "--dry-run"),
    "check": lambda run: ("check", run / "config.json"),
    "show": lambda run: ("config", "show", run / "config.json"),
    "ablate": lambda run: ("ablate", run, "--dry-run"),
}
"""Every command that reads a run's folder, without what would start Ray."""


SLOW = ("explain", "measure", "report")  # of which the test of a hard link writes one
EVERY = [pytest.param(name, marks=pytest.mark.soak) if name in SLOW else name for name in COMMANDS]


@pytest.mark.parametrize("name", EVERY)
def test_a_sound_folder_is_read(run, call, name):
    ended = call(*COMMANDS[name](run))
    assert ended.code == 0, ended.err


LINKED = (
    "summary.json",
    "config.json",
    "metrics.jsonl",
    "events.jsonl",
    "evaluation.safetensors",
    "teachers/one.json",
    "student",
    "student/model.json",
    "checkpoints",
    "checkpoints/student/replica0",
    "report",
    "report/index.html",
    "report/figures",
    "export",
    "explain",
    "targets.json",
    ".lock",
    "wandb",
    "wandb/raykd.id",
)
"""What is replaced by a link: files that are read, files that are written, folders that are emptied."""


def everything_in(folder):
    """Path -> content of every file in a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("place", LINKED)
def test_no_link_leads_out(place, run, folder, call):
    """At 7d0af11 `report` unlinked all in a linked `report/figures`, wrote a linked page and showed a linked card; exit 0."""
    outside = folder / "outside"
    (outside / "replica0").mkdir(parents=True)
    at = run / place
    if at.exists():
        shutil.move(at, outside / at.name)
    elif not at.suffix:
        (outside / at.name).mkdir()
    (outside / "mine.txt").write_text("SECRET")
    at.parent.mkdir(parents=True, exist_ok=True)
    at.symlink_to(outside / at.name)
    before, inside = everything_in(outside), sorted(run.rglob("*"))
    for name, words in COMMANDS.items():
        ended = call(*words(run))
        assert ended.code == 2, f"{name}: {ended}"
        assert str(at) in ended.err, f"{name}: {ended.err}"
        assert "link" in ended.err, f"{name}: {ended.err}"
    assert everything_in(outside) == before
    assert sorted(run.rglob("*")) == inside


def test_a_link_to_another_place_in_the_folder_is_right(run, call):
    (run / "again").symlink_to("student")
    assert call("status", run).code == 0


def test_what_would_be_waited_for_is_refused(run, call):
    """At 7d0af11 a pipe in the place of events.jsonl was waited for, for ever."""
    (run / "events.jsonl").unlink()
    os.mkfifo(run / "events.jsonl")
    ended = call("report", run)
    assert ended.code == 2
    assert "neither a file nor a folder" in ended.err


def test_a_linked_store_is_not_emptied(folder, call):
    """At 7d0af11 a link among the entries was listed as one."""
    (folder / "store").mkdir()
    (folder / "outside").mkdir()
    (folder / "store" / "entry").symlink_to(folder / "outside")
    for words in (("list",), ("verify",), ("prune", "--unused")):
        ended = call("targets", *words, "--store", folder / "store")
        assert ended.code == 2, ended
        assert "store/entry: is a link" in ended.err, ended


def test_the_page_of_a_report_takes_the_place_of_a_hard_link(run, folder, call):
    """At 7d0af11 the other name of the file had the page, too: it was opened and written."""
    (folder / "mine.txt").write_text("mine")
    (run / "report").mkdir()
    (run / "report" / "index.html").hardlink_to(folder / "mine.txt")
    assert call("report", run, "--quiet").code == 0
    assert (folder / "mine.txt").read_text() == "mine"
    assert (run / "report" / "index.html").read_text().startswith("<!")


RAN = "ran.txt"
CODE = f"""\
from pathlib import Path
Path({RAN!r}).touch()
def make(**kwargs):
    return None
"""


def naming(key, value, config):
    """The recipe with something else at a dotted key."""
    *way, last = key.split(".")
    at = config
    for name in way:
        at = at[int(name)] if isinstance(at, list) else at[name]
    at[last] = value
    return config


PLACES = {
    "student.model": {"type": "factory", "path": "strange:make"},
    "student.model ": "strange:make",
    "teachers.0.model": {"type": "factory", "path": "strange:make", "kwargs": {"command": "x"}},
    "teachers.1.model": {"type": "sklearn", "path": "strange:make"},
    "data.source": {"type": "factory", "path": "strange:make"},
    "data.views.policy": [{"type": "factory", "path": "strange:make"}],
    "task": "strange:make",
    "search": {"metric": "accuracy", "parameters": {"student.model": {"choice": ["strange:make"]}}},
    "teachers.0.model ": {"type": "torchscript", "path": "strange.pt", "trusted": True},
}
"""Where a recipe names code."""


@pytest.mark.parametrize("key", PLACES)
def test_no_code_is_run_that_a_folder_names(key, run, folder, call):
    """At 7d0af11 `evaluate FOLDER --dry-run`, `run --resume` and `check FOLDER/config.json` called `posix:system`."""
    (folder / "strange.py").write_text(CODE)
    config = naming(key.strip(), PLACES[key], read_json(run / "config.json"))
    write_json(run / "config.json", config)
    for name in COMMANDS.keys() - {"report"}:  # which takes seconds, and imports nothing
        ended = call(*COMMANDS[name](run))
        assert not (folder / RAN).exists(), name
        needs = name not in ("status", "predict", "export")
        assert ended.code == 2 or not needs, f"{name}: {ended}"
        if needs and name not in ("measure", "explain"):
            assert "config.json: names code" in ended.err, ended
            assert "--trust" in ended.err, ended


def test_with_trust_it_is_run(run, folder, call):
    """The word for it is `--trust`; the same recipe as a file of the user's own needs none."""
    (folder / "strange.py").write_text(CODE)
    config = naming("student.model", PLACES["student.model"], read_json(run / "config.json"))
    write_json(run / "config.json", config)
    write_json(folder / "mine.json", config)
    for words in (("check", run / "config.json", "--trust"), ("check", "mine.json")):
        sys.modules.pop("strange", None)
        ended = call(*words)
        assert ended.code == 2
        assert "strange:make returned NoneType" in ended.err
        assert (folder / RAN).is_file()
        (folder / RAN).unlink()


def test_a_folder_that_was_written_here_needs_no_word(run, folder, call):
    """`raykd run --resume --output` of one's own run goes on as ever, also after the folder was moved; a changed one does not."""
    (folder / "own_student.py").write_text(
        "from torch import nn\ndef make(width=2):\n    return nn.Linear(3, width)\n"
    )
    model = {"type": "factory", "path": "own_student:make"}
    config = naming("student.model", model, read_json(run / "config.json"))
    open_folder(RunFolder(run), load_config(config), Resources(cpus=1.0, gpus=0.0, local=True))
    moved = run.rename(folder / "moved")
    assert call(*COMMANDS["resume"](moved)).code == 0
    write_json(moved / "config.json", naming("student.model.kwargs", {"width": 3}, config))
    assert call(*COMMANDS["resume"](moved)).code == 2
    for place in ("best.yaml", "pareto/001.yaml"):
        write_recipe(folder / "sweep" / place, load_config(config), "One of a sweep.")
        assert call("config", "validate", folder / "sweep" / place).code == 0


REFUSED = ("os:system", "posix:system", "timeit:timeit", "subprocess:run", "joblib:load", "pickle:loads", "torch:load",
           "numpy:load", "torch.jit:load", "torch.utils.cpp_extension:load", "pandas:read_pickle", "builtins:exec",
           "raykd.folders:Path", "torch.utils.cpp_extension:check_output")  # fmt: skip


@pytest.mark.parametrize("path", REFUSED)
def test_what_loads_or_starts_others_code_is_no_factory(path, folder, call):
    """At 7d0af11 `posix:system`, `timeit:timeit`, `joblib:load` and `torch:load` were called; whoever names them."""
    recipe = recipe_in(folder)
    write_json(
        folder / "mine.json", naming("student.model", {"type": "factory", "path": path}, recipe)
    )
    ended = call("check", "mine.json", "--trust")
    assert ended.code == 2
    assert "student.model.path: " in ended.err
    assert "is refused: name a function of your own" in ended.err


DEEP = "[" * 100_000
HUGE = "9" * 10_000


def text(name, content):
    """A file of other content."""

    def change(run):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def value(name, key, new):
    """A file of JSON with another value at a dotted key."""

    def change(run):
        write_json(run / name, naming(key, new, read_json(run / name)))

    return change


def gone(name):
    """Without a file or folder."""

    def change(run):
        at = run / name
        shutil.rmtree(at) if at.is_dir() else at.unlink()

    return change


def as_folder(name):
    """A folder in the place of a file."""

    def change(run):
        (run / name).unlink()
        (run / name).mkdir()

    return change


JSONS = ("config.json", "summary.json", "student/model.json", "teachers/one.json")
EVENT = {"time": 1.0, "stage": "student", "kind": "epoch", "fit": None, "step": 1, "epoch": 1}
MUTATIONS = {
    **{f"{name} {word}": text(name, content) for name in JSONS for word, content in (
        ("empty", ""), ("{}", "{}"), ("[]", "[]"), ("null", "null"), ("deep", DEEP), ("huge", HUGE), ("bytes", b"\xff\x00"))},
    **{f"{name} gone": gone(name) for name in (*JSONS, "metrics.jsonl", "evaluation.safetensors",
                                               "student/model.safetensors", "checkpoints")},
    **{f"{name} a folder": as_folder(name) for name in ("metrics.jsonl", "summary.json", "student/model.safetensors")},
    **{f"lines {number}": text("metrics.jsonl", line + "\n" + line + "\n") for number, line in enumerate((
        "{}", "null", "3", DEEP, json.dumps({**EVENT, "time": "now"}), json.dumps({**EVENT, "fit": 3}),
        json.dumps({**EVENT, "epoch": "x", "fit": "student/replica0", "train_loss": 0.1}),
        json.dumps({**EVENT, "kind": "stage"}), json.dumps({**EVENT, "kind": ["fit"]})))},
    **{f"events {number}": text("events.jsonl", line + "\n") for number, line in enumerate(("{}", "null", '{"kind": 3}', DEEP))},
    **{f"summary {key} {new!r}": value("summary.json", key, new) for key, new in (
        ("status", 3), ("kind", ["x"]), ("kind", "sweep"), ("kind", "folds"), ("kind", "ablation"), ("kind", "comparison"),
        ("student", "good"), ("student", {}), ("student", [1]), ("teachers", []), ("teachers", {"one": 3}), ("task", "os:system"),
        ("task", 3), ("ensemble", None), ("ensemble", "x"), ("timing", []), ("cost", "x"), ("labels_used", 3))},
    **{f"config {key} {new!r}": value("config.json", key, new) for key, new in (
        ("seeds", 10**12), ("seeds", "many"), ("folds", 10**12), ("folds", [1]), ("teachers", None), ("teachers", [3]),
        ("teachers.0.name", "../../x"), ("evaluate", []), ("evaluate.controls", 3), ("task", ["x"]), ("data", "x"),
        ("objective", 3), ("train", None), ("student", "x"), ("student.model", {"type": "mlp", "width": 1e300}))},
    **{f"model {key} {new!r}": value("student/model.json", key, new) for key, new in (
        ("model.width", 20_000), ("model.width", 1e300), ("model.depth", 1_000_000), ("model.depth", 10**15), ("model.type", "cnn"),
        ("classes", []), ("classes", 3), ("input.shape", [10**9, 10**9]), ("input.shape", [0]), ("preprocessing", {}),
        ("preprocessing.size", [10**6, 10**6]), ("task", "os:system"), ("fingerprint", 3), ("teachers", 3))},
    **{f"{name} {word}": text(name, content) for name in ("student/model.safetensors", "evaluation.safetensors")
       for word, content in (("empty", ""), ("long header", b"\xff" * 16), ("deep header", b"\x10\x27\0\0\0\0\0\0" + b"[" * 10_000))},
}  # fmt: skip
"""What is wrong with a folder; each is tried with every command."""
QUICK = ("status", "predict", "show")
HEAVY = [name for name in COMMANDS if name not in QUICK]


def held(run, folder, call, names):
    """A command ends, says whose fault it is in our words, and touches nothing outside of the folder."""
    before = {path: content for path, content in everything_in(folder).items() if run not in path.parents}  # fmt: skip
    for name in names:
        ended = call(*COMMANDS[name](run))
        assert ended.code in (0, 2), f"{name}: {ended}"
        assert "in raykd" not in ended.err, f"{name}: {ended}"
        assert ended.code == 0 or "error  " in ended.err
        assert not (folder / RAN).exists()
    after = {path: content for path, content in everything_in(folder).items() if run not in path.parents}  # fmt: skip
    assert after == before


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_damaged_folder_is_named(mutation, run, folder, call):
    """At 7d0af11 28 of 95 calls of `status` and `report` on such folders said "an error in raykd"; exit 1."""
    MUTATIONS[mutation](run)
    held(run, folder, call, QUICK)


@pytest.mark.soak
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_damaged_folder_is_named_by_every_command(mutation, run, folder, call):
    MUTATIONS[mutation](run)
    held(run, folder, call, HEAVY)


@pytest.mark.parametrize("key", ["width", "depth"])
def test_a_student_that_claims_to_be_larger_than_its_weights_is_not_built(key, run, call):
    """At 7d0af11 `width: 20000` and `depth: 1000000` were built first: minutes, gigabytes."""
    value("student/model.json", f"model.{key}", 1_000_000)(run)
    began = time.monotonic()
    ended = call(*COMMANDS["predict"](run))
    assert ended.code == 2
    assert str(run / "student") in ended.err
    assert time.monotonic() - began < 5
