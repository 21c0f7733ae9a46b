"""A projector for every pair of layouts, against plain computation where it has no parameters."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raykd.errors import InputError
from raykd.models.projectors import Orthogonal, make_projector
from raykd.models.weights import count_parameters

VECTORS = [(6,), (9,)]
TOKENS = [(4, 6), (5, 6), (16, 9), (17, 9), (17, 4), (7, 6), (12, 5)]
MAPS = [(6, 2, 2), (9, 4, 4), (5, 8, 4), (6, 3, 5), (3, 1, 1)]
POSSIBLE = [
    *itertools.product(VECTORS, VECTORS),
    *itertools.product(MAPS, MAPS),
    *itertools.product(MAPS, VECTORS),
    *itertools.product(TOKENS, VECTORS),
    *itertools.product(TOKENS, TOKENS),
    *itertools.product(TOKENS[:5], MAPS),
    *itertools.product(MAPS, TOKENS[:5]),
]


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize(("student", "teacher"), POSSIBLE, ids=str)
def test_every_possible_pair(student, teacher, always):
    projector = make_projector(student, teacher, always=always)
    x = torch.randn(3, *student, requires_grad=True)
    out = projector(x)
    assert out.shape == (3, *teacher)
    if out is not x:
        out.square().sum().backward()
        assert x.grad is not None
        assert all(p.grad.abs().sum() > 0 for p in projector.parameters())
    features = [shape[0] if len(shape) == 3 else shape[-1] for shape in (student, teacher)]
    needed = features[0] * features[1] + features[1] if always or features[0] != features[1] else 0
    assert count_parameters(projector) == needed


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((6,), (9,)), ((9,), (6,)), ((6,), (6,)), ((5, 6), (5, 9)), ((6, 4, 4), (9, 2, 2)), ((9, 4, 4), (6, 4, 4))],
)  # fmt: skip
def test_an_orthogonal_projector_keeps_lengths(student, teacher):
    projector = make_projector(student, teacher, orthogonal=True)
    x = torch.randn(3, *student, requires_grad=True)
    optimizer = torch.optim.SGD(projector.parameters(), lr=0.5)
    for _ in range(2):
        out = projector(x)
        assert out.shape == (3, *teacher)
        weight = next(part for part in projector.modules() if isinstance(part, Orthogonal)).weight
        small = weight.T @ weight if weight.shape[0] >= weight.shape[1] else weight @ weight.T
        torch.testing.assert_close(small, torch.eye(len(small)), rtol=0, atol=1e-5)
        optimizer.zero_grad()
        (out - 1.0).square().sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in projector.parameters())
        optimizer.step()
    if student == (6,) and teacher == (9,):
        torch.testing.assert_close(out.norm(dim=1), x.norm(dim=1))
        before = make_projector(student, teacher, orthogonal=True)
        before.load_state_dict(projector.state_dict())
        torch.testing.assert_close(before(x), projector(x), rtol=0, atol=0)


def test_an_orthogonal_projector_depends_on_no_scale_of_its_weights():
    projector = make_projector((6,), (9,), orthogonal=True)
    x = torch.randn(3, 6)
    before = projector(x)
    with torch.no_grad():
        projector[0].raw *= 7.0
    torch.testing.assert_close(projector(x), before)


def test_equal_shapes_need_nothing_unless_a_regressor_is_wanted():
    assert isinstance(make_projector((6, 4, 4), (6, 4, 4)), nn.Identity)
    regressor = make_projector((6, 4, 4), (6, 4, 4), always=True)
    assert [type(part) for part in regressor.modules()][-1] is nn.Conv2d


def test_maps_are_averaged_down_and_interpolated_up():
    x = torch.randn(2, 5, 6, 8)
    down = make_projector((5, 6, 8), (5, 3, 4))(x)
    torch.testing.assert_close(down, F.adaptive_avg_pool2d(x, (3, 4)))
    uneven = make_projector((5, 6, 8), (5, 4, 5))(x)
    torch.testing.assert_close(uneven, F.adaptive_avg_pool2d(x, (4, 5)))
    up = make_projector((5, 6, 8), (5, 12, 4))(x)
    torch.testing.assert_close(up, F.interpolate(x, (12, 4), mode="bilinear"))


def test_class_tokens():
    tokens = torch.randn(2, 17, 6)
    assert torch.equal(make_projector((17, 6), (6,))(tokens), tokens[:, 0])
    torch.testing.assert_close(
        make_projector((16, 6), (6,))(tokens[:, 1:]), tokens[:, 1:].mean(dim=1)
    )
    as_map = make_projector((17, 6), (6, 4, 4))(tokens)
    assert torch.equal(as_map[0, :, 1, 2], tokens[0, 1 + 4 + 2])
    assert torch.equal(make_projector((17, 6), (16, 6))(tokens), tokens[:, 1:])
    made = make_projector((16, 6), (17, 6))(tokens[:, 1:])
    torch.testing.assert_close(made[:, 0], tokens[:, 1:].mean(dim=1))
    assert torch.equal(made[:, 1:], tokens[:, 1:])
    smaller = make_projector((17, 6), (5, 6))(tokens)
    assert torch.equal(smaller[:, 0], tokens[:, 0])
    torch.testing.assert_close(smaller[0, 1], tokens[0, [1, 2, 5, 6]].mean(dim=0))


def test_maps_and_tokens_of_the_same_grid_are_the_same_numbers():
    x = torch.randn(2, 6, 2, 8)
    tokens = make_projector((6, 2, 8), (16, 6))(x)
    assert torch.equal(tokens, x.flatten(2).transpose(1, 2))
    assert torch.equal(make_projector((16, 6), (6, 2, 8))(tokens), x)


def test_plain_sequences_are_interpolated_along_their_length():
    x = torch.randn(2, 7, 6)
    found = make_projector((7, 6), (12, 6))(x)
    needed = F.interpolate(x.transpose(1, 2), 12, mode="linear").transpose(1, 2)
    torch.testing.assert_close(found, needed)


def test_half_precision_features_are_cast_to_the_weights():
    for student, teacher in (((6, 4, 4), (9, 4, 4)), ((6,), (9,))):
        out = make_projector(student, teacher)(torch.randn(2, *student).half())
        assert out.dtype == torch.float32


@pytest.mark.parametrize(
    ("student", "teacher", "why"),
    [
        ((6,), (6, 4, 4), "no positions"),
        ((6,), (4, 6), "no positions"),
        ((7, 6), (6, 4, 4), "no grid"),
        ((6, 4, 4), (7, 6), "no grid"),
        ((6, 2, 2, 2), (6,), "a feature is"),
        ((), (6,), "a feature is"),
        ((6, 0, 2), (6,), "a feature is"),
    ],
    ids=str,
)
def test_impossible_pairs_are_refused_with_both_shapes(student, teacher, why):
    with pytest.raises(InputError, match=why) as caught:
        make_projector(student, teacher, key="objective.features.1")
    (problem,) = caught.value.problems
    assert problem.key == "objective.features.1"
    assert str(list(student)) in problem.message
    assert str(list(teacher)) in problem.message
