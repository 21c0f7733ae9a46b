"""`raykd explain` on a finished run of images."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from raykd.evaluate import Evaluation
from raykd.folders import read_json

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def explained(finished, call, tmp_path_factory):
    """A copy of the run with an explanation, and how the command ended; nobody may change it."""
    run = shutil.copytree(finished.path, tmp_path_factory.mktemp("explained") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYKD_HOME", str(finished.home))
        ended = call("explain", run, "--samples", "6", "--patch", "3", "--stride", "3")
    return run, ended


def test_page_numbers_and_figures_are_there(explained):
    run, ended = explained
    assert ended.code == 0, ended
    page = run / "explain" / "explain.html"
    assert ended.out.splitlines()[-1] == f"explanation: {page}"
    numbers = read_json(page.with_name("explain.json"))
    assert list(numbers["similarity"]) == ["ensemble", "teacher/wide", "teacher/conv"]
    for name, one in numbers["similarity"].items():
        assert -1 <= one["spearman"]["student"]["mean"] <= 1
        assert 0 <= one["top20_iou"]["control"]["mean"] <= 1
        assert f"| {name.removeprefix('teacher/')} " in ended.out
    assert "explain  " in ended.out  # how far it was
    text = page.read_text()
    assert {path.stem for path in (run / "explain" / "figures").iterdir()} == {
        "similarity", "maps", "deletion"
    }  # fmt: skip
    assert len(re.findall("<svg ", text)) == 2 * 3  # for a desktop and for a phone
    assert "Patches of 3×3 pixels, every 3" in text


def test_it_explains_the_samples_on_which_they_part(explained):
    run, _ = explained
    numbers, test = read_json(run / "explain" / "explain.json"), _test(run)
    student, ensemble = (a.argmax(1) for a in (test.students["student"][0], test.ensemble))
    assert numbers["parted"] == int((student != ensemble).sum()) > 6
    assert numbers["samples"] == len(numbers["each"]) == 6
    place = {key: row for row, key in enumerate(test.user_ids)}
    for one in numbers["each"]:
        row = place[one["id"]]
        assert one["answers"]["student"] == str(int(student[row]))
        assert one["answers"]["ensemble"] == one["explained"] == str(int(ensemble[row]))
        assert one["answers"]["student"] != one["answers"]["ensemble"]
        assert one["truth"] == str(int(test.labels_N[row]))
        assert [len(line) for line in one["maps"]["student"]] == [3, 3, 3]


def _test(run):
    return Evaluation.load(run / "evaluation.safetensors").splits["test"]


def test_the_report_names_the_page(explained, finished):
    run, _ = explained
    assert '<a href="../explain/explain.html">' in (run / "report" / "index.html").read_text()
    assert "[occlusion maps](../explain/explain.html)" in (run / "report" / "report.md").read_text()
    assert "explain.html" not in (finished.path / "report" / "index.html").read_text()


def test_json_alone_is_printed_and_the_run_is_left_as_it_is(finished, call, monkeypatch, tmp_path):
    monkeypatch.setenv("RAYKD_HOME", str(finished.home))
    output = tmp_path / "new" / "maps"
    ended = call("explain", finished.path, "--samples", "2", "--patch", "8", "--split", "validation",
                 "--output", output, "--json")  # fmt: skip
    assert ended.code == 0, ended
    numbers = json.loads(ended.out)
    written = read_json(output / "explain.json")
    assert {**numbers, "each": written["each"]} == written
    assert numbers["split"] == "validation"
    # of one part there are no ranks
    assert numbers["similarity"]["ensemble"]["spearman"]["student"] == {
        "mean": None,
        "ci95": None,
        "n": 0,
    }
    assert "no map has ranks to compare" in (output / "explain.html").read_text()
    assert not (finished.path / "explain").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--patch", "9"), "--patch: found 9; allowed: 1 to 8 pixels"),
        (("--patch", "2", "--stride", "3"), "--stride: found 3; allowed: 1 to 2 pixels"),
        (("--output", "report"), "--output: report holds something else than an explanation"),
    ],
)
def test_wrong_arguments_are_refused(finished, call, folder, words, why):
    (folder / "report").mkdir()
    (folder / "report" / "figures").mkdir()
    ended = call("explain", finished.path, "--trust", *words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error  {why}"), ended.err
    assert (folder / "report" / "figures").is_dir()


def test_teachers_whose_weights_are_gone_are_named(finished, call):
    ended = call(
        "explain", finished.path, "--trust"
    )  # in a home of its own, where no teacher is kept
    assert (ended.code, ended.out) == (2, "")
    assert "none of its teachers can be asked about new inputs: wide was fitted, but" in ended.err
