"""Views: the augmented versions of a sample, each a pure function of (seed, id, view, policy).

Every random number is drawn by counting in the sample's own stream (`raykd.data.hashing`), so a view
is bit-identical alone or in any batch, in any process. Only mixup and cutmix look at other samples:
the partners, which come from fixed pools of training samples and are named by the same streams.

Shape suffixes: B samples, K random numbers of one sample.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from raykd.config.data import Cutmix, FactoryView, Mixup, ViewStep
from raykd.data import steps
from raykd.data.hashing import Draws, view_keys
from raykd.data.policy import Inputs, MixStep, build_steps
from raykd.importing import load_callable

# Raise it when the numbers of a step change, so that targets stored for the old ones are refused.
_FORMAT = 1


class PartnerPools(NamedTuple):
    """Rows that mixup and cutmix draw partners from; training rows only, in the order of their ids.

    Attributes:
        labelled: int64 rows, the partners of these rows themselves.
        every: int64 rows, the partners of all other rows.
    """

    labelled: np.ndarray
    every: np.ndarray


class Shown(NamedTuple):
    """Views of a batch.

    Attributes:
        inputs: name -> [B, ...], float32 or int64 (texts uint8), fresh arrays.
        partner_B: int64 [B], the row blended in, the own row where none is; None without mixing.
        share_B: float32 [B] in [0, 1], the own share; None without mixing.
    """

    inputs: Inputs
    partner_B: np.ndarray | None = None
    share_B: np.ndarray | None = None


class ViewMaker:
    """Shows views of samples.

    Args:
        inputs: name -> [N, ...].
        ids: int64 [N].
        seed: the recipe's seed.
        policy: the steps, in order.
        pools: where mixup and cutmix find partners.

    Raises:
        InputError: a step does not fit the samples (key `data.views.policy.<i>`).
    """

    def __init__(
        self,
        inputs: Mapping[str, np.ndarray],
        ids: np.ndarray,
        *,
        seed: int,
        policy: Sequence[ViewStep],
        pools: PartnerPools,
    ) -> None:
        self._inputs = inputs
        self._ids = ids
        self._seed = seed
        self._steps = build_steps(policy, inputs)
        self._pools = pools
        self._labelled_N = np.zeros(len(ids) if mixes(policy) else 0, dtype=bool)
        if mixes(policy):
            self._labelled_N[pools.labelled] = True

    def show(self, rows: np.ndarray, view_B: np.ndarray) -> Shown:
        """The views `view_B` (int64 [B], −1 = untransformed) of the samples `rows` (int64 [B])."""
        transformed_B = view_B >= 0
        if not self._steps or not transformed_B.any():
            return _with_floats(self._originals(rows))
        if transformed_B.all():
            return _with_floats(self._transformed(rows, view_B, len(self._steps)))
        some = self.show(rows[transformed_B], view_B[transformed_B])
        all_originals = _with_floats(self._originals(rows))
        for name, array in all_originals.inputs.items():
            array[transformed_B] = some.inputs[name]
        if some.partner_B is None or some.share_B is None:
            return all_originals
        partner_B, share_B = rows.copy(), np.ones(len(rows), dtype=np.float32)
        partner_B[transformed_B], share_B[transformed_B] = some.partner_B, some.share_B
        return Shown(all_originals.inputs, partner_B, share_B)

    def _originals(self, rows: np.ndarray) -> Shown:
        return Shown({name: array[rows] for name, array in self._inputs.items()})

    def _transformed(self, rows: np.ndarray, view_B: np.ndarray, end: int) -> Shown:
        """The views after the first `end` steps, not yet as floats."""
        keys_B = view_keys(self._ids[rows], view_B, self._seed)
        shown = self._originals(rows)
        for index, step in enumerate(self._steps[:end]):
            draws = Draws.of_step(keys_B, index)
            if isinstance(step, MixStep):
                uniform_KB = draws.uniforms(5)
                mixed_B = uniform_KB[0] < step.probability
                partner_B = np.where(mixed_B, self._partners(rows, uniform_KB[1]), rows)
                theirs = self._transformed(partner_B, view_B, index).inputs
                ((name, own),) = shown.inputs.items()
                blended, share_B = step.blend(own, theirs[name], mixed_B, uniform_KB[2:])
                shown = Shown({name: blended}, partner_B, share_B)
            else:
                shown = shown._replace(inputs=step(shown.inputs, draws))
        return shown

    def _partners(self, rows: np.ndarray, uniform_B: np.ndarray) -> np.ndarray:
        partners_B = np.empty(len(rows), np.int64)
        labelled_B = self._labelled_N[rows]
        for pool, here_B in zip(self._pools, (labelled_B, ~labelled_B), strict=True):
            index = (uniform_B[here_B] * len(pool)).astype(np.int64)
            partners_B[here_B] = pool[index]
        return partners_B


def mixes(policy: Sequence[ViewStep]) -> bool:
    """Whether a policy blends samples, so that its views depend on the partner pools."""
    return any(isinstance(step, Mixup | Cutmix) for step in policy)


def policy_key(policy: Sequence[ViewStep], seed: int, *, pools_digest: str | None = None) -> str:
    """What identifies the views of a policy, for the target store.

    Labels and splits are not part of it, but for what mixup and cutmix draw from. A policy without
    steps has one key whatever the seed: its views are the samples themselves.

    Args:
        policy: the steps, in order.
        seed: the recipe's seed.
        pools_digest: identifies the partner pools with their contents; needed by mixup and cutmix.

    Returns:
        Canonical JSON.
    """
    assert not mixes(policy) or pools_digest, "a policy that mixes needs the digest of its partners"
    key = {
        "format": _FORMAT,
        "seed": seed if policy else None,
        "steps": [_step_key(index, step) for index, step in enumerate(policy)],
        "pools": pools_digest if mixes(policy) else None,
    }
    return json.dumps(key, sort_keys=True, separators=(",", ":"))


def _step_key(index: int, step: ViewStep) -> dict[str, Any]:
    settings = step.identity()
    if not isinstance(step, FactoryView):
        return settings
    function = load_callable(step.path, key=f"data.views.policy.{index}.path")
    try:
        code = inspect.getsource(function)
    except (OSError, TypeError):
        return settings  # not written in Python: the path has to do
    return {**settings, "code": hashlib.sha256(code.encode()).hexdigest()[:16]}


def _with_floats(shown: Shown) -> Shown:
    return shown._replace(inputs=steps.as_shown(shown.inputs))
