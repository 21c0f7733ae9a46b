"""Which configurations a search tries: pure functions of the recipe, the same on every start."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from raykd.config import Config, load_config
from raykd.config.check_search import combinations_of, draw, overrides, values_of
from raykd.config.search import GridSearcher, OptunaSearcher, Search
from raykd.errors import InputError, Problem
from raykd.seeding import derive

Values = Mapping[str, Any]
_TRIES = 10_000


@dataclass(frozen=True)
class Proposal:
    """One configuration to try.

    Attributes:
        name: `000`, `001`, ... in the order of proposal.
        values: dotted key -> value.
        config: the recipe with them; its own search is null.
    """

    name: str
    values: Values
    config: Config


def trial_name(index: int) -> str:
    """What a trial is called, so that names sort as the trials were proposed."""
    return f"{index:03d}"


def plain_recipe(config: Config) -> Config:
    """The recipe without its search: what `raykd run` runs."""
    return config.model_copy(update={"search": None})


def propose(config: Config, index: int, values: Values) -> Proposal:
    """The recipe with the values of one trial.

    Raises:
        InputError: the values cannot stand together, though each can alone.
    """
    plain = plain_recipe(config).model_dump(mode="json")
    name = trial_name(index)
    try:
        return Proposal(name, values, load_config(plain, overrides(dict(values))))
    except InputError as error:
        told = ", ".join(overrides(dict(values)))
        raise InputError(
            [Problem("search.parameters", f"trial {name} ({told}) cannot be: {p}") for p in error.problems]
        ) from None  # fmt: skip


def listed(config: Config) -> list[Proposal] | None:
    """Every trial of a search that knows them beforehand; None where later ones depend on earlier ones.

    Raises:
        InputError: with every problem of every trial.
    """
    search = config.search
    assert search is not None, "only for recipes with a search"
    if isinstance(search.searcher, OptunaSearcher):
        return None
    grid = isinstance(search.searcher, GridSearcher)
    every = grid_values(search) if grid else random_values(search, config.seed)
    found: list[Proposal] = []
    problems: list[Problem] = []
    for index, values in enumerate(every):
        try:
            found.append(propose(config, index, values))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems[:10])
    return found


def grid_values(search: Search) -> list[dict[str, Any]]:
    """Every combination, the last key varying fastest."""
    sides: list[Sequence[Any]] = []
    for space in search.parameters.values():
        values = values_of(space)
        assert values is not None, "the recipe's check refuses a grid without end"
        sides.append(values)
    return [dict(zip(search.parameters, one, strict=True)) for one in product(*sides)]


def random_values(search: Search, seed: int) -> list[dict[str, Any]]:
    """`search.trials` different configurations; the first n are the same however many there are."""
    total = combinations_of(search)
    wanted = search.count if total is None else min(search.count, total)
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    for values in _draws(search, seed):
        if (told := repr(values)) not in seen:
            seen.add(told)
            found.append(values)
        if len(found) == wanted:
            return found
    if total is None:
        return found
    # A nearly exhausted small space: what random draws missed is taken in order.
    rest = (values for values in grid_values(search) if repr(values) not in seen)
    return [*found, *(values for _, values in zip(range(wanted - len(found)), rest, strict=False))]


def _draws(search: Search, seed: int) -> Iterator[dict[str, Any]]:
    for index in range(_TRIES + search.count):
        yield {
            key: draw(space, _part(derive(seed, "search", key, index)))
            for key, space in search.parameters.items()
        }


def _part(seed: int) -> float:
    return float(np.random.default_rng(seed).random())


def fronts(
    points: Mapping[str, Mapping[str, float | None]], axes: Sequence[str], merit: str
) -> dict[str, list[str]]:
    """For each cost the points that no other one beats, cheapest first.

    Args:
        points: name -> numbers; a point that lacks one is not on that front.
        axes: names of costs, less being better.
        merit: name of what more is better of.

    Returns:
        Cost -> names. Of points that are equal in both the first one stands for all.
    """
    found: dict[str, list[str]] = {}
    for axis in axes:
        known = []
        for name, numbers in points.items():
            price, value = numbers.get(axis), numbers.get(merit)
            if price is not None and value is not None:
                known.append((price, -value, name))
        best = math.inf
        found[axis] = []
        for _, negative, name in sorted(known, key=lambda one: one[:2]):
            if negative < best:
                best = negative
                found[axis].append(name)
    return found
