"""PHI-S: one scale for all channels of a teacher, after a rotation that gives them equal variance.

Ranzinger et al. 2024 (PHI-S, "Distribution Balancing for Agglomerative Vision Foundation Models"):
y = W (x − μ), W = (1/φ) H Uᵀ, with the eigenvectors U and eigenvalues λ of the covariance of x, φ² = mean λ = trace / D,
and an orthogonal H. It is an isotropic scale: ‖y‖ = ‖x − μ‖ / φ, so that the squared error of two y is that of the
two x over φ², and no direction of little variance is blown up, as it is by dividing each channel by its own deviation.

H makes the variances of all channels of y equal to 1. A Hadamard matrix over √D does so for any λ (Sylvester 1867,
Paley 1933, where there is one for D). Elsewhere rotations of two channels at a time do so for the λ at hand (Schur
1923, Horn 1954; Bendel & Mickey 1978); published code takes random signs there, which are not orthogonal.

Shape suffixes: N samples or tokens, D channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class PhiS:
    """The scale of one teacher, fitted once and kept with it.

    Attributes:
        mean_D: μ, float64.
        matrix_DD: W, float64; y = W (x − μ).
        phi: φ > 0.
    """

    mean_D: Tensor
    matrix_DD: Tensor
    phi: float

    def __call__(self, features: Tensor) -> Tensor:
        """Features [..., D] in the balanced space, in their own precision."""
        mean_D, matrix_DD = (part.to(features) for part in (self.mean_D, self.matrix_DD))
        return (features - mean_D) @ matrix_DD.T

    def undo(self, balanced: Tensor) -> Tensor:
        """Features [..., D] in the teacher's own space: x = φ² Wᵀ y + μ."""
        mean_D, matrix_DD = (part.to(balanced) for part in (self.mean_D, self.matrix_DD))
        return balanced @ (self.phi**2 * matrix_DD) + mean_D


def fit_phis(features_ND: Tensor) -> PhiS:
    """The scale of a teacher's features.

    Args:
        features_ND: pooled vectors or tokens of training samples; at least 10·D rows are advisable.

    Raises:
        ValueError: not [N, D] with N ≥ 2, values that are not finite, or features that do not vary.
    """
    if features_ND.ndim != 2 or len(features_ND) < 2:
        raise ValueError(f"features must be [N, D] with N >= 2, found {tuple(features_ND.shape)}")
    values_ND = features_ND.detach().double()
    if not bool(values_ND.isfinite().all()):
        raise ValueError("features must be finite")
    mean_D = values_ND.mean(0)
    offset_ND = values_ND - mean_D
    return phis_of(mean_D, offset_ND.T @ offset_ND / (len(values_ND) - 1))


def phis_of(mean_D: Tensor, covariance_DD: Tensor) -> PhiS:
    """The scale of features with these moments.

    Args:
        mean_D: μ.
        covariance_DD: of the channels.

    Raises:
        ValueError: nothing varies.
    """
    values_D, vectors_DD = torch.linalg.eigh(covariance_DD.double())
    values_D = values_D.clamp(min=0)  # rounding may put the smallest below
    phi = math.sqrt(float(values_D.mean()))
    if not phi > 0:
        raise ValueError("features must vary: all of them are alike")
    largest_D = vectors_DD.abs().argmax(0)
    signs_D = vectors_DD.gather(0, largest_D[None])[0].sign()
    vectors_DD = vectors_DD * signs_D
    spread_DD = hadamard(len(values_D))
    rotation_DD = balancing(values_D) if spread_DD is None else spread_DD / math.sqrt(len(values_D))
    return PhiS(
        mean_D=mean_D.double(), matrix_DD=rotation_DD.to(vectors_DD) @ vectors_DD.T / phi, phi=phi
    )


def hadamard(size: int) -> Tensor | None:
    """A matrix of ±1 with HHᵀ = size·I, float64; None where the constructions here give none.

    Sylvester's doubling of 1, of Paley's first (q + 1 for a prime q ≡ 3 mod 4) or of his second (2q + 2 for a prime
    q ≡ 1 mod 4). 384, 768, 1,024, 1,280, 1,408 and 1,536 are such sizes.
    """
    core, doublings = size, 0
    while True:
        found = _core(core)
        if found is not None:
            for _ in range(doublings):
                found = torch.cat(
                    [torch.cat([found, found], 1), torch.cat([found, -found], 1)], dim=0
                )
            return found
        if core % 2:
            return None
        core, doublings = core // 2, doublings + 1


