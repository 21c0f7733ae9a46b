"""A plan of a chain: original teachers are asked once, each stage's student once more, controls nothing new."""

from __future__ import annotations

import pytest

import raykd
from raykd.config import load_config
from raykd.forecast.counts import Counts, Share, not_before
from raykd.pipeline.preparation import prepare


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "home"))


def test_each_teacher_of_a_chain_is_counted_once(tiny_recipe):
    splits = prepare(load_config(tiny_recipe)).samples.splits
    once = 2 * len(splits["train"]) + len(splits["validation"]) + len(splits["test"])
    chain = {
        **tiny_recipe,
        "evaluate": {"controls": ["labels", "longer"]},
        "stages": [{"name": "first"}, {"name": "second", "teachers": ["first", "conv"]}],
    }
    found = raykd.plan(chain, timing=False)
    assert list(found.stages) == ["first", "longer"], "controls run before the last stage"
    passes = {name: one.teacher_passes for name, one in found.stages.items()}
    assert passes == {"first": 2 * once, "longer": 0}
    assert found.teacher_passes == 3 * once
    assert found.share.passes_to_come == once, "of the last stage by itself: its new teacher"
    assert found.stages["first"].counts.unfitted == ("wide", "conv")
    assert found.counts.unfitted == (), "the first stage is trained by then"
    written = found.to_json()
    assert written["in_all"]["teacher_passes"] == 3 * once
    plain = raykd.plan(tiny_recipe, timing=False).to_json()
    assert plain.keys() == written["stages"]["first"].keys()


@pytest.mark.parametrize("teach", ["each", "ensemble"])
def test_every_replica_that_teaches_is_asked(tiny_recipe, teach):
    splits = prepare(load_config(tiny_recipe)).samples.splits
    once = 2 * len(splits["train"]) + len(splits["validation"]) + len(splits["test"])
    stages = [{"name": "first", "teach": teach}, {"name": "second", "teachers": ["first", "conv"]}]
    found = raykd.plan({**tiny_recipe, "seeds": 3, "stages": stages, "evaluate": {"controls": ["labels"]}}, timing=False)  # fmt: skip
    assert found.share.passes_to_come == 3 * once, "of each replica of the first stage"
    assert found.teacher_passes == (2 + 3) * once
    live = found.counts.live
    students = 2 * len(splits["train"])
    held_out = len(splits["validation"]) + len(splits["test"])
    asked = 1 if teach == "each" else 3
    assert live["first-1"].passes_to_come == held_out + asked * students
    assert live["conv"].passes_to_come == 3 * students, "held-out samples were asked for before"


def test_more_views_than_before_are_still_to_come():
    def counts(passes):
        share = Share(passes, passes, 10 * passes, 10 * passes, 1)
        live = {"a": Share(50 + 7, 50 + 7, 70, 70, 1)}
        return Counts("stored", "", {"a": share}, live, 0, 0, ("a",), "stored")

    first, before = not_before(counts(100), {}, originals=7)
    assert first == counts(100)
    second, before = not_before(counts(160), before, originals=7)
    assert second.stored["a"].passes_to_come == 60
    assert second.live["a"].passes_to_come == 50, "each student asks anew, but for what is stored"
    assert second.unfitted == ()
    third, _ = not_before(counts(120), before, originals=7)
    assert third.stored["a"].passes_to_come == 0
