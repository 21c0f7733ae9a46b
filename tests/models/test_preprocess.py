"""Preprocessing against a plain reference, its refusals, and independence of the batch."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from raykd.config.data import Preprocess
from raykd.errors import InputError
from raykd.models.preprocess import Preprocessing, preprocessing_for, resolve

RGB = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
GREY = ((0.3,), (0.2,))


def resolved(shape=(3, 12, 10), statistics=RGB, **settings) -> Preprocessing:
    return resolve(Preprocess(**settings), statistics, input_shape=shape, key="student.preprocess")


def refusal(shape=(3, 12, 10), statistics=RGB, **settings) -> dict[str, str]:
    with pytest.raises(InputError) as caught:
        resolved(shape, statistics, **settings)
    return {problem.key: problem.message for problem in caught.value.problems}


def close(found: torch.Tensor, needed: np.ndarray) -> None:
    np.testing.assert_allclose(found.numpy(), needed, rtol=1e-5, atol=1e-5)


def test_normalisation_and_scale_like_numpy():
    x = torch.rand(5, 3, 12, 10)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in RGB)
    close(resolved()(x), (x.numpy() - mean) / std)
    close(resolved(scale=255.0)(x), (x.numpy() - mean) / std)
    explicit = resolved(scale=2.0, normalize=RGB)
    close(explicit(x), (2 * x.numpy() - mean) / std)


def test_crop_resize_and_channels_like_plain_steps():
    x = torch.rand(5, 3, 12, 10)
    found = resolved(crop=7, size=9, channels=1, normalize="none")(x)
    cut = x[:, :, 2:9, 1:8]
    plain = F.interpolate(cut, size=(9, 9), mode="bilinear", antialias=True).numpy()
    close(found, plain.mean(axis=1, keepdims=True))
    grey = torch.rand(4, 1, 8, 8)
    close(
        resolved((1, 8, 8), GREY, channels=3)(grey),
        np.repeat((grey.numpy() - 0.3) / 0.2, 3, axis=1),
    )


def test_shrinking_by_a_whole_factor_keeps_the_mean():
    x = torch.rand(2, 1, 32, 32)
    small = resolved((1, 32, 32), GREY, size=8, normalize="none")(x)
    assert small.shape == (2, 1, 8, 8)
    torch.testing.assert_close(small.mean(), x.mean(), atol=5e-3, rtol=0)


def test_statistics_follow_the_channels():
    three = resolved((1, 8, 8), GREY, channels=3)
    assert three.mean == (0.3,) * 3
    assert three.std == (0.2,) * 3
    one = resolved(channels=1)
    assert one.mean == pytest.approx((0.4,))
    assert one.std == pytest.approx((0.25,))
    assert resolved(statistics=GREY).mean == (0.3,)


def test_constant_channels_are_only_centred():
    found = resolved(statistics=((0.5, 0.0, 3.0), (0.2, 0.0, 1e-9)), scale=10.0)
    assert found.std == pytest.approx((2.0, 10.0, 10.0))
    assert found(torch.rand(2, 3, 12, 10)).isfinite().all()


def test_vectors_are_normalised_per_feature_or_as_one():
    x = torch.rand(6, 3)
    close(resolved((3,))(x), (x.numpy() - np.array(RGB[0])) / np.array(RGB[1]))
    close(resolved((3,), GREY)(x), (x.numpy() - 0.3) / 0.2)
    close(resolved((3,), normalize=GREY)(x), (x.numpy() - 0.3) / 0.2)


@pytest.mark.parametrize(
    "settings", [{}, {"size": 16}, {"size": 5}, {"crop": 9, "size": 8, "channels": 1}], ids=str
)
def test_a_row_does_not_depend_on_its_batch(settings):
    change = resolved(**settings)
    x = torch.rand(33, 3, 12, 10)
    whole = change(x)
    assert whole.shape[1:] == change.output_shape((3, 12, 10))
    assert whole.dtype == torch.float32
    for part in (slice(0, 1), slice(3, 10), slice(32, 33), slice(0, 33, 2)):
        assert torch.equal(change(x[part]), whole[part])
    assert torch.equal(change(x.to(memory_format=torch.channels_last)), whole)
    assert torch.equal(change(x.double()), whole)


def test_the_default_gives_back_the_very_tensor():
    tokens = torch.arange(6).reshape(2, 3)
    assert Preprocessing()(tokens) is tokens
    assert Preprocessing().output_shape((3,)) == (3,)
    plain = resolved(normalize="none")
    assert plain.changes_nothing
    x = torch.rand(2, 3, 12, 10)
    assert plain(x) is x


def test_inputs_are_not_changed():
    x = torch.rand(2, 3, 12, 10)
    before = x.clone()
    resolved(crop=8, size=16, scale=3.0)(x)
    assert torch.equal(x, before)


def test_integers_become_floats():
    pixels = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    found = Preprocessing(scale=1 / 255, size=4)(pixels)
    assert found.dtype == torch.float32
    assert found.max() <= 1


def test_it_pickles_and_describes_itself_as_json():
    change = resolved(crop=8, size=16, channels=1, scale=2.0)
    assert pickle.loads(pickle.dumps(change)) == change  # noqa: S301
    described = json.loads(json.dumps(change.describe()))
    assert described["size"] == 16
    assert tuple(described["mean"]) == change.mean
    assert described != resolved(crop=8, size=16, channels=1).describe()


def test_refusals_name_key_and_numbers():
    assert "12×10" in refusal(crop=11)["student.preprocess.crop"]
    assert set(refusal((20,), GREY, crop=2, size=3, channels=1, scale=0.0)) == {
        f"student.preprocess.{name}" for name in ("crop", "size", "channels", "scale")
    }
    assert "4 channels" in refusal((4, 8, 8), GREY, channels=3)["student.preprocess.channels"]
    for bad in (((0.5,), (0.1,)), ((0.5,) * 3, (0.1,) * 2)):
        assert "3 of each" in refusal(normalize=bad)["student.preprocess.normalize"]
    assert "3" in refusal(channels=3, normalize=GREY)["student.preprocess.normalize"]
    assert (
        "above 0"
        in refusal(normalize=((0.0,) * 3, (1.0, 0.0, 1.0)))["student.preprocess.normalize"]
    )
    assert "2 means" in refusal(statistics=((0.0,) * 2, (1.0,) * 2))["student.preprocess.normalize"]
    nan = float("nan")
    assert "finite" in refusal(statistics=((nan,), (1.0,)))["student.preprocess.normalize"]


@pytest.mark.parametrize(("normalize", "reads"), [("auto", 1), ("none", 0), (GREY, 0)])
def test_training_samples_are_read_for_statistics_only_where_these_are_wanted(normalize, reads):
    class Images:
        is_text, is_table, has_gaps_or_words, input_shape, read = False, False, False, (1, 8, 8), 0
        vocabulary, view_shape = None, (1, 8, 8)

        def statistics(self):
            self.read += 1
            return GREY

    images = Images()
    found = preprocessing_for(Preprocess(normalize=normalize), images, key="student.preprocess")
    assert images.read == reads
    assert found.mean == (None if normalize == "none" else GREY[0])
