"""The searcher that learns: within the space, better than chance, and told again after a resume."""

from __future__ import annotations

import math

import pytest

from raykd.config.search import Search
from raykd.search.ledger import Sampler

optuna = pytest.importorskip("optuna", reason="the extra optuna is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

SPACES = {
    "train.optimizer.lr": {"space": "loguniform", "lower": 1e-4, "upper": 1e-1},
    "student.model.depth": {"space": "randint", "lower": 2, "upper": 4},
    "objective.labels.weight": {"space": "quniform", "lower": 0, "upper": 1, "step": 0.25},
    "train.clip_norm": {"space": "choice", "categories": [None, 1.0, 5.0]},
}


def make(**given) -> Sampler:
    from raykd.search.optuna import OptunaSampler

    searcher = {"type": "optuna", "startup_trials": 4}
    search = Search.model_validate(
        {"parameters": SPACES, "searcher": searcher, "trials": 30, **given}
    )
    return OptunaSampler(search, search.searcher, 0)


def merit(values):
    return -abs(values["objective.labels.weight"] - 0.75) - (values["train.clip_norm"] is None)


def test_it_stays_within_the_space_and_learns():
    sampler = make()
    found = []
    for index in range(30):
        values = sampler.ask(index)
        assert 1e-4 <= values["train.optimizer.lr"] <= 1e-1
        assert values["student.model.depth"] in (2, 3, 4)
        assert values["objective.labels.weight"] in (0, 0.25, 0.5, 0.75, 1)
        assert values["train.clip_norm"] in (None, 1.0, 5.0)
        sampler.tell(index, values, None if index == 3 else (merit(values),))
        found.append(merit(values))
    assert sum(found[20:]) / 10 > sum(found[:10]) / 10


def test_it_is_repeatable_and_goes_on_from_what_it_is_told():
    one, other = make(), make()
    drawn = []
    for index in range(6):
        drawn.append(one.ask(index))
        one.tell(index, drawn[-1], (merit(drawn[-1]),))
    for index, values in enumerate(drawn):
        other.tell(index, values, (merit(values),))
    assert other.ask(6) == one.ask(6)


def test_with_two_metrics_it_learns_what_leads_to_the_front():
    """Depth costs and lr pays near 1e-2, so that the front is lr near 1e-2 at any depth."""

    def merits(values):
        return -abs(math.log10(values["train.optimizer.lr"]) + 2), -float(
            values["student.model.depth"]
        )

    sampler, found = make(metric=["accuracy", "parameters"]), []
    for index in range(40):
        values = sampler.ask(index)
        found.append(merits(values))
        sampler.tell(index, values, None if index == 5 else found[-1])
    early, late = found[:10], found[-10:]
    assert sum(one for one, _ in late) > sum(one for one, _ in early)
    assert sum(both for _, both in late) > sum(both for _, both in early)
    again = make(metric=["accuracy", "parameters"])
    again.tell(0, make(metric=["accuracy", "parameters"]).ask(0), found[0])
    assert set(again.ask(1)) == set(SPACES)
