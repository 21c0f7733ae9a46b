"""Objects of the user's own Python process that a recipe names by a fingerprint: tables, estimators, modules.

A recipe is data alone. What it names as `{type: object, fingerprint: ...}` is held here, by this process and by those
that Ray sends it to, for as long as somebody needs it; raykd writes it nowhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import xxhash

from raykd.errors import InputError, Problem, refuse


@dataclass(frozen=True, eq=False)
class Held:
    """An object and its fingerprint; whichever process has one can find it by the fingerprint."""

    fingerprint: str
    value: Any

    def __reduce__(self) -> tuple[Callable[..., Held], tuple[str, Any]]:
        return hold, (self.fingerprint, self.value)


_HELD: WeakValueDictionary[str, Held] = WeakValueDictionary()


def hold(fingerprint: str, value: Any) -> Held:
    """Hold an object in this process, as long as the result lives."""
    return _HELD.setdefault(fingerprint, Held(fingerprint, value))


def is_held(fingerprint: str) -> bool:
    """Whether this process has the object."""
    return fingerprint in _HELD


def held(fingerprint: str, describes: str, *, key: str) -> Held:
    """The object that a recipe names.

    Args:
        fingerprint: of the object.
        describes: what it is, in words.
        key: dotted key of the recipe that names it.

    Raises:
        InputError: this process does not have it.
    """
    found = _HELD.get(fingerprint)
    if found is None:
        raise InputError([_lost(key, describes)])
    return found


def refuse_lost(objects: Mapping[str, Any]) -> None:
    """Nothing where this process has every object that a recipe names.

    Args:
        objects: dotted key -> its settings, as `Config.objects` has them.

    Raises:
        InputError: it lacks some, as the command line always does.
    """
    lost = ((key, one) for key, one in objects.items() if not is_held(one.fingerprint))
    refuse(_lost(key, one.describes) for key, one in lost)


def _lost(key: str, describes: str) -> Problem:
    return Problem(key, f"is an object of a Python process ({describes}), which no file holds: call raykd.run(config, "
                   "output=..., resume=True), or whichever function it was, with the same object in the config")  # fmt: skip


def named(kind: Any) -> str:
    """Module and qualified name of a class or function."""
    return f"{kind.__module__}.{kind.__qualname__}"


def library_of(value: Any) -> str:
    """Name of the package that the object's class is defined in."""
    return type(value).__module__.partition(".")[0]


def is_of(value: Any, library: str) -> bool:
    """Whether the object is of a class of a library, or of one derived from such a class; nothing is imported."""
    return any(kind.__module__.partition(".")[0] == library for kind in type(value).__mro__)


def version_of(value: Any) -> str | None:
    """Version of the package that the object's class is defined in."""
    found = getattr(sys.modules.get(library_of(value)), "__version__", None)
    return None if found is None else str(found)


def digest_of(value: Any) -> str:
    """A hash of an object's class, its library's version, its parameters and arrays: 32 hexadecimal digits.

    The same for a copy, for what pickle or joblib wrote and read, and in another process.

    Raises:
        TypeError: a part of it can be neither looked into nor pickled.
    """
    return _Structure().of(value).hex()


_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))
_PLACES = frozenset({"_stop_words_id"})
"""Attributes that say where in memory something lies."""
_UNSEEN = frozenset({"training", "name_or_path"})
"""Attributes of modules that say nothing of what they compute."""


