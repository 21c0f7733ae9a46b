"""Two processes that roll beside one: steps per second of rolling alone, without teachers, nets or students."""

from __future__ import annotations

import time

from jobs.bench.measuring import Row, Sizes, row_of
from raykd.config.environments import Environment
from raykd.control.environments import spaces
from raykd.control.policies import RandomPolicy
from raykd.pipeline.rollouts import WIDTH, Rolling, roll_side_by_side
from raykd.runtime import Crew, connect

_ENVIRONMENT = Environment(id="LunarLander-v3")
_GROUPS = 24
_PATIENCE_S, _LIMIT_S = 120.0, 600.0


def rolling(sizes: Sizes) -> list[Row]:
    """Steps per second of one and of two runners in LunarLander under random actions, and their ratio.

    Both roll the same groups of episodes; processes have started and imported what they need before the clock does.
    """
    policy = RandomPolicy(spaces(_ENVIRONMENT))
    rates: dict[int, list[float]] = {1: [], 2: []}
    with connect(None):
        crew = Crew()
        for repeat in range(sizes.repeats + 1):
            for runners in rates:
                seeds = range(repeat * 10_000, repeat * 10_000 + _GROUPS * WIDTH)
                wanted = [Rolling(_ENVIRONMENT, policy, tuple(seeds))]
                begun = time.monotonic()
                (done,) = roll_side_by_side(
                    crew,
                    wanted,
                    resources={"CPU": 1.0},
                    runners=runners,
                    patience_s=_PATIENCE_S,
                    limit_s=_LIMIT_S,
                )
                if repeat:  # the first time processes start
                    rates[runners].append(len(done.step) / (time.monotonic() - begun))
        crew.dismiss()
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    return [
        row_of("one runner", "steps/s", rates[1]),
        row_of("two runners", "steps/s", rates[2]),
        {**row_of("two beside one", "ratio", ratios), "bar": ">= 1.6"},
    ]
