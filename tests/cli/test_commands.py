"""Commands that look at recipes, models and folders, and how a job's end becomes an exit code."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from raykd.cli.results import read_status
from raykd.errors import RaykdError, TeacherError
from raykd.folders import RunFolder, claim, release_all
from raykd.tracking import JsonLines, events


@pytest.fixture
def ends_with(session_module, monkeypatch):
    """Let the job end as told."""
    import raykd.pipeline

    def prepare(outcome):
        def run(config, options, console):
            options.output.mkdir(parents=True)
            (options.output / "config.json").write_text("{}")
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(raykd.pipeline, "run", run)

    return prepare


def test_a_failure_of_the_run_is_one_message_and_1(recipe, call, ends_with, folder):
    ends_with(TeacherError("teacher 'wide' is no better than chance"))
    ended = call("run", recipe, "--output", "out")
    assert (ended.code, ended.err) == (1, "error  teacher 'wide' is no better than chance\n")
    assert not (folder / "out" / "traceback.txt").exists()


def test_a_defect_leaves_its_traceback_in_the_runs_folder(recipe, call, ends_with, folder):
    ends_with(ZeroDivisionError("oh"))
    ended = call("run", recipe, "--output", "out")
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert str(folder / "out" / "traceback.txt") in str(folder / ended.err.split()[-1])
    assert "ZeroDivisionError: oh" in (folder / "out" / "traceback.txt").read_text()


def test_debug_shows_the_traceback(recipe, call, ends_with, monkeypatch):
    monkeypatch.setenv("RAYKD_DEBUG", "1")
    ends_with(RaykdError("no"))
    assert "Traceback" in call("run", recipe, "--output", "out").err


def test_ctrl_c_is_130_and_says_how_to_go_on(recipe, call, ends_with):
    ends_with(KeyboardInterrupt())
    ended = call("distill", recipe, "--output", "out")
    assert ended.code == 130
    assert ended.err == "interrupted; continue with: raykd distill --resume --output out\n"


def test_a_defect_outside_a_run_hints_at_debug(monkeypatch, call, folder):
    def broken(*args):
        raise ZeroDivisionError

    monkeypatch.setattr("raykd.cli.recipes.recipe_names", broken)
    ended = call("recipes")
    assert ended.code == 1
    assert "RAYKD_DEBUG" in ended.err


def test_dry_run_starts_nothing_and_prints_json(recipe, call, folder, session_module, monkeypatch):
    monkeypatch.setattr(session_module, "connect", None)
    ended = call("run", recipe, "--dry-run", "seeds=3")
    assert ended.code == 0, ended
    found = json.loads(ended.out)
    assert found["config"]["seeds"] == 3
    assert found["student_fits"] == 6
    assert list(found["teachers"]) == ["wide", "conv"]
    assert found["targets"]["mode"] == "stored"
    assert not list(folder.glob("runs*"))
    assert not (folder.parent / "home").exists()


def test_check_shows_models_placement_and_mode(recipe, call):
    feature = "{loss: {type: hint}, teacher: wide, student_tap: hidden, teacher_tap: hidden}"
    ended = call("check", recipe, f"objective.features=[{feature}]")
    if ended.code:  # names of modules are the zoo's affair: take one that it has
        assert "error  objective.features.0" in ended.err
    ended = call("check", recipe)
    assert ended.code == 0, ended
    for text in ("wide", "conv", "(student)", "1×8×8", "best epoch: by", "targets: stored", "ok"):
        assert text in ended.out


def test_check_holds_ready_teachers_against_labels(recipe, call, folder):
    (folder / "cli_lazy.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "    nn.init.zeros_(model[1].weight)\n"
        "    return model\n"
    )
    ended = call("check", recipe, "teachers.wide.fit=null", "teachers.wide.model=cli_lazy:make")
    assert ended.code == 2
    assert "error  teachers.wide: " in ended.err
    assert "chance" in ended.err


def test_data_check_counts_and_draws(recipe, call, folder):
    (folder / "names.txt").write_text("\n".join(f"digit {n}" for n in range(10)))
    drawn = ("--picture", "views.png", "--classes", "classes.png")
    ended = call("data", "check", recipe, "data.classes=names.txt", *drawn)
    assert ended.code == 0, ended
    assert "largest class / smallest class" in ended.out
    assert "\ndigit 9 " in ended.out
    for name in drawn[1::2]:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    ended = call("data", "check", recipe, "--json", *drawn)
    told = json.loads(ended.out)
    assert told["counts"]["validation"] == 100
    assert (told["conflicts"]["count"], told["near"], told["duplicates"]) == (0, [], [])
    assert 1 <= told["imbalance"] < 1.2


def test_inspect_lists_paths_of_a_spec(call, folder):
    ended = call("inspect", "resnet", "--input", "3,8,8", "--classes", "4", "width=0.5", "depth=8")
    assert ended.code == 0, ended
    head, whole, *parts = ended.out.splitlines()
    assert head.split() == ["path", "class", "output", "parameters"]
    assert whole.split()[2] == "4"
    assert parts


def test_inspect_takes_factories_and_their_arguments(call, folder):
    (folder / "cli_wide.py").write_text(
        "from torch import nn\ndef make(width=1):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.Linear(width, 2))\n"
    )
    ended = call("inspect", "cli_wide:make", "width=7", "--input", "3,2,2", "--classes", "2")
    assert ended.code == 0, ended
    assert " 7 " in ended.out


@pytest.mark.parametrize("model", ["student", "teachers.conv", "conv", "1"])
def test_inspect_takes_models_of_a_recipe(recipe, call, model):
    ended = call("inspect", "--recipe", recipe, "--model", model, "student.model.width=0.5")
    assert ended.code == 0, ended
    assert ended.out.splitlines()[1].split()[2] == "10"


@pytest.fixture
def run_folder(folder, recipe, call):
    run = folder / "run"
    run.mkdir()
    shown = call("config", "show", recipe, "--json")
    (run / "config.json").write_text(shown.out)
    return run


def _write(run, *happened):
    lines = JsonLines(run)
    for event in happened:
        lines.on(event)
    lines.close(None)


def test_status_of_a_run_in_progress(run_folder, call):
    _write(
        run_folder,
        events.fit("teachers", "teacher/wide", state="reused"),
        events.stage("teachers", state="started", fits=["teacher/conv"]),
        events.epoch("teachers", "teacher/conv", epoch=3, epochs=6),
        events.failure("fleet", "teacher 'conv' died", decision="restart"),
    )
    claim(run_folder)  # as a job does for as long as it lives
    standing = read_status(run_folder, now=time.time() + 60)
    assert (standing.status, standing.stages["teachers"]) == ("running", "running")
    live = call("status", run_folder).out
    assert "running; last event" in live
    assert "resume" not in live, "at 7d0af11 a live run was `unfinished`, with a line to resume it"
    standing = read_status(run_folder, now=time.time() + 60)  # a command ends with its claims
    assert (standing.status, standing.stages["teachers"]) == ("unfinished", "interrupted")
    assert standing.stages["student"] == "waiting"
    assert standing.fits["teacher/wide"].state == "reused"
    assert (standing.fits["teacher/conv"].epoch, standing.fits["teacher/conv"].epochs) == (3, 6)
    assert list(standing.fits)[2:] == ["student/replica0", "labels/replica0"]
    ended = call("status", run_folder)
    assert ended.code == 0
    for text in ("1 of 4 done", "teacher/conv: epoch 3 of 6", "1 logged", "died", "--resume"):
        assert text in ended.out
    assert json.loads(call("status", run_folder, "--json").out)["failures"] == 1


def test_status_of_a_run_whose_teachers_are_ready_waits_for_none(run_folder):
    """At 7d0af11 a complete run with ready teachers said `teachers waiting`."""
    _write(run_folder, events.stage("targets", state="started"))
    (run_folder / "summary.json").write_text(json.dumps({"status": "complete"}))
    stages = read_status(run_folder, now=time.time()).stages
    assert (stages["teachers"], stages["student"]) == ("skipped", "waiting")


def test_status_of_an_interrupted_sweep_names_its_own_command(run_folder):
    """At 7d0af11 it advised `raykd run --resume`, which made a run of a sweep's folder."""
    _write(run_folder, events.stage("search", state="started", fits=["trial/000"]))
    (run_folder / "trials").mkdir()
    standing = read_status(run_folder, now=time.time())
    assert standing.stages["search"] == "interrupted"
    assert standing.lines()[-1] == f"resume    raykd sweep --resume --output {run_folder}"


