"""Labels, class names and images as people bring them, through `raykd data check`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from raykd.config.data import Data
from raykd.data import Dataset, Samples, build_samples
from raykd.errors import InputError

Call = Callable[..., Any]
ROWS = 60


def loaded(source: dict[str, Any], **data: Any) -> Samples:
    task = data.pop("task", "classification")
    return build_samples(Data.model_validate({"source": source, **data}), seed=0, task=task)


def table(folder: Path, labels: Sequence[Any], kind: str = "csv", **more: Any) -> dict[str, Any]:
    """A source of 60 rows with these labels."""
    columns = {"x": list(np.linspace(0, 1, ROWS)), "label": list(labels), **more}
    path = folder / f"rows.{kind}"
    if kind == "csv":
        lines = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
        path.write_text("\n".join([",".join(columns), *lines]))
    else:
        pq.write_table(pa.table(columns), path)
    return {"type": kind, "path": str(path), "inputs": ["x", *more], "label": "label"}


@pytest.fixture
def check(tmp_path: Path, call: Call) -> Call:
    """`raykd data check` of a source, with more keys of `data`."""

    def run(source: dict[str, Any], *words: str, task: str = "classification", **data: Any) -> Any:
        given = {
            "task": task,
            "data": {"source": source, **data},
            "teachers": [{"name": "one", "model": {"type": "mlp"}, "fit": {}}],
            "student": {"model": {"type": "mlp"}},
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(given))
        return call("data", "check", tmp_path / "recipe.yaml", *words)

    return run


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("names", [None, ["True", "False"], ["false", "TRUE"]])
def test_booleans_are_matched_by_their_text(tmp_path: Path, kind: str, names: Any) -> None:
    """At 7d0af11 True became class 1 and was named by place: with ["True", "False"] it was called "False"."""
    truth = [row % 3 == 0 for row in range(ROWS)]
    samples = loaded(table(tmp_path, truth, kind), classes=names)
    said = [samples.classes[label].lower() for label in samples.all_labels]
    assert said == [str(one).lower() for one in truth]
    assert samples.classes == tuple(names or ["False", "True"])


@pytest.mark.parametrize(
    ("labels", "names", "why"),
    [
        ([True, False], ["no", "yes"], r"'label' has 'False', 'True', not among the 2 names \(no, yes\)"),
        ([0, 1], ["1", "0", "2"], "1 of 3 classes have no labelled training sample (2)"),
        ([0, 1, 2], ["1", "2", "3"], "'1' has index 0, and is class 1 of the source"),
        (["2024-01-01", "2024-01-02"], None, "'label' has times (date32[day], e.g. 2024-01-01)"),
        (["2024-01-01 10:00:00", "2024-01-02 10:00:00"], None, "'label' has times (timestamp[s]"),
        ([1700000000, 1700000001], None, "'label' has labels up to 1700000001, of which 2 are different"),
        ([10**12, 1], None, "'label' has labels up to 1000000000000, of which 2 are different"),
        ([1.5, 2.5], None, "needs whole numbers, or texts for classes"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_meant_are_refused(
    check: Call, tmp_path: Path, labels: list[Any], names: Any, why: str
) -> None:
    """At 7d0af11 the first three ran with exit 0; a name was made for every number up to a time or a code."""
    every = [labels[row % len(labels)] for row in range(ROWS)]
    ended = check(table(tmp_path, every), classes=names)
    assert ended.code == 2
    assert why.replace("\\", "") in ended.err


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([0, 1], ["1", "0"]),
        ([1, 2, 3], ["1", "2", "3"]),
        (["01", "02"], ["02", "01"]),
        ([1700000000, 1700000001], ["1700000001", "1700000000"]),
        (["2024-01-01", "2024-01-02"], ["2024-01-02", "2024-01-01"]),
        (["0.5", "1"], ["1", "0.5"]),
    ],
)
def test_numbers_are_matched_by_their_text(
    tmp_path: Path, labels: list[Any], names: list[str]
) -> None:
    """At 7d0af11 label 0 was called "1" by `classes: ['1', '0']`."""
    every = [labels[row % len(labels)] for row in range(ROWS)]
    samples = loaded(table(tmp_path, every), classes=names)
    assert [samples.classes[label] for label in samples.all_labels] == list(map(str, every))


def test_numbers_keep_names_that_are_words(tmp_path: Path) -> None:
    samples = loaded(table(tmp_path, [0, 1, -1] * 20), classes=["healthy", "ill"])
    assert samples.all_labels[:3].tolist() == [0, 1, -1]
    assert samples.classes == ("healthy", "ill")
    unlabelled = loaded(table(tmp_path, [0, 1, -1] * 20), classes=["1", "0"])
    assert unlabelled.all_labels[:3].tolist() == [1, 0, -1]
    small = table(tmp_path, pa.array([0, 1, 2] * 20, pa.uint8()), "parquet")
    assert loaded(small, classes=["2", "1", "0"]).all_labels[:3].tolist() == [2, 1, 0]


def test_arrays_of_booleans_and_codes() -> None:
    values = np.random.default_rng(0).normal(size=(ROWS, 2))
    found = Dataset(values, labels=np.arange(ROWS) % 2 == 1)
    assert found.class_names == ("False", "True")
    assert found.known_labels[:3].tolist() == [0, 1, 0]
    with pytest.raises(
        InputError, match="found labels up to 1700000000, of which 60 are different"
    ):
        Dataset(values, labels=1_700_000_000 - np.arange(ROWS))


@pytest.mark.parametrize("pair", [("cat", "Cat "), ("café", "cafe\u0301")])
def test_classes_that_look_alike_are_told(
    check: Call, tmp_path: Path, pair: tuple[str, str]
) -> None:
    """At 7d0af11 two classes that look the same were trained without a word."""
    for number, name in enumerate([*pair, "dog"]):
        write_images(tmp_path / "photos" / name, 20, first=20 * number)
    source = {"type": "images", "path": str(tmp_path / "photos")}
    (told,) = loaded(source).notes
    assert told.startswith("classes '")
    for name in pair:
        assert ascii(name) in told
    csv = table(tmp_path, [*pair, "dog"] * 20)
    assert "look alike" in check(csv).out


def write_images(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(first + number).integers(0, 256, (6, 6), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")


VALUES = (0, 200, 300, 4095, 30000, 65535)
SCALED = [0, 1, 1, 16, 117, 255]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    """At 7d0af11 they were clipped to 0, 200, 255, 255, 255, 255."""
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.array([VALUES, [number] * 6], np.uint16)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.{suffix}")
    for mode, channels in (("L", 1), ("RGB", 3)):
        source = {"type": "images", "path": str(tmp_path / "photos"), "mode": mode}
        values = loaded(source).inputs["inputs"]
        assert (values[:, :, 0] == SCALED).all()
        assert values.shape[1] == channels


@pytest.mark.parametrize(
    ("dtype", "why"), [(np.float32, "has floats"), (np.int32, "has 32-bit or signed whole numbers")]
)
def test_images_without_a_known_white_are_refused(
    check: Call, tmp_path: Path, dtype: Any, why: str
) -> None:
    """At 7d0af11 their values were clipped at 255."""
    (tmp_path / "photos" / "a").mkdir(parents=True)
    Image.fromarray(np.ones((6, 6), dtype)).save(tmp_path / "photos" / "a" / "1.tif")
    ended = check({"type": "images", "path": str(tmp_path / "photos")})
    assert ended.code == 2
    assert (
        f"({why}, which have no fixed white; scale it and save it with 8 or 16 bits)" in ended.err
    )


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "dev"), ("train",)])
def test_folders_that_are_parts(check: Call, tmp_path: Path, names: tuple[str, ...]) -> None:
    """At 7d0af11 the classes were `train` and `val`."""
    for number, (name, kind) in enumerate((n, k) for n in names for k in ("cat", "dog")):
        write_images(tmp_path / "photos" / name / kind, 20, first=20 * number)
    source = {"type": "images", "path": str(tmp_path / "photos")}
    samples = loaded(source)
    assert samples.classes == ("cat", "dog")
    own = {"Training": "train", "dev": "validation", "val": "validation"}
    for name in names if len(names) > 1 else ():
        part = samples.splits[own.get(name, name)]
        held = [key.split("/")[0] for key in samples.named(part)]
        assert set(held) == {name}
    Image.fromarray(np.zeros((6, 6), np.uint8)).save(tmp_path / "photos" / names[0] / "x.png")
    ended = check(source)
    assert ended.code == 2
    assert f"1 images lie in no sub-folder of their part (e.g. {names[0]}/x.png)" in ended.err


def test_folders_of_parts_beside_a_table_are_told(tmp_path: Path) -> None:
    lines = ["id,label"]
    for number, name in enumerate(("train", "val")):
        write_images(tmp_path / "photos" / name, 20, first=20 * number)
        lines += [f"{name}/{row:03d}.png,{'ab'[row % 2]}" for row in range(20)]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    labels = {"path": str(tmp_path / "labels.csv")}
    samples = loaded({"type": "images", "path": str(tmp_path / "photos"), "labels": labels})
    assert samples.notes[0].startswith("the folders are called like parts")


SECONDS = [1_700_000_000 + row for row in range(ROWS)]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_times_as_features_are_told(check: Call, tmp_path: Path, kind: str) -> None:
    """At 7d0af11 the 60 values became one or two, without a word."""
    report = json.loads(check(table(tmp_path, [0, 1] * 30, kind, seconds=SECONDS), "--json").out)
    (told,) = (text for text in report["warnings"] if "which float32" in text)
    assert told.startswith("column seconds has values around 1.7e+09")
    spread = [second * 1000 for second in range(ROWS)]
    assert "which float32" not in check(table(tmp_path, [0, 1] * 30, kind, other=spread)).out


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_times_as_target_are_refused(check: Call, tmp_path: Path, kind: str) -> None:
    """At 7d0af11 a student learnt one value of 60."""
    ended = check(table(tmp_path, SECONDS, kind), task="regression")
    assert ended.code == 2
    assert "found 60 different values from 1700000000 to 1700000059, of which models" in ended.err
    assert "subtract an offset, such as 1700000000" in ended.err
    years = [1_700_000_000 + row * 10**6 for row in range(ROWS)]
    assert check(table(tmp_path, years, kind), task="regression").code == 0
