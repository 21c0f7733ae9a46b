"""Files that run a command when they are read by a reader that unpickles: each would leave a canary file."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class _Calls:
    """Is unpickled by calling a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.how = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.how


def calls(canary: Path) -> dict[str, Any]:
    """Objects that make the canary file when they are unpickled, by the function that they call."""
    touch = f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": _Calls(os.system, f"touch {canary}"),
        "subprocess": _Calls(subprocess.Popen, ["touch", str(canary)]),
        "exec": _Calls(builtins.exec, touch),
        "eval": _Calls(builtins.eval, f"__import__('os').system('touch {canary}')"),
    }


def pickles(canary: Path) -> dict[str, bytes]:
    """The same as files: a bare pickle, and those of torch in both of its formats."""
    found = {}
    for name, call in calls(canary).items():
        found[f"{name}, pickle"] = pickle.dumps({"identity": call})
        for form, zipped in (("zip", True), ("legacy", False)):
            buffer = io.BytesIO()
            torch.save({"identity": call}, buffer, _use_new_zipfile_serialization=zipped)
            found[f"{name}, torch {form}"] = buffer.getvalue()
    return found


def archives(canary: Path) -> dict[str, bytes]:
    """The same inside numpy's files: an array of objects is a pickle."""
    found: dict[str, bytes] = {}
    for name, call in calls(canary).items():
        array = np.empty(1, object)
        array[0] = call
        bare, packed = io.BytesIO(), io.BytesIO()
        np.save(bare, array)
        np.savez(packed, inputs=array)
        found |= {f"{name}, npy": bare.getvalue(), f"{name}, npz": packed.getvalue()}
    return found
