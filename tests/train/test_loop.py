"""The loop on one worker: same seed same bits, best and last, failures with names."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from raykd.config.models import FactoryModel
from raykd.ensemble import calibration_half
from raykd.errors import TrainingError
from raykd.models.network import Network
from raykd.targets import NoTargets
from raykd.train import FolderReporter, World
from raykd.train.checkpoint import FitFolder
from raykd.train.fit import build_module, build_network
from raykd.train.loop import Trainer, never
from raykd.train.validation import predict, validate


def trainer(runs, fit, name="run", **given):
    given.setdefault("source", runs.source(fit))
    return Trainer(
        fit,
        runs.samples,
        given["source"],
        runs.reporter(name),
        World(),
        depth=given.get("depth", 2),
        leaving=never,
    )


def epochs(heard):
    return [event for event in heard if event.kind == "epoch"]


def test_a_fit_learns_and_says_so(runs, samples, make_fit, heard):
    fit = make_fit(samples, train={"epochs": 12})
    result = runs(fit)
    told = epochs(heard)
    assert [e.epoch for e in told] == list(range(1, 13))
    assert [e.step for e in told] == [3 * n for n in range(1, 13)]
    assert told[-1].values["train_loss"] < told[0].values["train_loss"]
    assert result["best"]["accuracy"] > 0.8
    assert result["steps"] == 36
    assert told[-1].values["terms"].keys() == {"labels", "soft_targets"}
    assert told[-1].values["weights"] == pytest.approx({"a": 0.5, "b": 0.5})
    assert heard[-1].values["state"] == "finished"


def test_the_reported_loss_is_the_weighted_sum_of_its_terms(runs, samples, make_fit, heard):
    runs(make_fit(samples, objective={"labels": {"weight": 0.4}}))
    for event in epochs(heard):
        terms = event.values["terms"]
        expected = 0.4 * terms["labels"] + 0.9 * terms["soft_targets"]
        assert event.values["train_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("model", ["mlp", "batch"])
def test_same_seed_same_bits(runs, samples, make_fit, equal, model):
    fit = make_fit(samples, model=model, train={"ema": 0.9})
    first, second = runs(fit, "one"), runs(fit, "two")
    assert equal(runs.weights(fit, "one"), runs.weights(fit, "two"))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_asking_further_ahead_changes_nothing(runs, samples, make_fit, equal):
    fit = make_fit(samples)
    runs(fit, "one", depth=1)
    runs(fit, "two", depth=7)
    assert equal(runs.weights(fit, "one"), runs.weights(fit, "two"))


def test_another_replica_differs(runs, samples, make_fit, equal):
    one, other = make_fit(samples, seed=1), make_fit(samples, seed=2)
    runs(one, "one")
    runs(other, "two")
    assert not equal(runs.weights(one, "one"), runs.weights(other, "two"))
    assert not equal(
        build_network(one, samples).state_dict(), build_network(other, samples).state_dict()
    )


def test_what_ran_before_does_not_matter(runs, samples, make_fit, equal):
    fit = make_fit(samples)
    runs(fit, "one")
    torch.manual_seed(99)
    torch.rand(7)
    runs(fit, "two")
    assert equal(runs.weights(fit, "one"), runs.weights(fit, "two"))


def test_every_row_is_trained_on_once_per_epoch(runs, samples, make_fit):
    seen = []

    class Recording(NoTargets):
        def collect(self, ticket, timeout_s):
            seen.append((ticket.batch.rows.numpy(), ticket.batch.view_B.numpy()))
            return {}

    fit = make_fit(samples, teacher_infos=(), plan={"rows": samples.splits["train"]})
    runs(fit, source=Recording())
    rows, views = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    size = len(samples.splits["train"])
    assert len(rows) == 3 * size
    for epoch in range(3):
        part = slice(epoch * size, (epoch + 1) * size)
        np.testing.assert_array_equal(np.sort(rows[part]), samples.splits["train"])
        assert set(views[part].tolist()) == {epoch}


def test_best_and_last_weights_are_those_of_their_epochs(runs, samples, make_fit, heard, equal):
    fit = make_fit(samples, train={"epochs": 6, "optimizer": {"type": "sgd", "lr": 0.5}})
    result = runs(fit)
    told = [e.values["validation"] for e in epochs(heard)]
    order = [(v["accuracy"], -v["nll"]) for v in told]
    assert result["best_epoch"] == order.index(max(order))
    assert result["best"] == told[result["best_epoch"]]
    assert result["last"] == told[-1]
    for which in ("best", "last"):
        network = build_network(fit, samples)
        network.model.load_state_dict(runs.weights(fit, which=which))
        rows = samples.labelled_rows("validation")
        found = validate(network, samples, rows, World())
        assert found == pytest.approx(result[which], rel=1e-6)
        log_probs = predict(network, samples, rows, torch.device("cpu"))
        labels = samples.labels[rows]
        assert (log_probs.argmax(1).numpy() == labels).mean() == pytest.approx(found["accuracy"])


def test_select_by_nll(runs, samples, make_fit, heard):
    fit = make_fit(
        samples, train={"epochs": 6, "select": "nll", "optimizer": {"type": "sgd", "lr": 0.5}}
    )
    result = runs(fit)
    nlls = [e.values["validation"]["nll"] for e in epochs(heard)]
    assert result["best_epoch"] == nlls.index(min(nlls))


def test_half_of_validation_chooses_the_best_epoch(runs, samples, make_fit, heard):
    """The half that fits temperatures has no say, whatever its labels are."""
    training = {"epochs": 6, "optimizer": {"type": "sgd", "lr": 0.5}}
    rows = samples.labelled_rows("validation")
    fits_N = calibration_half(torch.from_numpy(samples.ids[rows].copy())).numpy()
    assert 0 < fits_N.sum() < len(rows)
    wrong = samples.labels.copy()
    wrong[rows[fits_N]] = (wrong[rows[fits_N]] + 1) % samples.class_count
    mislabelled = replace(samples, labels=wrong, all_labels=wrong)

    def told(data, select_on):
        heard.clear()
        fit = make_fit(samples, train={**training, "select_on": select_on})
        result = runs(fit, f"{select_on}-{data is samples}", samples=data)
        return result["best_epoch"], [event.values["validation"] for event in epochs(heard)], fit

    best, numbers, fit = told(samples, "half")
    assert told(mislabelled, "half")[:2] == (best, numbers)
    assert told(mislabelled, "all")[1] != told(samples, "all")[1]
    order = [(one["accuracy"], -one["nll"]) for one in numbers]
    assert best == order.index(max(order))
    network = build_network(fit, samples)
    network.model.load_state_dict(runs.weights(fit, "half-True", which="best"))
    found = validate(network, samples, rows[~fits_N], World())
    assert found == pytest.approx(numbers[best], rel=1e-6)


def test_early_stopping(runs, samples, make_fit, heard):
    # A learning rate of almost nothing: the first epoch stays the best.
    fit = make_fit(
        samples,
        train={"epochs": 9, "early_stopping": {"patience_epochs": 2}, "schedule": {"type": "constant"},
               "optimizer": {"type": "sgd", "lr": 1e-30, "momentum": 0.0}},
    )  # fmt: skip
    result = runs(fit)
    assert result["best_epoch"] == 0
    assert result["epochs"] == 3
    assert result["steps"] == 3 * fit.plan.steps_per_epoch
    assert len(epochs(heard)) == 3


def test_a_finished_fit_is_not_trained_again(runs, samples, make_fit, heard):
    fit = make_fit(samples)
    first = runs(fit)
    heard.clear()
    assert runs(fit) == first
    assert not heard


def test_another_recipe_is_trained_anew_in_the_same_folder(runs, samples, make_fit, heard):
    runs(make_fit(samples))
    heard.clear()
    changed = make_fit(samples, train={"epochs": 2})
    assert runs(changed)["identity"] == changed.identity
    assert len(epochs(heard)) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"epochs": 4}},
        {"train": {"optimizer": {"type": "adamw", "lr": 0.03}}},
        {"objective": {"labels": {"weight": 0.2}}},
        {"plan": {"views": 3}},
        {"plan": {"seed": 6}},
        {"seed": 12},
        {"labels": "all"},
        {"data": "other"},
        {"teacher_infos": ("a",)},
        {"teachers": {"a": "another fingerprint"}},
        {"freeze": ("head",)},
        {"lr_factors": {"head": 0.1}},
    ],
)
def test_all_that_decides_the_result_is_in_the_identity(samples, make_fit, change):
    given = {"teachers": {"a": "a fingerprint"}}
    assert make_fit(samples, **{**given, **change}).identity != make_fit(samples, **given).identity


def test_a_fit_whose_epoch_all_of_validation_chooses_is_what_it_was_before_half_could(
    samples, make_fit
):
    plain, whole, half = (
        make_fit(samples, train={"select_on": one}).identity for one in (None, "all", "half")
    )
    assert plain == whole != half


def test_how_often_a_checkpoint_is_written_is_not(samples, make_fit):
    assert (
        make_fit(samples, train={"checkpoint_every_epochs": 3}).identity
        == make_fit(samples).identity
    )


def test_a_loss_that_diverges_stops_the_fit_with_a_hint(runs, samples, make_fit):
    fit = make_fit(samples, model="mlp")
    fit = replace(fit, model=FactoryModel(path="raykd_test_models:exploding"))
    with pytest.raises(TrainingError, match=r"loss became (nan|inf).*lower train.optimizer.lr"):
        runs(fit)
    assert runs.reporter("run").folder(fit.fit_id).result() is None


def test_a_loss_that_diverged_on_another_worker_stops_this_one_too(runs, samples, make_fit):
    """Else this one would wait for ever in its next collective call."""
    once = trainer(runs, make_fit(samples))
    once.all_sum = lambda total: total + math.nan
    with pytest.raises(TrainingError, match="loss became nan"):
        once.run()


def test_weights_that_break_in_the_last_step_of_an_epoch_are_found(runs, samples, make_fit):
    """The loss was finite, the update was not: validation tells, and nothing is kept as the best."""
    fit = make_fit(samples, train={"epochs": 1, "batch_size": 96, "schedule": {"type": "constant"}})
    once = trainer(runs, fit)

    def breaking(optimizer, args, kwargs):
        with torch.no_grad():
            next(once.module.network.parameters()).fill_(math.nan)

    once.update.optimizer.register_step_post_hook(breaking)
    with pytest.raises(TrainingError, match="validation loss became"):
        once.run()
    assert runs.reporter("run").folder(fit.fit_id).result() is None


def test_the_gradient_s_norm_is_clipped(runs, samples, make_fit):
    norms = {}
    for clip in (None, 0.01):
        once = trainer(runs, make_fit(samples, train={"epochs": 1, "clip_norm": clip}), str(clip))
        norms[clip] = []

        def measured(optimizer, args, kwargs, seen=norms[clip], once=once):
            grads = [p.grad for p in once.module.parameters() if p.grad is not None]
            seen.append(float(torch.stack([g.norm() for g in grads]).norm()))

        once.update.optimizer.register_step_pre_hook(measured)
        once.run()
    assert min(norms[None]) > 0.011
    assert max(norms[0.01]) <= 0.01 * (1 + 1e-5)


def test_frozen_parts_stay_as_they_were_and_factors_slow_others(runs, samples, make_fit):
    fit = make_fit(samples, model="batch", train={"epochs": 2})
    first, last = "blocks.0", "head"
    before = {n: t.clone() for n, t in build_network(fit, samples).model.state_dict().items()}
    frozen = make_fit(samples, model="batch", train={"epochs": 2}, freeze=(first,))
    runs(frozen, "frozen")
    after = runs.weights(frozen, "frozen")
    below = [n for n in before if n.startswith(f"{first}.")]
    assert below
    assert any(n.endswith("running_mean") for n in below), "batch statistics must not move either"
    assert all(torch.equal(before[n], after[n]) for n in below)
    assert any(not torch.equal(before[n], after[n]) for n in before if n not in below)

    slow = make_fit(samples, model="batch", train={"epochs": 2}, lr_factors={last: 0.0})
    runs(slow, "slow")
    kept = [n for n in before if n.startswith(f"{last}.")]
    assert all(torch.equal(before[n], runs.weights(slow, "slow")[n]) for n in kept)


def test_bfloat16_trains_in_float32_weights(runs, samples, make_fit, equal):
    fit, exact = make_fit(samples, train={"precision": "bfloat16", "epochs": 6}), make_fit(samples)
    assert runs(fit, "half")["best"]["accuracy"] > 0.7
    assert all(t.dtype == torch.float32 for t in runs.weights(fit, "half").values())
    runs(exact, "full")
    assert not equal(runs.weights(fit, "half"), runs.weights(exact, "full"))


def test_moving_average_is_what_is_validated_and_kept(runs, samples, make_fit):
    fit = make_fit(samples, train={"ema": 0.8, "epochs": 2}, model="batch")
    once = trainer(runs, fit)
    trail = []

    def recorded(optimizer, args, kwargs):
        trail.append(
            {n: p.detach().clone() for n, p in once.module.network.model.named_parameters()}
        )

    once.update.optimizer.register_step_post_hook(recorded)
    result = once.run()
    kept = runs.weights(fit)
    for name in trail[0]:
        mean = trail[0][name].double()
        for weights in trail[1:]:
            mean = 0.8 * mean + 0.2 * weights[name].double()
        torch.testing.assert_close(kept[name].double(), mean, rtol=1e-5, atol=1e-6)
        assert not torch.equal(kept[name], trail[-1][name])
    network = build_network(fit, samples)
    network.model.load_state_dict(kept)
    found = validate(network, samples, samples.labelled_rows("validation"), World())
    assert found == pytest.approx(result["last"], rel=1e-6)


def test_feature_terms_train_their_projector_which_stays_out_of_the_weights(
    runs, samples, make_fit
):
    terms = [{"loss": {"type": "hint"}, "teacher": "a", "student_tap": "blocks.0",
              "teacher_tap": "blocks.0", "weight": 2.0}]  # fmt: skip
    fit = make_fit(samples, model="cnn", objective={"features": terms})
    once = trainer(runs, fit)
    before = [p.detach().clone() for p in once.module.objective.parameters()]
    assert before
    once.run()
    assert all(
        not torch.equal(one, other)
        for one, other in zip(before, once.module.objective.parameters(), strict=True)
    )
    assert runs.weights(fit).keys() == build_network(fit, samples).model.state_dict().keys()


def test_class_weights_balanced_by_the_labels_it_may_see(make_samples, make_fit):
    samples = make_samples(labels=20)
    fit = make_fit(samples, teacher_infos=(), objective={"labels": {"class_weights": "balanced"}})
    weights = build_module(fit, samples).objective.class_weights_C
    labels = samples.labels[samples.labelled_rows("train")]
    counts = np.bincount(labels, minlength=3)
    np.testing.assert_allclose(weights.numpy(), 20 / (3 * counts), rtol=1e-6)
    assert np.average(weights.numpy()[labels]) == pytest.approx(1.0)


def test_labels_outside_the_budget_are_not_learnt_from(runs, samples, make_fit, equal):
    """Hidden labels are changed, and nothing else changes."""
    hidden = samples.splits["train"][samples.labels[samples.splits["train"]] < 0]
    assert len(hidden)
    other = samples.all_labels.copy()
    other[hidden] = (other[hidden] + 1) % 3
    fit = make_fit(samples, objective={"labels": {"weight": 1.0}})
    runs(fit, "one")
    told = runs.source(fit)
    runs.samples = replace(samples, all_labels=other)
    runs(fit, "two", source=told)
    assert equal(runs.weights(fit, "one"), runs.weights(fit, "two"))
    every = make_fit(samples, labels="all")
    runs(every, "three", source=told)
    assert not equal(runs.weights(fit, "one"), runs.weights(every, "three"))


def test_mixup_and_sample_weights_train(make_samples, make_fit, runs):
    mixed = make_samples({"type": "mixup", "alpha": 1.0}, count=2, weighted=True)
    runs.samples = mixed
    fit = make_fit(mixed, plan={"views": 2}, train={"epochs": 6})
    assert runs(fit)["best"]["accuracy"] > 0.6


def test_validation_does_not_depend_on_how_its_rows_are_batched(samples, make_fit, monkeypatch):
    fit = make_fit(samples, model="cnn")
    network = build_network(fit, samples)
    rows = samples.labelled_rows("validation")
    whole = validate(network, samples, rows, World())
    monkeypatch.setattr("raykd.train.validation._BATCH", 5)
    parts = validate(network, samples, rows, World())
    assert parts == pytest.approx(whole, rel=1e-6)
    log_probs = predict(network, samples, rows, torch.device("cpu"))
    torch.testing.assert_close(log_probs.exp().sum(dim=1), torch.ones(len(rows)))
    assert isinstance(network, Network)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_with_every_term(runs, samples, make_fit):
    terms = [{"loss": {"type": "hint"}, "teacher": "a", "student_tap": "blocks.0",
              "teacher_tap": "blocks.0", "weight": 1.0}]  # fmt: skip
    labels = {"fill": "ensemble", "class_weights": "balanced"}
    weighting = {"type": "fixed", "weights": {"a": 1, "b": 2}}
    fit = make_fit(
        samples, model="cnn", train={"ema": 0.5},
        objective={"labels": labels, "weighting": weighting, "features": terms},
    )  # fmt: skip
    once = Trainer(
        fit, samples, runs.source(fit), runs.reporter("gpu"),
        World(device=torch.device("cuda")), depth=2,
    )  # fmt: skip
    assert once.run()["best"]["accuracy"] > 0.5


def test_epochs_go_together_but_none_is_behind_a_checkpoint(
    runs, samples, make_fit, heard, monkeypatch
):
    """Who goes on from a checkpoint does not tell of the epochs before it, so that they have to be told by then."""
    calls, behind = [], []

    def emit(*events):
        calls.append(len(events))
        for event in events:
            heard(event)

    def saved(_folder, state, *_):
        behind.append(state["next_epoch"] - len(epochs(heard)))

    monkeypatch.setattr(FitFolder, "save", saved)
    fit = make_fit(samples, train={"epochs": 9, "checkpoint_every_epochs": 4})
    reporter = FolderReporter(runs.reporter("run").run, emit, together_s=math.inf)
    runs(fit, reporter=reporter)
    assert behind == [0, 0, 0], "after epochs 4 and 8, and at the end"
    assert calls == [1, 3, 4, 1, 1], "the first at once, then what waited; the end of the fit"
    assert [event.epoch for event in epochs(heard)] == list(range(1, 10))


def test_what_waits_is_told_when_a_fit_fails(runs, samples, make_fit, heard):
    def emit(*events):
        for event in events:
            heard(event)

    class Lost(FolderReporter):
        def report(self, event):
            super().report(event)
            if event.kind == "epoch" and event.epoch == 3:
                raise TrainingError("lost")

    with pytest.raises(TrainingError, match="lost"):
        runs(
            make_fit(samples, train={"epochs": 9}),
            reporter=Lost(runs.reporter("run").run, emit, together_s=math.inf),
        )
    assert [event.epoch for event in epochs(heard)] == [1, 2, 3]
