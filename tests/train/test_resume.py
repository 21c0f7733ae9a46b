"""A fit that is killed anywhere and started again ends with the same bits."""

from __future__ import annotations

import io
import json
import random

import pytest
import torch

from raykd.errors import CheckpointError, PreemptedError
from raykd.testing.damage import DAMAGES
from raykd.testing.payloads import pickles
from raykd.train.checkpoint import STATES, FitFolder, sealed

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
    def killed(self, result, **_):
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


def stopping_after(steps):
    """Says after so many steps that the machine is about to be taken away."""
    left = iter(range(steps - 1))
    return lambda: next(left, None) is None


def told(heard):
    """What was told of each epoch, without times."""
    timed = {"samples_per_s", "teacher_wait_fraction", "input_wait_fraction"}
    lines = [event.to_line() for event in heard if event.kind == "epoch"]
    return [{name: line[name] for name in line.keys() - timed - {"time"}} for line in lines]


STEPS = 25


@pytest.mark.parametrize("model", ["mlp", pytest.param("batch", marks=pytest.mark.soak)])
def test_stopped_at_each_step(runs, samples, make_fit, equal, heard, model, record_property):
    """In the middle of an epoch: dropout, averages and what the epoch adds up go on where they were."""
    fit = make_fit(samples, model=model, train={**TRAINING, "epochs": 5, "batch_size": 20})
    assert 5 * fit.plan.steps_per_epoch == STEPS
    result = runs(fit, "whole")
    whole, epochs = (
        (result, runs.weights(fit, "whole"), runs.weights(fit, "whole", "best")),
        told(heard),
    )
    for step in range(1, STEPS + 1):
        heard.clear()
        name = f"step{step}"
        with pytest.raises(PreemptedError, match=f"saved after step {step}, "):
            runs(fit, name, leaving=stopping_after(step))
        again = runs.source(fit)
        check_same(runs, fit, whole, equal, runs(fit, name, source=again), name)
        assert again.collected == STEPS - step, "no step is lost, none is repeated"
        assert told(heard) == epochs
    record_property("steps", STEPS)


def test_stopped_after_every_step(runs, fit, whole, equal):
    for _ in range(whole[0]["steps"]):
        with pytest.raises(PreemptedError):
            runs(fit, leaving=stopping_after(1))
    check_same(runs, fit, whole, equal, runs(fit))


@pytest.fixture
def two_states(runs, fit):
    """A folder with a state and the one before it; what is in each of them."""
    with pytest.raises(Killed):
        runs(fit, source=killing(runs.source(fit), 10))
    folder = runs.reporter("run").folder(fit.fit_id)
    return folder, [(folder.path / name).read_bytes() for name in STATES]


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_state_is_noticed_and_the_one_before_it_used(
    two_states, runs, fit, whole, equal, heard, kind, record_property
):
    folder, (last, before) = two_states
    newest = folder.path / STATES[0]
    expected = torch.load(io.BytesIO(before[:-16]), weights_only=True)
    buffer = io.BytesIO()
    torch.save({**expected, "identity": "of another fit"}, buffer)
    chance = random.Random(0)
    for _ in range(40):
        apply(newest, DAMAGES[kind](last, sealed(buffer.getvalue()), chance))
        restored = folder.load(fit.identities)
        assert str(newest) in restored.instead_of
        assert restored.state["next_epoch"] == expected["next_epoch"] == 2
        assert equal(restored.state["module"], expected["module"])
    heard.clear()
    check_same(runs, fit, whole, equal, runs(fit))
    assert heard.decisions() == ["go_back"]
    record_property("damaged checkpoints found", 40)


def apply(path, content):
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


def test_a_whole_state_is_not_taken_for_damaged(two_states, fit):
    folder, _ = two_states
    restored = folder.load(fit.identities)
    assert (restored.instead_of, restored.state["next_epoch"]) == (None, 3)


@pytest.mark.parametrize("keep", [0, 10, 100, -1])
def test_with_no_whole_state_left_it_is_a_clear_error(two_states, runs, fit, keep):
    folder, states = two_states
    for name, raw in zip(STATES, states, strict=True):
        (folder.path / name).write_bytes(raw[:keep])
    with pytest.raises(
        CheckpointError, match=r"state\.pt is damaged .*delete .*to train this fit anew"
    ):
        runs(fit)


@pytest.mark.parametrize("kind", ["flipped", "truncated", "missing"])
def test_damaged_weights_of_a_finished_fit_are_noticed(runs, fit, whole, kind):
    folder = runs.reporter("whole").folder(fit.fit_id)
    path, chance = folder.weights("best"), random.Random(0)
    raw = path.read_bytes()
    assert folder.read_weights("best")
    for _ in range(20):
        apply(path, DAMAGES[kind](raw, raw, chance))
        with pytest.raises(
            CheckpointError, match=r"best\.safetensors.*delete .*to train this fit anew"
        ):
            folder.read_weights("best")


def test_a_state_runs_no_code(runs, fit, tmp_path):
    folder = runs.reporter("run").folder(fit.fit_id).path
    folder.mkdir(parents=True)
    for payload in pickles(tmp_path / "ran").values():
        for content in (payload, sealed(payload)):
            (folder / "state.pt").write_bytes(content)
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
