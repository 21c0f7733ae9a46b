from __future__ import annotations

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.data.hashing import Draws, content_hashes, sample_keys


def test_keys_do_not_depend_on_how_many_are_made_together(monkeypatch):
    ids = np.arange(1000)[::-1]
    whole = sample_keys(ids, 7, "x")
    monkeypatch.setattr("raykd.data.hashing._AT_ONCE", 64)
    np.testing.assert_array_equal(sample_keys(ids, 7, "x"), whole)
    assert [int(sample_keys(ids[i : i + 1], 7, "x")[0]) for i in (0, 500)] == whole[
        [0, 500]
    ].tolist()


@given(seed=st.integers(0, 2**40), start=st.integers(0, 2**62))
@settings(derandomize=True, max_examples=30, deadline=None)
def test_random_numbers_do_not_repeat_and_stay_inside(seed, start):
    ids = np.arange(start, start + 200)
    keys = sample_keys(ids, seed, "x")
    assert len(np.unique(keys)) == 200
    uniforms = Draws(keys).uniforms(20)
    assert uniforms.min() > 0
    assert uniforms.max() < 1
    assert abs(uniforms.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(uniforms)[0, 1]) < 0.4


def test_the_largest_and_smallest_bits_stay_inside_the_unit_interval(monkeypatch):
    extremes = np.array([[0, 2**64 - 1]], dtype=np.uint64)
    monkeypatch.setattr(Draws, "bits", lambda self, count: extremes[:, :count])
    draws = Draws(np.zeros(1, np.uint64))
    assert ((draws.uniforms(2) > 0) & (draws.uniforms(2) < 1)).all()
    assert np.isfinite(draws.normals(4)).all()


def test_splitmix_matches_its_reference_values():
    # First outputs for seed 1234567 (Vigna's splitmix64.c).
    draws = Draws(np.array([1234567], dtype=np.uint64))
    assert draws.bits(3)[0].tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@pytest.mark.parametrize("width", [1, 8, 1023, 5000])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_content_hashes_are_those_of_each_row_by_itself(width, dtype):
    """As the stores of earlier releases have them: other numbers would have all samples scored anew."""
    draw = np.random.default_rng(0)
    inputs = {
        "b": draw.integers(0, 256, (7, width)).astype(dtype),
        "a": draw.normal(size=(14, 2, 3))[::2],
    }
    kinds = [f"{name}|{inputs[name].dtype.str}|{inputs[name].shape[1:]}" for name in ("a", "b")]
    expected = []
    for row in range(7):
        value = xxhash.xxh3_64_intdigest("\n".join(kinds).encode())
        for name in ("a", "b"):
            value = xxhash.xxh3_64_intdigest(inputs[name][row].tobytes(), seed=value)
        expected.append(value)
    assert content_hashes(inputs).tolist() == expected
    assert content_hashes({"a": inputs["a"][:0]}).tolist() == []
