"""A fit that is killed anywhere and started again ends with the same bits."""

from __future__ import annotations

import json

import pytest
import torch

from raykd.errors import CheckpointError
from raykd.train.checkpoint import FitFolder

TRAINING = {
    "epochs": 6,
    "ema": 0.9,
    "optimizer": {"type": "sgd", "lr": 0.2, "momentum": 0.9},
    "schedule": {"type": "cosine", "warmup_epochs": 2},
    "early_stopping": {"patience_epochs": 4},
    "clip_norm": 1.0,
}


class Killed(BaseException):
    """Nothing may catch it."""


@pytest.fixture
def fit(samples, make_fit):
    return make_fit(samples, model="batch", train=TRAINING)


@pytest.fixture
def whole(runs, fit):
    """The result and weights of a fit that nobody disturbed."""
    result = runs(fit, "whole")
    return result, runs.weights(fit, "whole"), runs.weights(fit, "whole", "best")


def check_same(runs, fit, whole, equal, result, name="run"):
    expected, last, best = whole
    assert {**result, "seconds": 0} == {**expected, "seconds": 0}
    assert equal(runs.weights(fit, name), last)
    assert equal(runs.weights(fit, name, "best"), best)
    assert not (runs.reporter(name).folder(fit.fit_id).path / "state.pt").exists()


def killing(source, at):
    """The source, ending the process at its `at`-th answer."""
    collect = source.collect

    def collected(ticket, timeout_s):
        if source.collected == at:
            raise Killed
        return collect(ticket, timeout_s)

    source.collect = collected
    return source


@pytest.mark.parametrize("at", [0, 2, 4, 10, 17])
def test_killed_at_a_step(runs, fit, whole, equal, at):
    with pytest.raises(Killed):
        runs(fit, source=killing(runs.source(fit), at))
    check_same(runs, fit, whole, equal, runs(fit))


def test_killed_again_and_again(runs, fit, whole, equal):
    for at in (4, 4, 5, 3):
        with pytest.raises(Killed):
            runs(fit, source=killing(runs.source(fit), at))
    check_same(runs, fit, whole, equal, runs(fit))


@pytest.mark.parametrize("every", [1, 2, 4, 100])
def test_whatever_the_checkpoints(runs, samples, make_fit, whole, equal, every):
    fit = make_fit(samples, model="batch", train={**TRAINING, "checkpoint_every_epochs": every})
    with pytest.raises(Killed):
        runs(fit, source=killing(runs.source(fit), 16))
    check_same(runs, fit, whole, equal, runs(fit))


@pytest.mark.parametrize("call", [1, 3, 6])
def test_killed_between_the_weights_and_the_state(runs, fit, whole, equal, monkeypatch, call):
    calls = []
    save = torch.save

    def killed(*args):
        calls.append(args)
        if len(calls) == call:
            raise Killed
        save(*args)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        with pytest.raises(Killed):
            runs(fit)
    check_same(runs, fit, whole, equal, runs(fit))


def test_killed_between_the_last_state_and_the_result(runs, fit, whole, equal, monkeypatch):
    def killed(self, result):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(FitFolder, "finish", killed)
        with pytest.raises(Killed):
            runs(fit)
    source = runs.source(fit)
    check_same(runs, fit, whole, equal, runs(fit, source=source))
    assert source.collected == 0, "nothing was left to train"


def test_killed_between_the_result_and_tidying_up(runs, fit, whole, equal, monkeypatch, heard):
    from pathlib import Path

    def killed(self, missing_ok=False):
        if self.name == "state.pt":
            raise Killed
        unlink(self, missing_ok=missing_ok)

    unlink = Path.unlink
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(Killed):
            runs(fit)
    result = runs(fit)
    expected, last, best = whole
    assert {**result, "seconds": 0} == {**expected, "seconds": 0}
    assert equal(runs.weights(fit), last)
    assert equal(runs.weights(fit, which="best"), best)


