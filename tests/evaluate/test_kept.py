"""What a student keeps and loses, against plain counting in numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, fisher_exact, pearsonr, spearmanr

from raykd.evaluate.kept import (
    Decisions,
    Shares,
    decisions_of,
    entropy_kept,
    kept_numbers,
    kept_shares,
    more_than_elsewhere,
    overconfidence,
)
from raykd.evaluate.slices import slice_numbers
from raykd.evaluate.statistics import fisher, holm, wilson
from raykd.tasks import find_task

GROUPS = 4


@pytest.fixture
def decisions(make_evaluation) -> Decisions:
    """200 samples of 4 classes, 5 replicas, every ninth without a label."""
    test = make_evaluation().splits["test"]
    labels_N = torch.where(torch.arange(200) % 9 == 0, -1, test.labels_N)
    return decisions_of(test, labels_N=labels_N, groups_N=labels_N)


def counted(decisions, group=None):
    """(hits, of) of each measure by a loop over samples and replicas."""
    labels = decisions.labels_N.numpy()
    student, base = (x.double().numpy() for x in (decisions.student_RNC, decisions.baseline_RNC))
    whole = decisions.ensemble_NC.double().numpy()
    found = {name: [0.0, 0.0] for name in ("retention", "negative_flips", "positive_flips")}
    for r in range(len(student)):
        for n in range(len(labels)):
            if labels[n] == -1 or (group is not None and labels[n] != group):
                continue
            own, control, ensemble = (
                one.argmax() == labels[n] for one in (student[r, n], base[r, n], whole[n])
            )
            found["retention"][0] += own and ensemble
            found["retention"][1] += ensemble
            found["negative_flips"][0] += not own and control
            found["negative_flips"][1] += control
            found["positive_flips"][0] += own and not control
            found["positive_flips"][1] += not control
    return {name: (hits / len(student), of / len(student)) for name, (hits, of) in found.items()}


def test_shares_equal_plain_counting_by_class_and_in_all(decisions):
    found = kept_shares(decisions, GROUPS)
    for measure, shares in found.items():
        for group in range(GROUPS):
            hits, of = counted(decisions, group)[measure]
            assert (shares.hits_G[group], shares.of_G[group]) == pytest.approx((hits, of))
        hits, of = counted(decisions)[measure]
        assert shares.whole.share[0] == pytest.approx(hits / of)
        number = kept_numbers(decisions)[measure]
        assert number["share"] == pytest.approx(hits / of)
        assert number["n"] == pytest.approx(of)
        assert [number["low95"], number["high95"]] == pytest.approx(wilson(hits, of).tolist())


def test_wilson_equals_scipy_and_is_undefined_of_nothing():
    for hits, of in ((0, 1), (0, 30), (7, 20), (50, 50), (999, 1000)):
        bounds = binomtest(hits, of).proportion_ci(0.95, method="wilson")
        assert wilson(hits, of) == pytest.approx([bounds.low, bounds.high], abs=1e-12)
    assert np.isnan(wilson([0, 0], [0, 0])).all()
    assert (wilson(2.5, 20) > wilson(2, 20)).all()
    assert (wilson(2.5, 20) < wilson(3, 20)).all()


def test_fisher_equals_scipy():
    for hits, of, all_hits, everywhere in ((3, 20, 10, 200), (0, 20, 10, 200), (20, 20, 25, 60)):
        rest = all_hits - hits, everywhere - of - all_hits + hits
        expected = fisher_exact([[hits, of - hits], list(rest)], alternative="greater").pvalue
        assert float(fisher(hits, of, all_hits, everywhere)) == pytest.approx(expected)


def test_what_is_notable_is_corrected_and_small_groups_are_left_out():
    parts = Shares(np.array([12.0, 1.0, 2.0, 5.0]), np.array([40.0, 200.0, 150.0, 6.0]))
    found = more_than_elsewhere(parts, parts.whole)
    raw = [float(fisher(h, n, 20, 396)) for h, n in ((12, 40), (1, 200), (2, 150))]
    assert found[:3] == pytest.approx(holm(raw))
    assert np.isnan(found[3])
    assert found[0] < 0.001
    assert found[1] == 1.0


def test_means_of_counts_are_rounded_to_the_cautious_side():
    halves = Shares(np.array([3.8, 1.2]), np.array([30.0, 100.0]))
    whole = Shares(np.array([3.0, 2.0]), np.array([30.0, 100.0]))
    assert more_than_elsewhere(halves, halves.whole)[0] == pytest.approx(
        more_than_elsewhere(whole, whole.whole)[0]
    )


def test_a_group_that_is_all_there_is_is_compared_with_nothing():
    alone = Shares(np.array([3.0]), np.array([30.0]))
    assert np.isnan(more_than_elsewhere(alone, alone.whole)).all()


def test_a_student_that_says_what_the_ensemble_says_keeps_all_of_it(decisions):
    same = replace(decisions, student_RNC=decisions.ensemble_NC[None].expand(5, -1, -1))
    assert kept_shares(same, GROUPS)["retention"].share == pytest.approx(np.ones(GROUPS))
    entropy = entropy_kept(same)
    assert entropy["correlation"]["mean"] == pytest.approx(1)
    assert entropy["rank_correlation"]["mean"] == pytest.approx(1)
    as_before = replace(decisions, student_RNC=decisions.baseline_RNC)
    numbers = kept_numbers(as_before)
    assert numbers["negative_flips"]["share"] == numbers["positive_flips"]["share"] == 0.0


def test_entropies_equal_scipy(decisions):
    found = entropy_kept(decisions)

    def entropies(log_probs):
        log_probs = log_probs.double().numpy()
        return -(np.exp(log_probs) * log_probs).sum(-1)

    own_RN, whole_N = entropies(decisions.student_RNC), entropies(decisions.ensemble_NC)
    assert found["student"]["values"] == pytest.approx(own_RN.mean(1).tolist())
    assert found["ensemble"] == pytest.approx(whole_N.mean())
    for r, own_N in enumerate(own_RN):
        assert found["correlation"]["values"][r] == pytest.approx(pearsonr(own_N, whole_N)[0])
        assert found["rank_correlation"]["values"][r] == pytest.approx(spearmanr(own_N, whole_N)[0])


def test_certainty_has_entropy_0_and_no_correlation(decisions):
    certain = torch.full_like(decisions.ensemble_NC, -torch.inf)
    certain[:, 1] = 0.0
    found = entropy_kept(replace(decisions, ensemble_NC=certain))
    assert found["ensemble"] == 0.0
    assert found["correlation"]["mean"] is None


def test_overconfidence_by_class_equals_numpy_and_vanishes_in_all_where_calibrated(decisions):
    found = overconfidence(decisions.student_RNC, decisions, GROUPS)
    probs, labels = decisions.student_RNC.double().exp().numpy(), decisions.labels_N.numpy()
    for group in range(GROUPS):
        of_group = probs[:, labels == group]
        right = of_group.argmax(-1) == group
        assert found[group] == pytest.approx(of_group.max(-1).mean() - right.mean())
    none = replace(decisions, groups_N=torch.full_like(decisions.groups_N, -1))
    assert np.isnan(overconfidence(decisions.student_RNC, none, GROUPS)).all()


def test_without_labels_control_or_another_class(decisions):
    unlabelled = replace(decisions, labels_N=torch.full_like(decisions.labels_N, -1))
    assert kept_numbers(unlabelled)["retention"] == {
        "share": None,
        "low95": None,
        "high95": None,
        "n": 0.0,
    }
    no_control = replace(decisions, baseline_RNC=None)
    assert set(kept_shares(no_control, GROUPS)) == {"retention"}
    assert kept_numbers(no_control)["negative_flips"]["share"] is None
    one_class = replace(
        decisions,
        labels_N=decisions.labels_N.clamp(max=0),
        groups_N=decisions.labels_N.clamp(max=0),
    )
    shares = kept_shares(one_class, GROUPS)["retention"]
    assert shares.of_G[1:].sum() == 0
    assert np.isnan(shares.share[1:]).all()


def test_the_summary_s_slices_hold_what_the_slice_alone_would(make_evaluation):
    evaluation = make_evaluation(replicas=1)
    keep_N = torch.arange(200) % 3 == 0
    found = slice_numbers(evaluation, {"third": keep_N})["third"]["kept"]
    alone = find_task("classification").metrics.decisions(evaluation.splits["test"].only(keep_N))
    assert found == kept_numbers(alone)


def test_labels_of_a_multilabel_are_decisions_between_yes_and_no():
    from raykd.evaluate import SplitOutputs

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (30, 3), generator=generator)
    labels[4] = -1

    def logits(*shape):
        return torch.randn(*shape, generator=generator)

    split = SplitOutputs(
        labels_N=labels, ids_N=torch.arange(30), teachers={"a": logits(30, 3)}, ensemble=logits(30, 3),
        students={"student": logits(2, 30, 3), "labels": logits(2, 30, 3)}, task="multilabel",
    )  # fmt: skip
    found = find_task("multilabel").metrics.decisions(split)
    assert found.student_RNC.shape == (2, 90, 2)
    assert found.student_RNC[..., 0].exp().flatten() == pytest.approx(
        split.students["student"].sigmoid().flatten()
    )
    shares = kept_shares(found, 3)["retention"]
    for k in range(3):
        known = labels[:, k] >= 0
        truth = labels[known, k].bool()
        ensemble = (split.ensemble[known, k] > 0) == truth
        own = (split.students["student"][:, known, k] > 0) == truth
        assert shares.of_G[k] == int(ensemble.sum())
        assert shares.hits_G[k] == pytest.approx(float((own & ensemble).sum()) / 2)
