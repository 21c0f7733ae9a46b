"""Import what the user's own recipe names as `module:function`, never what an artefact says; and extras."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from raykd.errors import InputError

_RAY_WORKER = "default_worker.py"
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
    """The public callable that `path` names; see `load_object`.

    Raises:
        InputError: the module or the function is not there, private, or not callable.
    """
    found: Callable[..., Any] = load_object(path, key=key, is_wanted=callable, what="function")
    return found


def load_object(
    path: str,
    *,
    key: str,
    is_wanted: Callable[[Any], bool] = lambda found: found is not None,
    what: str = "object",
) -> Any:
    """The public object that `path` names; the working directory is searched too.

    Args:
        path: `module:name`.
        key: dotted key of the recipe that holds it, for the error.
        is_wanted: whether an object is of the kind that is needed.
        what: what that kind is called.

    Raises:
        InputError: the module or the object is not there, private, or of another kind.
    """
    module_name, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise InputError.at(key, f"found {path!r}; a {what} of your own is written module:name")
    if module_name.split(".")[0] in _REFUSED:
        raise InputError.at(key, f"{path!r} is refused: name a {what} of your own module")
    if name.startswith("_"):
        raise InputError.at(key, f"{path!r} is private: name a public {what}")
    here = Path.cwd()
    if str(here) not in sys.path:
        sys.path.append(str(here))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError.at(
            key, f"cannot import {module_name!r} ({error}); run from its folder or install it"
        ) from error
    except Exception as error:  # whatever the user's module raises while it is imported
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError.at(key, f"importing {module_name!r} ends with {why}; correct it") from error  # fmt: skip
    found = getattr(module, name, None)
    if not is_wanted(found):
        _refuse_hidden(module, here, key)
        public = sorted(
            n for n in vars(module) if not n.startswith("_") and is_wanted(vars(module)[n])
        )
        raise InputError.at(
            key, f"{module_name!r} has no {what} {name!r}; it has: {', '.join(public) or '-'}"
        )
    return found


def _refuse_hidden(module: ModuleType, here: Path, key: str) -> None:
    """Tell of a file in the working directory whose name imports a part of Python, or an installed package.

    Raises:
        InputError: there is one.
    """
    name = module.__name__.split(".")[0]
    own = [path for path in (here / f"{name}.py", here / name / "__init__.py") if path.is_file()]
    found = Path(module.__file__).resolve() if module.__file__ else None
    installed = [Path(folder).resolve() for folder in (sys.prefix, sys.base_prefix)]
    hides = found is None or any(found.is_relative_to(folder) for folder in installed)
    if own and hides and (found is None or not found.is_relative_to(here.resolve())):
        raise InputError.at(
            key, f"{own[0]} has the name of another module, {found or 'a part of Python'}, which is imported in its place; "
            "give your file another name"
        )  # fmt: skip


def search_own_folders_last() -> None:
    """In a process of Ray's, search the driver's folders, which Ray puts first, after all installed packages.

    Else a user's file called `torch.py` or `wandb.py` would be imported in place of the package.
    """
    worker = Path(sys.argv[0]) if sys.argv else Path()
    if worker.name != _RAY_WORKER:
        return
    own = str(worker.parents[2])  # Ray's package, whose folders come next
    first = next((i for i, path in enumerate(sys.path) if path.startswith(own)), 0)
    sys.path[:] = [*sys.path[first:], *sys.path[:first]]


def load_package(name: str, *, install: str, key: str) -> ModuleType:
    """Import a module of a package that only some recipes need.

    Args:
        name: as it is imported.
        install: what pip is to install, such as `raykd[vision]`.
        key: dotted key of the recipe that asks for it, for the error.

    Raises:
        InputError: the package is not installed, or is and cannot be imported; names the pip line.
    """
    package, line = name.partition(".")[0], f"pip install '{install}'"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == package:
            why = f"needs {package}, which is not installed: {line}"
        else:
            why = f"needs {package}, which lacks the package {error.name}: {line}"
        raise InputError.at(key, why) from error
    except Exception as error:
        why_not = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        why = (
            f"needs {package}, which is installed and cannot be imported ({why_not}); it may be made for another "
            f"version or build of torch or numpy: {line}"
        )
        raise InputError.at(key, why) from error
