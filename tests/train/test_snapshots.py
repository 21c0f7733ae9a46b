"""Teachers out of one fit: a snapshot has the weights of a fit that ends there, bit for bit, and is trained once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raykd.folders import RunFolder, read_json
from raykd.models.weights import load_weights
from raykd.pipeline.fitted import WEIGHTS, card_of, keep_snapshot, keep_teacher, share_fits


@pytest.fixture
def fit(samples, make_fit):
    return make_fit(samples, teacher_infos=(), train={"epochs": 4}, fit_id="teacher/wide", stage="teachers")  # fmt: skip


def test_a_snapshot_is_the_fit_that_ends_there(runs, fit, equal, heard):
    whole = replace(fit, snapshots=(2, 3))
    assert whole.identity == fit.identity, "the fit itself is as it would be without"
    result, plain = runs(whole), runs(fit, "plain")
    assert {n: v for n, v in result.items() if n != "seconds"} == {n: v for n, v in plain.items() if n != "seconds"}  # fmt: skip
    for epoch in (2, 3):
        ended = replace(fit, stop=epoch)
        assert ended.identity != fit.identity
        heard.clear()
        alone = runs(ended, f"ended{epoch}")
        assert (alone["epochs"], alone["steps"]) == (epoch, epoch * fit.plan.steps_per_epoch)
        assert {e.values["epochs"] for e in heard if e.kind == "epoch"} == {epoch}
        assert equal(runs.weights(whole, which=f"epoch{epoch}"), runs.weights(ended, f"ended{epoch}"))  # fmt: skip
        assert runs.reporter("run").folder(fit.fit_id).snapshot(epoch) == alone["last"]
    assert not equal(runs.weights(whole, which="epoch2"), runs.weights(whole, which="epoch3"))


def test_the_longest_fit_is_trained_for_all(fit):
    other = replace(fit, seed=12)
    fits = {"a": replace(fit, stop=1), "b": fit, "c": replace(fit, stop=3), "d": replace(other, stop=2)}  # fmt: skip
    trained, made_by = share_fits(fits)
    assert {name: (one.stop, one.snapshots) for name, one in trained.items()} == {"b": (None, (1, 3)), "d": (2, ())}  # fmt: skip
    assert made_by == {"a": "b", "c": "b"}
    del fits["b"]
    trained, made_by = share_fits(fits)
    assert (trained["c"].stop, trained["c"].snapshots, made_by) == (3, (1,), {"a": "c"})


def test_snapshots_are_kept_as_teachers(runs, fit, tmp_path, equal):
    run = RunFolder(tmp_path / "runs" / "run")
    fits = {"early": replace(fit, stop=2, fit_id="teacher/early"), "wide": fit}
    trained, _ = share_fits(fits)
    result = runs(trained["wide"])
    keep_teacher(run, "wide", fit, result)
    metrics = keep_snapshot(run, "early", fits["early"], fit)
    card = read_json(card_of(fits["early"]))
    assert (card["name"], card["epochs"], card["best"]) == ("early", 2, metrics)
    assert card["identity"] == fits["early"].identity
    kept = load_weights(card_of(fits["early"]).with_name(WEIGHTS), key="kept")
    assert equal(kept, runs.weights(fit, which="epoch2"))
    # By itself it is kept with the same weights and numbers.
    runs(fits["early"], "alone")
    keep_teacher(RunFolder(tmp_path / "runs" / "alone"), "early", fits["early"], runs(fits["early"], "alone"))  # fmt: skip
    again = read_json(card_of(fits["early"]))
    assert {name: again[name] for name in ("epochs", "best_epoch", "best", "last", "identity")} == {
        name: card[name] for name in ("epochs", "best_epoch", "best", "last", "identity")
    }
    assert equal(load_weights(card_of(fits["early"]).with_name(WEIGHTS), key="kept"), kept)


def test_a_fit_that_stopped_early_has_no_later_snapshot(runs, samples, make_fit, tmp_path):
    still = {"early_stopping": {"patience_epochs": 1}, "optimizer": {"type": "sgd", "lr": 1e-30, "momentum": 0.0}}  # fmt: skip
    fit = make_fit(samples, teacher_infos=(), train={"epochs": 9, "schedule": {"type": "constant"}, **still})  # fmt: skip
    late = replace(fit, stop=7)
    trained, _ = share_fits({"whole": fit, "late": late})
    assert runs(trained["whole"])["epochs"] < 7
    assert keep_snapshot(RunFolder(tmp_path / "runs" / "run"), "late", late, fit) is None
