"""Packages that only some models need."""

from __future__ import annotations

from importlib.util import find_spec

from raykd.errors import InputError, Problem


def needed(package: str, extra: str, *, key: str) -> None:
    """Nothing where a package is installed.

    Args:
        package: as it is imported.
        extra: of raykd that brings it.
        key: dotted key of the model in the recipe, for the error.

    Raises:
        InputError: it is not installed; names the pip line.
    """
    if find_spec(package) is None:
        raise InputError(
            Problem(key, f"needs {package}, which is not installed: pip install 'raykd[{extra}]'")
        )
