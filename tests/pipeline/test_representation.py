"""How alike the features are that the objective compares: of stored teachers, without asking them again."""

import numpy as np
import pytest
import torch

from raykd.config import load_config
from raykd.evaluate.representation import debiased_cka
from raykd.folders import RunFolder
from raykd.models import build_model
from raykd.models.taps import Taps
from raykd.models.weights import save_weights
from raykd.pipeline.evaluation import student_network
from raykd.pipeline.preparation import prepare
from raykd.pipeline.recipe_store import open_store, store_keys
from raykd.pipeline.representation import features_alike
from raykd.targets.shards import write_shard
from raykd.targets.store import append
from raykd.teachers import TeacherModel

ROLES = ("student", "labels")


@pytest.fixture
def prepared(tiny_recipe):
    term = {
        "loss": {"type": "similarity"},
        "teacher": "conv",
        "student_tap": "blocks.0",
        "teacher_tap": "blocks.1",
    }
    overrides = {"seeds": 2, "objective": {"features": [term]}}
    return prepare(load_config({**tiny_recipe, **overrides}))


@pytest.fixture
def folder(prepared, tmp_path):
    """A run whose students have weights."""
    folder = RunFolder(tmp_path / "run")
    shape = prepared.preprocessing.output_shape(prepared.samples.input_shape)
    for index, role in enumerate(ROLES):
        for replica in range(2):
            torch.manual_seed(10 * index + replica)
            network = build_model(
                prepared.config.student.model, input_shape=shape, classes=10, key="m"
            )
            save_weights(
                network, folder.checkpoints(f"{role}/replica{replica}") / "best.safetensors"
            )
    return folder


@pytest.fixture
def scored(prepared, make_spec, tmp_path):
    """Stores what the teacher says of some training rows in their first view; gives the store and the teacher."""
    samples = prepared.samples
    model = prepared.teachers["conv"].settings.model
    spec = make_spec(model, data=samples, name="conv", batch_size=64, taps=("blocks.1",))
    keys = store_keys({"conv": spec}, samples)

    def scored(rows):
        arrays = TeacherModel(spec).score(samples, rows, np.zeros(len(rows), np.int64))
        for key in keys["conv"].augmented:
            named = {
                "ids": samples.ids[rows],
                "hashes": samples.content_hash(rows),
                **key.of(arrays),
            }
            append(
                tmp_path / "store", key, [write_shard(tmp_path / "store" / key.folder, 0, named)]
            )
        return open_store(tmp_path / "store", keys, samples), arrays["feature.blocks.1"]

    return scored


@pytest.fixture
def ask(prepared):
    """One piece after the other, in this process."""

    def ask(work, given):
        return [work(prepared.samples, *arguments) for arguments in given]

    return ask


def test_students_are_held_against_what_is_stored_replica_by_replica(prepared, folder, scored, ask):
    rows = prepared.samples.splits["train"][:120]
    store, theirs = scored(rows)
    (found,) = features_alike(prepared, store, folder, ask)
    assert (found["teacher"], found["teacher_tap"], found["student_tap"]) == (
        "conv",
        "blocks.1",
        "blocks.0",
    )
    assert found["n"] == 120
    for role, shown in (("student", found["student"]), ("labels", found["baseline"])):
        for replica, value in enumerate(shown["values"]):
            torch.manual_seed(10 * ROLES.index(role) + replica)
            shape = prepared.preprocessing.output_shape(prepared.samples.input_shape)
            network = student_network(
                prepared,
                build_model(
                    prepared.config.student.model, input_shape=shape, classes=10, key="m"
                ).state_dict(),
            )
            with torch.no_grad(), Taps(network, ["blocks.0"]) as taps:
                network(prepared.samples.batch(rows, 0).inputs)
                own = taps.take()["blocks.0"]
            assert value == pytest.approx(debiased_cka(own, torch.from_numpy(theirs)), rel=1e-4)
    assert found["student"]["n"] == 2


def test_rows_that_a_teacher_could_not_answer_are_left_out(prepared, folder, scored, ask):
    train = prepared.samples.splits["train"]
    store, _ = scored(train[5:45])
    assert store.holds("conv", train[:50], 0).tolist() == [False] * 5 + [True] * 40 + [False] * 5
    assert not store.holds("conv", train[:50], 1).any()
    assert features_alike(prepared, store, folder, ask)[0]["n"] == 40


def test_live_targets_leave_nothing_to_be_compared(prepared, folder, make_spec, tmp_path, ask):
    spec = make_spec(
        prepared.teachers["conv"].settings.model,
        data=prepared.samples,
        name="conv",
        taps=("blocks.1",),
    )
    store = open_store(
        tmp_path / "empty", store_keys({"conv": spec}, prepared.samples), prepared.samples
    )
    assert features_alike(prepared, store, folder, ask) == []


def test_an_objective_without_features_compares_none(tiny_recipe, folder, ask):
    assert features_alike(prepare(load_config(tiny_recipe)), None, folder, ask) == []
