"""A run with stages that was cut off, at ten points within and between its stages, goes on to the same bits; one with peers, too."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from raykd.errors import InputError, TrainingError
from raykd.folders import RunFolder
from raykd.models.weights import fingerprint, load_weights
from raykd.pipeline import run
from raykd.tracking.jsonl import METRICS, read_lines

pytestmark = [pytest.mark.ray, pytest.mark.soak]
STAGES = [
    {"name": "first", "student": {"model": {"width": 0.5}}},
    {"name": "second", "teachers": ["first", "conv"]},
]
POINTS = [
    ("job:Job.teachers", 1),  # nothing is there but the folder
    ("target_stage:TargetStage.start", 1),  # the teachers are fitted
    ("job:Job.train", 1),  # their answers are stored
    ("chain:keep_students", 1),  # the first stage's students are trained
    ("chain:_conclude", 1),  # and kept
    ("chain:_run_stage", 2),  # between the first stage and the control
    ("job:Job.train", 2),  # within the control
    ("chain:Chain.take_over", 1),  # between the control and the last stage
    ("job:Job.train", 3),  # within the last stage
    ("runs:_evaluate", 1),  # all is trained
]
"""Where in `raykd.pipeline`, and at which call, a run is cut off."""
_DRIVER = "import sys; from raykd.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def chain(tiny_recipe):
    return {**tiny_recipe, "seeds": 2, "evaluate": {"controls": ["direct"]}, "stages": STAGES}


def trained(folder):
    """Hash of the weights of every student of a chain."""
    path = folder.path
    files = sorted(path.glob("**/checkpoints/student/replica*/best.safetensors"))
    found = {str(f.relative_to(path)): fingerprint(load_weights(f, key="best")) for f in files}
    assert len(found) == 6, "two replicas of two stages and a control"
    return found


def numbers(summary):
    """What a run has found, without how long it took and what was stored before."""
    rows = [{k: v for k, v in one.items() if k not in ("seconds", "teacher_samples_scored")}
            for one in summary["generations"]]  # fmt: skip
    return rows, summary["student"]["test"], summary["gains"], summary["test_scored_times"]


_WHOLE = []
"""What the undisturbed run has found, once it was made."""


@pytest.fixture
def whole(chain, ray_cluster, tmp_path_factory, monkeypatch):
    """The same run, undisturbed, with a home of its own."""
    if not _WHOLE:
        with monkeypatch.context() as patch:
            patch.setenv("RAYKD_HOME", str(tmp_path_factory.mktemp("home")))
            result = run(chain, output=tmp_path_factory.mktemp("whole") / "run")
        _WHOLE.append((trained(RunFolder(result.path)), numbers(result.summary)))
    return _WHOLE[0]


def cut_off(patch, place, call):
    """Have the run fail at the given call of a function of the pipeline."""
    module, _, name = place.partition(":")
    owner = importlib.import_module(f"raykd.pipeline.{module}")
    *classes, name = name.split(".")
    for one in classes:
        owner = getattr(owner, one)
    original, calls = getattr(owner, name), []

    def cut(*args, **named):
        calls.append(1)
        if len(calls) == call:
            raise TrainingError("power cut")
        return original(*args, **named)

    patch.setattr(owner, name, cut)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("place", "call"), POINTS)
def test_it_goes_on_with_the_same_bits(chain, tmp_path, monkeypatch, whole, place, call):
    output = tmp_path / "cut"
    with monkeypatch.context() as patch:
        cut_off(patch, place, call)
        with pytest.raises(TrainingError, match="power cut"):
            run(chain, output=output)
    resumed = run(chain, output=output, resume=True)
    assert (trained(RunFolder(output)), numbers(resumed.summary)) == whole
    cut = {("job:Job.train", 1): 0, ("job:Job.train", 3): 1}.get((place, call))
    if cut is not None:
        stage = resumed.summary["generations"][cut]
        assert stage["teacher_samples_scored"] == 0, (
            "what the cut run had scored is not scored again"
        )


@pytest.mark.usefixtures("ray_cluster")
def test_only_the_same_chain_goes_on(chain, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        cut_off(patch, "chain:_conclude", 1)
        with pytest.raises(TrainingError):
            run(chain, output=tmp_path / "cut")
    other = {**chain, "stages": [STAGES[0], {**STAGES[1], "train": {"epochs": 3}}]}
    with pytest.raises(InputError, match="stages differ"):
        run(other, output=tmp_path / "cut", resume=True)
    with pytest.raises(InputError, match="was started with stages"):
        run({**chain, "stages": [], "evaluate": {}}, output=tmp_path / "cut", resume=True)


def epochs_of(folder, fits):
    """How many epochs of a job's fits were told so far."""
    path = folder.path / METRICS
    lines = read_lines(path) if path.is_file() else []
    return sum(line["kind"] == "epoch" and str(line["fit"]).startswith(fits) for line in lines)


@pytest.mark.timeout(600)
def test_killed_in_the_middle_of_fits(chain, tmp_path, whole):
    """SIGKILL while the first stage's students train, and again while the last one's do."""
    chain |= {"tracking": {"wandb": {"mode": "disabled"}}}
    recipe, output = tmp_path / "chain.yaml", tmp_path / "killed"
    recipe.write_text(yaml.safe_dump(chain))
    folder = RunFolder(output)
    killed(recipe, output, lambda: epochs_of(folder.stage("first"), "student/"))
    killed(recipe, output, lambda: epochs_of(folder, "student/"), "--resume")
    run_to_the_end(recipe, output, "--resume")
    assert trained(folder) == whole[0]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "peers", [{"type": "codistillation", "exchange_every": 3}, {"type": "dml"}]
)
def test_peers_killed_in_the_middle_of_their_fits(tiny_recipe, tmp_path, peers):
    """SIGKILL of all while two networks learn from each other, once early and once late; undisturbed in a home of its own."""
    recipe = tmp_path / "peers.yaml"
    tree = {
        **tiny_recipe,
        "peers": {**peers, "count": 2, "share": 0.5},
        "evaluate": {"controls": []},
    }
    recipe.write_text(yaml.safe_dump({**tree, "train": {**tree["train"], "epochs": 8}}))
    whole, output = tmp_path / "whole", tmp_path / "killed"
    run_to_the_end(recipe, whole, home=tmp_path / "home")
    for epochs, more in ((1, ()), (5, ("--resume",))):
        killed(
            recipe, output, lambda n=epochs: epochs_of(RunFolder(output), "student/") >= n, *more
        )
    run_to_the_end(recipe, output, "--resume")
    expected, found = (networks(folder) for folder in (whole, output))
    assert len(expected) == 4, "two networks, at their best and last epochs"
    assert found == expected


def networks(folder):
    """Hash of the weights of every peer."""
    files = sorted(folder.glob("checkpoints/student/**/*.safetensors"))
    return {str(f.relative_to(folder)): fingerprint(load_weights(f, key="x")) for f in files}


def command(recipe, output, *more):
    return [sys.executable, "-c", _DRIVER, "run", str(recipe), "--output", str(output), *more]


def _environment(home=None):
    own = {} if home is None else {"RAYKD_HOME": str(home)}
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | own


def killed(recipe, output, condition, *more):
    driver = subprocess.Popen(
        command(recipe, output, *more), env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip
    try:
        until = time.monotonic() + 200
        while not condition():
            assert driver.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < until, "it never came that far"
            time.sleep(0.05)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait(60)


def run_to_the_end(recipe, output, *more, home=None):
    ended = subprocess.run(
        command(recipe, output, *more), env=_environment(home), capture_output=True, text=True, check=False
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
