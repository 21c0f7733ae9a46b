"""Decisions on failures, and what a teacher must show first: both without Ray."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from raykd.config.roles import Expect
from raykd.config.root import TeacherCluster
from raykd.errors import TeacherError
from raykd.targets.codec import decode
from raykd.tasks.classification.selftest import best_label_map, check_accuracy, permuted
from raykd.teachers.executor import Pool, Replicas
from raykd.teachers.model import TeacherModel
from raykd.teachers.policy import BREAKS, FailurePolicy
from raykd.teachers.selftest import check_classes, check_repeatable
from raykd.types import Dense


@pytest.mark.parametrize(
    ("cause", "replicas", "actions"),
    [
        ("dead", 1, ["retry", "retry"]),
        ("hung", 1, ["restart", "restart"]),
        ("hung", 3, ["restart", "restart"]),
        ("slow", 1, ["wait", "restart"]),
        ("slow", 2, ["retry", "restart"]),
        ("slow", 3, ["retry", "retry"]),
        ("non_finite", 1, ["retry", "restart"]),
        ("non_finite", 2, ["retry", "restart"]),
        ("failed", 1, ["retry", "restart"]),
        ("failed", 3, ["retry", "retry"]),
    ],
)
def test_another_replica_then_a_restart_then_the_configured_end(cause, replicas, actions):
    for on_failure, end in (("stop", "stop"), ("renormalise", "leave_out")):
        policy = FailurePolicy(on_failure, 3, replicas)
        decisions = [policy.decide("wide", cause, n, breaks=n) for n in (1, 2, 3)]
        assert [d.action for d in decisions] == [*actions, end]
        for number, decision in enumerate(decisions, start=1):
            assert f"'wide': {cause}, attempt {number} of 3" in decision.reason


@pytest.mark.parametrize("cause", ["dead", "hung", "slow", "non_finite", "failed"])
def test_a_batch_that_broke_a_teacher_twice_is_searched(cause):
    policy = FailurePolicy("stop", 2, 2, isolates=True)
    breaks = cause in BREAKS
    first = policy.decide("wide", cause, 1, breaks=int(breaks))
    assert first.action != "isolate"
    second = policy.decide("wide", cause, 2, breaks=2 * breaks, detail="no kernel")
    assert second.action == ("isolate" if breaks else "stop")
    assert f"{cause} (no kernel), attempt 2 of 2" in second.reason


def test_a_break_during_a_search_is_an_answer():
    policy = FailurePolicy("stop", 3, isolates=True)
    for cause in BREAKS:
        found = policy.decide("wide", cause, 1, breaks=1, searched=4)
        assert found.action == "isolate"
        assert f"'wide': {cause} on 4 samples of a batch that is searched" in found.reason
    for cause in ("slow", "hung"):
        assert policy.decide("wide", cause, 1, searched=4).action != "isolate"


@pytest.mark.parametrize(("on_failure", "end"), [("stop", "stop"), ("renormalise", "leave_out")])
def test_a_teacher_without_a_living_replica_is_lost_at_once(on_failure, end):
    policy = FailurePolicy(on_failure, 9, 2, isolates=True)
    assert policy.decide("wide", "dead", 1, breaks=1, living=1).action == "retry"
    found = policy.decide("wide", "dead", 2, breaks=2, living=0)
    assert found.action == end
    assert "'wide': dead, attempt 2 of 9; it died more often than" in found.reason


@pytest.mark.parametrize(("on_failure", "end"), [("stop", "stop"), ("renormalise", "leave_out")])
def test_too_many_bad_samples_are_the_fault_of_the_data_unless_nothing_is_answered(on_failure, end):
    policy = FailurePolicy(on_failure, 3)
    assert policy.refuse("too many", sick=False).action == "stop"
    assert policy.refuse("too many", sick=True).action == end


def test_the_least_busy_living_replica_is_picked():
    pool = Pool("wide", ["a", "b", "c"], TeacherCluster(), print).replicas
    pool.outstanding = [2, 0, 1]
    assert pool.pick() == 1
    assert pool.pick(avoid=1) == 2
    pool.restarting = {1: None}
    assert pool.pick() == 2
    assert pool.pick(avoid=2) == 0
    pool.restarting = {}
    pool.dead = {1, 2}
    assert pool.pick() == 0
    assert pool.pick(avoid=0) == 0, "rather a busy one than a dead one"
    assert Pool("wide", ["a"], TeacherCluster(), print).replicas.pick(avoid=0) == 0


def answers(accuracy, count=400, classes=10, order=None, seed=0):
    """Logits that are right so often, with the classes in another order."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    predicted = np.where(rng.random(count) < accuracy, labels, rng.integers(0, classes, count))
    if order is not None:
        predicted = np.asarray(order)[predicted]
    logits = torch.nn.functional.one_hot(torch.from_numpy(predicted), classes).float() * 5
    return logits, torch.from_numpy(labels)


