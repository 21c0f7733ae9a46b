"""What a report says of what the student keeps and loses, and from whom."""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from raykd.evaluate import Evaluation
from raykd.evaluate.influence import pivotal, pull_of
from raykd.evaluate.kept import kept_shares, more_than_elsewhere
from raykd.evaluate.representation import debiased_cka
from raykd.evaluate.slices import slice_numbers
from raykd.evaluate.statistics import wilson
from raykd.folders import read_json, write_json
from raykd.report import write_report
from raykd.report.folder import RunData, read_run
from raykd.report.kept import analyse, kept_sentences
from raykd.report.kept_figures import MAKERS
from raykd.report.kept_tables import kept_tables
from raykd.report.style import styled
from raykd.tasks import find_task

pytestmark = pytest.mark.figures

METRICS = find_task("classification").metrics


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory):
    """A run with two slices (the hard 8s, and nine samples), unequal weights and one pair of features; its report."""
    run = tmp_path_factory.mktemp("kept") / "run"
    shutil.copytree(make_run(), run)
    evaluation = Evaluation.load(run / "evaluation.safetensors")
    labels_N = evaluation.splits["test"].labels_N
    slices = {"eights": labels_N == 8, "nine": torch.arange(len(labels_N)) < 9}
    over = {"mean": 0.8125, "std": 0.02, "n": 2, "values": [0.81, 0.815]}
    pair = {"teacher": "wide", "teacher_tap": "blocks.1", "student_tap": "pool", "student": over,
            "baseline": None, "n": 1000}  # fmt: skip
    summary = read_json(run / "summary.json")
    write_json(
        run / "summary.json",
        {**summary, "slices": slice_numbers(evaluation, slices), "cka": [pair]},
    )
    write_report(run)
    return run


@pytest.fixture(scope="module")
def decisions(run):
    return METRICS.decisions(Evaluation.load(run / "evaluation.safetensors").splits["test"])


