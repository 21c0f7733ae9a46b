from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from raykd.config.data import (
    Cutmix,
    Cutout,
    Data,
    FactoryView,
    Flip,
    Mixup,
    Noise,
    PadCrop,
    Rotate,
    Shift,
    Views,
    ViewStep,
)
from raykd.config.sources import DigitsSource
from raykd.data import steps
from raykd.data.dataset import Dataset
from raykd.data.hashing import Draws, view_keys
from raykd.data.policy import STEPS, MixStep, build_steps
from raykd.data.samples import samples_of
from raykd.data.views import policy_key
from raykd.errors import InputError

POLICIES = {
    "pad_crop": (PadCrop(padding=2),),
    "shift": (Shift(pixels=2),),
    "flip": (Flip(),),
    "rotate": (Rotate(degrees=30),),
    "noise": (Noise(std=0.1),),
    "cutout": (Cutout(size=3),),
    "mixup": (Mixup(alpha=0.4, probability=0.7),),
    "cutmix": (Cutmix(probability=0.7),),
    "factory": (FactoryView(path="view_functions:jitter"),),
    "many": (Shift(), Flip(), Rotate(), Noise(), Mixup(alpha=1.0), Cutout(size=3)),
}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    monkeypatch.delitem(sys.modules, "view_functions", raising=False)


def image(samples, rows, view):
    return samples.batch(np.asarray(rows), view).inputs["inputs"]


def draws_of(samples, rows, view, step=0):
    keys = view_keys(samples.ids[rows], np.full(len(rows), view), samples.seed)
    return Draws.of_step(keys, step)


def test_registry_has_exactly_the_tags():
    tags = {kind.model_fields["type"].default for kind in ViewStep.__origin__.__args__}
    assert set(STEPS) == tags


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("floats", [False, True])
def test_a_view_does_not_depend_on_its_batch(make_samples, name, floats):
    samples = make_samples(*POLICIES[name], floats=floats, labels=30)
    rows = np.arange(len(samples))
    whole = samples.batch(rows, 3)
    assert whole.inputs["inputs"].dtype == torch.float32
    assert whole.inputs["inputs"].is_contiguous()
    rng = np.random.default_rng(1)
    for size in (1, 1, 2, 3, 5, 7, 17, 33, 64):
        some = rng.permutation(rows)[:size]
        batch = samples.batch(some, 3)
        assert torch.equal(batch.inputs["inputs"], whole.inputs["inputs"][some])
        if whole.mixed is not None:
            assert torch.equal(batch.mixed.share_B, whole.mixed.share_B[some])
            assert torch.equal(batch.mixed.partner_labels_B, whole.mixed.partner_labels_B[some])


@pytest.mark.parametrize("name", POLICIES)
def test_same_in_another_process_and_other_with_seed_id_or_view(make_samples, name):
    samples = make_samples(*POLICIES[name])
    rows = np.arange(len(samples))
    shown = image(samples, rows, 0)
    assert torch.equal(image(pickle.loads(pickle.dumps(samples)), rows, 0), shown)  # noqa: S301
    others = [
        image(samples, rows, 1),
        image(make_samples(*POLICIES[name], seed=1), rows, 0),
        image(make_samples(*POLICIES[name], ids=rows), rows, 0),
    ]
    for other in others:
        differing = (other != shown).flatten(1).any(dim=1).float().mean()
        assert differing > 0.3
        assert torch.equal(image(samples, rows, -1), torch.tensor(samples.inputs["inputs"]) / 255)


def test_views_may_differ_within_a_batch(make_samples):
    samples = make_samples(Shift(), Mixup(alpha=1.0))
    rows, view_B = np.array([5, 6, 5, 7, 5]), np.array([-1, 0, 3, -1, 0])
    batch = samples.batch(rows, view_B)
    for place, (row, view) in enumerate(zip(rows, view_B, strict=True)):
        alone = samples.batch(np.array([row]), int(view))
        assert torch.equal(batch.inputs["inputs"][place], alone.inputs["inputs"][0])
        if view < 0:
            assert alone.mixed is None
            assert batch.mixed.share_B[place] == 1
            assert batch.mixed.partner_labels_B[place] == samples.labels[row]
        else:
            assert batch.mixed.share_B[place] == alone.mixed.share_B[0]
    assert batch.view_B.tolist() == view_B.tolist()


