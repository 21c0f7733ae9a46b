"""Views are the bits that they were when numpy made them, so that what is stored of them stays right."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from raykd.config.data import (
    Cutmix,
    Cutout,
    FactoryView,
    Flip,
    Mixup,
    Noise,
    PadCrop,
    Rotate,
    Shift,
)
from raykd.data import gathering, geometry, steps, views
from raykd.data.gathering import gathered
from raykd.data.hashing import Draws, view_keys

POLICIES = {
    "pad_crop": (PadCrop(padding=2),),
    "shift": (Shift(pixels=3),),
    "flip": (Flip(),),
    "cutout": (Cutout(size=3),),
    "cutmix": (Cutmix(probability=0.7),),
    "moves": (PadCrop(padding=3), Flip(), Cutmix(alpha=0.5), Shift(), Cutout(size=4)),
    "factory": (Flip(), FactoryView(path="view_functions:jitter"), Shift()),
    "rotate": (Rotate(degrees=30),),
    "mixup": (Flip(), Mixup(alpha=0.4, probability=0.7)),
    "noise": (Noise(std=0.1),),
    "many": (Shift(), Flip(), Rotate(), Mixup(alpha=1.0), Cutout(size=3)),
}
SHAPES = [(2, 9, 7), (1, 8, 8), (3, 70, 66)]
"""The last is one that the CPU moves image by image."""
DIGESTS = {
    "pad_crop": ["ee5707aa6529ebb3", "31c59cad2d211769", "fa10c23592eb70e7"],
    "shift": ["337942f7532284b8", "9e312431f6b9bac5", "3b7d5707bcf42b90"],
    "flip": ["b4285bcfb86feb37", "7f8def69f28b9761", "ede0bb7b6f1d1bdb"],
    "cutout": ["da751cc42a487991", "8936fae0736f3ea6", "d7501169b1d249c4"],
    "cutmix": ["aec2075dc9e51fb5", "a04b9041961a9411", "2ea1d3e3e19b41cc"],
    "moves": ["cdb199fb2c6337d1", "eeafe59224dfe7fd", "bfa64da931026c89"],
    "factory": ["7c58d8c71bd0d563", "7733237bbc4e14ff", "5601b13cc736d984"],
    "rotate": ["e95dab9552afa38a", "c8223b5e8bbd319b", "03fdc33db6e87e0a"],
    "mixup": ["38dca061b253f482", "f85b8ccc708fda50", "59ed4d3b14f362a6"],
    "noise": ["991a3055f86fbf79", "e3c4890f95004cb7", "0d18b774c567e0b7"],
    "many": ["87e9e32f96cd4d41", "efaae8c5538fbb20", "b3b1c244372ee196"],
}
"""SHA-256, by the numpy of commit 9300b37, of uint8 and of the same as floats alike; a digest for each shape."""


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    monkeypatch.delitem(sys.modules, "view_functions", raising=False)


def digest(samples):
    """Of what is shown of some rows in several views, originals among them, and in one view."""
    rows = np.random.default_rng(5).integers(0, 60, 90)
    views_B = np.random.default_rng(6).integers(-1, 4, 90)
    found = hashlib.sha256()
    for view in (views_B, 2):
        batch = samples.batch(rows, view)
        found.update(batch.inputs["inputs"].numpy().tobytes())
        if batch.mixed is not None:
            found.update(batch.mixed.share_B.numpy().tobytes())
            found.update(batch.mixed.partner_labels_B.numpy().tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("floats", [False, True])
def test_views_are_the_bits_that_they_were(make_samples, name, floats):
    given = {"count": 60, "floats": floats, "labels": 30, "seed": 3}
    assert [
        digest(make_samples(*POLICIES[name], shape=shape, **given)) for shape in SHAPES
    ] == DIGESTS[name]


@pytest.mark.parametrize("size", [1, 3000, 10**9])
def test_how_many_are_made_at_a_time_does_not_matter(make_samples, monkeypatch, size):
    monkeypatch.setattr(views, "_AT_ONCE_BYTES", size)
    for name in ("moves", "many", "noise"):
        samples = make_samples(*POLICIES[name], count=60, labels=30, seed=3, shape=SHAPES[0])
        assert digest(samples) == DIGESTS[name][0]


def test_keys_of_stored_targets_are_those_that_they_were(make_samples):
    def key(*policy):
        return json.loads(make_samples(*policy, count=60, labels=30, seed=3).view_key)

    pools = "28ccca681962b89f9d210bcae952af64"
    assert key(*POLICIES["noise"]) == {
        "format": 1, "pools": None, "seed": 3, "steps": [{"std": 0.1, "type": "noise"}],
    }  # fmt: skip
    assert key(*POLICIES["mixup"]) == {
        "format": 1, "pools": pools, "seed": 3, "steps": [
            {"probability": 0.5, "type": "flip"}, {"alpha": 0.4, "probability": 0.7, "type": "mixup"},
        ],
    }  # fmt: skip
    assert key(*POLICIES["factory"])["steps"][1]["code"] == "62fc93febf806908"


def test_both_ways_to_move_images_are_one(monkeypatch):
    images = torch.randint(0, 256, (20, 2, 9, 7), dtype=torch.uint8)
    down_B, right_B = torch.randint(-4, 5, (2, 20))
    together = steps.translate(images, down_B, right_B, 4)
    monkeypatch.setattr(steps, "_LARGE_IMAGE", 1)
    assert torch.equal(steps.translate(images, down_B, right_B, 4), together)


@pytest.mark.parametrize("count", [1, 2, 9, 1000])
def test_noise_on_the_device_is_that_of_counting_on_the_host(count):
    keys_B = view_keys(np.arange(50), np.zeros(50, np.int64), 7)
    draws = Draws.of_step(keys_B, 2)
    values = torch.zeros(50, count)
    stream_B = torch.from_numpy(draws.stream_B.view(np.int64))
    shown = steps.noisy(values, stream_B, 0.5)
    np.testing.assert_allclose(shown.numpy(), 0.5 * draws.normals(count), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint8).reshape(6, 4),
        np.arange(24, dtype=">f4").reshape(6, 4),
        np.arange(24, dtype=np.float64).reshape(6, 4),
        np.arange(24, dtype=np.float16).reshape(6, 4),
        np.arange(24, dtype=np.int32).reshape(6, 4),
        np.arange(48, dtype=np.float32).reshape(6, 8)[:, ::2],
    ],
    ids=lambda array: array.dtype.str,
)
def test_rows_of_any_array_are_gathered(array):
    rows = np.array([5, 0, 5, 3])
    found = gathered(array, rows)
    assert found.numpy().dtype == steps.kept_dtype(array.dtype)
    np.testing.assert_array_equal(found.numpy(), array[rows])
    kept = array.copy()
    found.zero_()
    np.testing.assert_array_equal(array, kept)


def test_views_are_made_where_they_are_asked_for(make_samples, monkeypatch):
    """Bytes and draws go to the device, and every step is one of tensors that are there; but of users' own steps."""
    went = []

    def moved(tensor, device):
        went.append((device.type, tensor.dtype, tensor.numel()))
        return tensor

    monkeypatch.setattr(views, "moved", moved)
    monkeypatch.setattr(geometry, "moved", moved)
    monkeypatch.setattr(gathering, "pins", lambda device: False)
    device = torch.device("cuda")
    for name in ("moves", "rotate", "mixup", "factory"):
        samples = make_samples(*POLICIES[name], count=60, labels=30, seed=3, shape=SHAPES[2])
        rows = np.arange(40)
        here = samples.batch(rows, 1).inputs["inputs"]
        went.clear()
        there = samples.batch(rows, 1, device=device).inputs["inputs"]
        assert torch.equal(there, here)
        numbers = 40 * here[0].numel()
        large = [(kind, dtype) for kind, dtype, size in went if size >= numbers]
        small = [size for *_, size in went if size < numbers]
        if name == "factory":
            assert large == [("cpu", torch.uint8), ("cuda", torch.float32)]
        else:
            assert set(large) == {("cuda", torch.uint8)}
            assert len(large) == 1 + any(
                step.type in ("mixup", "cutmix") for step in samples.policy
            )
        assert max(small) <= 80, "a few numbers for each sample"
