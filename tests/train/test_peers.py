"""Networks that learn from each other in one fit: whose gradients reach whom, the same bits, one peer is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from raykd.config.peers import MutualLearning
from raykd.models.weights import load_weights
from raykd.objective.peers import agreement_sums, agreement_values, dml
from raykd.train import World
from raykd.train.loop import Trainer, never


@pytest.fixture
def peers():
    return MutualLearning(count=3, share=1.0)


def trainer_of(runs, fit, name="run"):
    return Trainer(
        fit, runs.samples, runs.source(fit), runs.reporter(name), World(), depth=2, leaving=never
    )


def first_lesson(trainer):
    return next(trainer.feed.blocks(0, 0)).lessons[0]


def grads(module):
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


PAPER = {"labels": {"weight": 1.0}, "soft_targets": {"temperature": 1.0, "weight": 1.0}}
"""The objective of Zhang et al. 2018; without dropout, so that a forward pass can be repeated."""


@pytest.fixture
def plain(make_fit, samples):
    """A fit of three peers without dropout that no frozen teacher teaches."""
    fit = make_fit(
        samples,
        teacher_infos=(),
        objective=PAPER,
        plan={"rows": samples.splits["train"]},
        peers=MutualLearning(count=3, share=1.0),
    )
    return replace(fit, model=fit.model.model_copy(update={"dropout": 0.0}))


def test_the_gradients_are_those_of_the_published_loss(runs, plain):
    trainer = trainer_of(runs, plain)
    lesson = first_lesson(trainer)
    found = trainer.wrapped(lesson, lambda sums: sums, 1)
    torch.autograd.backward([found.losses.total, found.beside])
    own = [grads(learner.module.network) for learner in trainer.learners]
    modules = [learner.module for learner in trainer.learners]
    logits_KNC = torch.stack([module.outputs(lesson.batch.inputs) for module in modules])
    labels_N = lesson.batch.labels
    loss_KN = dml(logits_KNC, labels_N)
    known_N = labels_N >= 0
    pull_KN = dml(logits_KNC, torch.full_like(labels_N, -1))
    total = ((loss_KN - pull_KN)[:, known_N].mean(1) + pull_KN.mean(1)).sum()
    expected = torch.autograd.grad(total, [p for m in modules for p in m.network.parameters()])
    for ours, theirs in zip([g for one in own for g in one], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_peers_loss_reaches_its_own_parameters_alone(runs, plain):
    trainer = trainer_of(runs, plain)
    found = trainer.wrapped(first_lesson(trainer), lambda sums: sums, 1)
    found.losses.total.backward(retain_graph=True)
    student, *others = (learner.module.network for learner in trainer.learners)
    assert all(p.grad is not None and bool(p.grad.any()) for p in student.parameters())
    assert all(p.grad is None for other in others for p in other.parameters())
    before = grads(student)
    found.beside.backward()
    assert all(torch.equal(p.grad, b) for p, b in zip(student.parameters(), before, strict=True))


def test_frozen_teachers_and_peers_are_one_mixture(runs, samples, make_fit):
    fit = make_fit(samples, objective=PAPER, peers=MutualLearning(count=3, share=0.4))
    objective = trainer_of(runs, fit).module.objective
    assert [one.name for one in objective.teacher_infos] == ["a", "b", "peer1", "peer2"]
    assert not objective.settles
    trainer = trainer_of(runs, fit)
    found = trainer.wrapped(first_lesson(trainer), lambda sums: sums, 1)
    expected = torch.tensor([0.3, 0.3, 0.2, 0.2])
    torch.testing.assert_close(found.weights_TN.mean(1), expected)
    counted_alike = replace(fit, peers=MutualLearning(count=3))
    trainer = trainer_of(runs, counted_alike)
    found = trainer.wrapped(first_lesson(trainer), lambda sums: sums, 1)
    torch.testing.assert_close(found.weights_TN.mean(1), torch.full((4,), 0.25))


def test_the_mixture_is_the_sum_of_all_probabilities(runs, samples, make_fit):
    fit = make_fit(samples, objective=PAPER, peers=MutualLearning(count=2, share=0.25))
    fit = replace(fit, model=fit.model.model_copy(update={"dropout": 0.0}))
    trainer = trainer_of(runs, fit)
    lesson = first_lesson(trainer)
    found = trainer.wrapped(lesson, lambda sums: sums, 1)
    own_NC, other_NC = (one.module.outputs(lesson.batch.inputs) for one in trainer.learners)
    a_NC, b_NC = (lesson.targets[name].values_NC.softmax(1) for name in "ab")
    target_NC = 0.375 * a_NC + 0.375 * b_NC + 0.25 * other_NC.softmax(1)
    cross_NC = target_NC * (target_NC.log() - own_NC.log_softmax(1))
    expected = cross_NC.sum(1).mean().item()
    assert float(found.losses.terms["soft_targets"]) == pytest.approx(expected, rel=1e-5)


def test_until_from_epoch_the_peers_are_independent_fits(runs, samples, make_fit, equal):
    alone = make_fit(samples, objective=PAPER, teacher_infos=(), train={"epochs": 2},
                     plan={"rows": samples.splits["train"]})  # fmt: skip
    alone = replace(alone, model=alone.model.model_copy(update={"dropout": 0.0}))
    together = replace(alone, peers=MutualLearning(count=2, share=1.0, from_epoch=1.5))
    listens = replace(alone, peers=MutualLearning(count=2, share=1.0))
    found = {}
    for name, fit in {"together": together, "listens": listens}.items():
        trainer = trainer_of(runs, fit, name)
        steps = trainer.fit.plan.steps_per_epoch
        weights = []
        hook = trainer.update.optimizer.register_step_post_hook(
            lambda *_, t=trainer, w=weights: w.append(
                {n: p.detach().clone() for n, p in t.module.network.model.state_dict().items()}
            )
        )
        trainer.run()
        hook.remove()
        found[name] = weights[steps - 1]
    trainer = trainer_of(runs, replace(alone, objective=alone.objective.model_copy(
        update={"soft_targets": None})), "alone")  # fmt: skip
    weights = []
    trainer.update.optimizer.register_step_post_hook(
        lambda *_: weights.append(
            {n: p.detach().clone() for n, p in trainer.module.network.model.state_dict().items()}
        )
    )
    trainer.run()
    alone_after = weights[trainer.fit.plan.steps_per_epoch - 1]
    for name, tensor in alone_after.items():
        torch.testing.assert_close(found["together"][name], tensor)
    assert not all(torch.allclose(found["listens"][n], t) for n, t in alone_after.items())


def test_an_epoch_tells_how_alike_the_peers_are(runs, samples, make_fit, heard, peers):
    runs(make_fit(samples, peers=peers, teacher_infos=(), objective=PAPER,
                  plan={"rows": samples.splits["train"]}, train={"epochs": 8}))  # fmt: skip
    told = [event.values["peers"] for event in heard if event.kind == "epoch"]
    assert all(0 <= one["agreement"] <= 1 and one["jsd_nats"] >= 0 for one in told)
    assert told[-1]["agreement"] > told[0]["agreement"]
    assert told[0]["validation"].keys() == {"peer1", "peer2"}
    assert told[0]["validation"]["peer1"].keys() == {"accuracy", "nll"}


def test_agreement_is_of_pairs_and_jsd_of_all(runs):
    logits_KNC = torch.tensor(
        [[[9.0, 0.0]] * 2, [[9.0, 0.0], [0.0, 9.0]], [[9.0, 0.0], [9.0, 0.0]]]
    )
    counted_N = torch.tensor([True, True])
    found = agreement_values(agreement_sums(logits_KNC.double(), counted_N))
    assert found["agreement"] == pytest.approx((1 + 1 / 3) / 2)
    p = torch.tensor([9.0, 0.0]).double().softmax(0)
    mean = (2 * p + p.flip(0)) / 3
    jsd = -(mean * mean.log()).sum() + (p * p.log()).sum()
    assert found["jsd_nats"] == pytest.approx(float(jsd) / 2)
    first = agreement_values(agreement_sums(logits_KNC.double(), torch.tensor([True, False])))
    assert first == pytest.approx({"agreement": 1.0, "jsd_nats": 0.0}, abs=1e-12)
    assert agreement_values(agreement_sums(logits_KNC, torch.tensor([False, False]))) == {}


def test_each_peer_has_weights_and_a_result_of_its_own(runs, samples, make_fit, equal, peers):
    fit = make_fit(samples, peers=peers)
    result = runs(fit)
    folder = runs.reporter("run").folder(fit.fit_id)
    own = [folder.read_weights("best"), *(folder.peer(k).read_weights("best") for k in (1, 2))]
    assert not any(equal(own[i], own[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert folder.peer(1).result()["best"].keys() == result["best"].keys()
    assert not folder.peer(3).path.exists()


def test_resumed_at_each_epoch_with_the_same_bits(runs, samples, make_fit, equal, peers):
    fit = make_fit(samples, peers=peers, model="batch", train={"ema": 0.9})
    whole = runs(fit, "whole")
    for at in range(1, 3):
        name = f"stopped{at}"
        trainer = trainer_of(runs, fit, name)
        save = trainer._save

        def stop(epoch, within=None, *, at=at, save=save):
            save(epoch, within)
            if epoch == at:
                raise KeyboardInterrupt

        trainer._save = stop
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
        again = runs(fit, name)
        assert {**again, "seconds": 0} == {**whole, "seconds": 0}
        for index in (1, 2):
            first, second = (
                load_weights(
                    runs.reporter(n).folder(fit.fit_id).peer(index).weights("last"), key="t"
                )
                for n in ("whole", name)
            )
            assert equal(first, second)


def test_peers_are_part_of_what_decides_a_fit(samples, make_fit, peers):
    plain, together = make_fit(samples), make_fit(samples, peers=peers)
    assert plain.identity != together.identity
    assert together.identity != replace(together, peers=MutualLearning(count=2)).identity