@pytest.mark.parametrize("step", [Shift(pixels=2), PadCrop(padding=2)])
def test_translation_is_roll_with_zeros(make_samples, step):
    samples = make_samples(step)
    rows = np.arange(len(samples))
    shown = image(samples, rows, 4).numpy()
    moves = np.floor(draws_of(samples, rows, 4).uniforms(2) * 5).astype(int) - 2
    assert set(moves.ravel()) == {-2, -1, 0, 1, 2}
    for row in rows:
        down, right = moves[:, row]
        expected = np.roll(samples.inputs["inputs"][row], (down, right), axis=(1, 2)).copy()
        expected[:, : max(down, 0)] = 0
        expected[:, expected.shape[1] + min(down, 0) :] = 0
        expected[:, :, : max(right, 0)] = 0
        expected[:, :, expected.shape[2] + min(right, 0) :] = 0
        np.testing.assert_array_equal(shown[row], expected.astype(np.float32) / np.float32(255))
        # The same as a crop of the padded image.
        padded = np.pad(samples.inputs["inputs"][row], ((0, 0), (2, 2), (2, 2)))
        H, W = expected.shape[1:]
        np.testing.assert_array_equal(
            padded[:, 2 - down : 2 - down + H, 2 - right : 2 - right + W], expected
        )


def test_flip_mirrors_about_the_given_part(make_samples):
    samples = make_samples(Flip(probability=0.3), count=800)
    rows = np.arange(len(samples))
    original, shown = image(samples, rows, -1), image(samples, rows, 0)
    mirrored = draws_of(samples, rows, 0).uniforms(1)[0] < 0.3
    assert 0.24 < mirrored.mean() < 0.36
    for row in rows:
        assert torch.equal(shown[row], original[row].flip(-1) if mirrored[row] else original[row])
    assert torch.equal(
        image(make_samples(Flip(probability=1.0)), rows[:9], 0),
        image(make_samples(), rows[:9], 0).flip(-1),
    )
    assert torch.equal(
        image(make_samples(Flip(probability=0.0)), rows[:9], 0), image(make_samples(), rows[:9], 0)
    )


def test_rotate_agrees_with_grid_sample(make_samples):
    samples = make_samples(Rotate(degrees=40), shape=(2, 8, 8))
    rows = np.arange(60)
    radians = (2 * draws_of(samples, rows, 0).uniforms(1)[0] - 1) * np.deg2rad(40)
    shown = image(samples, rows, 0)
    for row in rows:
        cos, sin = np.cos(radians[row]), np.sin(radians[row])
        theta = torch.tensor([[[cos, -sin, 0], [sin, cos, 0]]], dtype=torch.float32)
        original = image(samples, [row], -1)
        grid = F.affine_grid(theta, list(original.shape), align_corners=False)
        expected = F.grid_sample(original, grid, align_corners=False)
        torch.testing.assert_close(shown[row], expected[0], atol=2e-5, rtol=0)


