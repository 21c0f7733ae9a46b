"""Which configurations a search tries: pure functions of the recipe, the same on every start."""

from __future__ import annotations

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
TRIALS = "trials"
"""Folder of all trials, in that of the sweep."""
CHECKPOINT = "checkpoint"
"""Folder of a trial's weights, in its own."""
TRIAL_FIT = "trial/"
"""A trial's fit is called this and the trial's name."""
FINALIST = "trial-"
"""A finalist is called this and the trial's name."""
_TRIES = 10_000


@dataclass(frozen=True)
class Proposal:
    """One configuration to try.

    Attributes:
        name: `000`, `001`, ... in the order of proposal.
        values: dotted key -> value.
        config: the recipe with these values, without a search.
    """

    name: str
    values: Values
    config: Config


def trial_name(index: int) -> str:
    """The name of a trial; names sort in the order of proposal."""
    return f"{index:03d}"


def plain_recipe(config: Config) -> Config:
    """The recipe without its search: what `raykd run` runs."""
    return config.model_copy(update={"search": None})


def propose(config: Config, index: int, values: Values) -> Proposal:
    """The recipe with the values of one trial.

    Raises:
        InputError: the values do not fit together, although each is valid alone.
    """
    plain = plain_recipe(config).model_dump(mode="json")
    name = trial_name(index)
    try:
        return Proposal(name, values, load_config(plain, overrides(dict(values))))
    except InputError as error:
        shown = ", ".join(overrides(dict(values)))
        raise InputError(
            [Problem("search.parameters", f"trial {name} ({shown}) is not possible: {p}") for p in error.problems]
        ) from None  # fmt: skip


def all_proposals(config: Config) -> list[Proposal] | None:
    """Every trial of a grid or random search; None if later trials depend on the results of earlier ones.

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
        assert values is not None, "the recipe's check refuses an infinite grid"
        sides.append(values)
    return [dict(zip(search.parameters, one, strict=True)) for one in product(*sides)]


def random_values(search: Search, seed: int) -> list[dict[str, Any]]:
    """`search.trials` different configurations; the first n are the same however many there are."""
    total = combinations_of(search)
    count = search.count if total is None else min(search.count, total)
    distinct: dict[str, dict[str, Any]] = {}
    for values in _draws(search, seed):
        distinct.setdefault(repr(values), values)
        if len(distinct) == count:
            break
    # Of a small space the random draws may miss a few configurations: they are taken in order.
    rest = grid_values(search) if total is not None and len(distinct) < count else []
    for values in rest:
        distinct.setdefault(repr(values), values)
    return list(distinct.values())[:count]


def _draws(search: Search, seed: int) -> Iterator[dict[str, Any]]:
    for index in range(_TRIES + search.count):
        yield {
            key: draw(space, np.random.default_rng(derive(seed, "search", key, index)).random())
            for key, space in search.parameters.items()
        }