def test_status_of_a_cross_validation_counts_folds(run_folder):
    config = json.loads((run_folder / "config.json").read_text())
    (run_folder / "config.json").write_text(json.dumps({**config, "folds": 3}))
    done = run_folder / "folds" / "0"
    done.mkdir(parents=True)
    (done / "summary.json").write_text(json.dumps({"status": "complete"}))
    for path in (run_folder, run_folder / "folds" / "1"):
        claim(path)
    standing = read_status(run_folder, now=time.time())
    assert [fit.state for fit in standing.fits.values()] == ["finished", "running", "waiting"]
    assert "folds     1 of 3 done" in standing.lines()
    release_all()


def test_status_of_an_ablation_has_its_own_fits_and_command(tmp_path):
    run = tmp_path / "ablated"
    log = JsonLines(run)
    log.on(
        events.stage("student", state="started", fits=["whole/replica0", "term.labels/replica0"])
    )
    log.close(None)
    config = {"teachers": [], "evaluate": {"controls": ["labels"]}, "seeds": 1}
    (run / "config.json").write_text(json.dumps(config))
    (run / "variants.json").write_text(json.dumps({"whole": {}, "term.labels": {}}))
    standing = read_status(run, now=time.time())
    assert list(standing.fits) == ["whole/replica0", "term.labels/replica0"]
    assert standing.lines()[-1] == f"resume    raykd ablate --resume --output {run}"
    (run / "variants.json").write_text(json.dumps({"kl+uniform": {}}))
    assert read_status(run, now=time.time()).command == "compare"


