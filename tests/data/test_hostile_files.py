"""Tables of many columns, images that would fill the memory, members of tar files that are no files."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from raykd.config.data import BadSamples, Data
from raykd.config.sources import CsvSource, ImagesSource, ParquetSource, WebdatasetSource
from raykd.data.samples import build_samples
from raykd.errors import InputError


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_of_five_thousand_columns(kind: str, tmp_path: Path) -> None:
    """At 7d0af11, 4,000 columns took 15.5 s: names were looked for with the square of their number."""
    values_ND = np.random.default_rng(0).normal(size=(20, 5_000)).astype(np.float32)
    table = pd.DataFrame(values_ND, columns=[f"g{i}" for i in range(5_000)])
    table["label"] = np.arange(20) % 2
    path = tmp_path / f"wide.{kind}"
    if kind == "csv":
        table.to_csv(path, index=False)
        source: Any = CsvSource(path=str(path), label="label")
    else:
        table.to_parquet(path)
        source = ParquetSource(path=str(path), label="label")
    samples = build_samples(Data(source=source), seed=0)
    assert samples.features == tuple(f"g{i}" for i in range(5_000))
    np.testing.assert_array_equal(samples.inputs["inputs"], values_ND)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says how many pixels it has."""

    def chunk(name: bytes, payload: bytes) -> bytes:
        whole = name + payload
        return struct.pack(">I", len(payload)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(3 * width + 1)) if height == 1 else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def folder_of_images(root: Path, name: str, payload: bytes) -> Data:
    for row in range(40):
        file = root / "images" / "ab"[row % 2] / f"{row:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (row, 0, 0)).save(file)
    (root / "images" / "a" / name).write_bytes(payload)
    source = ImagesSource(path=str(root / "images"), label="folder", size=8)
    return Data(source=source, bad_samples=BadSamples(max_fraction=0.1))


@pytest.mark.parametrize(
    ("size", "why"),
    [
        ((30_000, 30_000), "exceeds limit"),
        ((10_000, 10_000), "exceeds limit"),
        ((3_000_000, 1), "too narrow"),
    ],
)
def test_an_image_bomb_is_a_bad_sample(size: tuple[int, int], why: str, tmp_path: Path) -> None:
    """At 7d0af11, 100 million pixels were decoded with a warning, and a strip was resized to 192 million."""
    samples = build_samples(folder_of_images(tmp_path, "bomb.png", bomb(*size)), seed=0)
    assert len(samples) == 40
    (left_out,) = samples.left_out
    assert left_out.startswith("a/bomb.png")
    assert why in left_out


def shard(root: Path, member: tarfile.TarInfo, payload: bytes = b"") -> WebdatasetSource:
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    with tarfile.open(root / "0.tar", "w") as tar:
        for name, content in {"0.png": png.getvalue(), "0.cls": b"0"}.items():
            plain = tarfile.TarInfo(name)
            plain.size = len(content)
            tar.addfile(plain, io.BytesIO(content))
        member.size = len(payload)
        tar.addfile(member, io.BytesIO(payload))
    return WebdatasetSource(path=str(root / "0.tar"))


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
    ],
)
@pytest.mark.parametrize("name", ["1.png", "1.cls"])
def test_members_that_are_no_files_are_named(
    kind: bytes, word: str, name: str, tmp_path: Path
) -> None:
    """At 7d0af11 these samples were left out in silence."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "0.png"
    with pytest.raises(InputError, match=f"0.tar has '{name}', which is a {word}"):
        build_samples(Data(source=shard(tmp_path, member)), seed=0)


def test_fields_have_an_end(tmp_path: Path) -> None:
    source = shard(tmp_path, tarfile.TarInfo("0.json"), b" " * (2**24 + 1))
    with pytest.raises(InputError, match=r"'0.json' of 16,777,217 bytes"):
        build_samples(Data(source=source), seed=0)
