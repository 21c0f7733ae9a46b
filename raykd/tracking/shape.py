"""The run's mappings in the shape W&B can show: shallow configs, flat numbers, no keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raykd.tracking.events import Event
from raykd.tracking.jsonl import plain

DEEPEST = 4
LONGEST_LIST = 16
HIDDEN = "***"


def flat_numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """All numbers of a nested mapping under `a/b/c`; text, null and long lists are left out."""
    numbers: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, list | tuple):
            few = value if len(value) <= LONGEST_LIST else ()
            value = {str(place): inner for place, inner in enumerate(few)}  # noqa: PLW2901
        if isinstance(value, Mapping):
            numbers |= flat_numbers(value, f"{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[name] = value
    return numbers


def epoch_row(event: Event) -> dict[str, float]:
    """The history row of an epoch: `<fit>/<metric>`, with `<fit>/epoch` to plot against."""
    values = {key: value for key, value in event.values.items() if key != "epochs"}
    numbers = flat_numbers(plain(values), f"{event.fit}/")
    if event.step is not None:
        numbers[f"{event.fit}/step"] = event.step
    return {**numbers, f"{event.fit}/epoch": event.epoch or 0}


def shallow(config: Mapping[str, Any], *, secrets: tuple[str, ...] = ()) -> dict[str, Any]:
    """The config nested at most `DEEPEST` levels; deeper keys are joined by "/".

    Lists of mappings become mappings, by `name` where every entry has its own, else by position, so
    that runs can be compared by them. Secrets are masked wherever they stand.
    """
    masked = _masked(plain(config), tuple(secret for secret in secrets if secret))
    nested: dict[str, Any] = _nested(_by_name(masked), DEEPEST)
    return nested


def _by_name(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _by_name(inner) for key, inner in value.items()}
    if isinstance(value, list) and value and all(isinstance(inner, Mapping) for inner in value):
        names = [inner.get("name") for inner in value]
        own = len(set(map(str, names))) == len(names) and None not in names
        keys = names if own else range(len(value))
        return {str(key): _by_name(inner) for key, inner in zip(keys, value, strict=True)}
    return value


def _nested(value: Mapping[str, Any], depth: int) -> dict[str, Any]:
    if depth == 1:
        return _joined(value, "")
    return {
        key: _nested(inner, depth - 1) if isinstance(inner, Mapping) else inner
        for key, inner in value.items()
    }


def _joined(value: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            joined |= _joined(inner, f"{prefix}{key}/")
        else:
            joined[f"{prefix}{key}"] = inner
    return joined


def _masked(value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {_masked(key, secrets): _masked(inner, secrets) for key, inner in value.items()}
    if isinstance(value, list):
        return [_masked(inner, secrets) for inner in value]
    return mask(value, secrets) if isinstance(value, str) else value


def mask(text: str, secrets: tuple[str, ...]) -> str:
    """The text without the secrets."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN) if secret else text
    return text
