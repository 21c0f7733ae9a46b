import copy
import json

import pytest

from raykd.evaluate import paired_t_pvalue, spread
from raykd.evaluate.statistics import t_interval
from raykd.report import Row, result_table
from raykd.report.cost import latency_tile
from raykd.report.verdicts import outcome, p_values, verdict
from raykd.tasks import find_task


def gain(mean, ci95, n=5):
    return {"mean": mean, "ci95": ci95, "ci95_bootstrap": ci95, "n": n, "values": [mean] * n}


def model(accuracy, **kwargs):
    numbers = {"accuracy": accuracy, "nll": 0.3, "ece": 0.02}
    return {
        "validation": numbers,
        "test": numbers,
        "test_last": numbers,
        "parameters": 1000,
        "flops": 2000,
        "bytes": 4000,
        "latency_ms": {"1": 0.5, "256": 20.0},
        **kwargs,
    }


def over_replicas(accuracy, n):
    numbers = {"accuracy": spread([accuracy] * n), "nll": spread([0.3] * n)}
    return {**model(0), "validation": numbers, "test": numbers, "test_last": numbers}


def summary_of(gains, n=5, **kwargs):
    controls = {role: over_replicas(0.90, n) for role in gains}
    ensemble = model(0.96, parameters=12_000, latency_ms={"1": 4.0, "256": 600.0})
    return {
        "schema": 1,
        "status": "complete",
        "task": "classification",
        "student": over_replicas(0.93, n),
        "controls": controls,
        "ensemble": ensemble,
        "teachers": {"deep": model(0.94), "wide": model(0.95)},
        "fidelity": {
            "agreement_ensemble": spread([0.95] * n),
            "kl_ensemble_nats": spread([0.2] * n),
            "agreement": {},
            "gap_recovered": {"ensemble": spread([0.5] * n), "best_teacher": spread([0.6] * n)},
        },
        "gains": gains,
        "labels_used": {"student": 200},
        "test_scored_times": 1,
        "cost": {
            "parameters": 12.0,
            "flops": 6.0,
            "bytes": 12.0,
            "latency": {"1": 8.0, "256": 30.0},
        },
        "timing": {},
        "targets": {},
        **kwargs,
    }


WIN, LOSS, TIE = (
    gain(0.03, [0.021, 0.039]),
    gain(-0.02, [-0.03, -0.01]),
    gain(0.002, [-0.01, 0.014]),
)
SINGLE = gain(0.03, None, n=1)


def test_win():
    assert verdict(summary_of({"labels": WIN}))[0] == (
        "Distillation helps here: the student reaches 93.0 % test accuracy, the same network trained "
        "on labels alone 90.0 %; that is 3.00 points more (95 % interval of the difference +2.10 to "
        "+3.90, 5 paired replicas), 50 % of the distance from labels alone to the ensemble (95 % interval "
        "50 % to 50 %)."
    )


def test_a_gain_has_its_share_of_the_gap_only_where_there_is_one():
    for values in ([None, 0.1], [-0.3, 0.1], [0.5]):
        summary = summary_of({"labels": WIN})
        summary["fidelity"]["gap_recovered"]["ensemble"] = spread(values)
        assert verdict(summary)[0].endswith("5 paired replicas).")


def test_a_loss_is_said_as_plainly():
    assert verdict(summary_of({"labels": LOSS}))[0] == (
        "Distillation hurts here: the student reaches 93.0 % test accuracy, the same network trained "
        "on labels alone 90.0 %; that is 2.00 points less (95 % interval of the difference −3.00 to "
        "−1.00, 5 paired replicas)."
    )


def test_an_interval_that_contains_zero_is_no_difference():
    assert verdict(summary_of({"labels": TIE}))[0] == (
        "Distillation makes no difference that these 5 replicas can show: the student reaches 93.0 % "
        "test accuracy, the same network trained on labels alone 90.0 % (difference +0.20 points, "
        "95 % interval −1.00 to +1.40)."
    )


