"""Thousands of recipes, YAML texts and overrides that nobody would write: each is read, or refused by its key.

Recipes are made from the JSON schema itself, laid over packaged ones so that many get as far as the checks between
fields; a few values in each are of any other kind. `make test` always makes the same ones, `make soak` new ones.
Hypothesis draws a seed for each, and says which one failed; made by itself, a recipe would take five times as long.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from raykd.config import Config, check_search, load_config
from raykd.config.load import read_recipe, recipe_names
from raykd.errors import InputError

_MOST_S = 2.0
_SOAK = 5
"""So many times as many examples in a soak."""
_SCHEMA = Config.model_json_schema()
_DEFINED = _SCHEMA["$defs"]
_LETTERS = "abe01-.:,[]{}&*!<>|?%@`'\"#\n \t\\~=_é"
_TEXTS = ["a", "wide", "conv", "student", "0", "1", "label", "x" * 300, "é", "../a", "a b", "", " ", "*.csv", "os:system",
          "a:b", ":", "nan", "1e400", "\x1b[31m", "\u202e", "=1+1", "[red]", "{x}", "%s"]  # fmt: skip
_NUMBERS = [0, 1, 2, 3, 8, -1, 2**31, 2**63, 2**64, 10**400, 0.0, 0.5, 0.9, 1.5, 1e300, 1e-320, -0.0, float("nan"),
            float("inf")]  # fmt: skip
_FRAGMENTS = ["!!int x", "2020-13-45", "0x_", "<<: 1", "? [1]", "&a [*a]", "!!python/name:os.x", "'", "--- 1", "1:2:3",
              '"\\0"', "[" * 60, "{a: 1, a: 2}", "!!set {a}", "=", "<<"]  # fmt: skip


class _Maker:
    """Whatever could stand in a recipe."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def one_of(self, choices: Sequence[Any]) -> Any:
        return self._random.choice(choices)

    def text(self) -> str:
        if self._random.random() < 0.7:
            return str(self.one_of(_TEXTS))
        return "".join(self.one_of(_LETTERS) for _ in range(self._random.randrange(12)))

    def anything(self, levels: int = 3) -> Any:
        """Of any type."""
        kind = self._random.randrange(9 if levels else 6)
        if kind < 5:
            return self.one_of([self.text(), self.one_of(_NUMBERS), None, True, self.text()])
        if kind == 5:
            return self.one_of([[], {}, (), yaml.safe_load("2020-01-02"), False])
        parts = [self.anything(levels - 1) for _ in range(self._random.randrange(3))]
        keys = [self.one_of([self.text(), 0, True, None]) for _ in parts]
        return parts if kind == 6 else dict(zip(keys, parts, strict=True))

    def value(self, schema: Mapping[str, Any]) -> Any:
        """What the schema allows at a key, one in ten times anything else."""
        if self._random.random() < 0.1:
            return self.anything()
        if "$ref" in schema:
            return self.value(_DEFINED[schema["$ref"].rpartition("/")[2]])
        if either := [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
            return self.value(self.one_of(either))
        if "const" in schema or "enum" in schema:
            return self.one_of(schema.get("enum") or [schema["const"]])
        return self._of_type(schema)

    def _of_type(self, schema: Mapping[str, Any]) -> Any:
        if schema.get("type") == "object":
            return self.keys(schema)
        if schema.get("type") == "array":
            return [self.value(_items(schema)) for _ in range(self._random.randrange(4))]
        if schema.get("type") in ("integer", "number"):
            return self.one_of(_NUMBERS)
        if schema.get("type") in ("boolean", "null"):
            return self.one_of([True, False]) if schema["type"] == "boolean" else None
        return self.text()

    def keys(self, schema: Mapping[str, Any]) -> dict[Any, Any]:
        """Required keys and a few others; now and then one that there is not."""
        known = schema.get("properties", {})
        required = [key for key in schema.get("required", ()) if key in known]
        others = [key for key in known if key not in required]
        chosen = self._random.sample(others, min(len(others), self._random.randrange(4)))
        tree = {key: self.value(known[key]) for key in (*required, *chosen)}
        if not known or self._random.random() < 0.05:
            inner = schema.get("additionalProperties")
            tree[self.text()] = self.value(inner) if isinstance(inner, dict) else self.anything()
        return tree

    def fragment(self) -> str:
        """A piece of YAML, or of nothing."""
        text = self.written(self.anything())
        return str(self.one_of([text, self.one_of(_FRAGMENTS), self.text(), self.text()]))

    @staticmethod
    def written(value: Any) -> str:
        text: str = yaml.safe_dump(value, default_flow_style=True)
        return text.removesuffix("...\n").strip()

    def mended(self, text: str) -> str:
        """A text with a fragment somewhere in it, in place of a few characters."""
        start = self._random.randrange(len(text))
        return text[:start] + self.fragment() + text[start + self._random.randrange(9) :]


def _items(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = schema.get("items") or next(iter(schema.get("prefixItems", ())), {})
    return found


def _every_key(
    schema: Mapping[str, Any], path: str = "", levels: int = 4
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Dotted keys of a recipe, with what they hold; of lists those of the first entry."""
    if "$ref" in schema:
        yield from _every_key(_DEFINED[schema["$ref"].rpartition("/")[2]], path, levels)
    for inner in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _every_key(inner, path, levels)
    if schema.get("type") == "array" and levels:
        yield from _every_key(_items(schema), f"{path}0.", levels - 1)
    for key, inner in schema.get("properties", {}).items() if levels else ():
        yield f"{path}{key}", inner
        yield from _every_key(inner, f"{path}{key}.", levels - 1)


_KEYS = dict(_every_key(_SCHEMA))
_BASES = {name: read_recipe(name) for name in recipe_names()}
_WRITTEN = yaml.safe_dump(_BASES["digits"])


def _laid_over(base: Mapping[str, Any], changes: Mapping[Any, Any]) -> dict[Any, Any]:
    both = dict(base)
    for key, value in changes.items():
        old = both.get(key)
        mapped = isinstance(old, Mapping) and isinstance(value, Mapping) and "type" not in value
        both[key] = _laid_over(old, value) if mapped else value  # type: ignore[arg-type]
    return both


def _many(count: int, check: Callable[[_Maker], None]) -> None:
    """Check so many examples, each of them within two seconds."""

    def timed(seed: int) -> None:
        start = time.process_time()
        check(_Maker(seed))
        assert time.process_time() - start < _MOST_S

    tried = settings(
        max_examples=count,
        derandomize=count <= 2000,
        database=None,
        deadline=None,
        phases=[Phase.generate],
    )
    tried(given(seed=st.integers(0, 2**63))(timed))()


@contextlib.contextmanager
def _refused_well(told: list[bool], *known: str) -> Iterator[None]:
    """Nothing but an InputError, each problem of which names its key."""
    problems = None
    try:
        yield
    except InputError as error:
        problems = error.problems
    told.append(problems is None)
    assert problems != ()
    for problem in problems or ():
        named = problem.key.startswith((*Config.model_fields, *known))
        named |= "keys should be strings" in problem.message
        assert problem.message.strip(), problem
        assert named or "unknown key" in problem.message, problem


_SHARES = pytest.mark.parametrize("share", [1, pytest.param(_SOAK, marks=pytest.mark.soak)])


@_SHARES
def test_a_recipe_of_any_values_is_resolved_or_refused_by_its_keys(share):
    told: list[bool] = []

    def check(make: _Maker) -> None:
        tree = _laid_over(make.one_of(list(_BASES.values())), make.keys(_SCHEMA | {"required": []}))
        with _refused_well(told):
            config = load_config(tree, searches=True)
            check_search(config)
            assert Config.model_validate(config.model_dump(mode="json")) == config
            config.identity()

    _many(2000 * share, check)
    assert 100 * share < sum(told) < 1900 * share, "the generator makes recipes of both kinds"


@_SHARES
def test_any_yaml_is_read_or_refused_by_its_file_or_key(call, tmp_path, share):
    file, told = tmp_path / "any.yaml", []

    def check(make: _Maker) -> None:
        file.write_text(make.mended(_WRITTEN), encoding="utf-8")
        with _refused_well(told, str(file)):
            load_config(file, searches=True)
        if make.one_of(range(8)) == 0:
            _ends_as(told[-1], call("config", "validate", file))

    _many(600 * share, check)
    assert 30 * share < sum(told) < 570 * share


@_SHARES
def test_any_override_is_taken_or_refused_by_its_key(call, share):
    told: list[bool] = []

    def check(make: _Maker) -> None:
        key = make.one_of([*_KEYS]) if make.one_of(range(4)) else make.text()
        fits = make.written(make.value(_KEYS.get(key, {})))
        override = f"{key}={make.one_of([fits, fits, make.fragment()])}"
        name = make.one_of(list(_BASES))
        with _refused_well(told, key.partition("=")[0] or "="):
            load_config(_BASES[name], [override], searches=True)
        if make.one_of(range(8)) == 0 and not override.startswith("-"):
            _ends_as(told[-1], call("config", "validate", name, override))

    _many(600 * share, check)
    assert 30 * share < sum(told) < 570 * share, "the generator makes overrides of both kinds"


def _ends_as(read: bool, ended: Any) -> None:
    """The command says what `load_config` does; a wrong search may be refused yet."""
    assert ended.code in ((0, 2) if read else (2,)), ended.err
    assert "an error in raykd" not in ended.err
    assert "Traceback" not in ended.err
