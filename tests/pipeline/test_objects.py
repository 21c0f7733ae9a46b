"""Objects of the user's own process as data and teachers: from tables and fitted estimators to predictions."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from raykd_foreign_models import NAMES, Listener, tfidf, topics
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from torch import nn
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset

import raykd
from raykd.config import load_config
from raykd.data import Dataset
from raykd.errors import InputError
from raykd.objects import digest_of, is_held
from raykd.pipeline import Options
from raykd.pipeline.given import given_recipe, without_objects
from raykd.pipeline.preparation import prepare
from raykd.teachers.model import TeacherModel

STUDENT = {"model": {"type": "mlp", "width": 0.25, "depth": 1}}
QUICK = {
    "train": {"epochs": 2, "batch_size": 16},
    "evaluate": {"controls": []},
    "tracking": {"wandb": {"mode": "disabled"}},
}


def posts(count=120):
    """A table of texts whose index is the user's own."""
    texts, labels = topics(count)
    return pd.DataFrame(
        {"body": texts, "label": np.array(NAMES)[labels]},
        index=[f"p{row:03}" for row in range(count)],
    )


def text_recipe(table, pipeline):
    return {
        "data": {
            "source": {"object": table, "text": "body"},
            "splits": {"validation": 24, "test": 24},
        },
        "teachers": [
            {"name": "tfidf", "model": pipeline},
            {"name": "listener", "model": Listener(), "preprocess": {"tokenizer": "none"}},
        ],
        "student": {"model": {"type": "bag", "width": 0.25}},
        **QUICK,
    }


@pytest.fixture(scope="module")
def fitted():
    table = posts()
    return tfidf().fit(table["body"], table["label"])


@pytest.fixture(scope="module")
def ran(ray_cluster, fitted, tmp_path_factory):
    """One whole run of a table and a fitted pipeline; nobody may change it."""
    root = tmp_path_factory.mktemp("objects")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYKD_HOME", str(root / "home"))
        return raykd.run(text_recipe(posts(), fitted), output=root / "run")


def test_a_table_and_a_fitted_pipeline_make_a_student(ran, tmp_path, call):
    """At 7d0af11 data and teachers had to be files, or functions that a module names."""
    assert ran.summary["status"] == "complete"
    assert ran.summary["teachers"]["tfidf"]["test"]["accuracy"] > 0.95
    table = posts()
    said = raykd.predict(ran.path, table)
    assert said.ids.tolist() == table.index.tolist()
    assert said.probabilities.shape == (120, 3)
    assert said.classes == NAMES
    table.rename_axis("id").to_csv(tmp_path / "posts.csv")
    told = call("predict", ran.path, tmp_path / "posts.csv").out.splitlines()[1:]
    assert [line.split(",")[:2] for line in told] == [list(pair) for pair in zip(said.ids, said.labels, strict=True)]  # fmt: skip
    again = raykd.predict(ran.path, table["body"].tolist()[:5])
    assert again.labels.tolist() == said.labels[:5].tolist()


def test_its_predictions_join_the_table(ran):
    kept = pd.read_parquet(ran.path / "predictions.parquet")
    joined = posts().merge(kept, left_index=True, right_on="id", suffixes=("", "_kept"))
    assert len(joined) == len(kept) == 48, "validation and test"
    assert (joined["label"] == joined["label_kept"]).all()
    assert (joined["teachers.tfidf"] == joined["label"]).mean() > 0.9


def test_no_file_holds_the_objects(ran, fitted):
    source = json.loads((ran.path / "config.json").read_text())["data"]["source"]
    assert source["type"] == "object"
    assert source["describes"] == "pandas.DataFrame, 120 samples"
    fingerprint = digest_of(fitted)
    assert not is_held(fingerprint), "after the call it is let go"
    word = posts()["body"].iloc[0].encode()
    for file in [one for folder in (ran.path, ran.path.parent / "home") for one in folder.rglob("*") if one.is_file()]:  # fmt: skip
        content = file.read_bytes()
        assert b"TfidfVectorizer" not in content, file
        assert word not in content or file.suffix == ".html", file


