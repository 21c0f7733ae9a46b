"""Import what the user's own recipe names as `module:function`, never what an artefact says; and extras."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from raykd.errors import InputError

_RAY_WORKER = "default_worker.py"
_LOADERS = frozenset(
    [
        "_pickle",
        "cffi",
        "cloudpickle",
        "Cython",
        "dill",
        "distutils",
        "hickle",
        "IPython",
        "jnius",
        "joblib",
        "jsonpickle",
        "klepto",
        "marshal",
        "numba",
        "pip",
        "pkg_resources",
        "pty_process",
        "ptyprocess",
        "pexpect",
        "setuptools",
        "sh",
        "skops",
        "numpy:load",
        "numpy:fromfile",
        "numpy.f2py",
        "numpy:loadtxt",
        "numpy.lib",
        "pandas:read_pickle",
        "pandas:eval",
        "torch:load",
        "torch.jit",
        "torch.hub",
        "torch.package",
        "torch.serialization",
        "torch.export:load",
        "torch.ops",
        "torch.classes",
        "torch.utils.cpp_extension",
        "torch.multiprocessing",
        "torch.distributed",
        "torch.utils.model_zoo",
        "ray",
    ]
)
"""Packages, modules and functions that run what they are given, or what is in a file."""


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
    refuse_loader(path, key=key, what=what)
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
    if isinstance(
        found, type | FunctionType | BuiltinFunctionType
    ):  # imported there from elsewhere?
        refuse_loader(f"{found.__module__}:{found.__name__}", key=key, what=what)
    return found


def refuse_loader(path: str, *, key: str, what: str = "function") -> None:
    """Refuse what makes anything run, whoever names it.

    Args:
        path: `module:name`.
        key: dotted key of the recipe that holds it, for the error.
        what: what was to be named.

    Raises:
        InputError: it belongs to Python itself, or to what loads or starts others' code.
    """
    module, _, name = path.partition(":")
    parts = module.split(".")
    above = {".".join(parts[: end + 1]) for end in range(len(parts))}
    own = Path.cwd() / f"{parts[0]}.py"
    if parts[0] in sys.stdlib_module_names or parts[0] == "__main__":
        if own.is_file():
            raise InputError.at(
                key,
                f"{own} has the name of another module, a part of Python; give your file another name",
            )
    elif not above & _LOADERS and f"{module}:{name}" not in _LOADERS:
        return
    raise InputError.at(key, f"{path!r} is refused: name a {what} of your own module")


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
