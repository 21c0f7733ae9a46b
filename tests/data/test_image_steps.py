"""Random resized crops, colours, RandAugment, and where each step moves pixels."""

from __future__ import annotations

import colorsys
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raykd.config.data import (
    ColorJitter,
    Cutmix,
    Cutout,
    FactoryView,
    Flip,
    Mixup,
    Noise,
    PadCrop,
    Preprocess,
    RandAugment,
    RandomResizedCrop,
    Rotate,
    Shift,
)
from raykd.data import colors
from raykd.data.geometry import followed_by, inverse
from raykd.data.hashing import Draws, view_keys
from raykd.data.image_steps import crop_boxes
from raykd.errors import InputError
from raykd.models.preprocess import preprocessing_for

SHAPE = (3, 20, 16)
NEW = {
    "random_resized_crop": (RandomResizedCrop(scale=(0.2, 1.0)),),
    "smaller": (RandomResizedCrop(size=12), Flip()),
    "color_jitter": (ColorJitter(),),
    "rand_augment": (RandAugment(),),
    "many": (RandomResizedCrop(), Flip(), ColorJitter(probability=0.8), RandAugment(), Mixup()),
}


def shown(samples, rows, view):
    return samples.batch(np.asarray(rows), view).inputs["inputs"]


def draws_of(samples, rows, view, step=0):
    keys = view_keys(samples.ids[rows], np.full(len(rows), view), samples.seed)
    return Draws.of_step(keys, step)


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("floats", [False, True])
def test_a_view_does_not_depend_on_its_batch_and_is_another_each_time(make_samples, name, floats):
    samples = make_samples(*NEW[name], shape=SHAPE, count=40, floats=floats)
    rows = np.arange(40)
    whole = shown(samples, rows, 1)
    assert whole.dtype == torch.float32
    assert whole.min() >= 0
    assert whole.max() <= 1 + 1e-6
    order = np.random.default_rng(0).permutation(40)
    for size in (1, 3, 17):
        assert torch.equal(shown(samples, order[:size], 1), whole[order[:size]])
    assert (shown(samples, rows, 2) != whole).flatten(1).any(dim=1).float().mean() > 0.8