def test_a_good_teacher_passes():
    logits, labels = answers(0.9)
    accuracy = check_accuracy("wide", logits, labels, Expect(accuracy=0.8))
    assert accuracy == pytest.approx((logits.argmax(1) == labels).double().mean())
    check_accuracy("wide", *answers(0.25), Expect())


def test_worse_than_expected():
    with pytest.raises(
        TeacherError,
        match=r"9\d\.\d% accuracy on 400 .* less than teachers.wide.expect.accuracy=0.99",
    ):
        check_accuracy("wide", *answers(0.95), Expect(accuracy=0.99))


def test_at_chance():
    with pytest.raises(TeacherError, match=r"'wide' has .* no better than chance \(10.0%\)"):
        check_accuracy("wide", *answers(0.0), Expect())
    check_accuracy("wide", *answers(0.0), Expect(accuracy=0.0))
    constant = torch.zeros(400, 10)
    with pytest.raises(TeacherError, match="no better than chance"):
        check_accuracy("wide", constant, answers(0.5)[1], Expect())


ORDER = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)


@pytest.mark.parametrize("expect", [Expect(), Expect(accuracy=0.8)])
def test_permuted_classes_are_named_with_the_map_that_mends_them(expect):
    logits, labels = answers(0.9, order=ORDER)
    with pytest.raises(
        TeacherError, match=r"look permuted; set teachers\.wide\.label_map="
    ) as caught:
        check_accuracy("wide", logits, labels, expect)
    proposed = eval(re.search(r"label_map=(\[.*?\])", str(caught.value))[1])  # noqa: S307
    mended = torch.empty_like(logits)
    mended[:, proposed] = logits  # own class i stands for the data's class proposed[i]
    assert check_accuracy("wide", mended, labels, Expect(accuracy=0.8)) > 0.85


def test_the_proposed_map_replaces_a_wrong_one():
    logits, labels = answers(0.9, order=ORDER)
    wrong = (1, 0, 2, 3, 4, 5, 6, 7, 8, 9)
    own = logits[:, list(wrong)]  # what the model itself answers: own class i is seen as wrong[i]
    with pytest.raises(TeacherError) as caught:
        check_accuracy("wide", logits, labels, Expect(), wrong)
    proposed = eval(re.search(r"label_map=(\[.*?\])", str(caught.value))[1])  # noqa: S307
    mended = torch.empty_like(own)
    mended[:, proposed] = own
    assert (mended.argmax(1) == labels).double().mean() > 0.85


@pytest.mark.parametrize(("accuracy", "classes"), [(0.0, 100), (0.3, 100), (0.5, 50), (0.0, 2)])
def test_few_samples_of_many_classes_do_not_look_permuted(accuracy, classes):
    """Some map always fits the samples that it was found on."""
    for seed in range(5):
        logits, labels = answers(accuracy, count=120, classes=classes, seed=seed)
        found = best_label_map(logits.argmax(1).numpy(), labels.numpy(), classes)
        assert sorted(found) == list(range(classes))
        assert permuted(logits.argmax(1).numpy(), labels.numpy(), classes) is None


def partial_answers(accuracy, known):
    """Of ten classes only some are known, as the codec gives it back."""
    logits, labels = answers(accuracy)
    logits[:, [c for c in range(10) if c not in known]] = -65504.0
    return logits, labels


