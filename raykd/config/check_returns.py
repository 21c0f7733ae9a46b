"""What cannot be evaluated by return: variants of no environment, and controls that have nothing to act in."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from raykd.config.root import Config
from raykd.config.sources import GymnasiumSource
from raykd.config.stages import CLONING, REINFORCED
from raykd.errors import Problem

NOMINAL = "nominal"


def return_problems(config: Config) -> Iterator[Problem]:
    """Everything that is wrong with `evaluate.variants` and with the controls that act."""
    source, evaluate = config.data.source, config.evaluate
    visits = any(stage.rollouts is not None for stage in config.stages)
    for index, control in enumerate(evaluate.controls):
        key = f"evaluate.controls.{index}"
        if control == CLONING and not visits:
            yield Problem(key, "found cloning, which is held against stages with `rollouts`, and there are none; leave it out")  # fmt: skip
        if control == REINFORCED and not isinstance(source, GymnasiumSource):
            yield Problem(key, f"found rl with `data.source: {source.type}`, which has no environment to act in; take "
                          "{type: gymnasium}, or leave it out")  # fmt: skip
    if not isinstance(source, GymnasiumSource):
        if evaluate.variants:
            yield Problem("evaluate.variants", f"found with `data.source: {source.type}`, which has no environment to be changed; "
                          "take {type: gymnasium}, or leave it out")  # fmt: skip
        return
    for name, changes in evaluate.variants.items():
        key = f"evaluate.variants.{name}"
        if name == NOMINAL:
            yield Problem(
                key, "is what the source's own environment is called; choose another name"
            )
            continue
        try:
            source.varied(changes)
        except ValidationError as error:
            for one in error.errors():
                place = ".".join(str(part) for part in one["loc"])
                yield Problem(f"{key}.{place}", f"{one['msg']}; allowed are the keys of an environment: id, kwargs, attributes, "
                              "wrappers, success_return, success")  # fmt: skip