def _joined(kind: str, *parts: bytes) -> bytes:
    digest = xxhash.xxh3_128(kind.encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


class _Structure:
    """Hashes what it is shown, part by part; parts that several objects share are hashed once."""

    def __init__(self) -> None:
        self._known: dict[int, bytes] = {}
        self._open: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no other object gets the id of one that is known

    def of(self, value: Any) -> bytes:
        """The hash of any object."""
        if isinstance(value, _PLAIN):
            return _joined(type(value).__name__, repr(value).encode())
        if id(value) in self._open:
            return _joined("circle", str(len(self._open) - self._open[id(value)]).encode())
        if id(value) not in self._known:
            self._open[id(value)] = len(self._open)
            found = self._compound(value)
            del self._open[id(value)]
            self._kept.append(value)
            self._known[id(value)] = found
        return self._known[id(value)]

    def _compound(self, value: Any) -> bytes:
        torch = sys.modules.get("torch")
        if isinstance(value, np.ndarray | np.generic):
            return self._array(np.asanyarray(value))
        if torch is not None and isinstance(value, torch.Tensor):
            return self._tensor(value)
        if torch is not None and isinstance(value, torch.nn.Module):
            return self._module(value)
        if type(value) is dict:
            return _joined("dict", *self._items(value))
        if type(value) in (list, tuple):
            return _joined(type(value).__name__, *map(self.of, value))
        if type(value) in (set, frozenset):
            return _joined("set", *sorted(map(self.of, value)))
        if isinstance(value, type | BuiltinFunctionType | ModuleType | np.ufunc):
            name = getattr(value, "__qualname__", value.__name__)
            return _joined("name", f"{getattr(value, '__module__', '')}.{name}".encode())
        if isinstance(value, FunctionType | MethodType | CodeType):
            return self._function(value)
        return self._object(value)

    def _items(self, mapping: Mapping[Any, Any]) -> Iterable[bytes]:
        pairs = ((self.of(key), one) for key, one in mapping.items() if key not in _PLACES)
        return [
            _joined("item", key, self.of(one)) for key, one in sorted(pairs, key=lambda p: p[0])
        ]

    def _array(self, array: np.ndarray) -> bytes:
        shape = self.of(array.shape)
        if isinstance(array, np.ma.MaskedArray):
            return _joined(
                "masked", self._array(array.data), self._array(np.ma.getmaskarray(array))
            )
        if array.dtype.names is not None:  # between the fields there may be bytes of any value
            fields = [self.of(name) + self._array(array[name]) for name in array.dtype.names]
            return _joined("record", shape, *fields)
        if array.dtype.hasobject:
            return _joined("objects", shape, *map(self.of, array.ravel().tolist()))
        plain = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return _joined("array", array.dtype.str.encode(), shape, plain.tobytes())

    def _tensor(self, tensor: Any) -> bytes:
        import torch

        plain = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()
        about = (str(tensor.dtype), tuple(tensor.shape))
        return _joined("tensor", self.of(about), plain.tobytes())

    def _module(self, module: Any) -> bytes:
        """Weights, classes of all modules, and their plain settings; not the mode that they are in."""
        parts = [
            (name, named(type(part)), part.extra_repr(), _settings_of(part))
            for name, part in module.named_modules()
        ]
        return _joined("module", self.of(parts), self.of(dict(module.state_dict())))

    def _function(self, value: Any) -> bytes:
        if isinstance(value, MethodType):
            return _joined("method", self.of(value.__self__), self.of(value.__func__))
        if isinstance(value, CodeType):
            return _joined("code", value.co_code, self.of(value.co_names), self.of(value.co_consts))
        name = named(value).encode()
        if "<" not in value.__qualname__:
            return _joined("name", name)
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return _joined("lambda", name, *map(self.of, (value.__code__, value.__defaults__, cells)))

    def _object(self, value: Any) -> bytes:
        """What pickle would write of it: class, arguments, state, items."""
        if library_of(value) == "sklearn" and hasattr(value, "get_arrays"):
            return _joined("tree", self.of(value.get_arrays()))  # its state also counts questions
        if is_of(value, "transformers") and hasattr(value, "backend_tokenizer"):
            return _joined("tokenizer", self.of(_settings_of_tokenizer(value)))
        made = value.__reduce_ex__(4)
        if isinstance(made, str):
            return _joined("name", f"{type(value).__module__}.{made}".encode())
        make, args, state, entries, pairs = (*made, None, None, None)[:5]
        parts = (make, args, state, list(entries or ()), dict(pairs or ()))
        about = f"{named(type(value))} {version_of(value)}".encode()
        return _joined("object", about, *map(self.of, parts))


def _settings_of_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """What decides the ids of a tokenizer of transformers; not how it cut and padded the last time."""
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    more = ("model_max_length", "padding_side", "truncation_side")
    kept = {name: one for name, one in told.items() if name not in ("truncation", "padding")}
    return {**kept, **{name: getattr(tokenizer, name) for name in more}}


def _settings_of(module: Any) -> list[tuple[str, Any]]:
    return sorted(
        (name, one)
        for name, one in vars(module).items()
        if isinstance(one, bool | int | float | str) and name[0] != "_" and name not in _UNSEEN
    )
