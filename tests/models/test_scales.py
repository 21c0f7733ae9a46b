"""The scale of a teacher's tokens: fitted once, the same for a sample in any batch, in units that are told."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from raykd.models.scales import TokenScale, at_scale, fit_scale, tokens_of, unfitted


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    return torch.randn(500, 6, generator=generator, dtype=torch.float64) @ mix + 3.0


@pytest.mark.parametrize("kind", ["global", "phis"])
def test_one_number_scales_all_directions(tokens, kind):
    """The squared error of two scaled tokens is that of the two tokens over φ², φ² = trace of the covariance / D."""
    scale = fit_scale(tokens, kind)
    scaled = scale(tokens)
    assert scale.phi**2 == pytest.approx(float(torch.cov(tokens.T).trace()) / 6)
    assert torch.allclose(scaled.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-9)
    assert float(scaled.var(0).mean()) == pytest.approx(1.0)
    raw = (tokens[:250] - tokens[250:]).square().sum(1)
    assert torch.allclose((scaled[:250] - scaled[250:]).square().sum(1), raw / scale.phi**2)
    if kind == "phis":
        assert torch.allclose(scaled.var(0), torch.ones(6, dtype=torch.float64))


def test_a_dead_channel_is_not_blown_up(tokens):
    tokens[:, 2] = 5.0 + 1e-9 * tokens[:, 2]
    for kind in ("global", "phis"):
        assert float(fit_scale(tokens, kind)(tokens).abs().max()) < 10
    own = (tokens - tokens.mean(0)) / tokens.std(0)
    assert float(own[:, 2].std()) == pytest.approx(1.0), "as a deviation of its own would have it"


def test_the_spreads_are_those_of_who_says_nothing(tokens):
    scale = fit_scale(tokens, "phis")
    scaled = scale(tokens)
    silent = F.smooth_l1_loss(torch.zeros_like(scaled), scaled)
    assert scale.smooth_l1_spread == pytest.approx(float(silent))
    unit = F.normalize(scaled, dim=1)
    cosines = (unit @ unit.T)[~torch.eye(500, dtype=torch.bool)]
    assert scale.cosine_spread == pytest.approx(1 - float(cosines.mean()))


@pytest.mark.parametrize("kind", ["global", "phis"])
def test_maps_and_tokens_are_scaled_place_by_place(tokens, kind):
    scale = TokenScale.of_tensors(fit_scale(tokens, kind).tensors())
    rows = tokens[:24]
    expected = scale(rows)
    grid = rows.reshape(2, 3, 4, 6)
    assert torch.allclose(tokens_of(scale(grid.movedim(-1, 1))), expected)
    assert torch.allclose(tokens_of(scale(rows.reshape(2, 12, 6))), expected)
    assert torch.allclose(at_scale(rows, scale.mean_D, scale.matrix_DD, scale.phi), expected)


def test_what_cannot_be_scaled_is_refused(tokens):
    for wrong in (tokens[:1], torch.ones(20, 6), tokens.log()):
        with pytest.raises(ValueError, match="features must"):
            fit_scale(wrong, "global")
    assert torch.equal(unfitted(6)(tokens), tokens)
