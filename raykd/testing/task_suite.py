"""What any task is held to, a built-in one as well as one of your own: subclass, and run pytest.

    class TestRanking(TaskSuite):
        recipe = {"task": "my_tasks:ranking", "data": {...}, "teachers": [...], "student": {...}}

A small recipe will do: teachers that are fitted, a few hundred samples that they can learn, one replica.
`FacetSuite` needs no Ray and takes seconds; `TaskSuite` adds one whole run, on the Ray cluster that is
connected or a local one of its own, and every command that looks at it.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml

from raykd import Config, load_config, load_student
from raykd.cli import main
from raykd.config.roles import Expect
from raykd.data import Samples
from raykd.data.samples import build_samples
from raykd.detection.layout import layout_for, packed, unpacked
from raykd.errors import InputError, TeacherError
from raykd.objective import DistillObjective, TeacherInfo
from raykd.objective.rule import OUTPUT
from raykd.tasks import Task, find_task
from raykd.tasks.detection.labels import STRIDE
from raykd.tasks.registry import FACETS
from raykd.types import ORIGINAL_VIEW, Dense, is_labelled

Tree = Mapping[str, Any]


class FacetSuite:
    """The facets of a task, one by one and with each other; `recipe` names the task and its data."""

    recipe: ClassVar[Tree]

    @pytest.fixture
    def config(self) -> Config:
        """The recipe, resolved."""
        return load_config(self.recipe)

    @pytest.fixture
    def task(self, config: Config) -> Task:
        """The task that the recipe names."""
        return find_task(config.task)

    @pytest.fixture
    def samples(self, config: Config) -> Samples:
        """The recipe's data."""
        return build_samples(config.data, seed=config.seed, task=config.task)

    def test_facets_are_whole_and_agree(self, task: Task) -> None:
        """Each facet is there, and all mean the same metric."""
        assert all(hasattr(task, facet) for facet in FACETS)
        assert task.text.metric.key == task.metrics.metric
        assert task.settings.select[0] == task.metrics.metric
        assert task.settings.class_logits == task.rule.labels_are_classes
        assert task.export.outputs

    def test_a_recipe_survives_its_own_json(self, config: Config) -> None:
        """What a run folder keeps is the recipe again, the task's name included."""
        kept = json.loads(json.dumps(config.model_dump(mode="json")))
        assert load_config(kept) == config

    def test_an_unknown_metric_is_refused_with_those_there_are(self, task: Task) -> None:
        """A wrong setting names the key and what is allowed."""
        with pytest.raises(InputError) as caught:
            load_config(self.recipe, ["train.select=no_such_metric"])
        assert "train.select" in str(caught.value)
        assert task.metrics.metric in str(caught.value)

    def test_labels_are_checked_hidden_and_named(self, task: Task, samples: Samples) -> None:
        """Labels pass their own check; hidden ones are unknown; each has a text and a group."""
        labels, form = samples.all_labels, task.labels
        cleaned = form.clean(labels, len(labels))
        assert isinstance(cleaned, np.ndarray), cleaned
        np.testing.assert_array_equal(cleaned, labels)
        assert isinstance(form.clean(labels[:1], len(labels)), str), "a wrong length is refused"
        assert form.fits(labels, samples.classes) is None
        hidden = form.hidden(labels, np.arange(len(labels)) < 3)
        assert not is_labelled(hidden[:3]).any()
        assert is_labelled(hidden[3:]).sum() == is_labelled(labels[3:]).sum()
        assert not is_labelled(form.empty(4, len(samples.classes))).any()
        assert form.strata(labels).shape == (len(labels),)
        assert all(form.shown(label, samples.classes) for label in labels[:5])
        assert form.counted(samples.classes)

    def test_metrics_are_numbers_of_which_one_is_better(self, task: Task, samples: Samples) -> None:
        """V has the task's metric and what decides ties; a model is as good as itself."""
        metrics, labels = task.metrics, self._labels(samples)
        answers = metrics.kept(metrics.answer(self._outputs(task, samples)), labels)
        numbers = metrics.numbers(answers, labels)
        assert {metrics.metric, metrics.ties} <= numbers.keys()
        assert all(isinstance(value, float) for value in numbers.values())
        assert metrics.rank(numbers) == metrics.rank(dict(numbers))
        assert metrics.smallest_gap(labels) >= 0
        assert metrics.error(numbers) >= 0
        scores = metrics.scores(answers, labels)
        assert scores.ndim == 1
        if metrics.from_scores is not None:
            expected = metrics.merit(numbers[metrics.metric])
            assert metrics.from_scores(float(scores.double().mean())) == pytest.approx(expected)

    def test_sums_over_batches_are_the_metrics(self, task: Task, samples: Samples) -> None:
        """Validation adds sums over batches and workers; the whole has the same metrics."""
        metrics, labels = task.metrics, self._labels(samples)
        outputs = self._outputs(task, samples)
        if metrics.tally is None or metrics.total is None:
            assert metrics.tallied == 0
            return
        half = len(labels) // 2
        parts = [metrics.tally(outputs[:half], labels[:half])]
        parts += [metrics.tally(outputs[half:], labels[half:])]
        assert all(part.shape == (metrics.tallied,) for part in parts)
        total = metrics.total(parts[0] + parts[1])
        numbers = metrics.numbers(metrics.kept(metrics.answer(outputs), labels), labels)
        for name, value in total.items():
            assert numbers[name] == pytest.approx(value, rel=1e-5, abs=1e-6)

    def test_an_ensemble_of_one_is_that_teacher(self, task: Task, samples: Samples) -> None:
        """And a student that says what its ensemble says follows it."""
        outputs, labels = self._outputs(task, samples), self._labels(samples)
        metrics, said = task.metrics, task.metrics.answer(outputs)
        student = metrics.kept_beside(said, labels, metrics.ensemble([outputs]), [said])
        answers = metrics.kept(said, labels)
        alone = metrics.kept(metrics.ensemble([outputs]), labels)
        own, whole = task.metrics.numbers(answers, labels), task.metrics.numbers(alone, labels)
        assert whole[task.metrics.metric] == pytest.approx(own[task.metrics.metric], abs=1e-6)
        followed = task.metrics.fidelity(student, alone, {"one": answers})
        assert {measure.key for measure in task.text.fidelity} <= followed.keys()
        assert task.text.follows(followed)

    def test_a_teacher_that_knows_nothing_is_refused(self, task: Task, samples: Samples) -> None:
        """Random answers on many samples are found out, unless the recipe says that they will do."""
        labels = self._labels(samples)
        with pytest.raises(TeacherError, match="'noise'"):
            task.selftest("noise", self._outputs(task, samples), labels, Expect())

    def test_labels_and_teachers_teach(self, config: Config, samples: Samples) -> None:
        """Every term is finite, counts only known labels, and has a gradient that is finite."""
        task, settings = find_task(config.task), config.objective
        rows = samples.splits["train"][:32].copy()
        batch = samples.batch(rows, ORIGINAL_VIEW)
        units = np.flatnonzero(
            np.isin(samples.per_unit(every := np.arange(len(samples)), every), rows)
        )
        outputs = self._outputs(task, samples)[units].float().requires_grad_()
        names = [teacher.name for teacher in config.teachers]
        targets = {
            name: Dense(
                kind=task.metrics.kind,
                values_NC=self._outputs(task, samples, seed=seed)[units],
                valid_N=torch.ones(len(units), dtype=torch.bool),
            )
            for seed, name in enumerate(names, start=1)
        }
        width = (outputs.shape[1],)
        objective = DistillObjective(
            settings.model_copy(update={"features": ()}),
            [TeacherInfo(name, error=0.5, accuracy=0.8, stacked=0.5) for name in names],
            rule=task.rule,
            student_shapes={OUTPUT: width},
            teacher_shapes={(name, OUTPUT): width for name in names},
            scale=samples.scale,
        )
        terms, weights_TN = objective(outputs, {}, batch, targets)
        assert weights_TN is not None
        torch.testing.assert_close(weights_TN.sum(dim=0), torch.ones(len(units)))
        total = sum(
            (torch.where(term.valid_N > 0, term.loss_N, 0.0) * term.valid_N).sum() * term.weight
            for term in terms.values()
        )
        assert isinstance(total, torch.Tensor)
        (gradient,) = torch.autograd.grad(total, outputs)
        assert torch.isfinite(total)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0

    def test_a_prediction_is_written_in_words(self, task: Task, samples: Samples) -> None:
        """One text a sample; the exported module's outputs have as many rows."""
        outputs = self._outputs(task, samples)[:7].float()
        names = tuple(map(str, range(outputs.shape[1])))
        predicted = task.export.predict(outputs, names)
        assert len(predicted.words) == len(predicted.label_N) == len(outputs)
        exported = task.export.of_network(outputs, 1.5)
        assert len(exported) == len(task.export.outputs)
        assert all(len(one) == len(outputs) for one in exported)

    def _labels(self, samples: Samples) -> torch.Tensor:
        return torch.from_numpy(samples.unit_labels(np.arange(len(samples)), "all"))

    def _outputs(self, task: Task, samples: Samples, seed: int = 0) -> torch.Tensor:
        """Made-up outputs of a model for every sample; in a regression around the mean of the labels."""
        width = samples.class_count if not task.metrics.own_width else 8
        units = len(self._labels(samples))
        noise = torch.randn(units, width, generator=torch.Generator().manual_seed(seed))
        if task.metrics.own_labels:  # boxes of a pixel or so, at every location of an image
            layout = layout_for(len(samples.classes), *samples.input_shape[1:], stride=STRIDE)
            heads = unpacked(noise, layout)
            return packed(heads.logits_BNC, heads.edges_BN4.abs(), layout)
        return noise if samples.scale is None else samples.scale.restored(noise)