def test_its_student_is_exported_with_a_card(ran, call, tmp_path):
    ended = call("export", ran.path, "--format", "safetensors", "--output", tmp_path / "export")
    assert ended.code == 0, ended.err
    card = (tmp_path / "export" / "README.md").read_text()
    assert "such as those of `pandas.DataFrame, 120 samples`" in card
    assert "| tfidf | object: sklearn.pipeline.Pipeline of sklearn" in card


def test_to_resume_takes_the_same_objects(ran, fitted, call, ray_cluster, tmp_path):
    """The command line, which has no objects, says whom to ask."""
    recipe = text_recipe(posts(), copy.deepcopy(fitted))
    raykd.run(recipe, Options(until="teachers"), output=ran.path, resume=True)
    other = tfidf().set_params(logisticregression__C=2).fit(posts()["body"], posts()["label"])
    with pytest.raises(InputError, match=r"tfidf.model: is another object than the run began with"):
        raykd.run(text_recipe(posts(), other), output=ran.path, resume=True)
    with pytest.raises(InputError, match=r"data.source: is another object"):
        raykd.run(text_recipe(posts(60), fitted), output=ran.path, resume=True)
    for words in (["run", ran.path / "config.json", "--output", ran.path, "--resume"], ["check", ran.path / "config.json"]):  # fmt: skip
        ended = call(*words)
        assert ended.code == 2
        assert (
            "data.source: is an object of a Python process (pandas.DataFrame, 120 samples)"
            in ended.err
        )
        assert "call raykd.run(config, output=..., resume=True)" in ended.err
        assert ("teachers.tfidf.model: is an object" in ended.err) == (words[0] == "run")


# -- fingerprints ---------------------------------------------------------------------------------

_FRESH = """
import json, sys
import joblib
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from raykd.objects import digest_of
fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(*json.loads(sys.argv[2]))
print(digest_of(fitted), digest_of(joblib.load(sys.argv[1])))
"""


def test_a_fingerprint_outlives_copies_files_and_processes(tmp_path):
    estimator = tfidf().fit(*topics())
    found = digest_of(estimator)
    estimator.predict(topics()[0])
    joblib.dump(estimator, tmp_path / "e.joblib")
    assert digest_of(estimator) == digest_of(copy.deepcopy(estimator)) == found
    texts, labels = topics()
    words = [
        sys.executable,
        "-c",
        _FRESH,
        tmp_path / "e.joblib",
        json.dumps([texts, labels.tolist()]),
    ]
    fresh = subprocess.run(words, capture_output=True, text=True, check=True)
    assert fresh.stdout.split() == [found, found]


def test_a_fingerprint_sees_parameters_and_what_was_fitted():
    images, labels = load_digits(return_X_y=True)
    made = [
        RandomForestClassifier(5, random_state=0).fit(images, labels),
        RandomForestClassifier(5, random_state=1).fit(images, labels),
        RandomForestClassifier(5, random_state=0).fit(images[:-1], labels[:-1]),
        RandomForestRegressor(5, random_state=0).fit(images, labels),
        KNeighborsClassifier(3).fit(images, labels),
        KNeighborsClassifier(4).fit(images, labels),
        lambda x: x + 1,
        lambda x: x + 2,
    ]
    found = [digest_of(one) for one in made]
    assert len(set(found)) == len(found)
    made[4].predict(images[:5])
    assert digest_of(made[4]) == found[4], "questions that it was asked are no part of it"


def test_modules_are_known_by_weights_classes_and_settings():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    assert digest_of(one) == digest_of(copy.deepcopy(one).eval())
    others = [nn.Sequential(one[0], nn.GELU()), nn.Sequential(nn.Linear(4, 3), nn.ReLU()), one[0]]
    assert len({digest_of(module) for module in (one, *others)}) == 4


def test_what_cannot_be_hashed_is_refused():
    module = make_pipeline(SimpleImputer(), LogisticRegression()).fit(np.eye(4), [0, 1, 0, 1])
    module.lock = (i for i in range(3))
    with pytest.raises(
        InputError, match=r"teachers.a.model: .*Pipeline cannot be hashed.* pickled"
    ):
        without_objects({"teachers": [{"name": "a", "model": module}]})


# -- data -----------------------------------------------------------------------------------------