def rows_of(run, name):
    with (run / "report" / "tables" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def sentences(run):
    return kept_sentences(analyse(read_run(run)))


def starting(sentences, start):
    (found,) = [one for one in sentences if one.startswith(start)]
    return found


def test_every_class_and_slice_has_its_shares_and_intervals(run, decisions):
    shares = kept_shares(decisions, 10)
    rows = {row["name"]: row for row in rows_of(run, "kept")}
    assert list(rows) == ["all test samples", *"0123456789", "eights", "nine"]
    for measure, found in shares.items():
        for c in range(10):
            row = rows[str(c)]
            assert float(row[f"{measure}_share"]) == pytest.approx(found.share[c])
            bounds = [float(row[f"{measure}_{end}"]) for end in ("low95", "high95")]
            assert bounds == pytest.approx(wilson(found.hits_G[c], found.of_G[c]).tolist())
        eights = [float(rows[name][f"{measure}_share"]) for name in ("eights", "8")]
        assert eights[0] == pytest.approx(eights[1])
    p_G = more_than_elsewhere(shares["retention"].others, shares["retention"].whole.others)
    assert [float(rows[str(c)]["retention_p"]) for c in range(10)] == pytest.approx(p_G.tolist())
    assert rows["nine"]["retention_p"] == ""  # too few to be compared


def test_the_five_worst_are_listed_and_told(run, decisions, sentences):
    rows = rows_of(run, "kept_worst")
    assert [row["measure"] for row in rows] == ["retention"] * 5 + ["negative_flips"] * 5
    assert all(float(row["n"]) >= 20 for row in rows)
    kept = [float(row["share"]) for row in rows[:5]]
    assert kept == sorted(kept)
    assert kept[0] == pytest.approx(np.nanmin(kept_shares(decisions, 10)["retention"].share))
    lost = [float(row["share"]) for row in rows[5:]]
    assert lost == sorted(lost, reverse=True)
    worst = next(row for row in rows if row["kind"] == "class")
    told = starting(sentences, "It keeps least of what the ensemble gets right on the classes")
    assert f"{worst['name']} ({100 * float(worst['share']):.1f} %)" in told
    sure = {
        row["name"]
        for row in rows_of(run, "kept")
        if row["retention_p"] and float(row["retention_p"]) < 0.05
    }
    assert ("nowhere is it surely worse" in told) == (not sure)
    assert all(name in told for name in sure)


def test_whole_shares_are_told_with_their_intervals(decisions, sentences):
    shares = {m: one.whole for m, one in kept_shares(decisions, 10).items()}
    told = starting(sentences, "Of the test samples that the ensemble gets right")
    low, high = 100 * shares["retention"].interval[0]
    assert (
        f"{100 * shares['retention'].share[0]:.1f} % right, too (95 % interval {low:.1f} % to {high:.1f} %)"
        in told
    )
    told = starting(sentences, "Of those that the same network trained on labels alone gets right")
    assert f"it gets {100 * shares['negative_flips'].share[0]:.1f} % wrong" in told
    assert f"it gets {100 * shares['positive_flips'].share[0]:.1f} % right" in told


def test_shares_of_teachers_go_by_the_weights_of_training_and_sum_to_1(run, decisions):
    weights = np.array(
        [0.33 + 0.004 * 15.5, 0.34, 0.33 - 0.004 * 15.5]
    )  # means of what the epochs told
    found, decides = pull_of(decisions, weights), pivotal(decisions, weights)
    rows = rows_of(run, "teachers_kept")
    assert [float(row["weight"]) for row in rows] == pytest.approx(
        (weights / weights.sum()).tolist()
    )
    assert [float(row["pull"]) for row in rows] == pytest.approx(found.shares().tolist())
    for row in rows:
        one = decides[row["teacher"]]
        assert (int(row["decides"]), int(row["rightly"]), int(row["wrongly"])) == (
            one.samples, one.right, one.wrong)  # fmt: skip
        assert float(row["follows"]) == pytest.approx(one.followed / one.samples)
        assert float(row["low95"]) < float(row["follows"]) < float(row["high95"])
    table = rows_of(run, "attribution")
    assert [row["class"] for row in table] == ["all", *"0123456789"]
    for row in table:
        assert sum(float(row[name]) for name in ("wide", "deep", "vit")) == pytest.approx(1)
    eights = found.shares((decisions.groups_N == 8).numpy())
    assert [float(table[9][name]) for name in decisions.teachers] == pytest.approx(eights.tolist())


def test_features_that_were_compared_are_shown(run):
    (row,) = rows_of(run, "cka")
    assert (row["teacher"], row["student_tap"], row["cka"], row["cka_baseline"]) == (
        "wide",
        "pool",
        "0.8125",
        "",
    )
    assert "Debiased linear CKA" in (run / "report" / "report.md").read_text()


def changed(run, **changes) -> RunData:
    """The run with another test split."""
    data = read_run(run)
    evaluation = data.evaluation
    splits = {**evaluation.splits, "test": replace(evaluation.splits["test"], **changes)}
    bare = replace(evaluation, splits=splits, examples_rows=None, examples_inputs=None)
    return replace(data, evaluation=bare)


def shown(data):
    """Names of tables and pictures, and the sentences."""
    analysis = analyse(data)
    with styled():
        made = [] if analysis is None else [make(analysis) for make in MAKERS]
    pictures = [one for one in made if one is not None]
    names = {one.name for one in (*kept_tables(data, analysis), *pictures)}
    return names, [] if analysis is None else kept_sentences(analysis)


def test_one_teacher_has_everything_and_decides_nothing_that_can_be_told(run):
    test = read_run(run).evaluation.splits["test"]
    data = changed(run, teachers={"wide": test.teachers["wide"]}, ensemble=test.teachers["wide"])
    names, sentences = shown(data)
    assert "attribution" not in names
    (table,) = [t for t in kept_tables(data, analyse(data)) if t.name == "teachers_kept"]
    assert table.records == [("wide", 1.0, 1.0, *[None] * 6)]
    assert "Without its only teacher there is no ensemble" in table.note
    assert not [s for s in sentences if "pull" in s or "decides" in s]


def test_without_labels_only_what_needs_none_is_shown(run):
    test = read_run(run).evaluation.splits["test"]
    data = changed(run, labels_N=torch.full_like(test.labels_N, -1))
    data = replace(data, summary={**data.summary, "slices": {}})
    names, sentences = shown(data)
    assert names == {"teachers_kept", "cka"}
    assert sentences[0].startswith(
        "The ensemble pulls the student away from what labels alone teach"
    )


def test_without_the_control_the_pull_is_from_knowing_nothing(run):
    students = {"student": read_run(run).evaluation.splits["test"].students["student"]}
    data = changed(run, students=students)
    data = replace(data, summary={**data.summary, "slices": {}})
    names, sentences = shown(data)
    assert {"kept", "kept_worst", "attribution"} <= names
    assert not [s for s in sentences if "flips" in s]
    assert [s for s in sentences if "away from knowing nothing" in s]


def test_of_one_class_only_there_are_totals_and_no_comparisons(run):
    test = read_run(run).evaluation.splits["test"]
    data = changed(run, labels_N=torch.full_like(test.labels_N, 3))
    data = replace(data, summary={**data.summary, "slices": {}})
    names, sentences = shown(data)
    assert {"teachers_kept", "attribution", "kept"} <= names
    assert not [s for s in sentences if s.startswith("It keeps least")]
    assert sentences[0].startswith("Of the test samples that the ensemble gets right")


def test_summaries_of_earlier_versions_have_no_slices_of_this_and_no_features(run):
    data = read_run(run)
    old = {
        name: {k: v for k, v in part.items() if k != "kept"}
        for name, part in data.summary["slices"].items()
    }
    summary = {k: v for k, v in data.summary.items() if k not in ("kept", "cka")} | {"slices": old}
    data = replace(data, summary=summary, epochs={})
    analysis = analyse(data)
    assert {place.kind for place in analysis.places} == {"class"}
    assert analysis.weights_T == pytest.approx(np.full(3, 1 / 3))
    assert "cka" not in {table.name for table in kept_tables(data, analysis)}


def test_vectors_are_compared_by_their_alikeness(run):
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(60, 7, generator=generator)
    student = torch.stack([teacher @ torch.linalg.qr(torch.randn(7, 7, generator=generator)).Q] * 2)
    untrained = torch.randn(2, 60, 4, generator=generator)
    data = changed(
        run, labels_N=torch.full((60,), -1), ids_N=torch.arange(60), teachers={"known": teacher}, ensemble=teacher,
        students={"student": student, "untrained": untrained}, students_last={}, task="embedding",
    )  # fmt: skip
    data = replace(data, summary={"task": "embedding"})
    assert analyse(data) is None
    (table,) = kept_tables(data, None)
    expected = np.mean([debiased_cka(one, teacher) for one in untrained])
    assert table.records[0][3] == pytest.approx(1)
    assert table.records[0][5] == pytest.approx(expected)


def test_teachers_of_a_regression_share_the_pull(run):
    generator = torch.Generator().manual_seed(1)
    truth = torch.randn(50, generator=generator)
    near, far = truth[:, None] + 0.1, truth[:, None] + 3
    start = torch.zeros(2, 50, 1)
    data = changed(
        run, labels_N=truth, ids_N=torch.arange(50), teachers={"near": near, "far": far}, ensemble=(near + far) / 2,
        students={"student": start + truth[:, None], "labels": start}, students_last={}, task="regression",
    )  # fmt: skip
    data = replace(data, summary={"task": "regression"}, epochs={})
    assert analyse(data) is None
    table = find_task("regression").figures.tables[1](data)
    shares = {name: share for name, _, share in table.records}
    assert sum(shares.values()) == pytest.approx(1)
    p_N = ((near + far) / 2)[:, 0].double().numpy()
    expected = 0.5 * (near[:, 0].double().numpy() * p_N).sum() / (p_N * p_N).sum()
    assert shares["near"] == pytest.approx(expected, rel=1e-5)
