"""What a report must not do: be cut on a phone, draw what says nothing, show little as much.

The rows of strangers' findings under "Report"; what 7d0af11 did is in each docstring.
"""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from jobs.page_widths import WIDTHS, chromium, measure
from raykd.evaluate import Evaluation
from raykd.report import figures
from raykd.report.folder import read_run
from raykd.report.style import drawn, styled
from raykd.tasks.classification import figures as class_figures

pytestmark = pytest.mark.figures

BROWSER = chromium()
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium on the path or in $CHROMIUM, in which pages are measured"
)


@pytest.fixture(scope="module")
def reported(make_run, call):
    """A finished run whose teachers count nearly the same, with an estimator among them, and its report."""
    run = make_run(replicas=2, classes=tuple(f"a long name of class {n}" for n in range(10)))
    summary = json.loads((run / "summary.json").read_text())
    for model in (summary["teachers"]["vit"], summary["ensemble"]):
        model["parameters"] = None
    summary["cost"]["parameters"] = None
    (run / "summary.json").write_text(json.dumps(summary))
    lines = (run / "metrics.jsonl").read_text().splitlines()[:-1]
    epochs = [
        json.loads(line) | {"weights": {"wide": 0.334, "deep": 0.333, "vit": 0.333}}
        for line in lines
    ]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, epochs)))
    ended = call("report", run)
    assert ended.code == 0, ended.err
    return run


@needs_browser
@pytest.mark.parametrize(
    "width", [WIDTHS[0], *(pytest.param(one, marks=pytest.mark.soak) for one in WIDTHS[1:])]
)
def test_nothing_is_cut_on_a_phone_or_a_desktop(reported, width):
    """At 7d0af11: exit 0, and charts and wide tables were cut at the right edge of a phone."""
    assert measure(BROWSER, reported / "report" / "index.html", width) == []


@needs_browser
def test_what_does_not_fit_is_found(tmp_path):
    page = tmp_path / "page.html"
    svg = '<svg viewBox="0 0 800 10" width="800" height="10"><text x="790" y="8">away</text></svg>'
    page.write_text(
        f'<main><p style="width: 700px">wide</p><figure id="figure-x"><div style="overflow: auto">{svg}</div></figure>'
        '<section id="table-x"><h3>Title</h3><div class="scroll" style="overflow: auto"><table><tr>'
        f"<td style='white-space: nowrap'>{'cell ' * 40}</td></tr></table></div></section></main>"
    )
    found = " ".join(measure(BROWSER, page, 390))
    for words in (
        "<p> wide sticks out",
        "chart has to be scrolled",
        "<text> away is cut",
        "Title: the table scrolls",
    ):
        assert words in found, found


def test_equal_weights_are_no_picture(reported):
    """At 7d0af11: "Weight of each teacher", three lines on one another."""
    assert not (reported / "report" / "figures" / "weights.png").exists()
    assert "Weight of each teacher" not in (reported / "report" / "index.html").read_text()


def test_models_without_parameters_have_a_place_in_the_size_plot(reported):
    """At 7d0af11: they were left out of it, without a word."""
    with styled():
        picture = figures.size(read_run(reported))
    assert picture is not None
    assert {"vit", "ensemble", "wide"} <= set(re.findall(r">([^<>]+)</text>", picture.svg))
    assert "whose parameters are not counted" in picture.caption


def test_no_number_of_a_page_is_minus_zero(reported):
    """At 7d0af11: "−0" in a confusion of half a point."""
    page = (reported / "report" / "index.html").read_text()
    assert not re.search(
        r"[−-]0(?:\.0+)?(?![\d.])", re.sub(r"<style.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    )


@pytest.fixture
def caught(monkeypatch):
    """The matplotlib figures that would be drawn."""
    found = []
    for module in (figures, class_figures):
        monkeypatch.setattr(module, "finish", lambda figure, **_: found.append(figure))
    return found


@pytest.mark.parametrize("shape", ["overfits", "learns", "breaks down"])
def test_no_curve_runs_off_its_axis_after_the_first_epochs(reported, caught, shape):
    """At 7d0af11: a tenth of all values lay outside, wherever they were, such as an NLL that rose at the end."""
    data = read_run(reported)
    for records in data.epochs.values():
        for record in records:
            late = record["epoch"] > 25
            worse = {"overfits": 4.0, "learns": 0.1, "breaks down": 9.0}[shape] if late else 0.5
            record["validation"] |= {"nll": worse, "accuracy": 1 / (1 + worse)}
    with styled():
        figures.learning(data)
    for axes in caught[0].axes:
        low, high = axes.get_ylim()
        for line in axes.get_lines():
            epochs, values = (np.asarray(one, float) for one in line.get_data())
            later = values[epochs > 3] if len(values) > 2 else values
            assert low <= later.min() and later.max() <= high  # noqa: PT018


@pytest.mark.parametrize(("moved", "strong"), [(1, False), (10, True)])
def test_a_point_of_a_binary_confusion_looks_like_a_point(reported, caught, moved, strong):
    """At 7d0af11: the largest difference had the darkest orange, were it one point of a hundred."""
    data = read_run(reported)
    labels_N = torch.tensor([0, 1]).repeat_interleave(100)
    ensemble = torch.nn.functional.one_hot(labels_N, 2).float().log_softmax(dim=1)
    student = ensemble.clone()
    student[:moved] = student[:moved].flip(1)
    test = data.evaluation.splits["test"]
    split = type(test)(labels_N=labels_N, ids_N=torch.arange(200), teachers={}, ensemble=ensemble,
                       students={"student": student[None]}, students_last={})  # fmt: skip
    evaluation = Evaluation(splits={"validation": split, "test": split}, classes=("no", "yes"))
    with styled():
        class_figures.confusions(type(data)(**{**vars(data), "evaluation": evaluation}))
    mesh = caught[0].axes[0].collections[0]
    faded = mesh.to_rgba(mesh.get_array()).reshape(-1, 4)[:, :3].min()
    assert (faded < 0.1) == strong
    assert (faded > 0.7) == (not strong)


def test_a_figure_of_one_s_own_that_is_wide_serves_both_rooms():
    from matplotlib.figure import Figure

    from raykd.report.style import finish

    def make():
        figure = Figure(figsize=(7.0, 2.0))
        figure.add_subplot().plot([0, 1])
        return finish(figure, name="own", title="Own", caption="")

    (picture,) = drawn([make])
    assert picture.narrow is None
