"""Who acts: networks, ensembles, rules, mixtures and chance, all as `raykd.control.rolling.Policy`.

Outputs of a policy are logits of the actions (discrete), or means and logarithms of the standard deviations of a Gaussian
(continuous, twice as many numbers as an action has). Models are given batches of one fixed shape, padded with zeros: in
those a row has the same bits whatever the others are, and an episode does not depend on its neighbours; a product of fewer
rows may round in another way.

Shapes: B episodes, O numbers of an observation, A actions or numbers of an action, C numbers of an output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from raykd.control.environments import Spaces
from raykd.control.rolling import Draws, Policy
from raykd.importing import load_callable

_ROWS = 16
"""Of every batch that a model is given, whoever acts beside whom."""
Take = Literal["best", "sample"]


def _filled(rows_BO: np.ndarray) -> np.ndarray:
    """Rows with as many of zeros behind them as a batch has."""
    filled = np.zeros((_ROWS, rows_BO.shape[1]), rows_BO.dtype)
    filled[: len(rows_BO)] = rows_BO
    return filled


@dataclass(frozen=True, eq=False)
class ModelPolicy:
    """A model acts.

    Attributes:
        model: takes observations float32 [B, O], returns outputs [B, C].
        discrete: whether outputs are logits of discrete actions.
        take: the likeliest action (the mean), or one drawn of the distribution.
    """

    model: Callable[[Tensor], Tensor]
    discrete: bool
    take: Take = "best"

    def actions(self, observations_BO: np.ndarray, draws: Draws) -> np.ndarray:
        """As of `Policy`."""
        outputs_BC = self.outputs(observations_BO)
        if self.discrete:
            return chosen(log_softmax(outputs_BC), draws, self.take)
        return drawn_values(outputs_BC, draws, self.take)

    def outputs(self, observations_BO: np.ndarray) -> np.ndarray:
        """Outputs, float64 [B, C], in batches of one fixed shape, in which a row does not depend on the others."""
        if isinstance(self.model, nn.Module):
            self.model.eval()
        with torch.inference_mode():
            parts = [
                self.model(torch.from_numpy(_filled(observations_BO[at : at + _ROWS])))
                for at in range(0, len(observations_BO), _ROWS)
            ]
        return torch.cat(parts)[: len(observations_BO)].double().numpy()


@dataclass(frozen=True, eq=False)
class EnsemblePolicy:
    """Several models act together: discrete by their mean probabilities, continuous by one that is drawn at each step.

    Means of continuous actions are not averaged: of two ways around an obstacle the mean leads into it.
    """

    members: tuple[ModelPolicy, ...]
    weights: tuple[float, ...]
    take: Take = "best"

    def actions(self, observations_BO: np.ndarray, draws: Draws) -> np.ndarray:
        """As of `Policy`."""
        outputs_TBC = np.stack([one.outputs(observations_BO) for one in self.members])
        weights_T = np.array(self.weights) / sum(self.weights)
        if self.members[0].discrete:
            probs_BA = np.einsum("t,tba->ba", weights_T, np.exp(log_softmax(outputs_TBC)))
            return chosen(np.log(probs_BA), draws, self.take)
        whose_B = np.array([own.choice(len(weights_T), p=weights_T) for own in draws])
        return drawn_values(outputs_TBC[whose_B, np.arange(len(whose_B))], draws, self.take)


@dataclass(frozen=True, eq=False)
class RulePolicy:
    """The user's own function of a batch of observations acts.

    Attributes:
        path: `module:function`.
        key: dotted key of the recipe that names it.
        kwargs: keyword arguments of the function.
    """

    path: str
    key: str
    kwargs: Mapping[str, object]

    def actions(self, observations_BO: np.ndarray, draws: Draws) -> np.ndarray:  # noqa: ARG002
        """As of `Policy`."""
        function = load_callable(self.path, key=self.key)
        rows = [np.asarray(function(row[None], **self.kwargs)) for row in observations_BO]
        return np.concatenate(rows)


@dataclass(frozen=True, eq=False)
class MixedPolicy:
    """At each step one acts with a probability β, else the other: DAgger's π_i (Ross et al. 2011, algorithm 3.1)."""

    first: Policy
    second: Policy
    beta: float

    def actions(self, observations_BO: np.ndarray, draws: Draws) -> np.ndarray:
        """As of `Policy`."""
        first_B = np.array([own.random() < self.beta for own in draws])
        if first_B.all():
            return self.first.actions(observations_BO, draws)
        if not first_B.any():
            return self.second.actions(observations_BO, draws)
        parts = []
        for policy, rows in ((self.first, np.flatnonzero(first_B)), (self.second, np.flatnonzero(~first_B))):  # fmt: skip
            own = policy.actions(observations_BO[rows], [draws[row] for row in rows.tolist()])
            parts.append((rows, own))
        mixed = np.empty((len(first_B), *parts[0][1].shape[1:]), parts[0][1].dtype)
        for rows, own in parts:
            mixed[rows] = own
        return mixed


@dataclass(frozen=True)
class RandomPolicy:
    """Every action is as likely as any other."""

    spaces: Spaces

    def actions(self, observations_BO: np.ndarray, draws: Draws) -> np.ndarray:  # noqa: ARG002
        """As of `Policy`."""
        if self.spaces.discrete:
            return np.array([own.integers(self.spaces.actions) for own in draws])
        low, high = np.array(self.spaces.low), np.array(self.spaces.high)
        return np.array([own.uniform(low, high) for own in draws], np.float32)


@dataclass(frozen=True)
class RecordedPolicy:
    """A privileged teacher acts; see `raykd.control.rolling.PrivilegedPolicy`."""

    name: str
    discrete: bool

    def recorded_actions(self, answers: Mapping[str, np.ndarray], draws: Draws) -> np.ndarray:
        """As of `PrivilegedPolicy`."""
        outputs_BC = answers[self.name]
        if self.discrete:
            return chosen(outputs_BC, draws, "best")
        return drawn_values(outputs_BC, draws, "best")


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities [..., A] of logits [..., A]."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    made: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return made


def chosen(log_probs_BA: np.ndarray, draws: Sequence[np.random.Generator], take: Take) -> np.ndarray:  # fmt: skip
    """Actions, int64 [B]: the likeliest, or drawn."""
    if take == "best":
        likeliest: np.ndarray = log_probs_BA.argmax(axis=1)
        return likeliest
    cumulated_BA = np.exp(log_probs_BA).cumsum(axis=1)
    points_B = np.array([own.random() for own in draws]) * cumulated_BA[:, -1]
    found: np.ndarray = (cumulated_BA <= points_B[:, None]).sum(axis=1)
    return found.clip(max=log_probs_BA.shape[1] - 1)


def drawn_values(
    outputs_BC: np.ndarray, draws: Sequence[np.random.Generator], take: Take
) -> np.ndarray:
    """Continuous actions, float32 [B, A]: the means, or drawn."""
    values_BA, log_stds_BA = np.split(outputs_BC, 2, axis=1)
    if take == "sample":
        noise_BA = np.stack([own.standard_normal(values_BA.shape[1]) for own in draws])
        values_BA = values_BA + np.exp(log_stds_BA) * noise_BA
    taken: np.ndarray = values_BA.astype(np.float32)
    return taken
