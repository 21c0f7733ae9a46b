"""Policies that are no networks: a user's rule as a module whose outputs are those of a policy."""

from __future__ import annotations

import inspect
import math

import numpy as np
import torch
from torch import Tensor, nn

from raykd.config.models import PrivilegedModel, RuleModel
from raykd.importing import load_callable
from raykd.models.shapes import BuildContext
from raykd.models.zoo.foreign import ForeignModel


def build_rule(spec: RuleModel, context: BuildContext) -> nn.Module:
    """A rule as a policy.

    Raises:
        InputError: the function is not there, or does not take `kwargs`.
    """
    function = load_callable(spec.path, key=f"{context.key}.path")
    signature = inspect.signature(function)
    try:
        signature.bind(np.zeros((1, 1), np.float32), **spec.kwargs)
    except TypeError as error:
        raise context.error(
            f"do not fit {spec.path}{signature}: {error}", field="kwargs"
        ) from error
    return RulePolicy(spec, context)


def refuse_privileged(spec: PrivilegedModel, context: BuildContext) -> nn.Module:
    """A privileged teacher answers while episodes are rolled, and is no module.

    Raises:
        InputError: always.
    """
    raise context.error(f"{spec.path} sees the simulator itself: it can be a teacher of `data.source: {{type: gymnasium}}` alone, "
                        "and is asked nothing else than what is rolled")  # fmt: skip


class RulePolicy(ForeignModel):
    """What a rule says, as outputs of a policy: [B, O] to [B, C]."""

    def __init__(self, spec: RuleModel, context: BuildContext) -> None:
        super().__init__()
        self._spec, self._outputs = spec, context.classes

    def forward(self, observations_BO: Tensor) -> Tensor:
        """Logits of the actions, or means and logarithms of the standard deviations.

        Raises:
            TypeError: the rule says something else.
        """
        spec = self._spec
        function = load_callable(spec.path, key="model.path")
        said = np.asarray(function(observations_BO.cpu().float().numpy(), **spec.kwargs))
        if said.dtype.kind in "iu" and said.shape == (len(observations_BO),):
            return self._of_actions(torch.from_numpy(said.astype(np.int64)))
        if said.dtype.kind == "f" and said.shape == (len(observations_BO), self._outputs // 2):
            means_BA = torch.from_numpy(said.astype(np.float32))
            return torch.cat([means_BA, torch.full_like(means_BA, math.log(spec.std))], dim=1)
        raise TypeError(
            f"{spec.path} returned {said.dtype} {list(said.shape)}; needed are numbers of actions, whole numbers [B], or "
            "continuous actions, floats [B, A]"
        )

    def _of_actions(self, actions_B: Tensor) -> Tensor:
        if bool(((actions_B < 0) | (actions_B >= self._outputs)).any()):
            raise TypeError(f"{self._spec.path} says action {int(actions_B.max())}; allowed are 0 to {self._outputs - 1}")  # fmt: skip
        rest = (1 - self._spec.confidence) / max(1, self._outputs - 1)
        logits_BA = torch.full((len(actions_B), self._outputs), math.log(rest))
        return logits_BA.scatter(1, actions_B[:, None], math.log(self._spec.confidence))
