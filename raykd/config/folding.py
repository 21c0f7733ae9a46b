"""A cross-validation as recipes: one for each fold, each complete by itself."""

from __future__ import annotations

from raykd.config.data import Fold
from raykd.config.root import Config


def fold_recipes(config: Config) -> list[Config]:
    """The recipe of each fold, without the requirements, which are of all folds together."""
    assert config.folds is not None, "only for recipes with folds"
    return [_of_fold(config, Fold(index=index, of=config.folds)) for index in range(config.folds)]


def first_fold(config: Config) -> Config:
    """The recipe itself; of a cross-validation that of its first fold, which stands for all."""
    return config if config.folds is None else fold_recipes(config)[0]


def _of_fold(config: Config, fold: Fold) -> Config:
    splits = config.data.splits.model_copy(update={"fold": fold})
    return config.model_copy(
        update={
            "folds": None,
            "data": config.data.model_copy(update={"splits": splits}),
            "evaluate": config.evaluate.model_copy(update={"require": ()}),
        }
    )
