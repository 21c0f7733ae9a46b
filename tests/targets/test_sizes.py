"""Sizes of files that are not written yet, held against files that are."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch

from raykd.targets import EntryKey, codec
from raykd.targets.entries import MANIFEST, append
from raykd.targets.packing import Packing
from raykd.targets.shards import write_shard
from raykd.targets.sizes import manifest_bytes, shard_bytes

FINGERPRINT = "0123456789abcdef" * 2
FEATURES = {"blocks.0": (5, 4, 3), "kopf.größe": (7,), 'odd "name"\\': (6, 2)}
ANSWERS = {
    "logits": ("logits", codec.PLAIN, (11,)),
    "one label": ("label_logits", codec.PLAIN, (1,)),
    "value": ("value", codec.PLAIN, (1,)),
    "top-k": ("logits", Packing(3, (1.0, 2.5)), (11,)),
    "many classes": ("logits", Packing(2, (1.0,)), (65_537,)),
    "int8": ("logits", Packing(features="int8"), (3,)),
    "pooled": ("logits", Packing(features="pooled"), (3,)),
}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@functools.cache
def encoded(rows, name):
    kind, packing, shape = ANSWERS[name]
    draw = torch.Generator().manual_seed(rows)
    features = {tap: torch.randn(rows, *s, generator=draw) for tap, s in FEATURES.items()}
    return codec.encode(torch.randn(rows, *shape, generator=draw), features, kind, packing)


@pytest.mark.parametrize("name", ANSWERS)
def test_a_shard_is_as_large_as_said(tmp_path, name):
    views = ("original", 'v1|["shift", {"pixels": 1}]|größe')
    taps = (None, *FEATURES)
    for (rows, view), tap, policy in itertools.product(
        ((1, 0), (9, 123_456), (10, -1), (37, 12)), taps, views
    ):
        key = EntryKey(FINGERPRINT, policy, tap)
        keys = {"ids": np.arange(rows), "hashes": np.arange(rows, dtype=np.uint64)}
        arrays = {**keys, **key.of(encoded(rows, name))}
        shard = write_shard(tmp_path, view, arrays, key.to_json())
        found = (tmp_path / shard.file).stat().st_size
        one = encoded(1, name)
        assert shard_bytes(key, view, rows, one) == found
        bare = sum(array.nbytes for array in arrays.values())
        assert 0 < found - bare < 1024, "what is left is the header"


def test_a_manifest_is_as_large_as_said(tmp_path):
    key = EntryKey(FINGERPRINT, 'policy "größe"', "blocks.0")
    sizes = [(-1, 5), (0, 16), (0, 3), (12, 100)]
    for count in range(1, len(sizes) + 1):
        view, rows = sizes[count - 1]
        keys = {"ids": np.arange(rows), "hashes": np.arange(rows, dtype=np.uint64)}
        shard = write_shard(tmp_path / key.folder, view, keys, key.to_json())
        append(tmp_path, key, [shard])
        found = (tmp_path / key.folder / MANIFEST).stat().st_size
        assert manifest_bytes(key, sizes[:count]) == found
