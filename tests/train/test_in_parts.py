"""A batch in parts has the gradient of the whole batch, whatever its objective compares."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from raykd_test_models import SHAPES
from torch import nn

from raykd.config import load_config
from raykd.config.models import CnnModel
from raykd.errors import InputError
from raykd.folders import RunFolder
from raykd.models.weights import load_weights
from raykd.targets import NoTargets
from raykd.testing.sources import TableTargets
from raykd.train import FolderReporter, World, train
from raykd.train.fit import build_module
from raykd.train.in_parts import PartialPasses
from raykd.train.step import Lesson

SGD = {"epochs": 1, "optimizer": {"type": "sgd", "lr": 0.05}}


def term(loss):
    return {"loss": {"type": loss}, "teacher": "a", "student_tap": "blocks.0", "teacher_tap": "blocks.0"}  # fmt: skip


OBJECTIVES = {
    "settled": {},
    "labels alone": None,
    "weights by gradients": {"weighting": {"type": "gradient"}},
    "relations of samples": {"features": [term("rkd_distance")]},
    "a projector that learns": {"features": [term("vid"), term("attention")]},
    "statistics of the batch": {"features": [term("itrd")]},
}


def in_parts(fit, size):
    return replace(fit, training=fit.training.model_copy(update={"micro_batch_size": size}))


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
@pytest.mark.parametrize("size", [1, 5, 32])
def test_parts_of_a_batch_train_as_the_whole(runs, samples, make_fit, objective, size):
    given = {"teacher_infos": ()} if objective is None else {"objective": objective}
    whole = make_fit(samples, train=SGD, model="cnn", **given)
    parts = in_parts(whole, size)
    assert parts.identity != whole.identity
    runs(whole, "whole")
    runs(parts, "parts")
    before, after = runs.weights(whole, "whole"), runs.weights(parts, "parts")
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-6)


def test_an_objective_that_does_see_the_batch_would_differ_by_itself(runs, samples, make_fit):
    objective = OBJECTIVES["relations of samples"]
    whole = make_fit(samples, train=SGD, model="cnn", objective=objective)
    small = replace(whole, plan=replace(whole.plan, batch_size=4))
    runs(whole, "whole")
    runs(small, "small")
    pairs = zip(*(runs.weights(f, n).values() for f, n in ((whole, "whole"), (small, "small"))), strict=True)  # fmt: skip
    assert max(float((one - other).abs().max()) for one, other in pairs) > 1e-4


def lesson_of(samples, rows):
    batch = samples.batch(rows, -1)
    return Lesson(batch=batch, targets={})


def test_both_passes_of_a_part_drop_the_same_units(samples, make_fit):
    fit = make_fit(samples, teacher_infos=())  # of an mlp with dropout
    module = build_module(fit, samples).train()
    lesson = lesson_of(samples, samples.splits["train"][:12])
    lesson = replace(lesson, batch=replace(lesson.batch, inputs=module.network.prepare(lesson.batch.inputs)))  # fmt: skip
    torch.manual_seed(3)
    passes = PartialPasses(module, lesson, 5)
    random = torch.get_rng_state()
    weight_NC = torch.randn(passes.outputs.shape, generator=torch.Generator().manual_seed(1))
    (passes.outputs * weight_NC).sum().backward()
    passes.backward()
    found = [parameter.grad.clone() for parameter in module.network.parameters()]
    assert torch.equal(torch.get_rng_state(), random), "as if there had been one pass"
    module.zero_grad()
    torch.manual_seed(3)
    total, first = torch.zeros(()), 0
    for size in (5, 5, 2):
        rows = slice(first, first + size)
        part = {name: tensor[rows] for name, tensor in lesson.batch.inputs.items()}
        total = total + (module.outputs(part) * weight_NC[rows]).sum()
        first += size
    total.backward()
    for gradient, parameter in zip(found, module.network.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=0, atol=1e-6)


def test_batch_normalisation_counts_each_part_once(samples, make_fit):
    model = CnnModel(width=0.25, depth=1, norm="batch")
    fit = make_fit(samples, teacher_infos=(), model="cnn")
    fit = replace(fit, model=model)
    one, other = (build_module(fit, samples).train() for _ in range(2))
    lesson = lesson_of(samples, samples.splits["train"][:12])
    inputs = one.network.prepare(lesson.batch.inputs)
    lesson = replace(lesson, batch=replace(lesson.batch, inputs=inputs))
    passes = PartialPasses(one, lesson, 4)
    passes.outputs.sum().backward()
    passes.backward()
    for start in range(0, 12, 4):
        other.outputs({name: tensor[start : start + 4] for name, tensor in inputs.items()})
    norms = [[m for m in net.network.modules() if isinstance(m, nn.BatchNorm2d)] for net in (one, other)]  # fmt: skip
    assert norms[0]
    for mine, theirs in zip(*norms, strict=True):
        assert mine.num_batches_tracked == theirs.num_batches_tracked == 3
        assert mine.momentum == theirs.momentum
        assert torch.equal(mine.running_mean, theirs.running_mean)


def test_a_fit_in_parts_goes_on_where_it_was(runs, samples, make_fit, equal):
    fit = in_parts(make_fit(samples, train={"epochs": 2}), 5)
    runs(fit, "whole")
    calls = iter(range(100))
    with pytest.raises(Exception, match="saved after step"):
        runs(fit, "stopped", leaving=lambda: next(calls) == 4)
    runs(fit, "stopped")
    assert equal(runs.weights(fit, "whole"), runs.weights(fit, "stopped"))


def test_peers_are_refused_beside_it(tiny_recipe):
    given = ["train.micro_batch_size=8", "peers={type: dml, count: 2}"]
    with pytest.raises(InputError, match=r"train\.micro_batch_size: found 8 beside `peers`"):
        load_config(tiny_recipe, given)


def _worker(rank, root, fit, samples):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/meet", rank=rank, world_size=2)
    source = TableTargets([t.name for t in fit.teacher_infos], samples, maps=SHAPES) if fit.teacher_infos else NoTargets()  # fmt: skip
    train(fit, samples, source, FolderReporter(RunFolder(root / "two"), lambda *_: None), World(rank, 2))  # fmt: skip
    dist.destroy_process_group()


@pytest.mark.soak
def test_two_workers_in_parts_are_one_whole(runs, samples, make_fit, tmp_path):
    objective = OBJECTIVES["relations of samples"]
    whole = make_fit(samples, train=SGD, model="cnn", objective=objective)
    runs(whole, "whole")
    torch.multiprocessing.spawn(_worker, (tmp_path, in_parts(whole, 5), samples), nprocs=2)
    folder = FolderReporter(RunFolder(tmp_path / "two"), lambda *_: None).folder(whole.fit_id)
    after = load_weights(folder.weights("last"), key="test")
    for name, tensor in runs.weights(whole, "whole").items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-6)
