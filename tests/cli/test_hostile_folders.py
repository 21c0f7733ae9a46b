"""A run's folder from a stranger: nothing outside it is touched, no code that it names is run, what is damaged is named."""

from __future__ import annotations

import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch

from raykd.config import load_config
from raykd.evaluate import Evaluation, summarise
from raykd.folders import RunFolder, read_json, write_json
from raykd.models.weights import save_weights
from raykd.pipeline.evaluation import split_outputs, student_network
from raykd.pipeline.fits import known_weights
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


SLOW = ("explain", "measure")
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
