import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from raykd.errors import InputError
from raykd.report import write_report
from raykd.report.folder import curve, read_run
from raykd.report.verdicts import verdict

pytestmark = pytest.mark.figures

FIGURES = {
    "gains",
    "size",
    "learning",
    "classes",
    "confusions",
    "agreement",
    "calibration",
    "examples",
    "kept",
    "attribution",
    "weights",
    "timing",
}
ROOMS = 2
"""Every figure is there for a desktop and for a phone."""
TABLES = {
    "results",
    "gains",
    "quality",
    "costs",
    "fidelity",
    "classes",
    "context",
    "kept_worst",
    "kept",
    "teachers_kept",
    "attribution",
    "confidence",
}


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; complains of tags that do not match up."""

    VOID = ("meta", "link", "br", "img", "hr", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self.open = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())


@pytest.fixture(scope="module")
def written(make_run):
    run = make_run()
    return run, write_report(run)


def test_everything_is_written(written):
    run, index = written
    assert index == run / "report" / "index.html"
    assert {path.stem for path in (run / "report/figures").glob("*.png")} == FIGURES
    assert {path.stem for path in (run / "report/tables").glob("*.csv")} == TABLES
    assert (run / "report/report.md").is_file()


def test_the_page_needs_nothing_but_itself(written):
    page = Page(written[1].read_text())
    assert "script" not in page.tags
    assert "link" not in page.tags
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert value.startswith(("#", "data:")), (name, value[:80])
    assert not re.search(r"https?://|url\((?!#)|@import", written[1].read_text())
    assert page.tags.count("svg") == ROOMS * len(FIGURES)
    identifiers = [value for name, value in page.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))


def test_page_and_twin_open_with_the_verdict(written):
    run, index = written
    page = Page(index.read_text())
    twin = (run / "report/report.md").read_text()
    sentences = verdict(json.loads((run / "summary.json").read_text()))
    for sentence in sentences:
        assert sentence in page.text
        assert sentence in twin
    assert page.text.index(sentences[0]) < page.text.index("Results on test")
    for word in ("What the student keeps and loses, and from whom", "It keeps least of what"):
        assert word in page.text
        assert word in twin


def test_the_twin_has_the_same_figures_and_tables(written):
    run, _ = written
    twin = (run / "report/report.md").read_text()
    linked = re.findall(r"!\[[^]]*\]\(([^)]+)\)", twin)
    assert {f"figures/{name}.png" for name in FIGURES} == set(linked)
    assert all((run / "report" / path).is_file() for path in linked)
    blocks = re.findall(r"(?:^\|.*\n)+", twin, flags=re.MULTILINE)
    assert len(blocks) == len(TABLES)
    for block in blocks:
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_tables_are_at_full_precision(written):
    run, _ = written
    summary = json.loads((run / "summary.json").read_text())
    with (run / "report/tables/results.csv").open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    accuracy = summary["student"]["test"]["accuracy"]
    assert float(rows["student"]["accuracy"]) == accuracy["mean"]
    assert float(rows["student"]["accuracy_std"]) == accuracy["std"]
    assert rows["wide"]["accuracy_std"] == ""
    with (run / "report/tables/gains.csv").open() as file:
        gains = {row["control"]: row for row in csv.DictReader(file)}
    assert float(gains["labels"]["low95"]) == summary["gains"]["labels"]["ci95"][0]


def test_written_twice_is_the_same_and_leaves_nothing_old(written):
    run, index = written
    before = index.read_bytes()
    stale = run / "report/figures/stale.png"
    stale.write_bytes(b"")
    write_report(run)
    assert index.read_bytes() == before
    assert not stale.exists()


def test_hostile_names_stay_text(make_run):
    evil = "<script>alert('x')</script>"
    names = (evil, "_hidden", "$x_{$", "a|b`c`[d](https://e.example)", "日本", "\n# h", "", "&amp;")
    run = make_run(replicas=2, classes=(*names, "8", "x" * 200), name="run <b>&")
    summary = json.loads((run / "summary.json").read_text())
    summary["teachers"][evil] = summary["teachers"].pop("wide")
    (run / "summary.json").write_text(json.dumps(summary))
    events = [
        {"time": 1.8e9, "stage": "teachers", "message": evil, "decision": "<img src=x>"},
        {"text": "# no heading\n| no | row"},
    ]
    (run / "events.jsonl").write_text("\n".join(map(json.dumps, events)))
    (run / "config.json").write_text(json.dumps({"data": {"source": {"type": evil}}, "x": evil}))
    page = Page(write_report(run).read_text())
    assert not {"script", "img"} & set(page.tags)
    assert page.tags.count("b") == 5  # the tiles' own
    assert evil in page.text
    twin = (run / "report/report.md").read_text()
    outside_code = "\n".join(line for line in twin.splitlines() if not line.startswith("    "))
    assert "<" not in outside_code
    assert "\n# h" not in twin
    assert not re.search(r"(?<!\\)\]\(https", outside_code)


@pytest.mark.parametrize("status", ["degraded", "failed"])
@pytest.mark.usefixtures("undrawn")
def test_a_bad_end_is_shown_on_top(make_run, status):
    run = make_run(replicas=2, status=status)
    event = {"time": 1.8e9, "stage": "fleet", "message": "vit died", "decision": "left out"}
    (run / "events.jsonl").write_text(json.dumps(event) + "\n")
    index = write_report(run)
    page = Page(index.read_text())
    assert page.text.index(f"This run {'is ' if status == 'degraded' else ''}{status}") < 500
    assert ("class", f"banner {status}") in page.attributes
    assert "2027-01-15 08:00:00 fleet vit died left out" in page.text
    assert "vit died" in (run / "report/report.md").read_text()


def test_one_replica(make_run):
    run = make_run(replicas=1)
    page = Page(write_report(run).read_text())
    assert "One replica cannot show whether distillation helps here" in page.text
    assert "no interval, n = 1" in page.text
    assert "there are no intervals" in page.text


def test_no_controls(make_run):
    run = make_run(replicas=2, controls=())
    page = Page(write_report(run).read_text())
    assert "Whether distillation helps here is not known" in page.text
    assert not (run / "report/figures/gains.png").exists()
    assert "Where student and ensemble differ" in page.text


def test_a_run_that_failed_early(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"schema": 1, "status": "failed"}))
    page = Page(write_report(tmp_path).read_text())
    assert "has no result" in page.text
    assert "figure" not in page.tags


def test_without_arrays_the_numbers_are_still_shown(make_run):
    run = make_run(replicas=2)
    (run / "evaluation.safetensors").unlink()
    write_report(run)
    found = {path.stem for path in (run / "report/figures").glob("*.png")}
    assert found == {"gains", "size", "learning", "weights", "timing"}


@pytest.mark.usefixtures("undrawn")
def test_unlabelled_test(make_run, tmp_path):
    run = make_run(replicas=1)
    summary = json.loads((run / "summary.json").read_text())
    for part in (summary["student"], *summary["controls"].values(), *summary["teachers"].values()):
        part["test"] = part["test_last"] = None
    summary["ensemble"]["test"] = summary["ensemble"]["test_last"] = None
    summary["gains"] = {}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "evaluation.safetensors").unlink()
    assert "no labels" in write_report(run).read_text()


@pytest.mark.parametrize("content", [None, "", "[]", "{"])
def test_a_folder_that_is_no_run(tmp_path, content):
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(InputError, match=r"summary\.json"):
        write_report(tmp_path)
    assert not (tmp_path / "report").exists()


def test_curves_of_replicas_of_unequal_length(make_run):
    run = make_run(replicas=2)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()[:-1]]
    short = [line for line in lines if line["fit"] != "student/replica1" or line["epoch"] <= 20]
    again = {**short[4], "train_loss": 77.0}
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, [*short, again])))
    found = curve(read_run(run), "student", "validation", "accuracy")
    assert found.values_RE.shape == (2, 30)
    assert int((found.values_RE != found.values_RE).sum()) == 10
    losses = curve(read_run(run), "student", "train_loss").values_RE
    assert losses[0, again["epoch"] - 1] == 77.0
    write_report(run)


def test_reading_words_needs_no_plotting():
    code = (
        "import sys, raykd.report, raykd.report.verdicts;"
        "print([m for m in ('matplotlib', 'jinja2', 'ray', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.soak
def test_pictures_that_others_draw_are_the_same(make_run):
    """The page and every PNG file, byte for byte; each share reads the folder alone."""
    processes = 3

    class Others:
        def __init__(self):
            self.processes, self.shares = processes, []

        def __call__(self, work, given):
            self.shares += given
            return [work(*one) for one in given]

    run, others = make_run(replicas=2, controls=("labels",), samples=90), Others()

    def written(by):
        write_report(run, by)
        files = sorted(path for path in (run / "report").rglob("*") if path.is_file())
        return {str(path.relative_to(run)): path.read_bytes() for path in files}

    alone = written(None)
    assert written(others) == alone
    assert sum(name.endswith(".png") for name in alone) > processes
    assert [share[2:] for share in others.shares] == [(n, processes) for n in range(processes)]