def samples_of(source, task="classification", **data):
    """The samples of a recipe whose data are an object."""
    recipe = {
        "task": task,
        "data": {"source": source, "splits": {"validation": 0.2, "test": 0.2}, **data},
        "teachers": [{"name": "any", "outputs": "-"}],
        "student": STUDENT,
        **({"objective": {}} if task == "classification" else {}),
    }
    from raykd.data import build_samples

    with given_recipe(recipe) as config:
        return build_samples(config.data, seed=0, task=config.task)


def numbers(count=40):
    rng = np.random.default_rng(0)
    return rng.random((count, 4)).astype(np.float32), np.arange(count) % 2


def test_arrays_of_any_kind():
    inputs, labels = numbers()
    made = [
        samples_of((inputs, labels)),
        samples_of({"inputs": torch.from_numpy(inputs), "labels": labels.tolist()}),
        samples_of(Dataset(inputs, labels)),
        samples_of(TensorDataset(torch.from_numpy(inputs), torch.from_numpy(labels))),
    ]
    for one in made:
        np.testing.assert_array_equal(one.inputs["inputs"], inputs)
        np.testing.assert_array_equal(one.labels, labels)
    named = samples_of({"inputs": inputs, "labels": np.array(["yes", "no"])[labels], "ids": np.arange(40) + 7})  # fmt: skip
    assert named.classes == ("no", "yes")
    assert named.ids[0] == 7
    texts = samples_of((["one two"] * 20 + ["three"] * 20, labels))
    assert texts.is_text
    parts = samples_of({"train": (inputs[:30], labels[:30]), "test": (inputs[30:], labels[30:])})
    assert parts.splits["test"].tolist() == list(range(30, 40))

    tree, _ = without_objects({"data": {"source": {"train": (inputs, labels)}}})
    assert tree["data"]["source"]["describes"] == "numpy.ndarray (train), 40 samples"


class Pictures(TorchDataset):
    """Pictures of Pillow and their labels."""

    classes = ("dark", "light")

    def __init__(self, random=False):
        self.random = random

    def __len__(self):
        return 40

    def __getitem__(self, index):
        from PIL import Image

        grey = np.random.default_rng().integers(255) if self.random else 200 * (index % 2)
        return Image.new("RGB", (9, 8), (int(grey), 0, 0)), index % 2


def test_a_torch_dataset_is_read_through_an_adapter():
    """At 7d0af11: "returned ...Dataset; needs a raykd.data.Dataset"."""
    samples = samples_of(Pictures())
    assert samples.input_shape == (3, 8, 9)
    assert samples.classes == ("dark", "light")
    assert samples.inputs["inputs"][:2, 0, 0, 0].tolist() == [0, 200]
    with pytest.raises(InputError, match=r"differs when it is read again.* data.views.policy"):
        samples_of(Pictures(random=True))
    with pytest.raises(
        InputError, match=r"data.source: found an object of builtins.int; give a raykd.data.Dataset"
    ):
        samples_of({"object": 3, "label": "a"})


def table(count=60):
    """Numbers with gaps, words and booleans."""
    rng = np.random.default_rng(1)
    age = rng.integers(20, 70, count).astype(float)
    age[::7] = np.nan
    return pd.DataFrame(
        {
            "age": age,
            "city": rng.choice(["Rome", "Oslo", "Bonn"], count),
            "member": rng.random(count) < 0.5,
            "id": [f"r{row}" for row in range(count)],
            "label": rng.choice(["no", "yes"], count),
        }
    )


def test_tables_of_any_library_are_read_as_files_are(tmp_path):
    frame = table()
    frame.to_csv(tmp_path / "table.csv", index=False)
    of_file = samples_of({"type": "csv", "path": str(tmp_path / "table.csv"), "label": "label", "id": "id"})  # fmt: skip
    for source in (frame, pa.Table.from_pandas(frame), {"object": frame, "label": "label"}):
        found = samples_of(source)
        assert found.features == of_file.features == ("age", "city", "member")
        np.testing.assert_array_equal(found.inputs["inputs"], of_file.inputs["inputs"])
        np.testing.assert_array_equal(found.labels, of_file.labels)
        np.testing.assert_array_equal(found.ids, of_file.ids)
        assert (found.classes, found.words) == (of_file.classes, of_file.words)
        assert found.user_ids == of_file.user_ids
    indexed = samples_of(frame.drop(columns="id").set_index(frame["id"].str.replace("r", "00")))
    assert indexed.user_ids[:2].to_pylist() == ["000", "001"]
    several = samples_of({"train": frame[:40], "test": frame[40:]})
    assert several.splits["test"].tolist() == list(range(40, 60))
    with pytest.raises(InputError, match=r"data.source.label: .* has no column 'kind'"):
        samples_of({"object": frame, "label": "kind"})
    with pytest.raises(InputError, match=r"data.source.text: is for tables"):
        samples_of({"object": numbers(), "text": "body"})