class TaskSuite(FacetSuite):
    """Also a whole run, and what every command makes of it."""

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
        """A folder of the class's own, with `$RAYKD_HOME` in it."""
        folder = tmp_path_factory.mktemp("task")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAYKD_HOME", str(folder / "home"))
            yield folder

    @pytest.fixture(scope="class")
    @classmethod
    def file(cls, home: Path) -> Path:
        """The recipe as a file, its W&B run offline."""
        offline = {"wandb": {"mode": "offline"}}
        path = home / "recipe.yaml"
        path.write_text(yaml.safe_dump({**cls.recipe, "tracking": offline}))
        return path

    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, file: Path, home: Path) -> Path:
        """The folder of a finished run."""
        done(["run", str(file), "--output", str(home / "run"), "--quiet"])
        return home / "run"

    @pytest.fixture(autouse=True)
    def _own_home(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAYKD_HOME", str(home / "home"))

    def test_data_check(self, file: Path) -> None:
        """`raykd data check` counts the samples."""
        assert json.loads(done(["data", "check", str(file), "--json"]))

    def test_plan(self, file: Path) -> None:
        """`raykd plan` counts teacher passes and bytes."""
        assert json.loads(done(["plan", str(file), "--json", "--no-timing"]))

    def test_check(self, file: Path, run: Path) -> None:
        """`raykd check` judges the fitted teachers by the task's metric."""
        assert run.is_dir()
        assert find_task(self._task).text.metric.name in done(["check", str(file)])

    def test_evaluation(self, run: Path) -> None:
        """The summary has the task's metric of every model, and the gain over the baseline."""
        summary = json.loads((run / "summary.json").read_text())
        metrics = find_task(self._task).metrics
        assert summary["task"] == self._task
        models = [summary["student"], *summary["controls"].values()]
        assert all(model["test"][metrics.metric]["n"] for model in models)
        assert summary["ensemble"]["test"][metrics.metric] is not None
        assert metrics.baseline in summary["gains"]

    def test_report(self, run: Path) -> None:
        """The page says the metric in the task's words, and can be made again from the folder."""
        text = find_task(self._task).text
        assert text.metric.name in (run / "report" / "report.md").read_text()
        assert text.metric.name in done(["report", str(run)])
        assert (run / "report" / "index.html").is_file()

    def test_status(self, run: Path) -> None:
        """`raykd status` says that the run is complete."""
        assert json.loads(done(["status", str(run), "--json"]))["status"] == "complete"

    def test_resume_finds_everything_done(self, run: Path, file: Path) -> None:
        """Nothing is trained again, and the numbers stay."""
        before = json.loads((run / "summary.json").read_text())
        fits = (run / "metrics.jsonl").read_text().count('"kind": "epoch"')
        done(["run", str(file), "--output", str(run), "--resume", "--quiet"])
        after = json.loads((run / "summary.json").read_text())
        assert after["student"]["test"] == before["student"]["test"]
        assert (run / "metrics.jsonl").read_text().count('"kind": "epoch"') == fits

    def test_predict(self, run: Path, config: Config, samples: Samples, tmp_path: Path) -> None:
        """`raykd predict` says of samples what the student says of them in evaluation."""
        rows = samples.splits["test"][:9]
        ((name, values),) = samples.inputs.items()
        file, out = tmp_path / "new.npz", tmp_path / "said.csv"
        np.savez(file, inputs=values[rows], ids=samples.ids[rows])
        done(["predict", str(run), str(file), "--output", str(out)])
        lines = out.read_text().splitlines()
        assert [line.split(",")[0] for line in lines[1:]] == list(map(str, samples.ids[rows]))
        with torch.inference_mode():
            found = load_student(run, task=config.task)({name: torch.from_numpy(values[rows])})
        assert len(found) == len(rows)

    def test_export(self, run: Path, tmp_path: Path) -> None:
        """`raykd export` writes the task's outputs, held against the student by itself."""
        folder = tmp_path / "export"
        done(["export", str(run), "--format", "torch", "--output", str(folder)])
        card = (folder / "README.md").read_text()
        assert all(output in card for output in find_task(self._task).export.outputs)

    def test_wandb(self, run: Path) -> None:
        """The offline run is there to be synchronised."""
        assert list((run / "wandb").glob("**/*.wandb"))

    @property
    def _task(self) -> str:
        return str(self.recipe.get("task", "classification"))


def done(argv: list[str]) -> str:
    """What a command prints on standard output; it has to end with exit code 0."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    assert code == 0, f"raykd {' '.join(argv)} ended with {code}: {err.getvalue()}"
    return out.getvalue()


__all__ = ["FacetSuite", "TaskSuite", "done"]
