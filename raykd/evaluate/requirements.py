"""`evaluate.require`: conditions on the summary, such as `student.test.accuracy >= 0.9`."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raykd.config.explanations import nearest
from raykd.errors import InputError, Problem

_COMPARISONS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"^\s*(?P<path>\S+?)\s*(?P<sign>>=|<=|==|!=|>|<)\s*(?P<bound>\S+)\s*$")
_ALLOWED = "write `path sign number`, e.g. `student.test.accuracy >= 0.9`; signs: >= <= > < == !="


@dataclass(frozen=True)
class Requirement:
    """One condition, held against a summary.

    Attributes:
        text: as it stands in the recipe.
        value: what the summary says; None where it has no number there.
        holds: whether the condition is met; an absent number meets none.
    """

    text: str
    value: float | None
    holds: bool


def check_requirements(
    summary: Mapping[str, Any], requirements: Sequence[str]
) -> list[Requirement]:
    """Hold each condition against the summary.

    A path is dotted (`controls.labels.test.nll`, `gains.labels.ci95.0`); where it ends at a number
    over replicas its mean is taken.

    Raises:
        InputError: a condition is malformed or its path is not in the summary; every one is named.
    """
    problems: list[Problem] = []
    checked: list[Requirement] = []
    for index, text in enumerate(requirements):
        try:
            checked.append(_check(summary, text))
        except ValueError as error:
            problems.append(Problem(f"evaluate.require.{index}", str(error)))
    if problems:
        raise InputError(problems)
    return checked


def _check(summary: Mapping[str, Any], text: str) -> Requirement:
    parts = _FORM.match(text)
    if parts is None:
        raise ValueError(f"cannot read {text!r}; {_ALLOWED}")
    try:
        bound = float(parts["bound"])
    except ValueError:
        raise ValueError(f"{parts['bound']!r} is not a number; {_ALLOWED}") from None
    value = _number(summary, parts["path"])
    holds = value is not None and bool(_COMPARISONS[parts["sign"]](value, bound))
    return Requirement(text, value, holds)


def _number(summary: Mapping[str, Any], path: str) -> float | None:
    node: Any = summary
    for part in path.split("."):
        children = _children(node)
        if part not in children:
            if node is None:
                return None
            known = list(_numbers(summary))
            raise ValueError(f"the summary has no {path!r}{nearest(path, known)}")
        node = children[part]
    if isinstance(node, Mapping) and "mean" in node:
        node = node["mean"]
    if node is None:
        return None
    if isinstance(node, int | float) and not isinstance(node, bool):
        return float(node)
    below = ", ".join(_children(node)) or repr(node)
    raise ValueError(f"{path!r} is not a number of the summary; it holds: {below}")


def _children(node: Any) -> dict[str, Any]:
    if isinstance(node, Mapping):
        return {str(name): value for name, value in node.items()}
    if isinstance(node, list | tuple):
        return {str(index): value for index, value in enumerate(node)}
    return {}


def _numbers(node: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of all numbers; one over replicas counts as a single number."""
    if isinstance(node, Mapping) and "mean" not in node:
        for name, value in node.items():
            yield from _numbers(value, f"{path}.{name}" if path else str(name))
    elif path:
        yield path
