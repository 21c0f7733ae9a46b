"""Codistillation: copies of an agreed step, turns with the same bits, independent fits where nothing is exchanged."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace
from functools import partial

import pytest
import torch

from raykd.config.peers import Codistillation
from raykd.errors import CheckpointError, WaitingError
from raykd.models.weights import load_weights
from raykd.objective.peers import codistillation
from raykd.train import World, train
from raykd.train.exchange import Copies, LocalBoard, leave_again
from raykd.train.fit import build_network
from raykd.train.loop import Trainer, never

PAPER = {"labels": {"weight": 1.0}, "soft_targets": {"temperature": 1.0, "weight": 1.0}}


@pytest.fixture
def make(make_fit, samples):
    """A fit of peers that are trained apart, three steps an epoch."""

    def fit(every=2, count=2, model="mlp", **given):
        peers = Codistillation(count=count, share=0.5, exchange_every=every)
        return make_fit(samples, objective=PAPER, peers=peers, model=model, **given)

    return fit


def all_weights(runs, fit, name):
    folders = [runs.reporter(name).folder(piece.fit_id) for piece in fit.pieces]
    return [load_weights(folder.weights("last"), key="test") for folder in folders]


def same(equal, one, other):
    return len(one) == len(other) and all(map(equal, one, other))


def at_random(runs, fit, name, seed):
    """Train the peers by turns, whoever comes next."""
    board, draw = LocalBoard(), random.Random(seed)
    waiting = list(fit.pieces)
    for _ in range(200):
        if not waiting:
            return
        piece = waiting.pop(draw.randrange(len(waiting)))
        try:
            train(piece, runs.samples, runs.source(fit), runs.reporter(name), World(), board=board)
        except WaitingError:
            waiting.append(piece)
    raise AssertionError("they wait for each other for ever")


def test_the_order_of_turns_changes_no_bit(runs, make, equal):
    fit = make(count=3)
    runs(fit, "one")
    expected = all_weights(runs, fit, "one")
    assert not any(equal(expected[i], expected[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    for seed in range(3):
        at_random(runs, fit, f"turns{seed}", seed)
        assert same(equal, all_weights(runs, fit, f"turns{seed}"), expected)


def test_an_exchange_beyond_the_steps_is_none_bit_for_bit(runs, make, equal):
    fit = make(every=9)
    assert not fit.exchanges
    assert replace(fit, peers=fit.peers.model_copy(update={"exchange_every": 8})).exchanges
    runs(fit, "apart")
    found = all_weights(runs, fit, "apart")
    for index, piece in enumerate(fit.pieces):
        alone = replace(piece, fit_id="student/replica0", peers=None, peer=None)
        runs(alone, f"alone{index}")
        assert equal(runs.weights(alone, f"alone{index}"), found[index])


def test_the_first_peer_has_the_seeds_of_the_fit_without_peers(make):
    fit = make()
    first, second = fit.pieces
    assert (first.seed, first.plan.seed, first.fit_id) == (fit.seed, fit.plan.seed, fit.fit_id)
    assert first.identity == fit.identity
    assert second.fit_id == "student/replica0/peers/1"
    assert (second.seed, second.plan.seed) != (first.seed, first.plan.seed)


def test_whoever_is_stopped_at_any_step_goes_on_with_the_same_bits(runs, make, equal):
    """One peer after the other is killed after each of the four steps of a turn; only their folders are left."""
    fit = make(model="batch", train={"ema": 0.9, "checkpoint_every_epochs": 2})
    runs(fit, "whole")
    expected = all_weights(runs, fit, "whole")
    for at in range(1, 5):
        name = f"killed{at}"
        killed = [stop_after(runs, fit, name, at) for _ in range(3)]
        assert killed[0]
        runs(fit, name)
        assert same(equal, all_weights(runs, fit, name), expected), f"after step {at}"


def stop_after(runs, fit, name, at):
    """By turns, until a peer has done so many updates in one of them; whether one has."""
    board, waiting = LocalBoard(), deque(fit.pieces)
    for _ in range(50):
        if not waiting:
            return False
        piece = waiting.popleft()
        folder = runs.reporter(name).folder(piece.fit_id)
        if folder.result_of(piece.identities) is not None:
            leave_again(piece, folder, board)
            continue
        try:
            trainer = Trainer(piece, runs.samples, runs.source(fit), runs.reporter(name), World(),
                              depth=2, leaving=never, board=board)  # fmt: skip
            trainer.update.optimizer.register_step_post_hook(partial(kill, [], at))
            trainer.run()
        except WaitingError:
            waiting.append(piece)
        except KeyboardInterrupt:
            return True
    raise AssertionError("they wait for each other for ever")


def kill(done, at, *_):
    done.append(1)
    if len(done) == at:
        raise KeyboardInterrupt


def test_the_gradient_is_that_of_the_published_loss(runs, make, samples):
    fit = make(teacher_infos=(), plan={"rows": samples.splits["train"]})
    fit = replace(fit, model=fit.model.model_copy(update={"dropout": 0.0}),
                  peers=fit.peers.model_copy(update={"share": 1.0}))  # fmt: skip
    board = LocalBoard()
    first, second = (
        Trainer(piece, samples, runs.source(fit), runs.reporter("run"), World(), depth=2, leaving=never, board=board)
        for piece in fit.pieces
    )  # fmt: skip
    second.exchange.keep(2, second.module.network.model)
    second.exchange.leave()
    first.exchange.keep(2, first.module.network.model)
    first.exchange.swap(2)
    assert first.exchange.copies.step == 2
    lesson = next(first.feed.blocks(0, 0)).lessons[0]
    first.wrapped(lesson, lambda sums: sums, 1).losses.total.backward()
    own = [p.grad.clone() for p in first.module.network.parameters()]
    outputs_NC = first.module.outputs(lesson.batch.inputs)
    stale_NC = second.module.eval().outputs(lesson.batch.inputs)
    labels_N = lesson.batch.labels
    known_N, none_N = labels_N >= 0, torch.full_like(labels_N, -1)
    pull_N = codistillation(outputs_NC, stale_NC[None], none_N)
    loss_N = codistillation(outputs_NC, stale_NC[None], labels_N)
    total = (loss_N - pull_N)[known_N].mean() + pull_N.mean()
    for ours, theirs in zip(own, torch.autograd.grad(total, list(first.module.network.parameters())), strict=True):  # fmt: skip
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for net in first.exchange.copies._networks.values() for p in net.parameters())  # fmt: skip


def test_staleness_is_told(runs, make, heard):
    fit = make(every=2)
    runs(fit)
    told = [e.values["peers"].get("staleness_steps") for e in heard
            if e.kind == "epoch" and e.fit == fit.fit_id]  # fmt: skip
    assert told == pytest.approx([0.0, 2 / 3, 1 / 3])
    assert {e.fit for e in heard if e.kind == "epoch"} == {p.fit_id for p in fit.pieces}


def test_what_others_may_need_is_kept_until_all_are_done(runs, make):
    fit = make()
    first, second = fit.pieces
    board = LocalBoard()
    with pytest.raises(WaitingError, match="after step 2"):
        train(first, runs.samples, runs.source(fit), runs.reporter("run"), World(), board=board)
    with pytest.raises(WaitingError):
        train(second, runs.samples, runs.source(fit), runs.reporter("run"), World(), board=board)
    folder = runs.reporter("run").folder
    assert (folder(second.fit_id).path / "state.pt").is_file()
    runs(fit)
    for piece in fit.pieces:
        assert folder(piece.fit_id).result() is not None
        assert not (folder(piece.fit_id).path / "state.pt").exists()


def test_a_peer_that_was_left_behind_for_good_is_named(runs, make):
    fit = make()
    board = LocalBoard()
    for step in (4, 6, 8):
        board.put("student/replica0/peers/1", step, b"")
    with pytest.raises(CheckpointError, match=r"needs the weights of student/replica0/peers/1 after step 2"):  # fmt: skip
        train(fit.pieces[0], runs.samples, runs.source(fit), runs.reporter("run"), World(), board=board)  # fmt: skip


def test_copies_are_silent_before_the_first_exchange(samples, make):
    fit = make().pieces[0]
    network = build_network(fit, samples)
    copies = Copies({"peer1": network})
    assert copies.outputs(lambda _: torch.zeros(1)) == {}
    copies.load(2, [dict(network.model.state_dict())])
    assert copies.outputs(lambda one: torch.ones(1))["peer1"].tolist() == [1.0]
    assert not network.training