def test_a_teacher_of_some_classes_is_judged_by_their_samples():
    known = (1, 4, 5, 8)
    logits, labels = partial_answers(0.9, known)
    mine = torch.isin(labels, torch.tensor(known))
    right = (logits.argmax(1) == labels)[mine].double().mean().item()
    assert check_accuracy("half", logits, labels, Expect(accuracy=0.8)) == pytest.approx(right)
    found = (
        rf"on {int(mine.sum())} labelled validation samples of the 4 classes that it knows, less"
    )
    with pytest.raises(TeacherError, match=found):
        check_accuracy("half", logits, labels, Expect(accuracy=0.99))
    with pytest.raises(TeacherError, match="no labelled validation sample is of one of the 4"):
        check_accuracy("half", logits[~mine], labels[~mine], Expect())


def test_so_few_samples_that_all_right_proves_nothing_refuse_no_teacher():
    labels = torch.tensor([0, 1, 0, 1, 1])
    right = torch.nn.functional.one_hot(labels, 2).float()
    assert check_accuracy("wide", right[:3], labels[:3], Expect()) == 1.0
    assert check_accuracy("wide", 1 - right[:2], labels[:2], Expect()) == 0.0
    with pytest.raises(TeacherError, match="no better than chance"):
        check_accuracy("wide", torch.ones(40, 2), torch.arange(40) % 2, Expect())


def test_chance_of_some_classes_is_one_over_their_number():
    with pytest.raises(TeacherError, match=r"no better than chance \(25\.0%\)"):
        check_accuracy("half", *partial_answers(0.0, (1, 4, 5, 8)), Expect())


def test_class_count():
    answer = Dense(kind="logits", values_NC=torch.zeros(2, 7), valid_N=torch.ones(2).bool())
    check_classes({"wide": answer}, 7)
    with pytest.raises(TeacherError, match=r"'wide' answers 7 classes.*, the data has 10"):
        check_classes({"wide": answer}, 10)


def twice(spec, samples):
    teacher = TeacherModel(spec)
    rows = np.arange(8)
    return [{"wide": decode(teacher.score(samples, rows, np.full(8, -1)))} for _ in range(2)]


def test_repeatable(samples, make_spec):
    check_repeatable(*twice(make_spec("batch", taps=("blocks.0",)), samples))


def test_a_random_forward_pass_is_found(samples, make_spec):
    """Dropout that evaluation mode does not switch off."""
    with pytest.raises(TeacherError, match=r"'wide' answers the same samples differently .*random"):
        check_repeatable(*twice(make_spec("raykd_test_models:random"), samples))


def test_random_features_are_found_too(samples, make_spec):
    first, second = twice(make_spec("cnn", taps=("blocks.0",)), samples)
    noisy = {tap: feature + 0.5 for tap, feature in second["wide"].features.items()}
    with pytest.raises(TeacherError, match=r"by up to 0\.5"):
        check_repeatable(first, {"wide": replace(second["wide"], features=noisy)})


@pytest.mark.parametrize(("workers", "replicas"), [(8, 8), (2, 8), (8, 3)])
def test_all_replicas_are_asked_by_workers_that_know_of_their_own_requests_alone(
    workers, replicas, monkeypatch
):
    """Of 8 replicas 8 workers with two requests each asked 3: ties went to the first one."""
    picked = []
    for rank in range(workers):
        monkeypatch.setattr("raykd.teachers.executor._own_rank", lambda rank=rank: rank)
        known = Replicas(replicas)
        for _ in range(2):
            picked.append(known.pick())
            known.outstanding[picked[-1]] += 1
    counts = Counter(picked)
    assert len(counts) == min(replicas, workers + 1)
    if workers >= replicas:
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_least_busy_replica_comes_first_and_a_dead_one_last():
    known = Replicas(3)
    known.outstanding[:] = [2, 1, 5]
    assert known.pick() == 1
    assert known.pick(avoid=1) == 0
    known.dead.add(1)
    assert known.pick() == 0
