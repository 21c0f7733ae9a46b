"""Samples that the user has as arrays: in an `.npz` file, or from a function of their own."""

from __future__ import annotations

import difflib
import inspect
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from raykd.config.sources import ArraysSource, FactorySource
from raykd.data.dataset import PARTS, Dataset
from raykd.data.objects import Arrays, Rows, rows_or_arrays
from raykd.errors import InputError, Problem, refuse
from raykd.importing import load_callable
from raykd.objects import named

_HARMLESS_BYTES = 2**28
_MOST_TIMES = 100
"""How much larger than its file an archive may get that is not harmless: arrays of numbers get a few times."""
_KEY = "data.source.path"
_NAMES = ("inputs", "labels", "ids", "splits", "classes", "weights")


def load_arrays(source: ArraysSource, task: str) -> Dataset:
    """The arrays of an `.npz` file.

    Raises:
        InputError: it is missing or damaged, or holds something else.
    """
    path = Path(source.path).expanduser()
    if not path.is_file():
        raise InputError.at(_KEY, f"there is no file {path} (in {Path.cwd()})")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            refuse_bomb(archive, path, key=_KEY)
    except (OSError, zipfile.BadZipFile) as error:
        raise _not_plain(path, error) from error
    refuse(_name_problems(names, path))
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _not_plain(path, error) from error
    return Dataset(
        inputs=arrays["inputs"],
        labels=arrays.get("labels"),
        ids=arrays.get("ids"),
        splits=_named_parts(arrays["splits"]) if "splits" in arrays else None,
        classes=tuple(arrays["classes"].tolist()) if "classes" in arrays else None,
        weights=arrays.get("weights"),
        task=task,
    )


def _not_plain(path: Path, error: Exception) -> InputError:
    why = f"{path} is no .npz of plain arrays ({error}); objects (pickles) are refused"
    return InputError.at(_KEY, why)


def _name_problems(found: list[str], path: Path) -> Iterator[Problem]:
    for name in sorted(set(found) - set(_NAMES)):
        near = difflib.get_close_matches(name, _NAMES, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        yield Problem(_KEY, f"{path} has an array {name!r}{meant}; known are {', '.join(_NAMES)}")
    if "inputs" not in found:
        yield Problem(_KEY, f"{path} has no array 'inputs'; it has {sorted(found)}")


def _named_parts(names: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of each part from one name per sample; an empty name puts a sample into no part."""
    unknown = sorted({str(name) for name in np.unique(names)} - {*PARTS, ""})
    if unknown or names.ndim != 1:
        raise InputError.at(
            "data.source.splits",
            f"found {unknown[:5]} in an array of shape {list(names.shape)}; needs [N] of "
            f"{', '.join(PARTS)}, or an empty text where a part is to be drawn",
        )
    return {part: np.flatnonzero(names == part) for part in PARTS if (names == part).any()}


def load_factory(source: FactorySource, task: str) -> Dataset:
    """What the user's function returns.

    Raises:
        InputError: it is not there, does not take the arguments, or returns something else.
    """
    make = load_callable(source.path, key=_KEY)
    try:
        inspect.signature(make).bind(**source.kwargs)
    except TypeError as error:
        raise InputError.at(
            "data.source.kwargs", f"{source.path} does not take {source.kwargs}: {error}"
        ) from error
    made = make(**source.kwargs)
    try:
        content = rows_or_arrays(made)
    except InputError as error:
        why = "; ".join(problem.message for problem in error.problems)
        raise InputError.at(_KEY, f"{source.path} returned {named(type(made))}: {why}") from error
    if isinstance(content, Rows):
        raise InputError.at(
            _KEY, f"{source.path} returned {named(type(made))}; needs a raykd.data.Dataset, arrays (inputs, labels) or "
            "a torch Dataset; write a table to a CSV or Parquet file, or give it to raykd.run itself"
        )  # fmt: skip
    return content.dataset(task) if isinstance(content, Arrays) else content


def refuse_bomb(archive: zipfile.ZipFile, path: Path, *, key: str) -> None:
    """Refuse an archive that says it would get far larger than it is; nothing of it is unpacked.

    Args:
        archive: opened.
        path: its file.
        key: dotted key of the recipe, or the argument, that names it.

    Raises:
        InputError: it would take more than 256 MiB and 100 times its size.
    """
    size = sum(member.file_size for member in archive.infolist())
    packed = path.stat().st_size
    if size > max(_HARMLESS_BYTES, _MOST_TIMES * packed):
        raise InputError.at(
            key,
            f"{path} has {packed:,} bytes and would take {size:,} in memory; an archive may take up to "
            f"{_MOST_TIMES} times its size; where you trust it, save its arrays unpacked (numpy.savez)",
        )
