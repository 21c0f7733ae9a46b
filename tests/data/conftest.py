from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for raykd_test_files

import numpy as np
import pytest

from raykd.config.data import Data, Splits, Views
from raykd.config.sources import DigitsSource
from raykd.data.dataset import Dataset
from raykd.data.samples import Samples, samples_of

Make = Callable[..., Samples]


def make_dataset(
    count: int = 120, shape: tuple[int, ...] = (2, 9, 7), *, floats: bool = False, **kwargs: Any
) -> Dataset:
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (count, *shape)).astype(np.uint8)
    given = {"labels": np.arange(count) % 4, "ids": rng.permutation(10 * count)[:count], **kwargs}
    return Dataset(inputs=(inputs / 255).astype(np.float32) if floats else inputs, **given)


@pytest.fixture
def make_samples() -> Make:
    """Samples of random images with the given policy."""

    def make(*policy: Any, seed: int = 0, labels: Any = None, **kwargs: Any) -> Samples:
        data = Data(
            source=DigitsSource(), splits=Splits(), labels=labels, views=Views(policy=policy)
        )
        return samples_of(make_dataset(**kwargs), data, seed=seed)

    return make