def test_a_threads_number_does_not_matter_to_colours():
    images = torch.rand(1, 3, 300, 300, generator=torch.Generator().manual_seed(0))
    factor = torch.full((1, 1, 1, 1), 0.7)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(colors.contrast(images, factor))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_boxes_of_crops_have_the_area_and_the_shape_asked_for():
    uniform_KB = np.random.default_rng(0).random((40, 4000))
    top, left, height, width = crop_boxes(uniform_KB, (0.1, 0.6), (0.5, 2.0), (200, 160))
    assert top.min() >= 0
    assert left.min() >= 0
    assert (top + height).max() <= 200
    assert (left + width).max() <= 160
    area, form = height * width / (200 * 160), width / height
    assert 0.095 < area.min() < 0.12
    assert 0.55 < area.max() < 0.605
    assert 0.49 < form.min() < 0.52
    assert 1.9 < form.max() < 2.05
    # No box of the whole area is three times as wide as high: the largest central one is.
    wide = crop_boxes(uniform_KB[:, :3], (1.0, 1.0), (3.0, 3.0), (200, 160))
    assert wide.T.tolist() == [[(200 - 53) // 2, 0, 53, 160]] * 3
    high = crop_boxes(uniform_KB[:, :3], (1.0, 1.0), (0.2, 0.2), (200, 160))
    assert high.T.tolist() == [[0, 60, 200, 40]] * 3


@pytest.mark.parametrize("size", [None, 12, 31])
def test_a_crop_is_what_interpolate_makes_of_its_box(make_samples, size):
    step = RandomResizedCrop(scale=(0.1, 1.0), size=size)
    samples = make_samples(step, shape=SHAPE, count=30)
    rows = np.arange(30)
    boxes = crop_boxes(draws_of(samples, rows, 0).uniforms(40), step.scale, step.ratio, SHAPE[1:])
    views = shown(samples, rows, 0)
    side = SHAPE[1:] if size is None else (size, size)
    assert samples.view_shape == (3, *side)
    for row in rows:
        top, left, height, width = boxes[:, row].tolist()
        part = torch.tensor(samples.inputs["inputs"][row])[None].float() / 255
        part = part[..., top : top + height, left : left + width]
        single, double = (
            F.interpolate(given, side, mode="bilinear", antialias=True)[0]
            for given in (part, part.double())
        )
        torch.testing.assert_close(views[row], single, atol=1e-6, rtol=0)
        torch.testing.assert_close(views[row].double(), double, atol=3e-6, rtol=0)


def test_hues_are_those_of_colorsys_in_double_precision():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 5, 6, generator=generator)
    images[0, :, 0] = 0.3  # grey
    images[1, 0] = images[1, 1]
    turn = torch.tensor([0.0, 0.25, -0.4, 0.5])
    found = colors.hue(images, turn[:, None, None, None])
    assert torch.equal(found[0], images[0])
    for image, own, shift in zip(images.double(), found, turn.double().tolist(), strict=True):
        for y in range(5):
            for x in range(6):
                h, s, v = colorsys.rgb_to_hsv(*image[:, y, x].tolist())
                expected = torch.tensor(colorsys.hsv_to_rgb((h + shift) % 1.0, s, v))
                torch.testing.assert_close(own[:, y, x], expected, atol=2e-6, rtol=0)


def test_colours_are_those_of_torchvision():
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    images = torch.rand(3, 3, 9, 8, generator=torch.Generator().manual_seed(1))
    for name in ("brightness", "contrast", "saturation", "hue"):
        for factor in (0.0, 0.31) if name == "hue" else (0.0, 0.6, 1.4):
            expected = getattr(functional, f"adjust_{name}")(images, factor)
            found = colors.CHANGES[name](images, torch.full((3, 1, 1, 1), factor))
            torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_jitter_draws_factors_and_leaves_the_others(make_samples):
    step = ColorJitter(brightness=0.5, contrast=0, saturation=0, hue=0, probability=0.5)
    samples = make_samples(step, shape=(1, 8, 8), count=400)  # grey images have brightness
    rows = np.arange(400)
    original, views = shown(samples, rows, -1), shown(samples, rows, 0)
    uniforms = draws_of(samples, rows, 0).uniforms(5)
    factor = np.where(uniforms[4] < 0.5, 0.5 + uniforms[0], 1.0)
    expected = (original.double() * torch.tensor(factor)[:, None, None, None]).clamp(0, 1)
    torch.testing.assert_close(views.double(), expected, atol=1e-6, rtol=0)
    assert 0.4 < (factor == 1).mean() < 0.6
    assert torch.equal(views[factor == 1], original[factor == 1])


def marked(make_samples, *policy, shape=(3, 40, 32)):
    """Samples that are black but for one square, and where its middle is, (x, y)."""
    samples = make_samples(*policy, shape=shape, count=40)
    _, H, W = shape
    images = np.zeros((40, *shape), np.uint8)
    images[:, :, H // 2 - 6 : H // 2 - 1, W // 2 + 1 : W // 2 + 6] = 255
    object.__setattr__(samples, "inputs", {"inputs": images})
    samples.__dict__.pop("_views", None)
    return samples, np.array([W // 2 + 3.5, H // 2 - 3.5])


@pytest.mark.parametrize(
    "policy",
    [
        (PadCrop(padding=4),),
        (Shift(pixels=3),),
        (Flip(),),
        (Rotate(degrees=50),),
        (RandomResizedCrop(scale=(0.6, 1.0)),),
        (RandomResizedCrop(scale=(0.7, 1.0), size=48), Flip(), Rotate(degrees=20), Shift()),
        (Noise(std=0.001), Cutout(size=1), ColorJitter(brightness=0.1)),
        (RandAugment(operations=1, magnitude=12),),
        (Flip(), Cutmix(probability=0.0)),
    ],
    ids=lambda policy: "+".join(step.type for step in policy),
)
def test_maps_follow_pixels_and_back(make_samples, policy):
    samples, middle = marked(make_samples, *policy)
    rows = np.arange(40)
    maps = samples.affine(rows, np.full(40, 3))
    assert maps.shape == (40, 2, 3)
    back = followed_by(maps, inverse(maps))
    np.testing.assert_allclose(back, np.broadcast_to(np.eye(2, 3), back.shape), atol=1e-9)
    images = shown(samples, rows, 3).mean(dim=1).double()
    images[images < 0.3] = 0
    H, W = images.shape[1:]
    x, y = np.arange(W) + 0.5, np.arange(H) + 0.5
    followed = 0
    for image, own in zip(images.numpy(), maps, strict=True):
        expected = own[:, :2] @ middle + own[:, 2]
        inside = np.all((expected > 7) & (expected < np.array([W, H]) - 7))
        if inside and 10 < image.sum() < 120:  # not solarized, inverted or cut off
            found = np.array([(image.sum(0) * x).sum(), (image.sum(1) * y).sum()]) / image.sum()
            np.testing.assert_allclose(found, expected, atol=0.75)
            followed += 1
    assert followed >= 20


def test_a_factory_step_says_not_where_pixels_go(make_samples, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    samples = make_samples(FactoryView(path="view_functions:jitter"))
    with pytest.raises(InputError, match=r"policy\.0: a factory step does not say"):
        samples.affine(np.arange(3), np.zeros(3, np.int64))


def test_rand_augment_is_refused_without_torchvision(make_samples, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2.functional", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(InputError, match=r"data\.views\.policy\.0: needs torchvision"):
        make_samples(RandAugment(), shape=SHAPE)


@pytest.mark.parametrize("magnitude", [0, 30])
@pytest.mark.parametrize("channels", [1, 3])
def test_all_operations_of_rand_augment_are_made(make_samples, magnitude, channels):
    pytest.importorskip("torchvision.transforms.v2.functional")
    step = RandAugment(operations=3, magnitude=magnitude)
    samples = make_samples(step, shape=(channels, 20, 16), count=80)
    views = shown(samples, np.arange(80), 0)
    assert views.isfinite().all()
    with pytest.raises(InputError, match="1 or 3 channels; these have 2"):
        make_samples(step)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ((ColorJitter(),), r"policy\.0: color_jitter .* 3 channels; these have 2"),
        ((RandomResizedCrop(size=5), Shift(pixels=5)), r"policy\.1\.pixels: .* at most 4"),
    ],
)
def test_steps_that_do_not_fit_are_refused(make_samples, policy, message):
    with pytest.raises(InputError, match=message):
        make_samples(*policy)


def test_settings_that_cannot_be_are_refused():
    for given in ({"scale": (0.5, 0.2)}, {"scale": (0.0, 1.0)}, {"ratio": (2.0, 1.0)}):
        with pytest.raises(ValueError, match="needs 0 < least <= largest"):
            RandomResizedCrop(**given)
    with pytest.raises(ValueError, match=r"less than or equal to 0\.5"):
        ColorJitter(hue=0.6)


def test_a_model_has_to_take_samples_and_views_of_another_size(make_samples):
    samples = make_samples(RandomResizedCrop(size=12), shape=SHAPE)
    for fits in (Preprocess(size=14), Preprocess(crop=12), Preprocess(crop=10, size=8)):
        preprocessing = preprocessing_for(fits, samples, key="student.preprocess")
        for view in (-1, 0):
            prepared = preprocessing(shown(samples, np.arange(2), view))
            assert prepared.shape[1:] == preprocessing.output_shape(SHAPE)
    for does_not in (Preprocess(), Preprocess(crop=14)):
        with pytest.raises(
            InputError, match=r"student\.preprocess\.size: views are 12×12 .* at most 12"
        ):
            preprocessing_for(does_not, samples, key="student.preprocess")
    with pytest.raises(ValueError, match="asked for together"):
        samples.batch(np.arange(2), np.array([-1, 0]))
