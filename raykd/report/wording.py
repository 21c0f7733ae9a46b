"""Numbers and names as text, the same on the console, in Markdown and in HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

BASELINE = "labels"
ROLES = {
    "student": "student",
    "labels": "labels alone",
    "best_teacher": "best teacher alone",
    "hard": "hard labels",
    "untrained": "untrained",
    "without_peers": "without peers",
    "all_labels": "all labels",
    "direct": "without stages",
    "longer": "without stages, longer",
    "cloning": "cloning, equal states",
    "rl": "rewards alone",
    "ensemble": "ensemble",
}
RIVAL = "compared"
"""Role of a model that the student is held against."""
OTHER = "other student"
"""Role of the students of a run beside its first one."""
NONE = "–"
_ENOUGH = 5


def role_name(role: str) -> str:
    """What a role is called in a table or figure; a role of the user's own keeps its name."""
    return ROLES.get(role, role)


def sure(what: str, replicas: int) -> str:
    """`surely better`; with fewer than five replicas `probably better (by 2 replicas only)`."""
    if replicas >= _ENOUGH:
        return f"surely {what}"
    return f"probably {what} (by {replicas} replicas only)"


def percent(share: float | None, digits: int = 1) -> str:
    """`95.3 %`."""
    return NONE if share is None else f"{_minus(f'{100 * share:z.{digits}f}')} %"


def points(share: float, *, signed: bool = True) -> str:
    """A difference of shares in percentage points, without the unit: `+2.13`, `−0.40`, `0.00`."""
    text = f"{100 * share:+z.2f}"
    if text == "+0.00":
        return "0.00"
    return _minus(text) if signed else text[1:]


def significant(value: float | None, digits: int = 4, *, signed: bool = False) -> str:
    """A number in the unit of the data, to so many significant digits: `54.27`, `0.09816`, `3 982`."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return _minus(f"{value:{'+' if signed else ''},.{decimals}f}").replace(",", " ")


def number(value: float | None, digits: int = 3) -> str:
    """A plain number with fixed digits."""
    return NONE if value is None else _minus(f"{value:z.{digits}f}")


def count(value: float | None) -> str:
    """A large number in three digits: `950`, `23.4 k`, `1.20 M`, `4.10 G`."""
    if value is None:
        return NONE
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size * 0.9995:
            return f"{_three(value / size)} {unit}"
    return _minus(f"{value:z.0f}")


def milliseconds(value: float | None) -> str:
    """A latency: `85.0 µs`, `0.21 ms`, `12.3 ms`, `1.50 s`."""
    if value is None:
        return NONE
    if value >= 999.5:
        return f"{_three(value / 1e3)} s"
    return f"{_three(value)} ms" if value >= 0.0995 else f"{_three(value * 1e3)} µs"


def duration(seconds: float) -> str:
    """`0.4 s`, `48 s`, `3 min 12 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def compact(value: float) -> str:
    """A tick of an axis: `500`, `20 k`, `1.5 M`."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:zg} {unit}"
    return f"{value:zg}"


def times(ratio: float) -> str:
    """`12.3 times`."""
    return f"{_three(ratio)} times"


def mean_of(value: Any) -> float | None:
    """A number of the summary: the mean of one over replicas, else the number itself."""
    mean: float | None = value["mean"] if isinstance(value, Mapping) else value
    return mean


def _three(value: float) -> str:
    """At least three digits, and no exponent."""
    size = abs(value)
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2
    return _minus(f"{value:z.{digits}f}")


def _minus(text: str) -> str:
    """A proper minus sign."""
    return text.replace("-", "−")


def listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