def test_killed_after_it_had_stopped_early(runs, samples, make_fit, equal, monkeypatch):
    fit = make_fit(
        samples,
        train={"epochs": 9, "early_stopping": {"patience_epochs": 2}, "schedule": {"type": "constant"},
               "optimizer": {"type": "sgd", "lr": 1e-30, "momentum": 0.0}},
    )  # fmt: skip
    result = runs(fit, "whole")
    whole = (result, runs.weights(fit, "whole"), runs.weights(fit, "whole", "best"))
    for at in (5, 8):
        with pytest.raises(Killed):
            runs(fit, f"at{at}", source=killing(runs.source(fit), at))
        check_same(runs, fit, whole, equal, runs(fit, f"at{at}"), f"at{at}")


def test_with_features_and_mixup(make_samples, make_fit, runs, equal):
    samples = make_samples({"type": "mixup"}, count=3)
    runs.samples = samples
    terms = [{"loss": {"type": "hint"}, "teacher": "a", "student_tap": "blocks.0",
              "teacher_tap": "blocks.0", "weight": 1.0}]  # fmt: skip
    fit = make_fit(samples, model="cnn", plan={"views": 3}, objective={"features": terms})
    result = runs(fit, "whole")
    whole = (result, runs.weights(fit, "whole"), runs.weights(fit, "whole", "best"))
    with pytest.raises(Killed):
        runs(fit, source=killing(runs.source(fit), 5))
    check_same(runs, fit, whole, equal, runs(fit))


def test_it_says_where_it_goes_on(runs, fit, heard):
    with pytest.raises(Killed):
        runs(fit, source=killing(runs.source(fit), 10))
    heard.clear()
    runs(fit)
    assert heard[0].values["state"] == "resumed"
    assert heard[0].epoch == 3


def test_the_state_is_self_contained(runs, fit, whole, equal):
    """Weights that were left half written do not matter."""
    with pytest.raises(Killed):
        runs(fit, source=killing(runs.source(fit), 10))
    folder = runs.reporter("run").folder(fit.fit_id)
    for which in ("last", "best"):
        folder.weights(which).write_bytes(b"half")
    check_same(runs, fit, whole, equal, runs(fit))


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_truncated_state_is_a_clear_error(runs, fit, keep):
    with pytest.raises(Killed):
        runs(fit, source=killing(runs.source(fit), 10))
    path = runs.reporter("run").folder(fit.fit_id).path / "state.pt"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        CheckpointError, match=r"state\.pt is damaged .*delete .*to train this fit anew"
    ):
        runs(fit)


def test_a_state_runs_no_code(runs, fit, tmp_path):
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/ran",))

    folder = runs.reporter("run").folder(fit.fit_id).path
    folder.mkdir(parents=True)
    with (folder / "state.pt").open("wb") as file:
        pickle.dump({"identity": Evil()}, file)
    with pytest.raises(CheckpointError, match="damaged"):
        runs(fit)
    torch.save({"identity": Evil()}, folder / "state.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        runs(fit)
    assert not (tmp_path / "ran").exists()


def test_a_state_of_another_fit_is_refused(runs, samples, fit, make_fit):
    with pytest.raises(Killed):
        runs(fit, source=killing(runs.source(fit), 10))
    other = make_fit(samples, model="batch", train={**TRAINING, "epochs": 7})
    with pytest.raises(CheckpointError, match="belongs to another fit"):
        runs(other)


def test_teachers_that_were_changed_in_between_are_another_fit(runs, samples, make_fit):
    fit = make_fit(samples, teachers={"a": "one", "b": "two"})
    with pytest.raises(Killed):
        runs(fit, source=killing(runs.source(fit), 5))
    with pytest.raises(CheckpointError, match="belongs to another fit"):
        runs(make_fit(samples, teachers={"a": "one", "b": "changed"}))


def test_result_json_is_plain(runs, fit):
    result = runs(fit)
    path = runs.reporter("run").folder(fit.fit_id).path / "result.json"
    assert json.loads(path.read_text()) == json.loads(json.dumps(result))
