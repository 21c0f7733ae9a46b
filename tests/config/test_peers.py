"""`peers:`: one is none, and what they cannot do is told before anything starts."""

from __future__ import annotations

import pytest

from raykd.config import load_config
from raykd.config.search import Search
from raykd.config.variants import ablation
from raykd.errors import InputError

RECIPE = {
    "data": {"source": {"type": "digits"}, "labels": 200},
    "teachers": [{"name": "a", "model": {"type": "cnn"}, "fit": {"epochs": 2}}],
    "student": {"model": {"type": "cnn"}},
    "train": {"epochs": 4},
}

APART = {"type": "codistillation"}


def loaded(**changes):
    return load_config({**RECIPE, **changes})


def refused(**changes):
    with pytest.raises(InputError) as caught:
        loaded(**changes)
    return {problem.key: problem.message for problem in caught.value.problems}


def test_one_peer_is_the_recipe_without_peers():
    plain, one = loaded(), loaded(peers={"type": "dml", "count": 1})
    assert one == plain
    assert one.identity() == plain.identity()
    assert loaded(peers={"type": "dml"}).peers.names == ("peer0", "peer1")


def test_a_recipe_without_peers_keeps_its_identity():
    assert "peers" not in loaded().identity()
    assert loaded(peers={"type": "dml"}).identity()["peers"]["count"] == 2


@pytest.mark.parametrize(
    ("changes", "key", "word"),
    [
        ({"objective": {"soft_targets": None}}, "peers", "only soft targets"),
        ({"objective": {"soft_targets": {"sharpen": "fit"}}}, "objective.soft_targets.sharpen", "fit"),
        ({"objective": {"choose": {}}}, "objective.choose", "before there are peers"),
        ({"student": {**RECIPE["student"], "weights": "w.safetensors"}}, "student.weights", "same network"),
        ({"peers": {"type": "dml", "from_epoch": 4}}, "peers.from_epoch", "train.epochs is 4"),
        ({"teachers": [{**RECIPE["teachers"][0], "name": "peer1"}]}, "teachers.peer1.name", "another model"),
        ({"task": "regression", "data": {"source": {"type": "diabetes"}}}, "peers", "classification` only"),
        ({"peers": {"type": "dlm"}}, "peers", "did you mean 'dml'"),
        ({"peers": APART, "train": {"epochs": 4, "early_stopping": {}}}, "train.early_stopping", "wait"),
        ({"peers": APART, "cluster": {"student": {"workers": 2}}}, "cluster.student", "one worker"),
        ({"peers": APART, "targets": {"mode": "write_through"}}, "targets.mode", "stored or live"),
        ({"peers": APART, "search": {"parameters": {"train.batch_size": {"space": "choice", "categories": [32, 64]}}, "trials": 2}},
         "search", "one network at a time"),
        ({"peers": {**APART, "exchange_every": 0}}, "peers.exchange_every", "1"),
        ({"peers": {"type": "dml", "count": 0}}, "peers.count", "1"),
        ({"peers": {"type": "dml", "share": 1.5}}, "peers.share", "1"),
    ],
)  # fmt: skip
def test_what_peers_cannot_do_is_named(changes, key, word):
    found = refused(**{"peers": {"type": "dml"}, **changes})
    assert key in found
    assert word in found[key]


def test_the_control_without_peers_needs_some():
    controls = {"evaluate": {"controls": ["labels", "without_peers"]}}
    assert "student again" in refused(**controls)["evaluate.controls"]
    with_peers = loaded(peers={"type": "dml"})
    assert with_peers.evaluate.own_controls == ("labels", "hard", "without_peers")
    assert "without_peers" not in loaded(peers={"type": "dml", "count": 1}).evaluate.controls


def test_a_mean_teacher_is_one_network():
    peers = loaded(peers={"type": "mean_teacher", "share": 1.0}).peers
    assert (peers.names, peers.others(0), peers.alone) == (("peer0", "average"), ("average",), True)
    weights = {"student": {**RECIPE["student"], "weights": "w.safetensors"}}
    assert loaded(peers={"type": "mean_teacher"}, **weights).peers.decay == 0.999
    assert "peers.decay" in refused(peers={"type": "mean_teacher", "decay": 1.0})


def test_peers_are_searched_and_ablated():
    found = ablation(loaded(peers={"type": "dml", "count": 3}))
    (part,) = (part for part in found.parts if part.kind == "peers")
    assert part.config.peers is None
    assert part.about == "peers: peer1, peer2 by dml"
    space = {"peers.share": {"space": "uniform", "lower": 0.0, "upper": 1.0}}
    searched = loaded(peers={"type": "dml"}, search={"parameters": space, "trials": 2})
    assert isinstance(searched.search, Search)
