"""Maps of a run whose models are linear, so that they are known; what has none; what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from raykd.config import load_config
from raykd.config.data import HashedTokenizer
from raykd.data import Dataset
from raykd.errors import InputError
from raykd.evaluate import Evaluation, SplitOutputs
from raykd.export.description import Description
from raykd.folders import RunFolder, read_json, write_json
from raykd.models.preprocess import Preprocessing
from raykd.models.tokens import resolve_tokens
from raykd.models.weights import load_weights, save_weights
from raykd.pipeline.evaluation import student_network
from raykd.pipeline.explaining import _parted, _truth
from raykd.pipeline.explaining import explain as explain_run
from raykd.pipeline.fits import known_weights
from raykd.pipeline.kept_answers import split_outputs
from raykd.pipeline.occluding import ExplainOptions, check_options
from raykd.pipeline.preparation import prepare
from raykd.pipeline.student import save_student
from raykd.report.explanation import write_explanation
from raykd.report.folder import read_run
from raykd.targets.codec import decode
from raykd.tasks import find_task
from raykd.teachers.model import host
from raykd.train.validation import predict

COUNT, HELD_OUT = 40, 10
explain = partial(explain_run, trust=True)  # the folder is put together here, no run wrote it


def people():
    """Three numbers, then a category of two, one-hot, of which the second is more frequent."""
    rng = np.random.default_rng(0)
    group = (np.arange(COUNT) % 4 > 0).astype(int)
    inputs = np.hstack([rng.normal(size=(COUNT, 3)), np.eye(2)[group]]).astype(np.float32)
    return Dataset(
        inputs=inputs,
        labels=inputs @ np.float32([3, -2, 1, 0, 4]) + 10,
        task="regression",
        features=("age", "height", "weight", "group=a", "group=b"),
    )


def line():
    return nn.Linear(5, 1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder as a run leaves it: a linear student, two linear teachers, one whose outputs are recorded."""
    import raykd_test_models

    root = tmp_path_factory.mktemp("linear")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raykd_test_models, "people", people, raising=False)
        patch.setattr(raykd_test_models, "line", line, raising=False)
        for seed, name in enumerate(("one", "two")):
            torch.manual_seed(seed)
            save_weights(line().state_dict(), root / f"{name}.safetensors")
        recorded = root / "known.csv"
        recorded.write_text("id,value\n" + "".join(f"{i},{i}\n" for i in range(COUNT)))
        yield _run(root), patch


def _run(root):
    model = {"type": "factory", "path": "raykd_test_models:line"}
    plain = {"normalize": "none"}
    config = load_config(
        {
            "task": "regression",
            "data": {
                "source": {"type": "factory", "path": "raykd_test_models:people"},
                "splits": {"validation": HELD_OUT, "test": HELD_OUT},
                "views": {"count": 1, "policy": []},
            },
            "teachers": [
                *({"name": name, "model": model, "weights": str(root / f"{name}.safetensors"), "preprocess": plain}
                  for name in ("one", "two")),
                {"name": "known", "outputs": str(root / "known.csv")},
                {"name": "later", "model": {"type": "mlp", "depth": 1}, "fit": {"epochs": 1}},
            ],
            "student": {"model": model, "preprocess": plain},
            "tracking": {"wandb": {"mode": "disabled"}},
        }
    )  # fmt: skip
    prepared, run = prepare(config), RunFolder(root / "run")
    torch.manual_seed(7)
    student = student_network(prepared)
    save_weights(
        student.model.state_dict(), run.checkpoints("student/replica0") / "best.safetensors"
    )
    save_student(prepared, run)
    weights = {**known_weights(prepared), "later": prepared.teachers["later"].network(prepared.samples)
               .model.state_dict()}  # fmt: skip
    specs = prepared.specs(weights)
    splits = {}
    for split in ("validation", "test"):
        rows = prepared.samples.splits[split]
        view = np.full(len(rows), -1)
        said = {
            n: decode(host(one).score(prepared.samples, rows, view)) for n, one in specs.items()
        }
        own = predict(student, prepared.samples, rows, torch.device("cpu"))[None]
        splits[split] = split_outputs(prepared.samples, split, said, {"student": own}, {})
    Evaluation(splits=splits, task="regression", classes=prepared.samples.classes).save(
        run.evaluation
    )
    write_json(run.config, config.model_dump(mode="json"))
    write_json(run.summary, {"task": "regression", "status": "complete", "student": {"test": None}})
    return run.path


