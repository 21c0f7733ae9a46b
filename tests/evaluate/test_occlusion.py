"""Occlusion against what the maps of simple models have to be, in float64 by numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from raykd.evaluate.occlusion import (
    chosen_outputs,
    default_patch,
    deletion_area,
    deletion_counts,
    deletion_scores,
    features_of,
    hidden_scores,
    image_occlusion,
    importance,
    ranks_of,
    scores,
    spearman,
    table_occlusion,
    top_overlap,
    whole_scores,
)


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def asking(of_copies):
    return lambda copies, row_B: {"model": of_copies(copies.double())}


def fall(ask, inputs, occlusion):
    whole, hidden = whole_scores(ask, inputs), hidden_scores(ask, inputs, occlusion)
    return whole["model"][:, None] - hidden["model"]


@pytest.mark.parametrize("samples", [1, 100])  # 400 copies are made in two batches
def test_each_feature_of_a_linear_model_is_worth_its_weight_times_its_distance_from_the_mean(
    samples,
):
    inputs_ND, weight_D, mean_D = drawn(samples, 4).float(), drawn(4, seed=1), [0.5, -1.0, 0.0, 2.0]
    occlusion = table_occlusion(mean_D, [(0,), (1,), (2,), (3,)])
    found_NK = fall(asking(lambda x: x @ weight_D + 3), inputs_ND, occlusion)
    expected = weight_D.numpy() * (inputs_ND.double().numpy() - np.array(mean_D))
    assert found_NK.numpy() == pytest.approx(expected, abs=1e-12)
    whole_N = torch.zeros(samples).double()
    assert torch.equal(importance("value", whole_N, -found_NK), found_NK.abs())
    assert torch.equal(importance("logits", whole_N, -found_NK), found_NK)


def test_a_category_is_hidden_as_one_and_replaced_by_the_most_frequent():
    """Columns: a number, then a category of three, one-hot, of which the last is the most frequent."""
    inputs_ND = torch.tensor([[5.0, 1.0, 0.0, 0.0], [7.0, 0.0, 0.0, 1.0]])
    occlusion = table_occlusion([6.0, 0.2, 0.3, 0.5], [(0,), (1, 2, 3)])
    assert occlusion.shape == (2,)
    worth_D = torch.tensor([1.0, 10.0, 20.0, 40.0]).double()
    found_NK = fall(asking(lambda x: x @ worth_D), inputs_ND, occlusion)
    assert found_NK.tolist() == [[-1.0, -30.0], [1.0, 0.0]]


def test_integers_stay_integers():
    inputs_ND = torch.tensor([[3, 9]])
    hidden = table_occlusion([1.4, 2.6], [(0,), (1,)]).hide(inputs_ND, torch.tensor([[True, True]]))
    assert hidden.tolist() == [[1, 3]]
    assert hidden.dtype == torch.int64


def test_categories_are_found_in_a_table():
    size, rng = 50, np.random.default_rng(0)
    category, other = np.eye(3)[rng.integers(0, 3, size)], np.eye(2)[rng.integers(0, 2, size)]
    flags = rng.integers(0, 2, (size, 2)).astype(float)
    never = np.zeros((size, 1))
    parts = [rng.normal(size=(size, 1)), category, flags, other, never, rng.normal(size=(size, 2))]
    table = torch.from_numpy(np.hstack(parts))
    assert features_of(table) == ((0,), (1, 2, 3), (4,), (5,), (6, 7), (8,), (9,), (10,))
    assert features_of(torch.ones(4, 2)) == ((0,), (1,))
    assert features_of(table[:, :1] * 0) == ((0,),)


@pytest.mark.parametrize(
    ("height", "width", "patch", "stride"), [(8, 8, 2, 1), (7, 9, 3, 2), (5, 5, 5, 1), (6, 4, 1, 1)]
)
def test_a_model_that_looks_at_one_pixel_lights_up_the_patches_that_cover_it(
    height, width, patch, stride
):
    inputs = drawn(3, 2, height, width).float()
    occlusion = image_occlusion(height, width, [0.25, -0.5], patch=patch, stride=stride)
    assert bool(occlusion.hidden_KP.any(dim=0).all())
    assert occlusion.hidden_KP.sum(dim=1).tolist() == [patch**2] * len(occlusion.hidden_KP)
    top, left = height - 1, width // 2
    found = fall(asking(lambda x: x[:, 1, top, left]), inputs, occlusion)
    covered_K = occlusion.hidden_KP.view(-1, height, width)[:, top, left].numpy()
    distance_N = inputs[:, 1, top, left].double().numpy() + 0.5
    expected = np.where(covered_K[None, :], distance_N[:, None], 0.0)
    assert found.numpy() == pytest.approx(expected, abs=1e-12)
    assert occlusion.shape[0] * occlusion.shape[1] == len(covered_K)


def test_a_pixel_has_the_mean_of_the_patches_that_cover_it():
    occlusion = image_occlusion(5, 4, [0.0], patch=3, stride=2)
    maps_NK = drawn(2, len(occlusion.hidden_KP))
    hidden_KP = occlusion.hidden_KP.numpy()
    expected = [
        [np.mean([m for m, hides in zip(map_K, column, strict=True) if hides]) for column in hidden_KP.T]
        for map_K in maps_NK.tolist()
    ]  # fmt: skip
    assert occlusion.by_unit(maps_NK).numpy() == pytest.approx(np.array(expected))
    table = table_occlusion([0.0] * 4, [(0,), (1, 2, 3)])
    assert torch.equal(table.by_unit(maps_NK[:, :2]), maps_NK[:, :2])


@pytest.mark.parametrize(
    ("size", "patch"), [((8, 8), 2), ((28, 28), 4), ((32, 32), 4), ((224, 160), 28), ((1, 9), 1), ((2, 100), 2)]
)  # fmt: skip
def test_patches_suit_the_image(size, patch):
    assert default_patch(*size) == patch


@pytest.mark.parametrize(("patch", "stride"), [(0, 1), (9, 1), (2, 3), (2, 0)])
def test_patches_that_leave_pixels_out_are_refused(patch, stride):
    with pytest.raises(ValueError, match="do not fit images of 8×8"):
        image_occlusion(8, 8, [0.0], patch=patch, stride=stride)


def test_scores_are_probabilities_of_what_is_explained():
    student, ensemble = drawn(6, 4).log_softmax(1), drawn(6, 4, seed=1).log_softmax(1)
    chosen_N = chosen_outputs("logits", student, ensemble)
    assert chosen_N.tolist() == ensemble.numpy().argmax(axis=1).tolist()
    expected = np.exp(student.numpy())[np.arange(6), chosen_N.numpy()]
    assert scores("logits", student, chosen_N).numpy() == pytest.approx(expected)
    chosen_N = chosen_outputs("label_logits", student, ensemble)
    apart = np.abs(1 / (1 + np.exp(-student.numpy())) - 1 / (1 + np.exp(-ensemble.numpy())))
    assert chosen_N.tolist() == apart.argmax(axis=1).tolist()
    odds = student.numpy()[np.arange(6), chosen_N.numpy()]
    assert scores("label_logits", student, chosen_N).numpy() == pytest.approx(
        1 / (1 + np.exp(-odds))
    )
    value_N1 = drawn(6, 1)
    chosen_N = chosen_outputs("value", value_N1, value_N1)
    assert torch.equal(scores("value", value_N1, chosen_N), value_N1[:, 0])


def test_a_class_that_a_teacher_rules_out_has_a_map_of_zeros():
    answers = torch.tensor([[-torch.inf, 0.0]])
    assert scores("logits", answers, torch.tensor([0])).tolist() == [0.0]


def test_rank_correlation_is_scipys_with_ties():
    one, other = drawn(5, 12).round(decimals=0), drawn(5, 12, seed=1).round(decimals=0)
    expected = [spearmanr(a, b).statistic for a, b in zip(one.numpy(), other.numpy(), strict=True)]
    assert spearman(one, other).numpy() == pytest.approx(np.array(expected))
    assert spearman(one, 3 * one**3 - 1).tolist() == pytest.approx([1.0] * 5)
    assert spearman(one, -one).tolist() == pytest.approx([-1.0] * 5)


def test_overlap_is_that_of_the_sets():
    one, other = drawn(7, 20), drawn(7, 20, seed=1)
    expected = []
    for a, b in zip(one.numpy(), other.numpy(), strict=True):
        first, second = set(np.argsort(-a)[:4]), set(np.argsort(-b)[:4])
        expected.append(len(first & second) / len(first | second))
    assert top_overlap(one, other).tolist() == pytest.approx(expected)
    assert top_overlap(one, one).tolist() == [1.0] * 7
    assert top_overlap(one, -one).tolist() == [0.0] * 7


def test_equals_share_the_room_that_is_left():
    """Two of ten places count; in the first map one stands out, and nine share the second place."""
    one, other = torch.zeros(1, 10), torch.zeros(1, 10)
    one[0, 0], other[0, 9] = 1.0, 1.0
    assert top_overlap(one, one).tolist() == [1.0]
    shared = 10 * (1 / 9)
    assert top_overlap(one, other).tolist() == pytest.approx([shared / (4 - shared)])


def test_a_map_that_is_the_same_everywhere_is_like_no_other():
    constant, other = torch.full((1, 6), 0.5).double(), drawn(1, 6)
    for pair in ((constant, other), (other, constant), (constant, constant)):
        assert spearman(*pair).isnan().all()
        assert top_overlap(*pair).isnan().all()
    assert spearman(other[:, :1], other[:, :1]).isnan().all()


@pytest.mark.parametrize("features", [3, 25])
def test_deletion_of_a_linear_model(features):
    """Its score without the first features in order of importance, in up to ten steps."""
    inputs_ND, weight_D = drawn(4, features).float(), drawn(features, seed=2)
    occlusion = table_occlusion([0.0] * features, [(d,) for d in range(features)])
    ask = asking(lambda x: x @ weight_D)
    worth_ND = weight_D * inputs_ND.double()
    counts_F = deletion_counts(occlusion)
    assert (counts_F[0], counts_F[-1]) == (0, features)
    assert len(counts_F) == min(features, 10) + 1
    found_NF = deletion_scores(ask, inputs_ND, occlusion, ranks_of(worth_ND))["model"]
    ordered = -np.sort(-worth_ND.numpy(), axis=1)
    expected = np.stack([ordered[:, c:].sum(axis=1) for c in counts_F.tolist()], axis=1)
    assert found_NF.numpy() == pytest.approx(expected, abs=1e-10)


def test_pixels_are_removed_in_all_channels():
    occlusion = image_occlusion(2, 2, [5.0, 7.0], patch=1, stride=1)
    rank_NU = torch.tensor([[2, 0, 1, 3]])
    found = deletion_scores(
        asking(lambda x: x.flatten(1).sum(dim=1)), torch.zeros(1, 2, 2, 2), occlusion, rank_NU
    )
    assert found["model"].tolist() == [[0.0, 12.0, 24.0, 36.0, 48.0]]


def test_area_between_deletion_curves_is_numpys():
    counts_F = torch.tensor([0, 1, 3, 4])
    one, other = drawn(3, 4), drawn(3, 4, seed=1)
    expected = np.trapezoid((one - other).numpy(), counts_F.numpy() / 4, axis=1)
    assert deletion_area(one, other, counts_F).numpy() == pytest.approx(expected)
    assert deletion_area(one, one, counts_F).tolist() == [0.0] * 3
