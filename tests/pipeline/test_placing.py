"""Chosen nodes by Ray's labels, and a self-test that asks every replica."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from raykd.config import load_config
from raykd.config.base import label_needs
from raykd.errors import InputError, TeacherError
from raykd.pipeline.placement import make_placement
from raykd.pipeline.target_stage import self_test
from raykd.runtime import Resources
from raykd.runtime.labels import amounts, selector
from raykd.search.sweeping import trial_resources
from raykd.types import Dense

CLUSTER = Resources(16, 4, local=False)
LABELS = [
    "cluster.teachers.node_labels={pool: teachers}",
    "cluster.student.node_labels={ray.io/accelerator-type: 'in(H100, H200)'}",
    "teachers.conv.resources={node_labels: {pool: '!spot'}}",
]


def test_labels_are_needs_of_a_process_and_taken_apart_again():
    needs = {"CPU": 2.0, **label_needs({"pool": "a", "ray.io/zone": "in(x, y)"})}
    assert selector(needs) == {"pool": "a", "ray.io/zone": "in(x, y)"}
    assert amounts(needs) == {"CPU": 2.0}
    assert selector({"CPU": 1.0}) is None


def test_placement_knows_whose_nodes_are_whose(tiny_recipe):
    config = load_config(tiny_recipe, LABELS)
    placement = make_placement(config, CLUSTER)
    own = {name: dict(place.node_labels) for name, place in placement.teachers.items()}
    assert own == {"wide": {"pool": "teachers"}, "conv": {"pool": "!spot"}}
    assert placement.seats == 0, "processes of the student may stand elsewhere"
    assert selector(placement.student.resources) == {"ray.io/accelerator-type": "in(H100, H200)"}
    inside = load_config(tiny_recipe, [LABELS[1], "cluster.teachers.where=student"])
    places = make_placement(inside, CLUSTER).teachers.values()
    assert {tuple(place.node_labels) for place in places} == {("ray.io/accelerator-type",)}


@pytest.mark.parametrize(
    ("override", "key"),
    [
        (LABELS[0], "cluster.teachers.node_labels"),
        (LABELS[1], "cluster.student.node_labels"),
        (LABELS[2], "teachers.conv.resources.node_labels"),
    ],
)
def test_a_cluster_of_its_own_has_no_labels(tiny_recipe, override, key):
    config = load_config(tiny_recipe, [override])
    with pytest.raises(InputError) as caught:
        make_placement(config, Resources(4, 0, local=True))
    assert [problem.key for problem in caught.value.problems] == [key]
    assert "--address" in caught.value.problems[0].message


@pytest.mark.parametrize("labels", ["{'a b': x}", "{pool: 'in(a'}", "{pool: ''}", "{pool: 3}"])
def test_labels_that_ray_would_not_read(tiny_recipe, labels):
    with pytest.raises(InputError, match=r"cluster\.student\.node_labels"):
        load_config(tiny_recipe, [f"cluster.student.node_labels={labels}"])


def test_trials_of_one_worker_are_not_placed_by_labels(tiny_recipe):
    search = {
        "trials": 2,
        "parameters": {"train.epochs": {"space": "randint", "lower": 1, "upper": 2}},
    }
    tree = {**tiny_recipe, "search": search}
    plain, labelled = (load_config(tree, [*some]) for some in ([], LABELS[1:2]))
    assert trial_resources(plain, make_placement(plain, CLUSTER), CLUSTER).concurrent == 16
    with pytest.raises(InputError, match="by its CPUs and GPUs alone"):
        trial_resources(labelled, make_placement(labelled, CLUSTER), CLUSTER)
    inside = load_config(tree, ["cluster.teachers.where=student"])
    assert trial_resources(inside, make_placement(inside, CLUSTER), CLUSTER).concurrent == 16, (
        "no fleet beside them"
    )


class Replicated:
    """A fleet whose replicas answer `said`, each in its turn."""

    def __init__(self, *said):
        load = SimpleNamespace(busy_s=0.5, take=lambda: None)
        self.client = SimpleNamespace(pools={"wide": SimpleNamespace(actors=said, load=load)})
        self.specs, self.shared, self.asked, self.said = {"wide": None}, None, [], said

    def score_at_once(self, rows, view, times):
        self.asked.append(times)
        return [{"wide": Dense(kind="logits", values_NC=self.said[i % len(self.said)], valid_N=None, features={})}
                for i in range(times)]  # fmt: skip


def test_every_replica_is_asked_twice_and_has_to_agree():
    samples = SimpleNamespace(splits={"validation": np.arange(8)}, class_count=3)
    prepared, good = SimpleNamespace(samples=samples), torch.randn(8, 3)
    fleet = Replicated(good, good, good)
    assert self_test(prepared, fleet) == {"wide": 8 * 3 * 3 / 0.5}
    assert fleet.asked == [3, 3]
    with pytest.raises(TeacherError, match="answers the same samples differently"):
        self_test(prepared, Replicated(good, good, good + 1e-6))
    with pytest.raises(TeacherError, match="answers 3 classes"):
        self_test(
            SimpleNamespace(samples=SimpleNamespace(splits=samples.splits, class_count=4)), fleet
        )


_ON_LABELLED_NODES = """
import sys
import numpy as np, ray
from raykd.config.base import label_needs
from raykd.errors import TeacherError
from raykd.config.root import TeacherCluster
from raykd.runtime import Crew, available_slots
from raykd.teachers import ActorFleet, Recorded, TeacherResources
ray.init(num_cpus=3, labels={"pool": "teachers"}, include_dashboard=False, log_to_driver=False)
spec = Recorded(name="known", logits_NC=np.zeros((4, 2), np.float32))
def start(**labels):
    place = TeacherResources(1, 0.1, 0.0, node_labels=labels)
    settings = TeacherCluster(start_timeout_s=60 if labels == {"pool": "teachers"} else 4)
    return ActorFleet({"known": spec}, {"known": place}, ray.put(None), settings, print)
with start(pool="teachers") as fleet:
    assert len(fleet.processes("known")) == 1
try:
    start(pool="!teachers").__enter__()
except TeacherError as error:
    assert "a node with its labels" in str(error)
else:
    raise SystemExit("it was placed on a node with another label")
crew, here = Crew(), {"CPU": 1.0, **label_needs({"pool": "teachers"})}
assert ray.get(crew.take(here).ready.remote(), timeout=60)
elsewhere = {"CPU": 1.0, **label_needs({"pool": "in(students, others)"})}
assert available_slots(here, 2, 20.0) == 2
assert available_slots(elsewhere, 1, 1.0) == 0
print("placed")
"""


@pytest.mark.ray
@pytest.mark.soak
def test_on_nodes_with_labels():
    done = subprocess.run(
        [sys.executable, "-c", _ON_LABELLED_NODES], capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip().endswith("placed"), done.stderr[-3000:]