def balancing(values_D: Tensor) -> Tensor:
    """An orthogonal Q with all of diag(Q Λ Qᵀ) equal to the mean of λ, float64 [D, D].

    As long as a channel has less than the mean, another one has more: a rotation of the two gives the first one the
    mean exactly, and the others keep theirs. At most D − 1 rotations.

    Args:
        values_D: λ ≥ 0, rising.
    """
    size, values_D = len(values_D), values_D.double()
    mean = float(values_D.mean())
    matrix_DD = torch.diag(values_D)
    rotation_DD = torch.eye(size, dtype=torch.float64, device=values_D.device)
    open_channels = list(range(size))
    for _ in range(size - 1):
        diagonal = [float(matrix_DD[channel, channel]) for channel in open_channels]
        low, high = (open_channels[diagonal.index(extreme(diagonal))] for extreme in (min, max))
        if low == high:
            break
        turn_22 = _turn(matrix_DD[[low, high]][:, [low, high]], mean)
        pair = torch.tensor([low, high], device=values_D.device)
        rotation_DD[pair] = turn_22 @ rotation_DD[pair]
        matrix_DD[pair] = turn_22 @ matrix_DD[pair]
        matrix_DD[:, pair] = matrix_DD[:, pair] @ turn_22.T
        open_channels.remove(low)
    return rotation_DD


def _turn(block_22: Tensor, wanted: float) -> Tensor:
    """The rotation of two channels after which the first one has the wanted variance, between those of both."""
    first, cross, second = float(block_22[0, 0]), float(block_22[0, 1]), float(block_22[1, 1])
    # With t the tangent: first + 2 t cross + t² second = wanted (1 + t²).
    a, b, c = second - wanted, 2 * cross, first - wanted
    if a <= 0 or c >= 0:  # both have the mean already, up to rounding
        return torch.eye(2, dtype=block_22.dtype, device=block_22.device)
    root = math.sqrt(b * b - 4 * a * c)
    tangent = (-b + root) / (2 * a) if b <= 0 else -2 * c / (b + root)
    cosine = 1 / math.hypot(1, tangent)
    sine = tangent * cosine
    return block_22.new_tensor([[cosine, sine], [-sine, cosine]])


def _core(size: int) -> Tensor | None:
    """Size 1, or one of Paley's two constructions."""
    if size == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if size & (size - 1) == 0:  # a power of two is left to the doublings of 1
        return None
    if _is_prime(size - 1) and (size - 1) % 4 == 3:
        bordered = _bordered(size - 1, skew=True)
        return torch.eye(size, dtype=torch.float64) + bordered
    if size % 2 == 0 and _is_prime(size // 2 - 1) and (size // 2 - 1) % 4 == 1:
        bordered = _bordered(size // 2 - 1, skew=False)
        plus = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        minus = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        return torch.kron(bordered, plus) + torch.kron(
            torch.eye(size // 2, dtype=torch.float64), minus
        )
    return None


def _bordered(prime: int, *, skew: bool) -> Tensor:
    """Jacobsthal's matrix of a prime with a border of ones, [q + 1, q + 1]; zeros on the diagonal."""
    squares = {value * value % prime for value in range(1, prime)}
    character = torch.tensor(
        [0.0] + [1.0 if value in squares else -1.0 for value in range(1, prime)],
        dtype=torch.float64,
    )
    index = torch.arange(prime)
    out = torch.zeros(prime + 1, prime + 1, dtype=torch.float64)
    out[1:, 1:] = character[(index[:, None] - index[None, :]) % prime]
    out[0, 1:] = 1.0
    out[1:, 0] = -1.0 if skew else 1.0
    return out


def _is_prime(value: int) -> bool:
    return value > 1 and all(value % factor for factor in range(2, math.isqrt(value) + 1))