def test_one_replica_has_no_interval_and_no_claim():
    first = verdict(summary_of({"labels": SINGLE}, n=1))[0]
    assert first.startswith("One replica cannot show whether distillation helps here")
    assert "(difference +3.00 points)" in first
    assert "no interval is possible" in first


def test_without_the_baseline_nothing_is_claimed():
    first = verdict(summary_of({}))[0]
    assert first.startswith("Whether distillation helps here is not known")
    assert not any("recovers" in sentence for sentence in verdict(summary_of({})))


def test_other_controls():
    overrides = {
        "hard": "objective.soft_targets=null objective.labels.weight=1",
        "labels": "objective.a=b",
    }
    lost = {"labels": WIN, "best_teacher": TIE, "hard": LOSS}
    sentences = verdict(summary_of(lost) | {"overrides": overrides})
    assert sentences[1] == (
        "Against the same network taught by the best single teacher (wide) there is no difference "
        "that these 5 replicas can show (+0.20 points, 95 % interval −1.00 to +1.40)."
    )
    assert sentences[2].startswith(
        "It loses to the same network taught the ensemble's hard labels by 2.00 points"
    )
    assert sentences[2].endswith(f" This would have taught it so: `{overrides['hard']}`.")
    assert not any(overrides["labels"] in sentence for sentence in sentences)
    first = verdict(summary_of({"labels": LOSS}) | {"overrides": overrides})[0]
    assert first.endswith(" This teaches it labels alone: `objective.a=b`.")
    assert verdict(summary_of(lost))[2].endswith("paired replicas)."), (
        "an earlier version's summary"
    )
    sentences = verdict(summary_of({"labels": WIN, "best_teacher": WIN}))
    assert sentences[1].startswith("It beats the same network taught by the best single teacher")
    sentences = verdict(summary_of({"labels": SINGLE, "hard": SINGLE}, n=1))
    assert sentences[1].endswith("the difference is +3.00 points, without an interval.")


def test_the_primary_comparison_is_not_corrected_and_the_others_are():
    """Three differences of p = 0.03 each: one alone is a gain, two are none that the replicas can show.

    At 7d0af11: "Distillation helps here" above a table that said p = 0.115 of the same difference.
    """
    values = [0.004, 0.0015, 0.006, 0.002, 0.001]
    mean, interval = sum(values) / 5, t_interval(values)
    same = {**gain(mean, interval), "values": values}
    assert 0.025 < paired_t_pvalue(values) < 0.05
    assert interval[0] > 0
    summary = summary_of({"labels": same, "best_teacher": same, "hard": same})
    found = p_values(summary)
    assert found["labels"] == pytest.approx(paired_t_pvalue(values))
    assert found["hard"] == found["best_teacher"] == pytest.approx(2 * found["labels"])
    first, *others = verdict(summary)
    assert first.startswith("Distillation helps here")
    for sentence in others[:2]:
        assert "no difference that these 5 replicas can show" in sentence
        assert "p = 0.071 corrected for the number of controls" in sentence


def trained(best_epochs, own, epochs=10):
    summary = summary_of({"labels": WIN})
    training = {"epochs": [epochs] * 5, "best_epoch": best_epochs, "train": spread([own] * 5)}
    return verdict({**summary, "training": training})


def test_under_training_is_said_before_all_else():
    """At 7d0af11: "Distillation helps here" by 0.8 points, 17 below the ensemble, after SGD that had hardly begun."""
    sentence = trained([10, 10, 10, 4, 10], 0.90)[1]
    assert sentence.startswith(
        "The student looks under-trained: the best epoch is the last one in 4 of 5 replicas, and it reaches "
        "90.0 % on labelled training samples themselves, where the ensemble reaches 96.0 % on new ones."
    )
    assert "train.epochs" in sentence
    assert trained([3] * 5, 0.80)[1].startswith(
        "The student looks under-trained: it reaches 80.0 %"
    )