def test_images_without_channels_say_what_to_do():
    """At 7d0af11: "a sample here is [28, 28]"."""
    rng = np.random.default_rng(0)
    recipe = {
        "data": {"source": (rng.random((40, 28, 28)).astype(np.float32), np.arange(40) % 2)},
        "teachers": [{"name": "conv", "model": {"type": "cnn"}, "fit": {"epochs": 1}}],
        "student": STUDENT,
    }
    with given_recipe(recipe) as config, pytest.raises(InputError, match="add a channel axis"):
        prepare(config)


# -- teachers -------------------------------------------------------------------------------------


def teacher_of(source, model, task="classification", student=STUDENT, **teacher):
    """The samples, and a teacher as the actors host it."""
    recipe = {
        "task": task,
        "data": {"source": source, "splits": {"validation": 0.2, "test": 0.2}},
        "teachers": [{"name": "own", "model": model, **teacher}],
        "student": student,
        **QUICK,
    }
    with given_recipe(recipe) as config:
        prepared = prepare(config)
        weights = prepared.teachers["own"].weights or {}
        (spec,) = prepared.specs({"own": weights}).values()
        return prepared.samples, TeacherModel(spec), spec


def said(samples, teacher):
    """Its answers to the untransformed training samples, float64 [N, C]."""
    rows = samples.splits["train"]
    inputs = samples.batch(rows, -1).inputs
    with torch.inference_mode():
        return rows, teacher.network(inputs).double().numpy()


def test_an_estimator_answers_as_it_does_by_itself():
    images, labels = load_digits(return_X_y=True)
    forest = RandomForestClassifier(10, random_state=0).fit(images, labels)
    samples, teacher, spec = teacher_of((images.astype(np.float32), labels), forest)
    rows, logits = said(samples, teacher)
    probabilities = forest.predict_proba(images[rows].astype(np.float32))
    np.testing.assert_allclose(torch.from_numpy(logits).softmax(1), probabilities, atol=1e-6)
    assert spec.label_map is None
    again = teacher_of((images.astype(np.float32), labels), copy.deepcopy(forest))[2]
    assert again.fingerprint == spec.fingerprint


def test_classes_of_another_order_are_matched_by_name():
    inputs, labels = numbers()
    names = np.array(["b", "a"])[labels]
    model = LogisticRegression().fit(inputs, names)
    source = {"inputs": inputs, "labels": labels, "classes": ("b", "a")}
    spec = teacher_of(source, model)[2]
    assert spec.label_map == (1, 0)
    foreign = LogisticRegression().fit(inputs, np.array(["x", "y"])[labels])
    with pytest.raises(InputError, match=r"teachers.own.label_map: is needed: .*x, y.* \(b, a\)"):
        teacher_of(source, foreign)
    assert teacher_of(source, foreign, label_map=["a", "b"])[2].label_map == (1, 0)


def test_a_pipeline_of_columns_is_given_the_table_as_it_is():
    frame = table()
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["city"]), (SimpleImputer(), ["member", "age"])
    )
    model = make_pipeline(columns, LogisticRegression()).fit(frame[["member", "city", "age"]], frame["label"])  # fmt: skip
    samples, teacher, spec = teacher_of(frame, model)
    assert spec.model.columns == (2, 1, 0)
    rows, logits = said(samples, teacher)
    probabilities = model.predict_proba(frame[["member", "city", "age"]].iloc[rows])
    np.testing.assert_allclose(torch.from_numpy(logits).softmax(1), probabilities, atol=1e-5)
    fewer = {"object": frame, "inputs": ["age", "member"]}
    with pytest.raises(InputError, match=r"teachers.own.model: .*lack: 'city'; they have age, member"):  # fmt: skip
        teacher_of(fewer, model)


