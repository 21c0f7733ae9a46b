"""One encoding: what it loses, and that it loses nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raykd.targets import codec


def round_trip(logits, features=None):
    return codec.decode(codec.encode(logits, features or {}))


@pytest.mark.parametrize("scale", [1.0, 10.0, 200.0])
def test_error_bounds(scale):
    logits = (torch.rand(512, 100, dtype=torch.float64) * 2 - 1).float() * scale
    answer = round_trip(logits)
    gap = logits.amax(dim=1, keepdim=True) - logits
    # float16 has 11 significant bits: half a unit in the last place of the distance from the maximum.
    bound = gap * 2**-11 + 2**-24 + gap.new_tensor(scale) * 2**-22
    assert ((answer.values_NC - logits).abs() <= bound).all()
    for temperature in (1.0, 4.0):
        before = (logits.double() / temperature).softmax(dim=1)
        after = (answer.values_NC.double() / temperature).softmax(dim=1)
        assert (before - after).abs().max() < 1e-3
    assert torch.equal(answer.values_NC.argmax(dim=1), logits.argmax(dim=1))


def test_large_logits_do_not_overflow():
    logits = torch.tensor([[200.0, -200.0, 0.0], [1e5, -1e5, 0.0], [-3e4, -3e4, -3e4]])
    answer = round_trip(logits)
    assert torch.isfinite(answer.values_NC).all()
    torch.testing.assert_close(answer.values_NC.softmax(dim=1), logits.softmax(dim=1))


def test_the_maximum_survives_exactly():
    logits = torch.randn(64, 10) * 50
    assert torch.equal(round_trip(logits).values_NC.amax(dim=1), logits.amax(dim=1))


def test_encoding_again_changes_nothing():
    arrays = codec.encode(torch.randn(32, 10) * 20, {"tap": torch.randn(32, 4)})
    answer = codec.decode(arrays)
    again = codec.encode(answer.values_NC, answer.features)
    np.testing.assert_array_equal(arrays["offset"], again["offset"])
    np.testing.assert_array_equal(arrays["feature.tap"], again["feature.tap"])
    torch.testing.assert_close(
        codec.decode(again).values_NC, answer.values_NC, atol=2e-2, rtol=1e-3
    )


def test_features_keep_their_names_shapes_and_large_values():
    feature = torch.randn(4, 3, 2, 2)
    feature[0, 0, 0, 0] = 1e6
    answer = round_trip(torch.zeros(4, 2), {"blocks.0": feature})
    kept = answer.features["blocks.0"]
    assert kept.shape == feature.shape
    assert kept[0, 0, 0, 0] == 65504.0
    torch.testing.assert_close(kept[1:], feature[1:], rtol=1e-3, atol=1e-6)


def test_inputs_are_not_changed():
    logits, feature = torch.randn(4, 3), torch.full((4, 2), 1e6)
    before = logits.clone()
    codec.encode(logits, {"a": feature})
    assert torch.equal(logits, before)
    assert (feature == 1e6).all()


def test_decoded_tensors_are_their_own_memory():
    arrays = codec.encode(torch.randn(4, 3), {})
    for array in arrays.values():
        array.flags.writeable = False
    answer = codec.decode(arrays)
    answer.values_NC.zero_()
    assert arrays["offset"].any()


def test_an_absent_answer_is_valid_for_no_row():
    silent = codec.absent(round_trip(torch.randn(4, 3), {"a": torch.randn(4, 2)}))
    assert not silent.valid_N.any()
    assert silent.values_NC.shape == (4, 3)
    assert not silent.features