@pytest.mark.parametrize(("best", "own"), [(10, 0.99), (10, 0.95), (3, 0.90)])
def test_a_student_that_learnt_what_it_saw_is_not_under_trained(best, own):
    assert not any("under-trained" in sentence for sentence in trained([best] * 5, own))


def test_confidence_is_said():
    summary = summary_of({"labels": WIN}, targets={"sharpen": {"student": 0.43}})
    tested = {**summary["student"]["test"], "ece": spread([0.2] * 5), "temperature": spread([0.6] * 5),
              "nll_calibrated": spread([0.11] * 5), "ece_calibrated": spread([0.02] * 5)}  # fmt: skip
    summary["student"]["test"] = tested
    text = " ".join(verdict(summary))
    assert "sharpened at T = 0.43" in text
    assert "At a temperature of its own (0.6, from half of validation)" in text
    assert "NLL 0.11, ECE 0.02 (before: NLL 0.3, ECE 0.2)" in text


@pytest.mark.parametrize(
    ("interval", "expected"),
    [([0.0, 0.1], "tie"), ([-0.1, 0.0], "tie"), ([0.001, 0.1], "win"), ([-0.1, -0.001], "loss")],
)
def test_an_interval_that_touches_zero_claims_nothing(interval, expected):
    assert outcome(gain(0.01, interval)) == expected


def test_what_is_kept_and_what_it_costs():
    text = " ".join(verdict(summary_of({"labels": WIN})))
    assert (
        "It keeps 96.9 % of the ensemble's accuracy (93.0 % of 96.0 %, 3.00 points short)" in text
    )
    assert "the ensemble's answer on 95.0 % of the test samples (KL 0.200 nats)" in text
    assert "50 % of the distance from labels alone to the ensemble" in text
    assert "Of the distance from labels alone to the best teacher, wide, it recovers 60 %." in text
    text = " ".join(verdict(summary_of({"labels": TIE})))
    assert "recovers 50 % of the distance from labels alone to the ensemble" in text
    assert "(of that to the best teacher, wide: 60 %)" in text
    assert "12.0 times fewer parameters (1.00 k instead of 12.0 k)" in text
    assert (
        "answers one sample 8.00 times faster (0.50 ms instead of 4.00 ms, one thread) and a batch of 256 30.0 times "
        "faster (20.0 ms instead of 600 ms)." in text
    )
    assert "overhead" not in text
    assert "busy" not in text


def of_forests(**latency):
    """The ensemble's calls take 20 ms, and 0.1 ms for each sample."""
    summary = summary_of({"labels": WIN}, **latency)
    summary["teachers"] = {
        "forest": model(0.94, latency_ms={"1": 18.05, "256": 30.8}),
        "wide": model(0.95, latency_ms={"1": 2.05, "256": 14.8}),
    }
    summary["ensemble"]["latency_ms"] = {"1": 20.1, "256": 45.6}
    summary["cost"]["latency"] = {"1": 40.2, "256": 2.28}
    return summary


def test_overhead_of_calls_is_no_merit():
    """At 7d0af11: a tile "1223×" of an estimator's calls with one sample."""
    text = " ".join(verdict(of_forests()))
    assert (
        "and answers a batch of 256 2.28 times faster (20.0 ms instead of 45.6 ms, one thread)."
        in text
    )
    assert (
        "One sample takes it 0.50 ms instead of 20.1 ms (40.2 times faster), but 100 % of the ensemble's time is "
        "overhead of its calls, of forest most of all, which a batch pays once." in text
    )
    assert latency_tile(of_forests()) == (
        "2.3×", "faster, batch of 256", "one sample: 40.2×, mostly overhead of calls",
    )  # fmt: skip
    assert latency_tile(summary_of({})) == ("8.0×", "faster, one sample", "batch of 256: 30.0×")


