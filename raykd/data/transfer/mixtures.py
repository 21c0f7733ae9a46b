"""Mixtures of Gaussians, fitted by expectation maximisation and drawn from.

Dempster, Laird & Rubin 1977; Bishop 2006, "Pattern recognition and machine learning", equations 9.23 to 9.28.
Shapes: N samples, D columns, K components, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_STEPS = 100
TOLERANCE = 1e-3
"""Change of the mean log-likelihood (nats) of a sample below which the fit ends."""
_LEAST = 10 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians with full covariances.

    Attributes:
        weight_K: float64, sums to 1.
        mean_KD: float64.
        factor_KDD: lower Cholesky factors of the covariances.
    """

    weight_K: np.ndarray
    mean_KD: np.ndarray
    factor_KDD: np.ndarray

    def log_likelihood(self, values_ND: np.ndarray) -> np.ndarray:
        """Ln Σ_k π_k N(x | μ_k, Σ_k) of each sample in nats, float64 [N] (equation 9.28)."""
        found: np.ndarray = np.logaddexp.reduce(self._joint(values_ND), axis=1)
        return found

    def _joint(self, values_ND: np.ndarray) -> np.ndarray:
        """Ln π_k + ln N(x_n | μ_k, Σ_k), float64 [N, K]."""
        from scipy.linalg import solve_triangular  # it takes a while to import

        joint_NK = np.empty((len(values_ND), len(self.weight_K)))
        for k, factor_DD in enumerate(self.factor_KDD):
            white_DN = solve_triangular(factor_DD, (values_ND - self.mean_KD[k]).T, lower=True)
            log_size = 2 * np.log(np.diag(factor_DD)).sum() + len(factor_DD) * np.log(2 * np.pi)
            joint_NK[:, k] = np.log(self.weight_K[k]) - 0.5 * (log_size + (white_DN**2).sum(axis=0))
        return joint_NK

    def shares(self, values_ND: np.ndarray) -> np.ndarray:
        """How much of each sample is each component's: float64 [N, K], rows sum to 1 (equation 9.23)."""
        joint_NK = self._joint(values_ND)
        shares: np.ndarray = np.exp(joint_NK - np.logaddexp.reduce(joint_NK, axis=1, keepdims=True))
        return shares

    def draw(self, uniform_B: np.ndarray, normal_BD: np.ndarray) -> np.ndarray:
        """A sample for each uniform number, which chooses the component, and row of standard normal ones: [B, D]."""
        edges_K = np.cumsum(self.weight_K)
        component_B = np.minimum(np.searchsorted(edges_K, uniform_B), len(edges_K) - 1)
        made_BD = np.empty(normal_BD.shape)
        for k in range(len(edges_K)):
            drawn = component_B == k
            made_BD[drawn] = self.mean_KD[k] + normal_BD[drawn] @ self.factor_KDD[k].T
        return made_BD


def with_shares(values_ND: np.ndarray, share_NK: np.ndarray, ridge: float) -> Mixture:
    """The mixture that is most likely given how samples are shared among components (equations 9.24 to 9.27).

    Args:
        values_ND: float64.
        share_NK: float64 >= 0, rows sum to 1.
        ridge: added to each variance.
    """
    count_K = share_NK.sum(axis=0) + _LEAST
    mean_KD = share_NK.T @ values_ND / count_K[:, None]
    factors = []
    for k, count in enumerate(count_K):
        apart_ND = values_ND - mean_KD[k]
        covariance_DD = (share_NK[:, k] * apart_ND.T) @ apart_ND / count
        covariance_DD[np.diag_indices_from(covariance_DD)] += ridge
        factors.append(np.linalg.cholesky(covariance_DD))
    return Mixture(count_K / count_K.sum(), mean_KD, np.stack(factors))


def starting_shares(values_ND: np.ndarray, uniform_K: np.ndarray) -> np.ndarray:
    """Each sample the nearest centre's alone, float64 [N, K]; centres as of k-means++ (Arthur & Vassilvitskii 2007, section 2.2).

    Args:
        values_ND: float64.
        uniform_K: a number in (0, 1) for each centre: the first is any sample, the next ones are drawn with the squared
            distance to the nearest centre so far as probability.
    """
    nearest_N = np.ones(len(values_ND))
    distances = []
    for uniform in uniform_K:
        edges_N = np.cumsum(nearest_N)
        row = min(int(np.searchsorted(edges_N, uniform * edges_N[-1])), len(values_ND) - 1)
        distances.append(((values_ND - values_ND[row]) ** 2).sum(axis=1))
        nearest_N = distances[0] if len(distances) == 1 else np.minimum(nearest_N, distances[-1])
    shares: np.ndarray = np.eye(len(uniform_K))[np.argmin(distances, axis=0)]
    return shares


def fit_mixture(values_ND: np.ndarray, start: Mixture, ridge: float) -> Mixture:
    """Expectation and maximisation in turn, until the mean log-likelihood changes by less than 0.001 nats, 100 times at most.

    Args:
        values_ND: float64, at least one sample.
        start: what the first expectation goes by.
        ridge: added to each variance after each maximisation.
    """
    mixture, before = start, -np.inf
    for _ in range(MOST_STEPS):
        likelihood = float(mixture.log_likelihood(values_ND).mean())
        mixture = with_shares(values_ND, mixture.shares(values_ND), ridge)
        if abs(likelihood - before) < TOLERANCE:
            break
        before = likelihood
    return mixture