def test_rotate_turns_counter_clockwise_and_loses_nothing_by_whole_turns():
    images = torch.rand(4, 1, 5, 6, generator=torch.Generator().manual_seed(0))

    def turned(images, radians):
        angle_B = torch.full((4,), radians)
        return steps.rotate(images, angle_B.cos(), angle_B.sin())

    assert torch.equal(turned(images, 0.0), images)
    torch.testing.assert_close(turned(images, np.pi), images.flip(2, 3), atol=1e-5, rtol=0)
    square = images[:, :, :, :5]
    torch.testing.assert_close(
        turned(square, np.pi / 2), square.rot90(dims=(2, 3)), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("shape", [(2, 9, 7), (31,)])
def test_noise_is_normal(make_samples, shape):
    samples = make_samples(Noise(std=0.1), floats=True, shape=shape, count=400)
    rows = np.arange(len(samples))
    noise = (image(samples, rows, 0) - image(samples, rows, -1)).numpy() / 0.1
    assert stats.kstest(noise.ravel()[::7], "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise.reshape(400, -1)[:, :2].T)[0, 1]) < 0.2


def test_cutout_blanks_one_square(make_samples):
    samples = make_samples(Cutout(size=3), floats=True)
    rows = np.arange(len(samples))
    original, shown = image(samples, rows, -1).numpy(), image(samples, rows, 0).numpy()
    centres = draws_of(samples, rows, 0).uniforms(2)
    for row in rows:
        y, x = int(centres[0, row] * 9) - 1, int(centres[1, row] * 7) - 1
        expected = original[row].copy()
        expected[:, max(y, 0) : y + 3, max(x, 0) : x + 3] = 0
        np.testing.assert_array_equal(shown[row], expected)


def find_partner(samples, row, view, step):
    """Partner row and own share, computed for one sample with plain arithmetic."""
    uniforms = draws_of(samples, np.array([row]), view, step).uniforms(5)[:, 0]
    pool = samples.pools.labelled if row in samples.pools.labelled else samples.pools.every
    return int(pool[int(uniforms[1] * len(pool))]), uniforms


def test_mixup_blends_the_partner_after_its_own_earlier_steps(make_samples):
    samples = make_samples(Shift(pixels=2), Flip(), Mixup(alpha=0.6), labels=20)
    before = make_samples(Shift(pixels=2), Flip(), labels=20)
    rows = np.arange(len(samples))
    batch = samples.batch(rows, 2)
    for row in rows:
        partner, uniforms = find_partner(samples, row, 2, 2)
        share = np.float32(stats.beta(0.6, 0.6).ppf(uniforms[2]))
        own, theirs = image(before, [row], 2)[0], image(before, [partner], 2)[0]
        assert abs(float(batch.mixed.share_B[row]) - share) < 1e-6
        torch.testing.assert_close(
            batch.inputs["inputs"][row], share * own + (1 - share) * theirs, atol=1e-6, rtol=0
        )
        assert int(batch.mixed.partner_labels_B[row]) == samples.labels[partner]
        assert partner in samples.splits["train"]
        if row in samples.pools.labelled:
            assert samples.labels[partner] >= 0
    everything = samples.batch(rows, 2, labels="all")
    assert (everything.mixed.partner_labels_B >= 0).all()
    assert (batch.mixed.partner_labels_B < 0).any()


def test_cutmix_pastes_a_box_of_the_share_it_reports(make_samples):
    samples = make_samples(Flip(), Cutmix(alpha=1.0, probability=0.6), floats=True)
    before = make_samples(Flip(), floats=True)
    rows = np.arange(len(samples))
    batch = samples.batch(rows, 1)
    mixed = 0
    for row in rows:
        partner, uniforms = find_partner(samples, row, 1, 1)
        shown = batch.inputs["inputs"][row]
        own, theirs = image(before, [row], 1)[0], image(before, [partner], 1)[0]
        if uniforms[0] >= 0.6:
            assert batch.mixed.share_B[row] == 1
            assert batch.mixed.partner_labels_B[row] == samples.labels[row]
            assert torch.equal(shown, own)
            continue
        mixed += 1
        side = np.sqrt(1 - stats.beta(1, 1).ppf(uniforms[2]))
        height, width = int(side * 9), int(side * 7)
        top, left = int(uniforms[3] * 9) - height // 2, int(uniforms[4] * 7) - width // 2
        inside = np.zeros((9, 7), bool)
        inside[max(top, 0) : top + height, max(left, 0) : left + width] = True
        expected = torch.where(torch.from_numpy(inside), theirs, own)
        assert torch.equal(shown, expected)
        assert float(batch.mixed.share_B[row]) == pytest.approx(1 - inside.mean(), abs=1e-6)
    assert 0.4 < mixed / len(rows) < 0.8


def test_shares_are_beta_and_partners_uniform(make_samples):
    samples = make_samples(Mixup(alpha=0.3), count=2000, shape=(3,), floats=True)
    batch = samples.batch(np.arange(2000), 0)
    assert stats.kstest(batch.mixed.share_B.numpy(), stats.beta(0.3, 0.3).cdf).pvalue > 1e-3
    counts = np.bincount(batch.mixed.partner_labels_B.numpy(), minlength=4)
    assert stats.chisquare(counts).pvalue > 1e-3
    own = torch.tensor(samples.labels)
    assert (batch.mixed.partner_labels_B == own).float().mean() < 0.35


def test_factory_step_gets_a_copy_and_its_own_generator(make_samples):
    samples = make_samples(FactoryView(path="view_functions:jitter"))
    rows = np.array([4, 9])
    shown, original = image(samples, rows, 0), image(samples, rows, -1)
    for place, row in enumerate(rows):
        seed = int(draws_of(samples, np.array([row]), 0).bits(1)[0, 0] >> np.uint64(1))
        generator = torch.Generator().manual_seed(seed)
        noise = torch.rand(original[place].shape, generator=generator)
        assert torch.equal(shown[place], original[place] + noise)
    zeroed = make_samples(FactoryView(path="view_functions:in_place"), floats=True)
    assert (image(zeroed, rows, 0) == 0).all()
    assert (image(zeroed, rows, -1) != 0).any()


def test_several_inputs_reach_a_factory_step_together():
    inputs = {"a": np.ones((40, 3), np.float32), "b": np.arange(80).reshape(40, 2)}
    dataset = Dataset(inputs=inputs, labels=np.arange(40) % 2)
    policy = (FactoryView(path="view_functions:of_mapping"),)
    data = Data(source=DigitsSource(), views=Views(policy=policy))
    samples = samples_of(dataset, data, seed=0)
    shown = samples.batch(np.array([3]), 0).inputs
    assert shown["a"].tolist() == [[2, 2, 2]]
    assert shown["b"].tolist() == [[12, 14]]
    assert shown["b"].dtype == torch.int64
    with pytest.raises(InputError, match=r"a, b"):
        samples.input_shape  # noqa: B018
    wrong = Data(source=DigitsSource(), views=Views(policy=(Noise(),)))
    with pytest.raises(InputError, match=r"policy\.0: noise needs samples of one input; .* a, b"):
        samples_of(dataset, wrong, seed=0)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ((Flip(), Shift(pixels=7)), r"data\.views\.policy\.1\.pixels: found 7 pixels.* at most 6"),
        ((PadCrop(padding=9),), r"policy\.0\.padding: found 9 pixels.* at most 6"),
        ((Cutout(size=8),), r"policy\.0\.size: found 8 pixels.* at most 6"),
        ((Rotate(degrees=200),), r"policy\.0\.degrees: found 200\.0 degrees.* at most 180"),
        ((Mixup(), Flip(), Cutmix()), r"policy\.2: found cutmix after mixup.*remove one"),
        (
            (FactoryView(path="view_functions:shrinking"),),
            r"policy\.0: view_functions:shrinking returned",
        ),
        (
            (FactoryView(path="view_functions:impure"),),
            r"data\.views\.policy: .*generator it is given",
        ),
        (
            (FactoryView(path="view_functions:missing"),),
            r"policy\.0\.path: .*has no function 'missing'",
        ),
    ],
)
def test_steps_that_do_not_fit_are_refused(make_samples, policy, message):
    with pytest.raises(InputError, match=message):
        make_samples(*policy)


