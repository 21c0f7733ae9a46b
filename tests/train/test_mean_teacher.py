"""A moving average of the student as its teacher: what it is, whom it teaches, and that it is in the checkpoint."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from raykd.config.peers import MeanTeacher
from raykd.train import World
from raykd.train.loop import Trainer, never


@pytest.fixture
def make(make_fit, samples):
    def fit(objective=None, model="mlp", **given):
        taught = {"soft_targets": {"temperature": 1.0, "weight": 1.0}, **(objective or {})}
        given = {"teacher_infos": (), "plan": {"rows": samples.splits["train"]}, **given}
        peers = MeanTeacher(decay=0.75, share=1.0)
        made = make_fit(samples, objective=taught, peers=peers, model=model, **given)
        return replace(made, model=made.model.model_copy(update={"dropout": 0.0})) if model == "mlp" else made  # fmt: skip

    return fit


def trainer_of(runs, fit, name="run"):
    return Trainer(fit, runs.samples, runs.source(fit), runs.reporter(name), World(), depth=2, leaving=never)  # fmt: skip


def test_the_average_follows_the_weights(runs, make):
    trainer = trainer_of(runs, make())
    network = trainer.module.network.model
    seen = []
    trainer.update.optimizer.register_step_post_hook(
        lambda *_: seen.append([p.detach().clone() for p in network.parameters()])
    )
    trainer.run()
    expected = seen[0]
    for weights in seen[1:]:
        expected = [0.75 * a + 0.25 * w for a, w in zip(expected, weights, strict=True)]
    found = list(trainer.mean_teacher.average.module.parameters())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_it_teaches_the_samples_without_a_label(runs, make):
    trainer = trainer_of(runs, make({"labels": {"mode": "replace"}}))
    with torch.no_grad():
        for parameter in trainer.mean_teacher.average.module.parameters():
            parameter.add_(0.1 * torch.ones_like(parameter))
    lesson = next(trainer.feed.blocks(0, 0)).lessons[0]
    found = trainer.wrapped(lesson, lambda sums: sums, 1)
    found.losses.total.backward()
    own = [p.grad.clone() for p in trainer.module.network.parameters()]
    logits_NC = trainer.module.outputs(lesson.batch.inputs)
    with torch.no_grad():
        model = trainer.mean_teacher.average.module.eval()
        target_NC = model(*lesson.batch.inputs.values()).softmax(1)
    labels_N = lesson.batch.labels
    known_N = labels_N >= 0
    assert known_N.any()
    assert not known_N.all()
    pulled_N = -(target_NC * logits_NC.log_softmax(1)).sum(1)
    told_N = torch.nn.functional.cross_entropy(logits_NC, labels_N.clamp(min=0), reduction="none")
    total = torch.where(known_N, told_N, pulled_N).mean()
    expected = torch.autograd.grad(total, list(trainer.module.network.parameters()))
    for ours, theirs in zip(own, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in trainer.mean_teacher.average.module.parameters())


def test_resumed_with_the_same_bits(runs, make, equal):
    fit = make(model="batch")
    whole = runs(fit, "whole")
    trainer = trainer_of(runs, fit, "stopped")
    save = trainer._save

    def stop(epoch, within=None):
        save(epoch, within)
        raise KeyboardInterrupt

    trainer._save = stop
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert {**runs(fit, "stopped"), "seconds": 0} == {**whole, "seconds": 0}
    assert equal(runs.weights(fit, "whole"), runs.weights(fit, "stopped"))


def test_it_is_told_how_far_student_and_average_are_apart(runs, make, heard):
    runs(make())
    told = [event.values for event in heard if event.kind == "epoch"]
    assert all(0 <= one["peers"]["agreement"] <= 1 for one in told)
    assert told[0]["weights"] == {"average": 1.0}
    assert "validation" not in told[0]["peers"]
