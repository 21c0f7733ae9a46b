"""Policies of Stable-Baselines3 as networks of torch: their weights, and the plain text beside them.

A `.zip` that `model.save` wrote holds `data`, JSON whose objects are described in plain fields and repeated as pickles, and
`policy.pth`, a state dict. The pickles are never looked at.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raykd.config.models import Sb3Model
from raykd.models.shapes import BuildContext
from raykd.models.weights import DAMAGED

_MOST_BYTES = 2**30
_LAYER = re.compile(r"^(?P<part>.+)\.(?P<index>\d+)\.weight$")
_CATEGORICAL, _Q, _GAUSSIAN, _SQUASHED, _DETERMINISTIC = range(5)
_TANH, _RELU = range(2)
_LOG_STD = (-20.0, 2.0)
"""Bounds of SAC's logarithms of standard deviations."""
_EPSILON, _CLIP = 1e-8, 10.0
State = Mapping[str, Tensor]


def build_sb3(spec: Sb3Model, context: BuildContext) -> nn.Module:
    """The policy in a file.

    Raises:
        InputError: the file is missing, damaged or of a policy that is not known; it sees or does something else than the
            environment; its statistics do not fit.
    """
    state = context.weights if context.weights is not None else _state(spec, context)
    policy = Sb3Policy(state)
    (seen, done), wanted = policy.sizes, (math.prod(context.input_shape), context.classes)
    if seen != wanted[0]:
        raise context.error(f"{spec.path} sees observations of {seen} numbers, this environment shows {wanted[0]}; take a "
                            "policy of this environment", field="path")  # fmt: skip
    if done != wanted[1]:
        raise context.error(f"{spec.path} puts out {done} numbers, this environment's actions need {wanted[1]}; take a policy "
                            "of this environment", field="path")  # fmt: skip
    return policy


class Sb3Policy(nn.Module):
    """Observations [B, O] to logits [B, A], Q-values [B, A], or means and logarithms of standard deviations [B, 2A].

    Args:
        state: as `_state` makes it; also what `state_dict` gives.
    """

    form: Tensor
    mean: Tensor
    var: Tensor
    limits: Tensor
    low: Tensor
    high: Tensor
    log_std: Tensor

    def __init__(self, state: State) -> None:
        super().__init__()
        count = sum(name.startswith("layers.") and name.endswith(".weight") for name in state)
        sizes = [state[f"layers.{index}.weight"].shape for index in range(count)]
        self.layers = nn.ModuleList(nn.Linear(size[1], size[0]) for size in sizes)
        self.spread = nn.Linear(sizes[-1][1], sizes[-1][0]) if "spread.weight" in state else None
        for name in ("form", "mean", "var", "limits", "low", "high", "log_std"):
            self.register_buffer(name, state[name].clone())
        self.load_state_dict(dict(state))

    @property
    def sizes(self) -> tuple[int, int]:
        """O and C."""
        first, last = self.layers[0], self.layers[-1]
        assert isinstance(first, nn.Linear), "all are"
        assert isinstance(last, nn.Linear), "all are"
        discrete = int(self.form[0]) in (_CATEGORICAL, _Q)
        return first.in_features, last.out_features * (1 if discrete else 2)

    def forward(self, observations_BO: Tensor) -> Tensor:
        """What the policy puts out."""
        kind, activation = self.form.tolist()
        x = observations_BO.float().flatten(1)
        if len(self.mean):
            scaled = (x - self.mean) / (self.var + self.limits[0]).sqrt()
            x = scaled.clamp(-float(self.limits[1]), float(self.limits[1]))
        for layer in self.layers[:-1]:
            x = layer(x).tanh() if activation == _TANH else layer(x).relu()
        last = self.layers[-1](x)
        if kind in (_CATEGORICAL, _Q):
            found: Tensor = last
            return found
        if kind == _GAUSSIAN:
            return torch.cat([last, self.log_std.expand_as(last)], dim=1)
        squashed, half = last.tanh(), (self.high - self.low) / 2
        if kind == _DETERMINISTIC:
            log_std = self.log_std.expand_as(last)
        else:  # of tanh(u) with u normal, to first order
            assert self.spread is not None, "SAC has it"
            slope = half * (1 - squashed.square())
            log_std = self.spread(x).clamp(*_LOG_STD) + slope.clamp(min=1e-6).log()
        return torch.cat([self.low + half * (squashed + 1), log_std], dim=1)


def _state(spec: Sb3Model, context: BuildContext) -> dict[str, Tensor]:
    """Weights by the names of `Sb3Policy`, with all that its settings and the file say."""
    weights, fields = _read(spec, context)
    kind, part, last = _kind_of(weights, spec, context)
    layers = _layers(weights, part)
    found: dict[str, Tensor] = {}
    for index, name in enumerate([*layers, *([] if last is None else [last])]):
        found |= {f"layers.{index}.{one}": weights[f"{name}.{one}"] for one in ("weight", "bias")}
    if kind == _SQUASHED:
        found |= {f"spread.{one}": weights[f"actor.log_std.{one}"] for one in ("weight", "bias")}
    actions = len(found[f"layers.{len(found) // 2 - 1 - (kind == _SQUASHED)}.bias"])
    found["form"] = torch.tensor([kind, _activation(spec, fields, kind)])
    low, high = torch.zeros(0), torch.zeros(0)
    if kind in (_SQUASHED, _DETERMINISTIC):
        low, high = (_bound(fields, name, actions, spec, context) for name in ("low", "high"))
    log_std = torch.full((actions,), math.log(spec.std))
    known = weights.get("log_std", log_std) if kind in (_GAUSSIAN, _DETERMINISTIC) else torch.zeros(0)  # fmt: skip
    return {**found, "low": low, "high": high, "log_std": known, **_statistics(spec, context)}


