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
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from raykd.config.data import Cutmix, FactoryView, Mixup, ViewStep
from raykd.data import steps
from raykd.data.gathering import CPU, Rooms, gathered, moved
from raykd.data.geometry import Drawn, Geometry, Places, on_device, unmoved, whole
from raykd.data.hashing import Draws, view_keys
from raykd.data.policy import build_steps, size_after
from raykd.data.step_kinds import Fields, MixStep
from raykd.importing import load_callable
from raykd.types import TEXT

# Raise it when the numbers of a step change, so that targets stored for the old ones are refused.
_FORMAT = 1
_AT_ONCE_BYTES = 2**20
"""Of samples that the CPU makes views of at a time."""


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
        inputs: name -> [B, ...], float32 or int64 (texts uint8), in memory of their own, on the device asked for.
        partner_B: int64 [B], the row blended in, the own row where none is; None without mixing.
        share_B: float32 [B] in [0, 1], the own share; None without mixing.
        places: where pixels went, see `raykd.data.geometry`; None where none moved, or nobody has to know.
    """

    inputs: Fields
    partner_B: np.ndarray | None = None
    share_B: np.ndarray | None = None
    places: Places | None = None


class ViewMaker:
    """Shows views of samples.

    The host draws and gathers bytes; all else is done to tensors on the device that they are asked for on.

    Args:
        inputs: name -> [N, ...].
        ids: int64 [N].
        seed: the recipe's seed.
        policy: the steps, in order.
        pools: where mixup and cutmix find partners.
        followed: whether labels have to know where pixels go.

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
        followed: bool = False,
    ) -> None:
        self._inputs = inputs
        self._ids = ids
        self._seed = seed
        self._steps = build_steps(policy, inputs)
        self.followed = followed and any(getattr(one, "affine", None) for one in self._steps)
        self._size, *self._sizes = _sizes(policy, next(iter(inputs.values())).shape)
        self._on_host = max(
            (i for i, step in enumerate(self._steps, 1) if getattr(step, "on_host", False)),
            default=0,
        )
        self._rooms = Rooms()
        self._pools = pools
        self._labelled_N = np.zeros(len(ids) if mixes(policy) else 0, dtype=bool)
        if mixes(policy):
            self._labelled_N[pools.labelled] = True

    def show(self, rows: np.ndarray, view_B: np.ndarray, device: torch.device = CPU) -> Shown:
        """The views `view_B` (int64 [B], −1 = untransformed) of the samples `rows` (int64 [B])."""
        transformed_B = view_B >= 0
        if not self._steps or not transformed_B.any():
            return Shown(self._made(Geometry(rows=rows), device))
        if transformed_B.all():
            geometry = self.geometry(rows, view_B)
            partner_B = None if geometry.partners is None else geometry.partners.rows
            places = self.places(geometry) if self.followed else None
            return Shown(self._made(geometry, device), partner_B, geometry.share_B, places)
        some = self.show(rows[transformed_B], view_B[transformed_B], device)
        shown = self._made(Geometry(rows=rows), device)
        if any(x.shape[1:] != shown[name].shape[1:] for name, x in some.inputs.items()):
            raise ValueError(
                "samples and views of them that have another size were asked for together"
            )
        place_B = moved(torch.from_numpy(np.flatnonzero(transformed_B)), device)
        for name, tensor in shown.items():
            tensor.index_copy_(0, place_B, some.inputs[name])
        places = some.places and self.among(some.places, transformed_B)
        if some.partner_B is None or some.share_B is None:
            return Shown(shown, places=places)
        partner_B, share_B = rows.copy(), np.ones(len(rows), dtype=np.float32)
        partner_B[transformed_B], share_B[transformed_B] = some.partner_B, some.share_B
        return Shown(shown, partner_B, share_B, places)

    def geometry(self, rows: np.ndarray, view_B: np.ndarray, end: int | None = None) -> Geometry:
        """What is drawn for views (int64 [B], 0 and above) of the samples `rows` (int64 [B]), of the first `end` steps."""
        keys_B = view_keys(self._ids[rows], view_B, self._seed)
        drawn: list[Drawn] = []
        partners = share_B = None
        for index, step in enumerate(self._steps[:end]):
            draws = Draws.of_step(keys_B, index)
            if isinstance(step, MixStep):
                uniform_KB = draws.uniforms(5)
                mixed_B = uniform_KB[0] < step.probability
                partner_B = np.where(mixed_B, self._partners(rows, uniform_KB[1]), rows)
                partners = self.geometry(partner_B, view_B, index)
                own, share_B = step.draw(mixed_B, uniform_KB[2:])
                drawn.append(own)
            else:
                drawn.append(step.draw(draws))
        return Geometry(rows=rows, drawn=tuple(drawn), partners=partners, share_B=share_B)

    def places(self, geometry: Geometry) -> Places:
        """Where pixels of images go, see `raykd.data.geometry`; what is blended in has places of its own.

        Raises:
            InputError: a step does not say where.
        """
        found = self.at_home(len(geometry.rows))
        for step, drawn, size in zip(self._steps, geometry.drawn, self._sizes, strict=False):
            if not isinstance(step, MixStep) and step.affine is not None:
                found = found.then(step.affine(drawn), size)
        return found

    def at_home(self, count: int) -> Places:
        """The places of so many samples as they are."""
        return Places(unmoved(count), whole(count, self._size))

    def among(self, some: Places, which_B: np.ndarray) -> Places:
        """The places of some samples among others that are as they are."""
        found = self.at_home(len(which_B))
        found.maps_B23[which_B], found.seen_B4[which_B] = some
        return found

    def _made(self, geometry: Geometry, device: torch.device) -> Fields:
        """Views as models see them. The CPU makes a few samples at a time, which stay in its cache."""
        count = len(geometry.rows)
        size = max(1, _AT_ONCE_BYTES // self._row_bytes)
        if size >= count or device.type != "cpu" or not (geometry.drawn or self._has_bytes):
            made = self._applied(geometry, device)
            return {n: x if n == TEXT else steps.to_float(x) for n, x in made.items()}
        shown: Fields = {}
        for start in range(0, count, size):
            part = slice(start, start + size)
            for name, tensor in self._applied(geometry.part(part), device).items():
                if name not in shown:
                    floats = tensor.dtype == torch.uint8 and name != TEXT
                    dtype = torch.float32 if floats else tensor.dtype
                    shown[name] = self._rooms.room((count, *tensor.shape[1:]), dtype)
                place = shown[name][part]
                _ = place.copy_(tensor) if name == TEXT else steps.to_float(tensor, place)
        return shown

    @cached_property
    def _has_bytes(self) -> bool:
        """Whether samples are shown otherwise than they are held."""
        return any(a.dtype == np.uint8 for name, a in self._inputs.items() if name != TEXT)

    @cached_property
    def _row_bytes(self) -> int:
        return sum(array[:1].nbytes for array in self._inputs.values())

    def _applied(self, geometry: Geometry, device: torch.device) -> Fields:
        """The views after the steps that are drawn, not yet as floats."""
        on_host = min(self._on_host, len(geometry.drawn))
        here = CPU if on_host else device
        fields = {name: gathered(a, geometry.rows, here) for name, a in self._inputs.items()}
        fields = {name: moved(tensor, here) for name, tensor in fields.items()}
        for index, (step, drawn) in enumerate(zip(self._steps, geometry.drawn, strict=False), 1):
            given = on_device(drawn, CPU if getattr(step, "drawn_stays", False) else here)
            if isinstance(step, MixStep):
                assert geometry.partners is not None, "drawn together"
                theirs = self._applied(geometry.partners, here)
                ((name, own),) = fields.items()
                fields = {name: step.show(own, theirs[name], given)}
            else:
                fields = step.show(fields, given)
            if index == on_host:
                fields, here = {n: moved(x, device) for n, x in fields.items()}, device
        return fields

    def _partners(self, rows: np.ndarray, uniform_B: np.ndarray) -> np.ndarray:
        partners_B = np.empty(len(rows), np.int64)
        labelled_B = self._labelled_N[rows]
        for pool, here_B in zip(self._pools, (labelled_B, ~labelled_B), strict=True):
            index = (uniform_B[here_B] * len(pool)).astype(np.int64)
            partners_B[here_B] = pool[index]
        return partners_B


def _sizes(policy: Sequence[ViewStep], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Height and width of images as they are, and after each step; zeros of what is no image."""
    found = [(shape[-2], shape[-1]) if len(shape) == len("NCHW") else (0, 0)]
    for step in policy:
        found.append(size_after(step, found[-1]) or found[-1])
    return found


def mixes(policy: Sequence[ViewStep]) -> bool:
    """Whether a policy blends samples, so that its views depend on the partner pools."""
    return any(isinstance(step, Mixup | Cutmix) for step in policy)


def view_shape(policy: Sequence[ViewStep], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a view of a sample of `shape`."""
    size: tuple[int, int] | None = None
    for step in policy:
        size = size_after(step, size)
    return shape if size is None else (shape[0], *size)


def policy_key(
    policy: Sequence[ViewStep],
    seed: int,
    *,
    pools_digest: str | None = None,
    visible: float | None = None,
) -> str:
    """What identifies the views of a policy, for the target store.

    Labels and splits are not part of it, but for what mixup and cutmix draw from. A policy without
    steps has one key whatever the seed: its views are the samples themselves.

    Args:
        policy: the steps, in order.
        seed: the recipe's seed.
        pools_digest: identifies the partner pools with their contents; needed by mixup and cutmix.
        visible: of boxes that are carried to views, where it is another than that of old.

    Returns:
        Canonical JSON.
    """
    assert not mixes(policy) or pools_digest, "a policy that mixes needs the digest of its partners"
    key: dict[str, Any] = {
        "format": _FORMAT,
        "seed": seed if policy else None,
        "steps": [_step_key(index, step) for index, step in enumerate(policy)],
        "pools": pools_digest if mixes(policy) else None,
    }
    if visible is not None:
        key["visible"] = visible
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
