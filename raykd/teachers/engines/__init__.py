"""Engines: what scores and continues token ids, in this process or behind an address.

    from raykd.teachers.engines import build_engine

    engine = build_engine("transformers", model="models/wide", k=64, temperatures=(2.0,))
    engine = build_engine("openai", url="http://gpu7:8000/v1", model="wide", vocabulary=50_000, k=20)
    engine = build_engine("my_package.engines:Mine", path="wide.bin")
    answer = engine.score(ids, offsets)

What an engine has to do is in `protocol`; one of your own is held to `raykd.testing.engine_suite.EngineSuite`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from raykd.errors import InputError
from raykd.importing import load_callable
from raykd.models.names import nearest
from raykd.teachers.engines.protocol import Engine, require_same_tokenizer, unit_offsets

ENGINES: Mapping[str, str] = {
    "transformers": "raykd.teachers.engines.local:TransformersEngine",
    "openai": "raykd.teachers.engines.remote:OpenAiEngine",
}
"""Kind of an engine -> where its class is."""


@runtime_checkable
class Described(Protocol):
    """An engine that says what its model is."""

    def describe(self) -> Mapping[str, Any]:
        """Plain values that differ where the model does, and not by where or when it runs; see `described`."""
        ...


def described(engine: Engine) -> Mapping[str, Any] | None:
    """What an engine says of itself, as plain values that are part of the fingerprint; None where it says nothing.

    Raises:
        TeacherError: as the engine says.
    """
    return engine.describe() if isinstance(engine, Described) else None


def build_engine(kind: str, *, key: str = "engine", **settings: Any) -> Engine:
    """An engine of a kind, or of a class of one's own.

    Args:
        kind: a name of `ENGINES`, or `module:Class`; key of the recipe: `path`.
        key: dotted key of the recipe, for errors.
        settings: of the engine; see its class.

    Raises:
        InputError: there is no such kind, it cannot be imported, or refuses its settings.
        TeacherError: as the engine says.
    """
    if kind not in ENGINES and ":" not in kind:
        raise InputError.at(
            f"{key}.path",
            f"knows no {kind!r}{nearest(kind, tuple(ENGINES))}; there are {', '.join(ENGINES)}, and module:Class of your own",
        )
    own = ENGINES.get(kind)
    make = load_callable(own or kind, key=f"{key}.path")
    try:
        engine: Engine = make(key=key, **settings) if own else make(**settings)
    except TypeError as error:
        raise InputError.at(key, f"does not fit {kind}: {error}") from error
    return engine


__all__ = [
    "ENGINES",
    "Engine",
    "build_engine",
    "described",
    "require_same_tokenizer",
    "unit_offsets",
]
