"""The arithmetic of `raykd/targets/README.md` for sizes that no test machine has, made anew from the functions of `raykd plan`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from raykd.forecast.durations import Load, spread_s
from raykd.targets import EntryKey, codec
from raykd.targets.packing import Packing
from raykd.targets.shards import SHARD_ROWS
from raykd.targets.sizes import shard_bytes

README = Path(__file__).parents[2] / "raykd" / "targets" / "README.md"
CLASSES, RATE, HELD_OUT = 1000, 1000, 50_000
KEY = EntryKey("0" * 32, '["raykd views", 1, {"seed": 0, "policy": []}]')
FORMS = {"full": codec.PLAIN, "top-32": Packing(32, (1.0, 4.0))}


@dataclass(frozen=True)
class Size:
    """A job: images/s of one GPU are `RATE`, of a teacher that scores and of a student that trains alike."""

    images: int
    teachers: int
    views: int
    epochs: int
    gpus: int

    @property
    def stored(self) -> int:
        return self.teachers * (self.views * self.images + HELD_OUT)

    @property
    def live(self) -> int:
        return self.teachers * (self.epochs * self.images + HELD_OUT)

    @property
    def trained(self) -> int:
        return self.epochs * self.images

    def store_bytes(self, form: str) -> int:
        """Of all teachers; held-out samples are kept in full."""
        views = self.views * self.entry_bytes(self.images, 0, FORMS[form])
        return self.teachers * (views + self.entry_bytes(HELD_OUT, -1, codec.PLAIN))

    def entry_bytes(self, rows: int, view: int, packing: Packing) -> int:
        answer = codec.encode(torch.zeros(1, CLASSES), {}, packing=packing)
        whole, rest = divmod(rows, SHARD_ROWS)
        last = shard_bytes(KEY, view, rest, answer) if rest else 0
        return whole * shard_bytes(KEY, view, SHARD_ROWS, answer) + last

    def hours(self, *samples: int) -> float:
        """Of work that is done at the same time, on all GPUs."""
        loads = [Load(count / RATE, workers=self.gpus, gpus=1) for count in samples]
        return spread_s(loads, cpus=16 * self.gpus, gpus=self.gpus) / 3600


SIZES = {
    "ImageNet-1k, 4 teachers, 32 GPUs": Size(1_281_167, 4, 4, 100, 32),
}


def cells(size: Size) -> list[str]:
    fill, train = size.hours(size.stored), size.hours(size.trained)
    full, top = (size.store_bytes(form) for form in FORMS)
    return [
        f"{size.images:,}; {size.views}; {size.epochs}",
        f"{size.stored:,}",
        f"{size.live:,}",
        f"{full / 1e9:,.1f} GB",
        f"{top / 1e9:,.1f} GB",
        f"{fill:.2f} + {train:.2f} = {fill + train:.2f} h",
        f"{size.hours(size.live, size.trained):.2f} h",
        f"{4 * train + fill + train:.2f} h",
        f"{5 * size.hours(size.live, size.trained):.2f} h",
    ]


NAMES = [
    "training images; views kept; epochs",
    "teacher passes, stored",
    "teacher passes, live, each student",
    "store, all 1,000 logits",
    "store, top 32 at T = 1 and 4",
    "stored: fill + one student",
    "live: one student",
    "stored: five students",
    "live: five students",
]


@pytest.mark.parametrize("row", range(len(NAMES)))
def test_the_readme_s_arithmetic_is_that_of_plan(row):
    said = [cells(size)[row] for size in SIZES.values()]
    line = f"| {NAMES[row]} | {' | '.join(said)} |"
    assert line in README.read_text(encoding="utf-8").splitlines(), line


def test_the_readme_s_table_is_of_these_sizes():
    assert f"| | {' | '.join(SIZES)} |" in README.read_text(encoding="utf-8").splitlines()
