"""From which teacher a student has what it learns: shares of the pull, and who decides."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from raykd.evaluate.influence import pivotal, pull, pull_of
from raykd.evaluate.kept import Decisions

TEACHERS = ("a", "b", "c")


def log_probs(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).mul(2).log_softmax(-1)


@pytest.fixture
def decisions() -> Decisions:
    """60 samples of 4 classes, 2 replicas, 3 teachers."""
    labels_N = torch.randint(-1, 4, (60,), generator=torch.Generator().manual_seed(9))
    teachers = {name: log_probs(seed, 60, 4) for seed, name in enumerate(TEACHERS)}
    return Decisions(
        labels_N=labels_N,
        groups_N=labels_N,
        student_RNC=log_probs(10, 2, 60, 4),
        baseline_RNC=log_probs(11, 2, 60, 4),
        ensemble_NC=torch.stack(list(teachers.values())).exp().mean(0).log(),
        teachers=teachers,
    )


WEIGHTS = np.array([0.5, 0.2, 0.3])


def reference(decisions, weights, rows):
    """The share of each teacher by the formula, in float64, weighed by ‖q − p̄‖²."""
    q_RNC = decisions.baseline_RNC.double().exp().numpy()
    p_TNC = np.stack([one.double().exp().numpy() for one in decisions.teachers.values()])
    mean_NC = np.einsum("t,tnc->nc", weights, p_TNC)
    top, bottom = np.zeros(len(weights)), 0.0
    for q_NC in q_RNC:
        for n in rows:
            whole = q_NC[n] - mean_NC[n]
            for k, weight in enumerate(weights):
                share = weight * (q_NC[n] - p_TNC[k, n]) @ whole / (whole @ whole)
                top[k] += share * (whole @ whole)
            bottom += whole @ whole
    return top / bottom


def test_shares_equal_the_formula_and_sum_to_1_on_any_samples(decisions):
    found = pull_of(decisions, 7 * WEIGHTS)  # weights are normalised
    groups_N = decisions.groups_N.numpy()
    for keep_N in (None, groups_N == 2, groups_N == -1, np.arange(60) == 5):
        rows = range(60) if keep_N is None else np.flatnonzero(keep_N)
        shares = found.shares(keep_N)
        assert shares == pytest.approx(reference(decisions, WEIGHTS, rows), rel=1e-6)
        assert shares.sum() == pytest.approx(1, abs=1e-12)
    assert found.parts_TN.sum(0) == pytest.approx(found.size_N, rel=1e-12)


def test_the_order_of_teachers_does_not_matter(decisions):
    backwards = replace(decisions, teachers=dict(reversed(decisions.teachers.items())))
    assert pull_of(backwards, WEIGHTS[::-1]).shares()[::-1] == pytest.approx(
        pull_of(decisions, WEIGHTS).shares()
    )
    one, other = pivotal(decisions, WEIGHTS), pivotal(backwards, WEIGHTS[::-1])
    assert one == other


def test_equal_teachers_have_their_weights_as_shares_and_decide_nothing(decisions):
    same = replace(decisions, teachers=dict.fromkeys(TEACHERS, decisions.teachers["a"]))
    assert pull_of(same, WEIGHTS).shares() == pytest.approx(WEIGHTS)
    assert pull_of(same, np.ones(3)).shares() == pytest.approx(np.full(3, 1 / 3))
    assert {one.samples for one in pivotal(same, WEIGHTS).values()} == {0}


def test_one_teacher_has_all_of_it_and_is_not_left_out(decisions):
    alone = replace(decisions, teachers={"a": decisions.teachers["a"]})
    assert pull_of(alone, np.ones(1)).shares() == pytest.approx([1.0])
    assert pivotal(alone, np.ones(1)) == {"a": None}
    found = pivotal(decisions, np.array([1.0, 0.0, 0.0]))
    assert found["a"] is None
    assert found["b"].samples == found["c"].samples == 0


def test_a_teacher_that_draws_the_other_way_has_a_negative_share():
    start = torch.tensor([[[0.6, 0.4]]])
    towards, away = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.7, 0.3]])
    shares = pull(start, {"towards": towards, "away": away}, np.array([0.5, 0.5])).shares()
    assert shares == pytest.approx([0.3 / 0.25, -0.05 / 0.25])


def test_samples_without_a_pull_are_left_out_and_counted(decisions):
    known = replace(decisions, baseline_RNC=decisions.baseline_RNC.clone())
    agreed = torch.stack([torch.tensor(w) * p.double().exp() for w, p in
                          zip(WEIGHTS, decisions.teachers.values(), strict=True)]).sum(0)  # fmt: skip
    known.baseline_RNC[:, :4] = agreed[:4].log().float()
    found = pull_of(known, WEIGHTS)
    assert found.without == 4
    assert found.shares() == pytest.approx(reference(decisions, WEIGHTS, range(4, 60)), rel=1e-5)
    assert np.isnan(found.shares(np.arange(60) < 4)).all()


def test_without_a_control_the_student_begins_with_all_alternatives_alike(decisions):
    uniform = torch.zeros(1, 60, 4).log_softmax(-1)
    bare = pull_of(replace(decisions, baseline_RNC=None), WEIGHTS)
    assert bare.shares() == pytest.approx(
        pull_of(replace(decisions, baseline_RNC=uniform), WEIGHTS).shares()
    )


def test_a_teacher_that_knows_some_classes_pulls_on_these_alone(decisions):
    few = decisions.teachers["c"].clone()
    few[:, 3] = -torch.inf
    partial = replace(decisions, teachers={**decisions.teachers, "c": few.log_softmax(-1)})
    found = pull_of(partial, WEIGHTS)
    assert found.shares().sum() == pytest.approx(1, abs=1e-12)
    q_NC = decisions.baseline_RNC[0].double().exp().numpy()
    over_NC = np.where(np.arange(4) < 3, q_NC, 0.0) / q_NC[:, :3].sum(1, keepdims=True)
    p_TNC = [one.double().exp().numpy() for one in partial.teachers.values()]
    pulls = [0.5 * (q_NC - p_TNC[0]), 0.2 * (q_NC - p_TNC[1]), 0.3 * (over_NC - p_TNC[2])]
    first = pull_of(replace(partial, baseline_RNC=decisions.baseline_RNC[:1]), WEIGHTS)
    parts_TN = np.stack([(part * sum(pulls)).sum(1) for part in pulls])
    assert first.parts_TN == pytest.approx(parts_TN, rel=1e-4, abs=1e-8)  # from float32 answers


def test_who_decides_equals_plain_counting(decisions):
    p_TNC = np.stack([one.double().exp().numpy() for one in decisions.teachers.values()])
    labels, students = decisions.labels_N.numpy(), decisions.student_RNC.argmax(-1).numpy()
    with_N = np.einsum("t,tnc->nc", WEIGHTS, p_TNC).argmax(1)
    for k, (name, found) in enumerate(pivotal(decisions, WEIGHTS).items()):
        left = np.where(np.arange(3) == k, 0, WEIGHTS)
        without_N = np.einsum("t,tnc->nc", left / left.sum(), p_TNC).argmax(1)
        turned = np.flatnonzero(with_N != without_N)
        assert name == TEACHERS[k]
        assert found.samples == len(turned) > 0
        assert found.right == sum(with_N[n] == labels[n] for n in turned)
        assert found.wrong == sum(without_N[n] == labels[n] for n in turned)
        assert found.followed == pytest.approx(
            np.mean([sum(row[n] == with_N[n] for n in turned) for row in students])
        )


def test_of_values_the_same_split_holds():
    start = torch.tensor([[[1.0], [4.0]], [[2.0], [3.0]]])
    teachers = {"a": torch.tensor([[2.0], [2.0]]), "b": torch.tensor([[4.0], [0.0]])}
    found = pull(start, teachers, np.array([0.5, 0.5]))
    assert found.size_N == pytest.approx([(2**2 + 1**2) / 2, (3**2 + 2**2) / 2])
    assert found.shares().sum() == pytest.approx(1)
    assert found.shares()[0] == pytest.approx(
        0.5 * ((-1 * -2) + (0 * -1) + (2 * 3) + (1 * 2)) / (4 + 1 + 9 + 4)
    )