def test_a_batch_that_was_not_measured_is_left_out():
    summary = summary_of({"labels": WIN})
    summary["ensemble"]["latency_ms"] = {"1": 4.0, "256": None}
    summary["cost"]["latency"] = {"1": 8.0, "256": None}
    text = " ".join(verdict(summary))
    assert "answers one sample 8.00 times faster (0.50 ms instead of 4.00 ms, one thread)." in text
    assert latency_tile(summary) == ("8.0×", "faster, one sample", "")
    summary["cost"]["latency"] = {"1": 0.8, "256": None}
    assert latency_tile(summary) is None


def test_latency_of_a_busy_machine_is_marked():
    """At 7d0af11: one teacher 29.9 ms in one run and 2.6 in the next, "188×" and "20×", without a word."""
    seen = {
        "busy": True,
        "others": 1.53,
        "cpus": 2,
        "spread": 0.41,
        "threaded": ["forest"],
        "seconds": 2.0,
    }
    text = " ".join(verdict(of_forests(latency=seen)))
    assert (
        "The machine was busy while latency was measured (other processes used 1.5 of 2 CPUs and typical calls took 41 % "
        "longer than the shortest): measure again with `raykd report RUN --measure` when nothing else runs."
        in text
    )
    assert "Calls of forest kept several CPUs at work" in text


def test_a_student_that_costs_more_is_said_to():
    summary = summary_of({"labels": WIN})
    summary["cost"] = {"parameters": 0.5, "flops": None, "bytes": 1.0, "latency": {"1": 0.25}}
    text = " ".join(verdict(summary))
    assert "2.00 times more parameters" in text
    assert "4.00 times slower" in text
    assert "FLOPs" not in text


def test_a_gap_that_is_not_there_is_named():
    summary = summary_of({"labels": TIE})
    summary["fidelity"]["gap_recovered"]["ensemble"] = spread([None, 0.1])
    assert any("not defined" in sentence for sentence in verdict(summary))


def test_nothing_recovered():
    summary = summary_of({"labels": LOSS})
    summary["fidelity"]["gap_recovered"]["ensemble"] = spread([-0.2, 0.0])
    assert (
        "It recovers nothing of the distance from labels alone to the ensemble (−10 %)."
        in verdict(summary)
    )


def test_a_student_above_the_ensemble():
    summary = summary_of({"labels": WIN})
    summary["ensemble"]["test"]["accuracy"] = 0.92
    assert any("reaches the ensemble's accuracy (93.0 %" in one for one in verdict(summary))


def test_caveats():
    summary = summary_of({"labels": WIN}, status="degraded", test_scored_times=3)
    text = " ".join(verdict(summary))
    assert "Test was scored 3 times" in text
    assert "degraded" in text


def test_runs_without_a_result():
    assert "has no result" in verdict({"schema": 1, "status": "failed"})[0]
    assert result_table({"schema": 1, "status": "failed"}) == []
    unlabelled = {**summary_of({}), "student": {**over_replicas(0.9, 2), "test": None}}
    assert "no labels" in verdict(unlabelled)[0]
    assert result_table(unlabelled)[0].value is None


def test_result_table():
    rows = result_table(summary_of({"labels": WIN, "hard": TIE}))
    assert [(row.name, row.role) for row in rows] == [
        ("student", "student"),
        ("labels alone", "labels"),
        ("hard labels", "hard"),
        ("deep", "teacher"),
        ("wide", "teacher"),
        ("ensemble", "ensemble"),
    ]
    assert rows[0] == Row("student", "student", 0.93, 0.0, 0.3, 0.0, 1000, 0.5, 5)
    assert rows[-1] == Row("ensemble", "ensemble", 0.96, None, 0.3, None, 12_000, 4.0, 1)


def test_nothing_is_changed():
    summary = summary_of({"labels": WIN})
    before = copy.deepcopy(summary)
    verdict(summary)
    result_table(summary)
    assert summary == before
    json.dumps(summary)


def test_the_second_number_s_deviation_is_in_its_own_unit():
    assert find_task("embedding").text.second.spread(0.003) == "0.3"
    assert find_task("classification").text.second.spread(0.003) == "0.003"
