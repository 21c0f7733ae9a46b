"""Returns by variant in the report: its words, its tables, its pictures, and what a run without any shows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from raykd.errors import InputError
from raykd.evaluate.returns import Cast, Rolled, over_variants, returns_numbers
from raykd.folders import write_json
from raykd.report import verdict, write_report
from raykd.report.folder import read_run
from raykd.report.return_figures import _variant
from raykd.report.return_words import return_words
from raykd.report.returns import along_the_way, differences, return_cells, returns

pytestmark = pytest.mark.figures

LEVELS = {"student": 262, "best_teacher": 255, "hard": 190, "wide": 264, "deep": 240, "vit": 230, "ensemble": 266, "random": -190}  # fmt: skip
FALLS = {"nominal": 0, "windy": 90, "heavy": 20, "storm": 140}
SEVERAL = ("student", "best_teacher", "hard")


def rolled(model, fall, replicas, episodes=60):
    common_E = np.random.default_rng(fall).normal(0, 40, episodes)
    random = np.random.default_rng(len(model) + fall)
    own_RE = random.normal(0, 15, (replicas, episodes))
    level = LEVELS[model] - (fall if model != "random" else 0)
    return Rolled(
        returns_RE=level + common_E + own_RE,
        lengths_RE=random.integers(150, 350, (replicas, episodes)),
        success_RE=level + common_E + own_RE > 150,
        agreed_RE=np.full((replicas, episodes), 200.0),
        apart_RE=np.full((replicas, episodes), 12.0),
    )


def numbers(replicas=5):
    found = {
        variant: {m: rolled(m, fall, replicas if m in SEVERAL else 1) for m in LEVELS}
        for variant, fall in FALLS.items()
    }
    cast = Cast(students=SEVERAL, best=dict.fromkeys(FALLS, "wide"))
    overall = {"episodes": 60, "trained_on": ["nominal", "windy", "heavy"]}
    return {"returns": returns_numbers(found, cast), "returns_overall": {**overall, **over_variants(found, cast)}}  # fmt: skip


@pytest.fixture(scope="module")
def run(make_run):
    run = make_run(name="lander-20261130T101500Z")
    add(run)
    count, shape = 6, (40, 60, 3)
    frames = np.random.default_rng(0).integers(0, 255, (2, count, *shape), dtype=np.uint8)
    (run / "returns").mkdir()
    steps = np.tile(np.arange(count) * 40, (2, 1))
    np.savez(run / "returns" / "frames.npz", names=["student", "wide"], frames=frames, steps=steps,
             returns=np.array([271.3, 255.0]), variant="nominal")  # fmt: skip
    return run


def add(run, replicas=5):
    path = run / "summary.json"
    summary = {**json.loads(path.read_text()), **numbers(replicas)}
    write_json(path, summary)


def test_the_first_sentence_is_of_the_return(run):
    words = verdict(read_run(run).summary)
    assert words[0].startswith("The student earns 26")
    assert "the best teacher, wide, 26" in words[0]
    assert "60 common seeds and 5 replicas" in words[0]
    shifts = words[1]
    assert shifts.startswith("Against the best teacher of each shift it earns ")
    assert shifts.count("never seen in training") == 1
    assert "wide, never seen in training" in shifts
    told = " ".join(words)
    assert "It earns more than “hard labels”" in told
    assert "more on windy, heavy and storm" in told
    assert "interquartile mean of its normalised return" in told


@pytest.mark.parametrize(("by", "says"), [(60, "more ("), (-60, "less ("), (0, "no difference")])
def test_a_difference_is_told_as_what_its_interval_shows(run, by, says):
    summary = json.loads((run / "summary.json").read_text())
    gain = summary["returns"]["nominal"]["student"]["against_teacher"]
    gain |= {"mean": float(by), "ci95_bootstrap": [by - 10.0, by + 10.0]}
    assert says in return_words(summary)[0]


def test_tables_have_a_column_for_each_variant_and_an_interval_in_each_cell(run):
    data = read_run(run)
    table = returns(data)
    assert table.columns == ("model", "normalised", *FALLS)
    assert [row[0] for row in table.rows][:3] == ["student", "best teacher alone", "hard labels"]
    assert all("(" in cell for cell in table.rows[0][2:6])
    assert len(table.records) == len(LEVELS) * len(FALLS)
    assert "Nobody's training saw storm" in table.note
    pairs = differences(data)
    assert len(pairs.rows) == 3 * len(FALLS)
    assert pairs.rows[0][0] == "nominal, against best teacher, wide"
    assert len(along_the_way(data).rows) == len(LEVELS) * len(FALLS)
    assert next(cells["model"] for cells in return_cells(data.summary)) == "student"


def test_the_page_shows_returns_and_frames(run):
    page = write_report(run).read_text()
    for part in ("figure-returns", "table-returns", "figure-frames", "table-along_the_way"):
        assert f'id="{part}"' in page
    assert (run / "report" / "figures" / "frames.png").stat().st_size > 1000
    assert (run / "report" / "tables" / "return_differences.csv").is_file()


@pytest.mark.usefixtures("undrawn")
def test_a_single_replica_has_no_interval_against_controls(make_run):
    run = make_run(replicas=1, name="one")
    add(run, replicas=1)
    words = " ".join(return_words(read_run(run).summary))
    assert "1 replica can show" in words
    assert "without an interval" in words
    assert write_report(run).is_file()


def test_a_run_that_does_not_act_has_none(make_run):
    data = read_run(make_run(name="plain"))
    assert return_words(data.summary) == []
    assert returns(data) is differences(data) is along_the_way(data) is None
    assert data.frames is None
    assert return_cells(data.summary) == []


def test_damaged_frames_are_named(make_run):
    run = make_run(name="damaged")
    (run / "returns").mkdir()
    (run / "returns" / "frames.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match=r"frames\.npz"):
        read_run(run)


@pytest.mark.parametrize(("below", "shown"), [(1000.0, False), (1.0, True)])
def test_what_lies_far_below_is_told_in_words_so_that_the_others_can_be_told_apart(
    run, below, shown
):
    summary = read_run(run).summary
    nominal = summary["returns"]["nominal"]
    top = nominal["student"]["ci95_bootstrap"][0] - below
    far = {**nominal["hard"], "ci95_bootstrap": [top - 50, top], "return": top - 25}
    axes = Figure().subplots()
    _variant(axes, summary, ["student", "wide", "hard"], {**nominal, "hard": far})
    assert len(axes.texts) == (not shown)
    assert bool(axes.get_xlim()[0] < top) is shown
