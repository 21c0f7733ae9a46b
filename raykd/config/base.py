"""What every part of the configuration shares: frozen, no unknown keys, documented fields."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused, a field documented by the string below it."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        defer_build=True,
    )
    added_later: ClassVar[frozenset[str]] = frozenset()
    """Optional fields that are younger than results which somebody keeps. At their default they are no part of
    `identity`, so that a new key has nothing trained or scored again."""

    def identity(self) -> dict[str, Any]:
        """What decides a result, as JSON: all fields, but those added later at their default."""
        written: dict[str, Any] = self.model_dump(mode="json")
        _leave_out(self, written)
        return written


def _leave_out(value: Any, written: Any) -> None:
    """Take fields that were added later and are at their default out of what settings wrote."""
    if isinstance(value, Settings):
        for name, own in value:
            if name in value.added_later and own == type(value).model_fields[name].default:
                written.pop(name, None)
            elif name in written:
                _leave_out(own, written[name])
    elif isinstance(value, Mapping):
        for key, own in value.items():
            _leave_out(own, written[str(key)])
    elif isinstance(value, list | tuple):
        for own, part in zip(value, written, strict=True):
            _leave_out(own, part)


def no_bool(value: Any) -> Any:
    """A number as it is; true and false, which Python counts as 1 and 0, are refused."""
    if isinstance(value, bool):
        raise ValueError("a number is needed here, not true or false")  # noqa: TRY004
    return value


_NO_BOOL = BeforeValidator(no_bool)

Real = Annotated[float, _NO_BOOL]
Positive = Annotated[float, Field(gt=0), _NO_BOOL]
NonNegative = Annotated[float, Field(ge=0), _NO_BOOL]
Unit = Annotated[float, Field(ge=0, le=1), _NO_BOOL]


def _at_most(limit: int, why: str) -> tuple[FieldInfo, AfterValidator]:
    def check(value: int) -> int:
        if value > limit:
            raise ValueError(f"must be at most {limit:,}: {why}")
        return value

    return Field(json_schema_extra={"maximum": limit}), AfterValidator(check)


MOST = 10**12
"""No count of anything is larger; what is, would fail far from where it was written."""
Count = Annotated[int, Field(ge=1, le=MOST), _NO_BOOL]
Natural = Annotated[int, Field(ge=0, le=MOST), _NO_BOOL]
Whole = Annotated[int, Field(ge=-MOST, le=MOST), _NO_BOOL]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1), _NO_BOOL]
Folds = Annotated[int, Field(ge=2), _NO_BOOL, *_at_most(1000, "each is a run of its own")]
Replicas = Annotated[
    int, Field(ge=1), _NO_BOOL, *_at_most(1000, "each is trained, and so are its controls")
]
Width = Annotated[float, Field(gt=0, le=1000), _NO_BOOL]
Depth = Annotated[int, Field(ge=1, le=10_000), _NO_BOOL]
TEXT_BYTES = 2000
"""So many bytes of a text are kept where a recipe says nothing."""
ImportPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
LONGEST_NAME = 64
Name = Annotated[str, Field(pattern=r"^[A-Za-z][\w-]*$", max_length=LONGEST_NAME)]
License = Annotated[str, Field(pattern=r"^\S(.*\S)?$", max_length=100)]


def _as_json(value: Any) -> Any:
    """The value as JSON gives it back, so that a run that goes on has the settings it began with."""
    if isinstance(value, Mapping):
        if other := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"has the key {other[0]!r}; keys inside are texts: write '{other[0]}'")
        return {key: _as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(inner) for inner in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError(
        f"holds {value!r}; allowed are texts, finite numbers, true, false, null, lists and mappings"
    )


Json = Annotated[Any, BeforeValidator(_as_json)]
"""Whatever a function of the user's own takes, as JSON knows it."""


NodeLabels = dict[
    Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")],
    Annotated[str, Field(pattern=r"^!?(in\([A-Za-z0-9._, -]+\)|[A-Za-z0-9._-]+)$")],
]
"""Labels that a node must have, as Ray's `label_selector` has them: `value`, `!value`, `in(a, b)` or `!in(a, b)`."""
LABEL = "label:"


def label_needs(labels: Mapping[str, str]) -> dict[str, float]:
    """Labels among the resources of a process; `raykd.runtime.labels` takes them apart again."""
    return {f"{LABEL}{name}={value}": 1.0 for name, value in labels.items()}


def _workers(value: Any) -> Any:
    bounds = value if isinstance(value, list | tuple) else (value, value)
    counts = [bound for bound in bounds if isinstance(bound, int) and not isinstance(bound, bool)]
    if len(bounds) != 2 or len(counts) != 2 or not 1 <= counts[0] <= counts[1]:
        raise ValueError(
            "a number of workers is needed, or [fewest, most] with 1 <= fewest <= most"
        )
    return value


Workers = Annotated[int | tuple[int, int], BeforeValidator(_workers)]
"""So many workers, or between two numbers of them."""


def _part_or_count(value: Any) -> Any:
    value = no_bool(value)
    if isinstance(value, int | float):
        if value < 0:
            raise ValueError("must not be negative; an integer is a count, a float below 1 a part")
        if value > MOST:
            raise ValueError(f"must be at most {MOST:,}")
        if isinstance(value, float) and value > 1:
            raise ValueError("a float is a part and must be at most 1; write a count as an integer")
    return value


PartOrCount = Annotated[int | float, BeforeValidator(_part_or_count)]
"""An integer is a count of samples, a float a part of them."""