@pytest.fixture(scope="module")
def found(finished):
    return explain(finished[0], ExplainOptions(samples=4))


@pytest.fixture
def run(finished, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(finished[0], tmp_path / "copy")


def weight_of(path):
    (weight_D,) = load_weights(path, key="k")["weight"].double().numpy()
    return weight_D


def test_the_maps_are_those_of_linear_models(finished, found):
    """|w_j (x_j − mean_j)| by column; the category is replaced by the more frequent one."""
    path = finished[0]
    samples = prepare(load_config([path / "config.json"], trust=True)).samples
    train_ND = samples.inputs["inputs"][samples.splits["train"]].astype(np.float64)
    reference_D = np.array([*train_ND[:, :3].mean(axis=0), 0, 1])
    away_ND = found.inputs.double().numpy() - reference_D
    scale = samples.scale.std
    own_D = scale * weight_of(path / "student" / "model.safetensors")
    one_D, two_D = (weight_of(path.parent / f"{name}.safetensors") for name in ("one", "two"))
    found_of = found.maps.taught
    for name, weight_D in {
        "student": own_D, "teacher/one": one_D, "teacher/two": two_D, "ensemble": (one_D + two_D) / 2
    }.items():  # fmt: skip
        worth_ND = weight_D * away_ND
        expected = np.abs(np.hstack([worth_ND[:, :3], worth_ND[:, 3:].sum(axis=1, keepdims=True)]))
        assert found_of[name].numpy() == pytest.approx(expected, rel=1e-4, abs=1e-4), name
    assert found.features == ("age", "height", "weight", "group=a to group=b")
    assert found.settings["reference"] == pytest.approx(reference_D.tolist())


def test_the_samples_are_those_on_which_they_differ_most(finished, found):
    test = Evaluation.load(finished[0] / "evaluation.safetensors").splits["test"]
    apart = (test.students["student"][0] - test.ensemble).abs()[:, 0].numpy()
    order = np.argsort(-apart, kind="stable")[:4]
    assert list(found.ids) == [test.user_ids[row] for row in order]
    assert found.parted == HELD_OUT
    assert [float(word) for word in found.truth] == pytest.approx(test.labels_N[order].tolist())
    assert found.answers["ensemble"] == tuple(f"{v:.7g}" for v in test.ensemble[order, 0].tolist())


def test_teachers_that_cannot_be_asked_are_left_out(found):
    assert list(found.maps.teachers) == ["one", "two"]
    assert found.left_out == {
        "known": "has recorded outputs and no model",
        "later": "was fitted, but its weights are not in $RAYKD_HOME/teachers",
    }


def test_the_controls_have_weights_of_their_own_and_are_the_same_again(finished, found):
    again = explain(finished[0], ExplainOptions(samples=4))
    assert torch.equal(again.maps.controls_RNK, found.maps.controls_RNK)
    distinct = {tuple(np.round(one.flatten().tolist(), 6)) for one in found.maps.controls_RNK}
    assert len(distinct) == len(found.maps.controls_RNK) == 5
    assert torch.equal(again.deletion.random_NF, found.deletion.random_NF)


def test_its_own_order_removes_more_than_a_random_one(found):
    """Of a linear model |change| need not be larger at each step, but is once the largest part is gone."""
    counts = found.deletion.counts_F.tolist()
    assert counts == [0, 1, 2, 3, 4]
    largest_N = found.maps.student_NK.amax(dim=1)
    assert found.deletion.own_NF[:, 1].numpy() == pytest.approx(largest_N.numpy(), rel=1e-4)
    assert found.deletion.own_NF[:, 0].tolist() == pytest.approx([0.0] * 4, abs=1e-4)
    assert torch.allclose(found.deletion.own_NF[:, -1], found.deletion.random_NF[:, -1])


def test_everything_is_written(found, tmp_path):
    page, numbers = write_explanation(tmp_path / "explain", found)
    assert read_json(page.with_name("explain.json")) == numbers
    assert numbers["score"] == "value"
    assert {p.name for p in (page.parent / "tables").iterdir()} == {
        "importance.csv", "samples.csv", "similarity.csv"
    }  # fmt: skip
    assert {p.stem for p in (page.parent / "figures").iterdir()} == {
        "similarity", "importance", "deletion"
    }  # fmt: skip
    text = page.read_text()
    assert "Where they differ most" in text
    assert "On 4 of 10 samples of test" in text
    assert "Left out: teacher known, which has recorded outputs and no model." in text
    assert "<script" not in text


def refused(run, **options):
    with pytest.raises(InputError) as error:
        explain(run, ExplainOptions(**options))
    return str(error.value)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"samples": 0}, "--samples: found 0; allowed: 1 to 256"),
        ({"samples": 257}, "--samples: found 257"),
        ({"patch": 2}, "--patch: is for images; of a table one feature is hidden"),
    ],
)
def test_options_that_do_not_fit_are_refused(finished, options, why):
    assert why in refused(finished[0], **options)