def test_values_and_labels():
    inputs, _ = numbers()
    values = inputs.sum(axis=1)
    regressor = RandomForestRegressor(5, random_state=0).fit(inputs, values)
    samples, teacher, _ = teacher_of((inputs, values), regressor, task="regression")
    rows, answers = said(samples, teacher)
    np.testing.assert_allclose(answers[:, 0], regressor.predict(inputs[rows]), rtol=1e-5)
    marks = (inputs[:, :2] > 0.5).astype(int)
    forest = RandomForestClassifier(5, random_state=0).fit(inputs, marks)
    samples, teacher, _ = teacher_of({"inputs": inputs, "labels": marks}, forest, task="multilabel")
    rows, answers = said(samples, teacher)
    odds = np.stack([one[:, 1] for one in forest.predict_proba(inputs[rows])], axis=1)
    np.testing.assert_array_equal(answers > 0, odds > 0.5)
    with pytest.raises(InputError, match=r"answers values; `task: classification` needs classes"):
        teacher_of((inputs, (values > 2).astype(int)), regressor)


class Net(nn.Module):
    """A module of the user's; its dropout tells whether it is evaluated as it should be."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 2))

    def forward(self, x):
        return self.body(x)


def test_a_module_is_hosted_as_a_copy():
    inputs, labels = numbers()
    net = Net().train()
    samples, teacher, spec = teacher_of((inputs, labels), net)
    assert net.training
    assert all(one.requires_grad for one in net.parameters()), "the user's own stays as it was"
    rows, logits = said(samples, teacher)
    with torch.no_grad():
        np.testing.assert_allclose(logits, net.eval()(torch.from_numpy(inputs[rows])), atol=1e-6)
    assert spec.model.describes == f"{Net.__module__}.Net"


def test_what_cannot_be_a_teacher_is_told_why():
    inputs, labels = numbers()
    wrong = {
        "unfitted": (RandomForestClassifier(), "is not fitted; fit it first"),
        "ridge": (
            RidgeClassifier().fit(inputs, labels),
            "no predict_proba.*CalibratedClassifierCV",
        ),
        "number": (3.5j, "found builtins.complex; give a torch.nn.Module"),
        "kind": (Net, "found .*Net; give .*, not a class: call it"),
    }
    teachers = [{"name": name, "model": model} for name, (model, _) in wrong.items()]
    recipe = {
        "data": {"source": (inputs, labels)},
        "teachers": teachers,
        "student": {"model": Net()},
    }
    with pytest.raises(InputError) as caught:
        raykd.run(recipe)
    problems = {problem.key: problem.message for problem in caught.value.problems}
    assert "a student is made anew for each replica" in problems["student.model"]
    for name, (_, message) in wrong.items():
        assert re.search(message, problems[f"teachers.{name}.model"])


def test_what_objects_do_not_go_with_is_refused(call, tmp_path):
    inputs, labels = numbers()
    forest = RandomForestClassifier(5, random_state=0).fit(inputs, labels)
    for teacher, key in (
        ({"fit": {"epochs": 1}}, "teachers.own.fit"),
        ({"weights": "w.pt"}, "teachers.own.weights"),
        ({"kind": "probabilities"}, "teachers.own.kind"),
    ):
        with pytest.raises(InputError, match=key):
            teacher_of((inputs, labels), forest, **teacher)
    written = {"type": "object", "fingerprint": "0" * 32, "describes": "a forest", "library": "sklearn"}  # fmt: skip
    recipe = {
        "data": {"source": {"type": "digits"}},
        "teachers": [{"name": "own", "model": written}],
        "student": STUDENT,
    }
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    for command in ("run", "check", "plan"):
        ended = call(command, tmp_path / "recipe.json")
        assert ended.code == 2
        assert "teachers.own.model: is an object of a Python process (a forest)" in ended.err
    assert load_config(recipe).objects.keys() == {"teachers.own.model"}


# -- libraries that most recipes do without ----------------------------------------------------------


def test_tables_of_polars_and_datasets():
    polars, datasets = pytest.importorskip("polars"), pytest.importorskip("datasets")
    frame = table()
    expected = samples_of(frame)
    for source in (
        polars.from_pandas(frame),
        polars.from_pandas(frame).lazy(),
        datasets.Dataset.from_pandas(frame),
    ):
        found = samples_of(source)
        np.testing.assert_array_equal(found.inputs["inputs"], expected.inputs["inputs"])
        np.testing.assert_array_equal(found.ids, expected.ids)
    names = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    posts = datasets.Dataset.from_dict({"text": ["a b", "c d"] * 20, "label": [0, 1] * 20}, names)
    parts = datasets.DatasetDict({"train": posts, "test": posts.select(range(10))})
    found = samples_of({"object": parts, "text": "text"})
    assert found.classes == ("neg", "pos")
    assert found.splits["test"].tolist() == list(range(40, 50))


def test_a_pipeline_of_transformers_brings_its_tokenizer_and_classes(tmp_path):
    transformers = pytest.importorskip("transformers")
    words = sorted({word.lower() for text in topics()[0] for word in text.split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join([*special, *words]))
    labels = dict(enumerate(("sport", "food", "space")))
    config = transformers.BertConfig(
        vocab_size=len(words) + 5, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        id2label=labels, label2id={name: number for number, name in labels.items()},
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    pipeline = transformers.pipeline(
        "text-classification",
        model=model,
        tokenizer=transformers.BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt")),
    )
    source, student = {"object": posts(60), "text": "body"}, {"model": {"type": "bag"}}
    samples, teacher, spec = teacher_of(source, pipeline, student=student)
    assert spec.label_map == (2, 0, 1)
    rows, logits = said(samples, teacher)
    own = pipeline(posts(60)["body"].iloc[rows].tolist(), top_k=None, batch_size=4)
    told = [{one["label"]: one["score"] for one in answer} for answer in own]
    expected = [[answer[name] for name in labels.values()] for answer in told]
    np.testing.assert_allclose(torch.from_numpy(logits).softmax(1), expected, atol=1e-6)
    again = teacher_of(source, pipeline, student=student)[2]
    assert again.fingerprint == spec.fingerprint, "being used changes nothing"
    with pytest.raises(InputError, match=r"preprocess.tokenizer: is needed.* give the pipeline"):
        teacher_of(source, model, student=student)


def test_a_module_of_lightning():
    lightning = pytest.importorskip("lightning")

    class Lit(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 2)

        def forward(self, x):
            return self.net(x)

    inputs, labels = numbers()
    module = Lit().eval()
    samples, teacher, _ = teacher_of((inputs, labels), module)
    rows, logits = said(samples, teacher)
    with torch.no_grad():
        np.testing.assert_allclose(logits, module(torch.from_numpy(inputs[rows])), atol=1e-6)


# -- on the cluster -----------------------------------------------------------------------------------


def two_teachers():
    inputs, labels = numbers()
    forest = RandomForestClassifier(5, random_state=0).fit(inputs, labels)
    return (
        inputs,
        forest,
        {
            "data": {"source": (inputs, labels)},
            "teachers": [{"name": "forest", "model": forest}, {"name": "net", "model": Net()}],
            "student": STUDENT,
            **QUICK,
        },
    )


@pytest.mark.soak
def test_a_fleet_hosts_objects(ray_cluster):
    inputs, forest, recipe = two_teachers()
    with raykd.Fleet(recipe) as fleet:
        answers = fleet.score_inputs(inputs[:4])
    probabilities = answers["forest"].values_NC.softmax(1)
    np.testing.assert_allclose(probabilities, forest.predict_proba(inputs[:4]), atol=1e-3)
    assert answers["net"].values_NC.shape == (4, 2)


def test_a_plan_takes_objects_and_a_search_over_them_is_refused():
    _, forest, recipe = two_teachers()
    assert raykd.plan(recipe, timing=False).counts
    space = {"space": "choice", "categories": [forest, Net()]}
    with pytest.raises(InputError, match=r"search.parameters.teachers.0.model: holds an object"):
        raykd.sweep({**recipe, "search": {"parameters": {"teachers.0.model": space}}})


def test_objects_are_not_submitted(ran, call, tmp_path, monkeypatch):
    monkeypatch.chdir(ran.path)
    words = ("--address", "http://127.0.0.1:8265", "run", "config.json", "--output", tmp_path / "x")
    ended = call("submit", *words)
    assert ended.code == 2
    assert "teachers.tfidf.model: is an object of a Python process" in ended.err
    assert "cannot be submitted; call raykd.run" in ended.err
