"""A run that chooses its target: nothing is trained twice, and the choice outlives the run."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from raykd import plan
from raykd.config import load_config
from raykd.config.variants import method_variants
from raykd.evaluate import Evaluation
from raykd.folders import read_json, write_json
from raykd.models.weights import fingerprint, load_weights
from raykd.pipeline import Options, ablate, compare, run
from raykd.pipeline.exporting import export_student
from raykd.search import sweep
from raykd.tracking.jsonl import read_lines
from raykd.train.checkpoint import FitFolder

pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.usefixtures("ray_cluster")]
MENU = ("hard", "soft", "mixed")


@pytest.fixture(scope="module")
def chosen(finished, tmp_path_factory):
    """A run that chooses, with the teachers and targets of another run: only students are trained."""
    path = tmp_path_factory.mktemp("chosen") / "run"
    overrides = [
        *("seeds=2", "objective.choose={menu: [hard, soft, mixed], replicas: 2}"),
        *("evaluate={controls: [labels, hard], compare: [], slices: [], require: []}",),
    ]
    config = load_config(finished.recipe, overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYKD_HOME", str(finished.home))
        result = run(config, Options(output=path))
    return SimpleNamespace(config=config, path=path, home=finished.home, result=result)


@pytest.fixture
def same_home(chosen, monkeypatch):
    monkeypatch.setenv("RAYKD_HOME", str(chosen.home))


def trained(folder):
    """Fits that were trained in a folder, in order."""
    return [
        line["fit"]
        for line in read_lines(folder / "metrics.jsonl")
        if (line["kind"], line["stage"]) == ("fit", "student") and line["state"] == "finished"
    ]


def weights(folder, fit_id):
    return fingerprint(
        load_weights(folder / "checkpoints" / fit_id / "best.safetensors", key="test")
    )


def test_nothing_is_trained_twice(chosen):
    fits = trained(chosen.path)
    of_menu = [
        f"{name}/replica{r}" for r in (0, 1) for name in ("hard", "choose-soft", "choose-mixed")
    ]
    assert sorted(fits) == sorted([*of_menu, "labels/replica0", "labels/replica1"])
    target = chosen.result.summary["choice"]["target"]
    name = "hard" if target == "hard" else f"choose-{target}"
    for replica in (0, 1):
        own = weights(chosen.path, f"student/replica{replica}")
        assert own == weights(chosen.path, f"{name}/replica{replica}")
    identities = {
        FitFolder(folder).result()["identity"]
        for folder in (chosen.path / "checkpoints").glob("*/replica0")
        if folder.parent.name != "teacher"
    }
    assert len(identities) == len(MENU) + 1, "the menu's, and labels alone"


def test_the_choice_is_what_validation_says(chosen):
    choice = read_json(chosen.path / "choice.json")
    assert choice == chosen.result.summary["choice"]
    assert set(choice["menu"]) == set(MENU)
    assert choice["target"] in {name for name, one in choice["menu"].items() if one["equal"]}
    assert choice["objective"]["choose"] is None
    assert all(one["seconds"] > 0 for one in choice["menu"].values())
    assert 0.05 <= choice["menu"]["mixed"]["facts"]["sharpen"] <= 20
    validation = Evaluation.load(chosen.path / "evaluation.safetensors").splits["validation"]
    student = validation.students["student"]
    assert student.shape[0] == 2, "replicas of the target that was chosen"


def test_it_is_told(chosen, call):
    page = (chosen.path / "report" / "index.html").read_text()
    assert "Validation chose its target from hard, soft and mixed" in page
    assert 'id="table-choice"' in page
    assert (chosen.path / "report" / "tables" / "choice.csv").is_file()
    status = call("status", chosen.path)
    assert status.code == 0, status.err
    assert "fits      12 of 12 done" in status.out, "those of the menu, too"


@pytest.mark.soak
def test_a_resumed_run_chooses_nothing_anew(chosen, same_home, tmp_path):
    folder = shutil.copytree(chosen.path, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / "student")
    before = len(trained(folder))
    result = run(chosen.config, Options(output=folder, resume=True))
    assert trained(folder)[before:] == [], "the student is taken over again"
    assert result.summary["choice"] == chosen.result.summary["choice"]
    assert result.summary["student"]["test"] == chosen.result.summary["student"]["test"]


def test_the_menu_is_forecast(chosen, same_home, call):
    counted = plan(chosen.config, timing=False).counts
    rows = 1338 * chosen.config.train.epochs
    held_out = 100 + 359
    # live: two replicas of student and hard, and one target of the menu that is neither
    assert counted.live["wide"].passes == held_out + rows * (2 * 2 + 2)
    shown = call("run", chosen.path / "config.json", "--dry-run", "--output", "nowhere")
    assert shown.code == 0, shown.err
    assert '"student_fits": 8' in shown.out


def test_its_student_is_exported_as_it_was_taught(chosen, tmp_path):
    exported = export_student(chosen.path, formats=["safetensors"], output=tmp_path / "export")
    card = (exported.path / "README.md").read_text()
    assert f"Target: {chosen.result.summary['choice']['target']}, chosen on validation" in card


@pytest.mark.soak
class TestOtherJobs:
    """Each chooses once, before anything else."""

    def test_comparisons(self, chosen, same_home, tmp_path):
        variants = method_variants(chosen.config, losses=["dkd"], weightings=["confidence"])
        result = compare(chosen.config, variants, Options(output=tmp_path / "compared"))
        assert result.summary["choice"]["menu"].keys() == set(MENU)
        own = weights(tmp_path / "compared", "kl+uniform/replica0")
        assert own == weights(chosen.path, "student/replica0"), "the same choice, the same student"
        assert "kl+uniform/replica0" not in trained(tmp_path / "compared")

    def test_ablations(self, chosen, same_home, tmp_path):
        result = ablate(chosen.config, Options(output=tmp_path / "ablated"), of=chosen.path)
        assert result.summary["choice"]["target"] == chosen.result.summary["choice"]["target"]
        assert "whole/replica0" not in trained(tmp_path / "ablated")

    def test_sweeps(self, chosen, same_home, tmp_path):
        search = {
            "parameters": {"student.model.width": {"space": "choice", "categories": [0.25, 0.5]}},
            "trials": 2,
            "scheduler": {"type": "none"},
            "finalists": {"top": 1, "seeds": 2},
        }
        recipe = {**chosen.config.model_dump(mode="json"), "search": search}
        result = sweep(load_config(recipe), Options(output=tmp_path / "swept"))
        target = chosen.result.summary["choice"]["target"]
        assert result.summary["choice"]["target"] == target
        assert result.best.objective.choose is None
        assert read_json(tmp_path / "swept" / "config.json")["objective"]["choose"] is not None

    def test_methods_that_are_the_same_are_trained_once(self, chosen, same_home, tmp_path):
        plain = {
            **chosen.config.model_dump(mode="json"),
            "seeds": 1,
            "objective": {"soft_targets": {"temperature": 1.0}},
        }
        same = {"one": ["objective.soft_targets.temperature=1"], "other": ["objective.choose=null"]}
        config = load_config(plain)
        result = compare(
            config, method_variants(config, others=same), Options(output=tmp_path / "compared")
        )
        assert sorted(trained(tmp_path / "compared")) == [
            "hard/replica0",
            "kl+uniform/replica0",
            "labels/replica0",
        ]
        accuracies = {
            name: m["test"]["accuracy"]["mean"] for name, m in result.summary["methods"].items()
        }
        assert accuracies["one"] == accuracies["other"] == accuracies["kl+uniform"]
        assert len({m["seconds"]["mean"] for m in result.summary["methods"].values()}) == 3

    def test_a_control_that_is_added_later_is_trained(self, chosen, same_home, tmp_path):
        without = load_config(chosen.config.model_dump(mode="json"), ["evaluate.controls=[labels]"])
        folder = shutil.copytree(chosen.path, tmp_path / "run")
        (folder / "checkpoints" / "hard").rename(folder / "checkpoints" / "choose-hard")
        write_json(folder / "config.json", without.model_dump(mode="json"))
        result = run(chosen.config, Options(output=folder, resume=True))
        assert (
            result.summary["controls"]["hard"]["test"]
            == chosen.result.summary["controls"]["hard"]["test"]
        )
        assert result.summary["choice"] == chosen.result.summary["choice"]