def about(run, **changed):
    file = run / "student" / "model.json"
    write_json(file, {**read_json(file), **changed})


def test_other_inputs_are_refused(run):
    taken = read_json(run / "student" / "model.json")["input"]
    about(run, input={**taken, "shape": [2, 5]})
    assert refused(run) == (
        "RUN: its student takes samples of shape [2, 5]; allowed: images [C, H, W] and rows of a table [D]"
    )


def test_a_run_without_student_or_evaluation_is_refused(run, tmp_path):
    assert "is no finished run: it has no summary.json" in refused(tmp_path)
    (run / "evaluation.safetensors").unlink()
    assert refused(run).startswith("RUN: has no evaluation.safetensors")
    write_json(run / "summary.json", {"task": "regression", "status": "failed", "student": None})
    assert "it trained no single student" in refused(run)


def test_data_that_has_changed_is_refused(run):
    evaluation = Evaluation.load(run / "evaluation.safetensors")
    evaluation.splits["test"].ids_N[0] += 1000
    evaluation.save(run / "evaluation.safetensors")
    assert refused(run).startswith("RUN: its data has changed: the samples of test are not those")
    assert len(explain(run, ExplainOptions(samples=1, split="validation")).ids) == 1


def described(**changed):
    taken = {"name": "inputs", "shape": [1, 8, 8]}
    model = {"type": "mlp"}
    return Description.model_validate(
        {"task": "classification", "model": model, "preprocessing": {}, "input": taken,
         "classes": ["a", "b"], **changed}
    )  # fmt: skip


def test_texts_and_embeddings_are_refused():
    tokens = resolve_tokens(HashedTokenizer(length=8), lambda: iter(()), key="k")
    text = described(
        preprocessing=Preprocessing(tokens=tokens),
        input={"name": "text", "shape": [64], "dtype": "uint8"},
    )
    with pytest.raises(
        InputError, match=r"RUN: its student takes texts; allowed: images \[C, H, W\]"
    ):
        check_options(text, ExplainOptions())
    with pytest.raises(InputError, match="task 'embedding', which has no class, label or value"):
        check_options(described(task="embedding"), ExplainOptions())
    with pytest.raises(InputError) as error:
        check_options(described(), ExplainOptions(samples=0, patch=9))
    assert [problem.key for problem in error.value.problems] == ["--samples", "--patch"]
    check_options(described(), ExplainOptions(patch=8, stride=8))


def test_models_that_never_part_are_told(run):
    """Labels of two classes, all decided alike."""
    answers = torch.zeros(HELD_OUT, 2).log_softmax(1)
    alike = SplitOutputs(
        labels_N=torch.zeros(HELD_OUT).long(), ids_N=torch.arange(HELD_OUT), teachers={},
        ensemble=answers, students={"student": answers[None]},
    )  # fmt: skip
    data = replace(read_run(run), evaluation=Evaluation(splits={"test": alike}))
    samples = SimpleNamespace(
        ids=np.arange(HELD_OUT), splits={"test": np.arange(HELD_OUT)}, task="classification"
    )
    with pytest.raises(InputError, match="answer alike on all of test; try --split validation"):
        _parted(data, samples, ExplainOptions())


@pytest.mark.parametrize(
    ("task", "labels", "words"),
    [
        ("classification", [1, -1, 0], ("b", "", "a")),
        ("multilabel", [[1, 1], [-1, -1], [0, 1]], ("a; b", "", "b")),
        ("regression", [1.5, float("nan"), -2.0], ("1.5", "", "-2")),
    ],
)
def test_what_samples_are_is_told_in_words(task, labels, words):
    samples = SimpleNamespace(all_labels=np.array(labels), classes=("a", "b"), class_count=2)
    assert _truth(samples, find_task(task), np.arange(3)) == words
    assert _truth(samples, find_task(task), np.array([2])) == words[2:]
