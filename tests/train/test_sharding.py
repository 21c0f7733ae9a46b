"""FSDP2 with two workers of gloo: the weights of DDP, and the same bits after a stop anywhere; no Ray."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from raykd_test_models import SHAPES
from torch import nn

from raykd.config import load_config
from raykd.errors import CheckpointError, InputError, PreemptedError
from raykd.folders import RunFolder
from raykd.models.weights import load_weights
from raykd.targets import NoTargets
from raykd.testing.sources import TableTargets
from raykd.train import FolderReporter, World, train
from raykd.train.together import train_together

HINT = {
    "features": [
        {"loss": {"type": "hint"}, "teacher": "a", "student_tap": "blocks.0", "teacher_tap": "blocks.0",
         "weight": 1.0},
        {"loss": {"type": "similarity"}, "teacher": "b", "student_tap": "blocks.0", "teacher_tap": "blocks.0",
         "weight": 5.0},
    ],
    "feature_weighting": "uncertainty",
}  # fmt: skip
SGD = {"optimizer": {"type": "sgd", "lr": 0.1, "momentum": 0.9}}
CASES = {
    "adamw": {"model": "cnn", "train": {"batch_size": 25, "clip_norm": 1.0, "ema": 0.9}},
    "sgd": {"model": "cnn", "train": {**SGD, "clip_norm": 0.3}, "objective": HINT},
    "in_parts": {"model": "cnn", "train": {**SGD, "micro_batch_size": 5}, "objective": HINT},
    "gradient_weights": {"objective": {"weighting": {"type": "gradient"}}},
    "frozen": {"model": "cnn", "train": SGD, "freeze": ("blocks.0",), "lr_factors": {"blocks.1": 0.1}},
    "labels": {"model": "batch", "teacher_infos": ()},
}  # fmt: skip
STOPPED = {"batch_size": 25, "clip_norm": 1.0, "ema": 0.9, "epochs": 4}
QUICK = ("adamw", "in_parts")
SLOW = tuple(name for name in CASES if name not in QUICK)


class KilledError(Exception):
    """Stands for a process that is killed: nothing is saved."""


def _fit_in(root, name, fit, samples, world, **given):
    names = [teacher.name for teacher in fit.teacher_infos]
    maps = SHAPES if fit.objective.features else None
    source = TableTargets(names, samples, maps=maps) if names else NoTargets()
    reporter = FolderReporter(RunFolder(root / name), lambda *_: None)
    return train(fit, samples, source, reporter, world, **given)


def _killed_after(step):
    count = iter(range(10**6))

    def leaving():
        if next(count) == step:
            raise KilledError
        return False

    return leaving


def _stopped_at(root, fit, samples, world, steps):
    """Stopped after so many steps by a notice, or killed, which goes back to the last checkpoint; and gone on with."""
    for step in steps:
        calls = iter(range(10**6))
        name = f"stopped{step}"
        if step % 2:
            leaving = lambda calls=calls, step=step: next(calls) == step  # noqa: E731
            with pytest.raises(PreemptedError):
                _fit_in(root, name, fit, samples, world, leaving=leaving)
        else:
            with pytest.raises(KilledError):
                _fit_in(root, name, fit, samples, world, leaving=_killed_after(step))
            world.sharing.wait()
        _fit_in(root, name, fit, samples, world)


def _damaged(root, fit, samples, world):
    """The newest checkpoint loses a byte: the one before it counts; and both of them: there is none."""
    for name, count in (("damaged", 1), ("lost", 2)):
        with pytest.raises(KilledError):
            _fit_in(root, name, fit, samples, world, leaving=_killed_after(9))
        world.sharing.wait()
        places = sorted((root / name).glob("**/whole.json"))[-count:]
        if not world.rank:
            for place in places:
                part = place.parent / "__1_0.distcp"
                part.write_bytes(part.read_bytes()[:-1])
        dist.barrier()
        try:
            _fit_in(root, name, fit, samples, world)
            said = "goes on"
        except CheckpointError as error:
            said = str(error)
        (root / f"{name}{world.rank}.json").write_text(json.dumps(said))


def _other_strategy(root, fit, samples, world):
    """States of the one strategy are not those of the other."""
    told = []
    for first, then in ((world, World(world.rank, 2)), (World(world.rank, 2), world)):
        name = f"other{len(told)}"
        with pytest.raises(KilledError):
            _fit_in(root, name, fit, samples, first, leaving=_killed_after(9))
        world.sharing.wait()
        dist.barrier()
        try:
            _fit_in(root, name, fit, samples, then)
        except CheckpointError as error:
            told.append(str(error))
    (root / f"told{world.rank}.json").write_text(json.dumps(told))


def _together(root, fit, samples, world):
    """Two students of the same batches in the same processes, each with its own checkpoints."""
    other = replace(fit, fit_id="student/other", seed=fit.seed + 1)
    _fit_in(root, "apart", other, samples, world)
    reporter = FolderReporter(RunFolder(root / "together"), lambda *_: None)

    def source(samples, fit):
        return TableTargets([teacher.name for teacher in fit.teacher_infos], samples)

    train_together([fit, other], samples, source, reporter, world)


def _worker(rank, root, fits, stopped, samples, steps):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/meet", rank=rank, world_size=2)
    from raykd.train.sharding import Sharing

    world = World(rank, 2)
    parts = replace(world, sharing=Sharing(world.device, least=1))
    for name, fit in fits.items():
        _fit_in(root, f"{name}-ddp", fit, samples, world)
        _fit_in(root, f"{name}-fsdp", fit, samples, parts)
    _fit_in(root, "whole", stopped, samples, parts)
    _stopped_at(root, stopped, samples, parts, steps)
    if len(steps) > 2:
        _damaged(root, stopped, samples, parts)
        _other_strategy(root, stopped, samples, parts)
        _together(root, stopped, samples, parts)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    return {name: tmp_path_factory.mktemp(name) for name in ("quick", "slow")}


class Done:
    """Fits by name, trained in both ways by two processes, once for all tests that ask."""

    def __init__(self, root, samples, make_fit, names, steps):
        self.root = root
        self.fits = {name: make_fit(samples, **{"train": {}, **CASES[name]}) for name in names}
        stopped = make_fit(samples, model="cnn", train=STOPPED)
        if not (root / "meet").exists():
            given = (root, self.fits, stopped, samples, steps)
            torch.multiprocessing.spawn(_worker, given, nprocs=2)
        self.fits["stopped"] = stopped

    def folder(self, run, fit):
        return FolderReporter(RunFolder(self.root / run), lambda *_: None).folder(
            self.fits[fit].fit_id
        )

    def weights(self, run, fit="stopped", which="last"):
        folder = self.folder(run, fit)
        assert not (folder.path / "sharded").exists()
        return load_weights(folder.weights(which), key="test")


@pytest.fixture
def quick(roots, samples, make_fit):
    return Done(roots["quick"], samples, make_fit, QUICK, (2, 5))


@pytest.fixture
def slow(roots, samples, make_fit):
    return Done(roots["slow"], samples, make_fit, SLOW, tuple(range(1, 11)))


def same_as_ddp(done, name):
    for which in ("last", "best"):
        after = done.weights(f"{name}-fsdp", name, which)
        expected = done.weights(f"{name}-ddp", name, which)
        assert after.keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(after[key], tensor, rtol=0, atol=1e-5, msg=key)
    one, other = (done.folder(f"{name}-{way}", name).result() for way in ("ddp", "fsdp"))
    assert one["best_epoch"] == other["best_epoch"]
    for metric, value in one["best"].items():
        assert other["best"][metric] == pytest.approx(value, abs=1e-4)


def same_bits(done, run, equal):
    for which in ("last", "best"):
        assert equal(done.weights(run, which=which), done.weights("whole", which=which))


@pytest.mark.parametrize("name", QUICK)
def test_two_workers_with_parts_are_two_with_all_of_it(quick, name):
    same_as_ddp(quick, name)


@pytest.mark.parametrize("step", [2, 5])
def test_a_fit_that_is_killed_or_stopped_ends_with_the_same_bits(quick, step, equal):
    same_bits(quick, f"stopped{step}", equal)


@pytest.mark.soak
@pytest.mark.parametrize("name", SLOW)
def test_so_they_are_with_other_objectives_and_optimizers(slow, name):
    same_as_ddp(slow, name)


@pytest.mark.soak
@pytest.mark.parametrize("step", range(1, 11))
def test_so_it_does_wherever_that_is(slow, step, equal):
    same_bits(slow, f"stopped{step}", equal)


@pytest.mark.soak
def test_of_damaged_checkpoints_the_one_before_counts(slow, equal):
    for rank in range(2):
        assert json.loads((slow.root / f"damaged{rank}.json").read_text()) == "goes on"
        lost = json.loads((slow.root / f"lost{rank}.json").read_text())
        assert "is damaged (__1_0.distcp)" in lost
        assert "to train this fit anew" in lost
    same_bits(slow, "damaged", equal)


@pytest.mark.soak
def test_two_students_in_the_same_processes_are_each_as_alone(slow, equal):
    same_bits(slow, "together", equal)
    own, there = (
        load_weights(FolderReporter(RunFolder(slow.root / run), lambda *_: None)
                     .folder("student/other").weights("last"), key="test")
        for run in ("apart", "together")
    )  # fmt: skip
    assert equal(own, there)


@pytest.mark.soak
def test_states_of_the_other_strategy_are_refused(slow):
    for rank in range(2):
        first, second = json.loads((slow.root / f"told{rank}.json").read_text())
        assert "cluster.student.strategy: fsdp, which ddp does not read" in first
        assert "cluster.student.strategy: ddp, which fsdp does not read" in second


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ([], "cluster.student.strategy: found fsdp with cluster.student.workers=1"),
        (["cluster.student.workers=[1, 4]"], "cluster.student.strategy: found fsdp"),
        (["cluster.student.workers=2", "peers={type: dml, count: 2}"], "peers: found dml beside"),
        (["cluster.student.workers=2", "train.compile=true"], "train.compile: found true beside"),
    ],
)
def test_what_does_not_go_together_is_refused(tiny_recipe, given, key):
    with pytest.raises(InputError, match=re.escape(key)):
        load_config(tiny_recipe, ["cluster.student.strategy=fsdp", *given])


def test_a_recipe_with_parts_is_taken(tiny_recipe):
    given = ["cluster.student.strategy=fsdp", "cluster.student.workers=2", "train.ema=0.9"]
    assert load_config(tiny_recipe, given).cluster.student.strategy == "fsdp"


def test_only_large_blocks_with_weights_of_their_own_are_parted_alone():
    from raykd.train.sharding import _blocks

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(
                [nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU())]
            )
            self.embedding = nn.Embedding(16, 8)
            self.ends = nn.Sequential(nn.Linear(8, 4), nn.Linear(8, 16, bias=False))
            self.ends[1].weight = self.embedding.weight

    model = Tied()
    assert _blocks(model, 50) == [model.blocks[0], model.blocks[1]]
    assert _blocks(model, 1) == [model.blocks[0], model.blocks[1], model.ends[0]]
    assert _blocks(model, 1000) == []
