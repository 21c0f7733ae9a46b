"""What a report says of other models and of slices."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from raykd.evaluate import Evaluation
from raykd.evaluate.external_baselines import external_baseline_numbers
from raykd.evaluate.slices import slice_numbers
from raykd.folders import read_json, write_json
from raykd.report import verdict, write_report


@pytest.fixture(scope="module")
def told(make_run, tmp_path_factory):
    """A run with a model of today (a teacher's answers) and two slices, one of them the hard 8s."""
    run = tmp_path_factory.mktemp("others") / "run"
    shutil.copytree(make_run(), run)
    whole = Evaluation.load(run / "evaluation.safetensors")
    splits = {n: replace(s, rivals={"today": s.teachers["vit"]}) for n, s in whole.splits.items()}
    evaluation = replace(whole, splits=splits)
    labels = splits["test"].labels_N
    summary = read_json(run / "summary.json")
    cost = {
        key: summary["teachers"]["vit"][key]
        for key in ("parameters", "flops", "bytes", "latency_ms")
    }
    summary["compare"] = {"today": {**external_baseline_numbers(evaluation, "today"), **cost}}
    few = torch.arange(len(labels)) < 9
    summary["slices"] = slice_numbers(
        evaluation, {"eights": labels == 8, "rest": labels != 8, "nine": few}
    )
    write_json(run / "summary.json", summary)
    write_report(run)
    return run, summary


def test_the_verdict_names_the_other_model_and_the_worst_slice(told):
    _, summary = told
    sentences = verdict(summary)
    (against,) = [
        s for s in sentences if s.startswith("Against today, which nothing was learnt from")
    ]
    gain = summary["compare"]["today"]["gain"]
    low, high = gain["ci95_bootstrap"]
    how = "better" if low > 0 else "worse" if high < 0 else "not surely different"
    assert f"it is {how}: " in against
    assert "9.02 times fewer parameters" in against
    odds = summary["compare"]["today"]["mcnemar"]
    (alone,) = [s for s in sentences if "McNemar" in s]
    assert f"right {odds['student_only']} times, today {odds['model_only']} times" in alone
    (worst,) = [s for s in sentences if s.startswith("Worst on ")]
    eights = summary["slices"]["eights"]
    assert worst.startswith(
        f"Worst on eights: {100 * eights['student']['accuracy']['mean']:.1f} % against"
    )
    assert f"({eights['n']} samples; labels alone " in worst
    assert "Too few labelled test samples to say much (fewer than 30): nine (9)." in sentences


def test_page_and_tables_hold_both(told):
    run, summary = told
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    for text in ("Against other models", "compared: today", "On parts of test", "nine", "9 (few)"):
        assert text in page
    tables = run / "report" / "tables"
    head, *lines = (tables / "slices.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["eights", "rest", "nine"]
    assert {"student_nll", "labels_nll", "ensemble_ece"} <= set(head.split(","))
    (line,) = (tables / "compared.csv").read_text().splitlines()[1:]
    assert float(line.split(",")[1]) == pytest.approx(summary["compare"]["today"]["gain"]["mean"])
    assert "today" in (tables / "results.csv").read_text()
    assert "today" in (tables / "costs.csv").read_text()


def test_a_run_without_either_says_nothing_of_them(make_run):
    summary = read_json(make_run() / "summary.json")
    assert not [s for s in verdict(summary) if "Worst on" in s or "McNemar" in s]