@pytest.mark.parametrize(
    "step", [PadCrop(), Shift(), Flip(), Rotate(), Cutout(), Cutmix()], ids=lambda step: step.type
)
def test_image_steps_are_refused_for_vectors(make_samples, step):
    with pytest.raises(
        InputError, match=rf"policy\.1: {step.type} needs images \[N, C, H, W\].*120, 5"
    ):
        make_samples(Noise(), step, shape=(5,))


def test_blending_integers_is_refused():
    dataset = Dataset(inputs=np.arange(80).reshape(40, 2), labels=np.arange(40) % 2)
    data = Data(source=DigitsSource(), views=Views(policy=(Mixup(),)))
    with pytest.raises(InputError, match=r"policy\.0: mixup needs floats or uint8.* int64"):
        samples_of(dataset, data, seed=0)


def test_policy_key_names_all_that_makes_a_view(make_samples):
    policy = (Shift(), Flip())
    key = policy_key(policy, 0)
    assert key == policy_key(policy, 0) == make_samples(*policy).view_key
    assert json.loads(key)["steps"][0] == {"type": "shift", "pixels": 1}
    others = [
        policy_key(policy, 1),
        policy_key(policy[::-1], 0),
        policy_key((Shift(pixels=2), Flip()), 0),
    ]
    assert len({key, *others}) == 4
    assert policy_key((), 0) == policy_key((), 1)
    assert "code" in policy_key((FactoryView(path="view_functions:jitter"),), 0)
    assert make_samples(*policy, labels=20).view_key == key


def test_policy_key_of_mixing_depends_on_the_partners(make_samples):
    whole = make_samples(Mixup())
    fewer = make_samples(Mixup(), labels=20)
    other_values = make_samples(Mixup(), floats=True)
    keys = {samples.view_key for samples in (whole, fewer, other_values)}
    assert len(keys) == 3
    assert make_samples(Mixup()).view_key == whole.view_key
    with pytest.raises(AssertionError, match="digest"):
        policy_key((Mixup(),), 0)


def test_build_steps_tells_mixing_from_plain():
    built = build_steps((Flip(), Mixup()), {"inputs": np.zeros((3, 1, 4, 4), np.uint8)})
    assert [isinstance(step, MixStep) for step in built] == [False, True]
