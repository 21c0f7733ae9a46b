"""Import what the user's own recipe names as `module:function`; never used on what an artefact says."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raykd.errors import InputError, Problem

_REFUSED = {
    "builtins",
    "os",
    "subprocess",
    "sys",
    "shutil",
    "importlib",
    "pickle",
    "runpy",
    "ctypes",
}


def load_callable(path: str, *, key: str) -> Callable[..., Any]:
    """The public callable that `path` names; the working directory is searched too.

    Args:
        path: `module:function`.
        key: dotted key of the recipe that holds it, for the error.

    Raises:
        InputError: the module or the function is not there, private, or not callable.
    """
    module_name, _, name = path.partition(":")
    if module_name.split(".")[0] in _REFUSED:
        raise InputError(Problem(key, f"{path!r} is refused: name a function of your own module"))
    if name.startswith("_"):
        raise InputError(Problem(key, f"{path!r} is private: name a public function"))
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            Problem(
                key, f"cannot import {module_name!r} ({error}); run from its folder or install it"
            )
        ) from error
    target = getattr(module, name, None)
    if not callable(target):
        public = sorted(
            n for n in vars(module) if not n.startswith("_") and callable(vars(module)[n])
        )
        raise InputError(
            Problem(
                key, f"{module_name!r} has no function {name!r}; it has: {', '.join(public) or '-'}"
            )
        )
    found: Callable[..., Any] = target
    return found
