"""What an ablation says, and that it claims no more than its intervals."""

from __future__ import annotations

import json

import pytest

from raykd.folders import write_json
from raykd.report import write_report
from raykd.report.ablation import ablation_cells, ablation_verdict

pytestmark = pytest.mark.figures


def numbers(mean):
    return {"accuracy": {"mean": mean, "std": 0.01, "n": 3, "values": [mean] * 3}}


def worth(mean, low, high):
    interval = None if low is None else [low, high]
    return {
        "mean": mean,
        "ci95": interval,
        "ci95_bootstrap": interval,
        "n": 3,
        "values": [mean] * 3,
    }


def part(about, mean, low, high, p):
    return {
        "kind": "teacher", "about": about, "validation": numbers(0.8), "test": numbers(0.8),
        "test_last": None, "seconds": {"mean": 1.0, "std": None, "n": 3, "values": [1.0] * 3},
        "worth_validation": worth(mean, low, high), "worth": worth(mean, low, high), "p": p, "p_holm": p,
    }  # fmt: skip


@pytest.fixture
def summary():
    parts = {
        "teacher.wide": part("teacher wide", 0.05, 0.03, 0.07, 0.01),
        "weighting": part("weighting entropy", 0.002, -0.01, 0.014, 0.8),
        "term.labels": part("labels", -0.03, -0.05, -0.01, 0.02),
    }
    whole = part("", 0, 0, 0, 0)
    return {
        "schema": 1, "kind": "ablation", "status": "complete", "task": "classification",
        "reference": "whole", "metric": "accuracy", "whole": whole, "parts": parts,
        "ranking": list(parts), "kept": ["teacher x: it is the only one"], "teachers": {},
        "timing": {}, "targets": {}, "labels_used": {}, "test_scored_times": 1,
    }  # fmt: skip


def test_words_follow_the_corrected_p(summary):
    first, *rest = ablation_verdict(summary)
    assert first == (
        "Worth most on validation is teacher wide: +5.00 points on test (95 % interval +3.00 to +7.00)."
    )
    assert (
        rest[0]
        == "Probably helps (by 3 replicas only) on test (Holm-corrected p < 0.05): teacher wide."
    )
    assert (
        rest[1] == "Probably hurts (by 3 replicas only) on test (Holm-corrected p < 0.05): labels."
    )
    assert rest[2].startswith("Of 1 other part these 3 replicas cannot show")
    assert rest[3] == "Not left out: teacher x: it is the only one."


def test_one_replica_claims_nothing(summary):
    for one in summary["parts"].values():
        one["worth"] |= {"ci95": None, "ci95_bootstrap": None}
        one["p"] = one["p_holm"] = None
    first, *_ = ablation_verdict(summary)
    assert "One replica cannot show" in first
    assert not any("Probably" in sentence for sentence in ablation_verdict(summary))


def test_the_page_has_table_and_figure_of_every_part(summary, tmp_path):
    write_json(tmp_path / "summary.json", summary)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    for text in (
        "teacher wide",
        "weighting entropy",
        "Worth of each part",
        "What each part is worth",
    ):
        assert text in page
    assert (tmp_path / "report" / "figures" / "gains.png").read_bytes().startswith(b"\x89PNG")
    lines = (tmp_path / "report" / "tables" / "results.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["without", "whole", *summary["parts"]]
    cells = ablation_cells(summary)
    assert cells[1]["worth, test"] == "+5.00"
    assert json.dumps(cells)