def _read(spec: Sb3Model, context: BuildContext) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    path = Path(spec.path).expanduser()
    if not path.is_file():
        raise context.error(f"there is no file {path} (in {Path.cwd()})", field="path")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {one.filename: one.file_size for one in archive.infolist()}
            if lacking := {"data", "policy.pth"} - sizes.keys():
                raise context.error(f"{path} has no {', '.join(sorted(lacking))}; give what `model.save` of Stable-Baselines3 wrote",
                                    field="path")  # fmt: skip
            if sum(sizes[name] for name in ("data", "policy.pth")) > _MOST_BYTES:
                raise context.error(f"{path} unpacks to more than 1 GiB", field="path")
            fields = json.loads(archive.read("data"))
            held = io.BytesIO(archive.read("policy.pth"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of protocols; the error below says more
            weights = torch.load(held, map_location="cpu", weights_only=True)
    except (
        *DAMAGED,
        OSError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
    ) as error:
        told = " ".join(str(error).split())[:200]
        raise context.error(f"{path} cannot be read ({type(error).__name__}: {told}); only its weights and plain fields are read, "
                            "nothing is unpickled", field="path") from error  # fmt: skip
    plain = isinstance(weights, Mapping) and all(isinstance(one, Tensor) for one in weights.values())  # fmt: skip
    if not plain or not isinstance(fields, Mapping):
        raise context.error(f"{path} holds no state dict in policy.pth, or no fields in data", field="path")  # fmt: skip
    return {str(name): one.float() for name, one in weights.items()}, fields


def _kind_of(weights: State, spec: Sb3Model, context: BuildContext) -> tuple[int, str, str | None]:
    """Which policy it is, where its hidden layers stand, and the layer behind them."""
    if "action_net.weight" in weights:
        kind = _GAUSSIAN if "log_std" in weights else _CATEGORICAL
        return kind, "mlp_extractor.policy_net", "action_net"
    if "q_net.q_net.0.weight" in weights:
        return _Q, "q_net.q_net", None
    if "actor.latent_pi.0.weight" in weights:
        return _SQUASHED, "actor.latent_pi", "actor.mu"
    if "actor.mu.0.weight" in weights:
        return _DETERMINISTIC, "actor.mu", None
    some = ", ".join(list(weights)[:4])
    raise context.error(f"{spec.path} is of a policy that is not known (its weights: {some}, ...); known are MlpPolicy of PPO, A2C, "
                        "DQN, SAC and TD3", field="path")  # fmt: skip


def _layers(weights: State, part: str) -> list[str]:
    """Names of the linear layers of a part, in order."""
    found = [int(m["index"]) for name in weights if (m := _LAYER.match(name)) and m["part"] == part]
    return [f"{part}.{index}" for index in sorted(found)]


def _activation(spec: Sb3Model, fields: Mapping[str, Any], kind: int) -> int:
    said = spec.activation
    if said is None:
        given = fields.get("policy_kwargs")
        text = str(given.get("activation_fn", "")) if isinstance(given, Mapping) else ""
        said = "relu" if "ReLU" in text else "tanh" if "Tanh" in text else None
    if said is None:
        said = "tanh" if kind in (_CATEGORICAL, _GAUSSIAN) else "relu"
    return _TANH if said == "tanh" else _RELU


def _bound(
    fields: Mapping[str, Any], name: str, actions: int, spec: Sb3Model, context: BuildContext
) -> Tensor:
    """`low` or `high` of the actions, from the text of the numbers."""
    space = fields.get("action_space")
    text = str(space.get(name, "")) if isinstance(space, Mapping) else ""
    numbers = [float(one) for one in re.findall(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?", text)]
    if "..." in text or len(numbers) != actions:
        raise context.error(f"{spec.path} does not say the bounds of its {actions} actions in plain text; export the policy to ONNX",
                            field="path")  # fmt: skip
    return torch.tensor(numbers)


def _statistics(spec: Sb3Model, context: BuildContext) -> dict[str, Tensor]:
    """What observations are normalised by; empty where they are not."""
    if spec.normalise is None:
        return {"mean": torch.zeros(0), "var": torch.zeros(0), "limits": torch.zeros(2)}
    field, path = "normalise", Path(spec.normalise).expanduser()
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name], np.float32) for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise context.error(f"{path} is no .npz of plain arrays ({error})", field=field) from error
    size = math.prod(context.input_shape)
    for name in ("mean", "var"):
        if name not in arrays or arrays[name].shape != (size,):
            found = list(arrays[name].shape) if name in arrays else "nothing"
            raise context.error(f"{path} has {found} as {name!r}; [{size}] is needed", field=field)
    limits = [float(arrays.get("epsilon", _EPSILON)), float(arrays.get("clip", _CLIP))]
    return {
        "mean": torch.from_numpy(arrays["mean"]),
        "var": torch.from_numpy(arrays["var"]),
        "limits": torch.tensor(limits),
    }