def test_status_of_another_student_is_where_the_run_stands_with_it(run_folder, call):
    config = json.loads((run_folder / "config.json").read_text())
    both = {**config, "students": {"tiny": {}, "tinier": {}}}
    (run_folder / "config.json").write_text(json.dumps(both))
    for name in ("tiny", "tinier"):
        done = run_folder / "checkpoints" / name / "replica0"
        done.mkdir(parents=True)
        (done / "result.json").write_text("{}")
    own = RunFolder(run_folder).of_student("tiny")
    own.path.mkdir(parents=True)
    own.config.write_text(json.dumps(config))
    standing = read_status(own.path, now=time.time())
    assert {name: fit.state for name, fit in standing.fits.items()} == {"tiny/replica0": "finished"}
    assert (standing.run, standing.student) == (str(run_folder), "tiny")
    assert standing.lines()[0].startswith(f"{run_folder}, its student 'tiny': unfinished")
    assert standing.lines()[-1] == f"resume    raykd run --resume --output {run_folder}"
    assert "1 of 1 done" in call("status", own.path).out


def test_status_of_a_failed_run_and_of_its_next_try(run_folder, call):
    failed = {"schema": 1, "status": "failed", "error": "teacher 'wide' is lost"}
    (run_folder / "summary.json").write_text(json.dumps(failed))
    out = call("status", run_folder).out
    assert "run: failed" in out
    assert "teacher 'wide' is lost" in out
    later = replace(events.message("data", "again"), time=time.time() + 10)
    _write(run_folder, later)
    assert read_status(run_folder, now=time.time()).status == "unfinished"


def test_status_of_a_finished_fit_is_read_from_its_checkpoints(run_folder):
    done = run_folder / "checkpoints" / "student" / "replica0"
    done.mkdir(parents=True)
    (done / "result.json").write_text("{}")
    standing = read_status(run_folder, now=0.0)
    assert standing.fits["student/replica0"].state == "finished"
    assert standing.silent_s is None


def test_a_dry_ranking_starts_nothing(recipe, call, folder, session_module, monkeypatch):
    monkeypatch.setattr(session_module, "connect", None)
    ended = call("teachers", "rank", recipe, "--dry-run")
    assert ended.code == 0, ended
    assert list(json.loads(ended.out)["teachers"]) == ["wide", "conv"]
    assert not list(folder.glob("runs*"))
