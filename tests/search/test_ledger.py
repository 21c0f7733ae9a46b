"""The states of trials, decided without Ray: stops, limits, failures, ends, and resuming after a kill."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import yaml

from raykd.config import load_config
from raykd.config.load import read_recipe
from raykd.errors import DiskError, InputError, Problem, RaykdError, TargetError
from raykd.folders import read_json
from raykd.search.ledger import BuiltTrial, FixedSampler, Ledger
from raykd.search.results import pareto
from raykd.search.space import all_proposals

COST = {"parameters": 10, "flops": 20, "latency_ms": 0.5, "bytes": 40}


class Notified(list):
    def __call__(self, name, record, proposal):
        self.append((name, record["state"], proposal is not None))


@pytest.fixture
def make(tmp_path):
    """A ledger over eight widths and six epochs; widths from 0.7 break a limit, 0.4 cannot be built."""

    def make(broken=None, **given):
        space = {"space": "grid", "lower": 0.1, "upper": 0.8, "points": 8}
        search = {"parameters": {"student.model.width": space}, "searcher": {"type": "grid"},
                  "scheduler": {"type": "asha", "grace_epochs": 2, "reduction": 2}, **given}  # fmt: skip
        tree = read_recipe("digits")
        tree["train"]["epochs"] = 6
        config = load_config({**tree, "search": search})

        def build(proposal):
            width = proposal.values["student.model.width"]
            if width == broken:
                raise InputError(Problem("student.model.width", "cannot be"))
            over = ["student.limits.parameters: too many"] if width >= 0.7 else []
            return BuiltTrial(
                SimpleNamespace(name=proposal.name), {**COST, "parameters": 100 * width}, over
            )

        values = [proposal.values for proposal in all_proposals(config)]
        return Ledger(config, tmp_path / "trials", 8, FixedSampler(values), build, Notified())

    return make


def validation(accuracy):
    return {"accuracy": accuracy, "nll": 1 - accuracy}


def result(accuracy, epochs=6):
    return {"best": validation(accuracy), "epochs": epochs, "best_epoch": 3, "seconds": 1.5}


def launch_all(ledger):
    return [name for name, _ in iter(ledger.launch, None)]


def test_trials_that_break_a_limit_do_not_run_and_cannot_win(make, tmp_path):
    ledger = make(broken=0.4)
    assert launch_all(ledger) == ["000", "001", "002", "004", "005"]
    states = {name: record["state"] for name, record in ledger.records.items()}
    assert [states[n] for n in ("003", "006", "007")] == ["failed", "over_limit", "over_limit"]
    assert ledger.records["006"]["why"].startswith("student.limits.parameters")
    kept = yaml.safe_load((tmp_path / "trials" / "006" / "config.yaml").read_text())
    assert kept["student"]["model"]["width"] == 0.7
    for name in ("000", "001", "002", "004", "005"):
        ledger.on_finished(name, result(0.5 + int(name) / 100))
    assert ledger.ranking == ["005", "004", "002", "001", "000"]
    assert ledger.left == 0
    ledger.measured({"001": 0.25, "005": None})
    assert ledger.records["001"]["cost"] == {**COST, "parameters": 20.0, "latency_ms": 0.25}
    kept = read_json(tmp_path / "trials" / "005" / "result.json")
    assert (kept["cost"]["latency_ms"], kept["state"]) == (None, "finished")
    assert pareto(list(ledger.records.values()), ledger)["latency_ms"] == ["001", "004"]
    records = list(ledger.records.values())
    assert pareto(records, ledger)["parameters"] == ["000", "001", "002", "004", "005"]
    assert pareto(records, ledger)["flops"] == ["005"]


def test_a_rung_stops_a_trial_and_keeps_its_best(make, tmp_path):
    ledger = make()
    launch_all(ledger)
    assert not ledger.on_epoch("000", 1, validation(0.5))
    assert not ledger.on_epoch("000", 2, validation(0.6))
    assert not ledger.on_epoch("001", 1, validation(0.4))
    assert ledger.on_epoch("001", 2, validation(0.3))
    seen = read_json(tmp_path / "trials" / "001" / "result.json")
    assert (seen["state"], seen["why"], seen["epochs"], seen["best_epoch"], seen["value"]) == (
        "stopped",
        "asha",
        2,
        1,
        0.4,
    )
    assert ledger.on_epoch("001", 3, validation(0.9)), "what comes after its end changes nothing"
    ledger.on_finished("001", result(0.9))
    assert ledger.records["001"]["value"] == 0.4
    assert ledger.notify[-1] == ("001", "stopped", False)


def test_the_last_epoch_is_an_end_not_a_stop(make):
    ledger = make(scheduler={"type": "none"}, stop={"patience_epochs": 2})
    launch_all(ledger)
    seen = [ledger.on_epoch("000", epoch, validation(0.5)) for epoch in range(1, 7)]
    assert seen == [False, False, True, True, True, True]
    seen = [
        ledger.on_epoch("001", epoch, validation(0.5 + 0.1 * (epoch < 5))) for epoch in (3, 4, 5, 6)
    ]
    assert seen == [False, False, True, True]
    assert not ledger.on_epoch("002", 6, validation(0.1))


def test_target_and_time_end_all(make):
    ledger = make(stop={"target": 0.9})
    first, _ = ledger.launch()
    second, _ = ledger.launch()
    assert not ledger.on_epoch(first, 1, validation(0.5))
    assert not ledger.over()
    assert not ledger.on_epoch(second, 1, validation(0.95))
    assert ledger.over()
    assert ledger.launch() is None
    ledger.close()
    assert [ledger.records[n]["state"] for n in (first, second)] == ["cut", "cut"]
    assert ledger.records[second]["why"] == "a trial reached the target 0.9"
    assert ledger.ranking == [second, first]
    timed = make(stop={"time_s": 1e-9})
    assert timed.over()
    assert timed.launch() is None


def test_with_several_metrics_the_front_comes_first_and_is_what_the_searcher_learns(make):
    ledger = make(metric=["accuracy", "parameters"], scheduler={"type": "none"})
    seen = {}
    ledger.sampler = SimpleNamespace(
        ask=ledger.sampler.ask, tell=lambda i, _, m: seen.update({i: m})
    )
    launch_all(ledger)
    for name, accuracy in (("000", 0.5), ("001", 0.4), ("002", 0.7), ("003", 0.6), ("004", 0.65), ("005", 0.7)):  # fmt: skip
        ledger.on_finished(name, result(accuracy))
    assert ledger.front == ["000", "002"]
    assert ledger.ranking == ["002", "000", "005", "004", "003", "001"]
    assert seen[2] == (0.7, pytest.approx(-30))
    assert seen[6] is None, "it breaks a limit"


def test_a_killed_search_goes_on_with_every_trial_once(make, tmp_path):
    ledger = make()
    for _ in range(4):
        ledger.launch()
    ledger.on_finished("000", result(0.8))
    ledger.on_failed("001", "diverged")
    for name, accuracy in (("000", 0.7), ("002", 0.6), ("003", 0.2)):
        lines = [{"kind": "epoch", "epoch": e, "validation": validation(accuracy)} for e in (1, 2)]
        (tmp_path / "trials" / name / "metrics.jsonl").write_text(
            "".join(json.dumps(x) + "\n" for x in lines)
        )
    again = make()
    assert again.left == 6
    assert launch_all(again) == ["002", "003", "004", "005"], "those that ran first, then the rest"
    assert again.records["000"]["value"] == 0.8
    assert again.on_epoch("004", 2, validation(0.1)), "judged by the trials before the kill"
    assert not again.on_epoch("005", 2, validation(0.65))
    again.on_finished("002", result(0.6))
    again.on_finished("005", result(0.65))
    again.close()
    third = make()
    assert third.left == 0
    assert third.launch() is None
    assert [third.records[n]["state"] for n in sorted(third.records)] == [
        "finished", "failed", "finished", "cut", "stopped", "finished", "over_limit", "over_limit"
    ]  # fmt: skip


def test_a_kept_trial_does_not_bring_code_that_the_recipe_does_not_search(make, tmp_path):
    """At 7d0af11 `sweep --resume --output FOLDER` went on with whatever values a trial of the folder had."""
    launch_all(make())
    file = tmp_path / "trials" / "000" / "result.json"
    record = read_json(file)
    record["values"] = {"student.model": "strange:make"}
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"000/result.json: names strange:make, which the recipe"):
        make()


def test_a_full_disk_ends_the_search_and_fails_no_trial(make, monkeypatch):
    from raykd.search import ledger as ledgers
    from raykd.search.tune import _Launcher, _Stopper

    def full(path, value):
        raise DiskError(f"{path} cannot be written: No space left on device")

    ledger = make()
    ledger.launch()
    ledger.launch()
    with monkeypatch.context() as patch:
        patch.setattr(ledgers, "write_json", full)
        told = {"state": "finished", "trial": "000", "result": result(0.8)}
        assert _Stopper(ledger)("id", told), (
            "Tune would count an error as the trial's, and try again"
        )
    assert ledger.over()
    assert _Launcher(ledger).suggest("id") == _Launcher(ledger).suggest("id") == "FINISHED"
    with pytest.raises(RaykdError, match=r"000/result\.json cannot be written.*--resume"):
        ledger.check_room()
    assert launch_all(make())[:2] == ["000", "001"], "both go on"


def test_a_trial_that_finds_no_room_has_not_failed(make):
    from raykd.search.trials import _outcome
    from raykd.search.tune import _Stopper

    def raising(error, cause=None):
        def train():
            raise error from cause

        return train

    full = DiskError("checkpoint cannot be written")
    assert _outcome(raising(TargetError("of the store"), full))["state"] == "no_room"
    assert _outcome(raising(TargetError("damaged")))["state"] == "failed"
    told, ledger = _outcome(raising(full)), make()
    ledger.launch()
    _Stopper(ledger)("id", {"trial": "000", **told})
    assert ledger.over()
    assert ledger.records["000"]["state"] == "running"
