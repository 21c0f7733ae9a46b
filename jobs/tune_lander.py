"""Tune the constants of the lander recipe's teachers with Ray Tune, one set of them for each of its training simulators.

    python jobs/tune_lander.py [--candidates 60] [--seed 0]

Prints the sets as the recipe `lander` has them, with what each earns in each of the simulators. A candidate has each constant
of `raykd.control.rules.lander` multiplied by a number of its own, 1 in the first one; Tune rolls all of them for 10
episodes each, and the best 6 then have 60 episodes of other seeds. All seeds come from the words "lander" and "tuning", so
that a run's episodes, whose seeds come from its recipe's, are others.

Cost: about 2 minutes on two quiet cores.
"""

import argparse
import math
import tempfile
from typing import Any

import numpy as np
import ray
import ray.tune

from raykd.config.environments import Environment
from raykd.control import roll
from raykd.control.policies import RulePolicy
from raykd.seeding import derive

RULE = "raykd.control.rules:lander"
PACKAGED = {"position": 0.5, "drift": 1.0, "tilt": 0.4, "slope": 0.55, "angle": 0.5, "spin": 1.0, "height": 0.5, "fall": 0.5}  # fmt: skip
SIMULATORS: dict[str, dict[str, Any]] = {
    "nominal": {},
    "windy": {"enable_wind": True, "wind_power": 15.0, "turbulence_power": 1.5},
    "heavy": {"gravity": -11.9},
}
SCREENED, FINALISTS, EPISODES = 10, 6, 60
SPREAD = 0.4
"""Standard deviation of the logarithm of what a constant is multiplied by."""


def earned(simulator: str, gains: dict[str, float], part: str, episodes: int) -> float:
    """Mean return of a set of constants."""
    environment = Environment(id="LunarLander-v3", kwargs=SIMULATORS[simulator])
    seeds = [derive(0, "lander", "tuning", part, episode) for episode in range(episodes)]
    return float(roll(environment, RulePolicy(RULE, "tuning", gains), seeds).returns.mean())


def trial(config: dict[str, Any]) -> None:
    """One candidate, as Tune runs it."""
    ray.tune.report({"return": earned(config["simulator"], config["gains"], "screened", SCREENED)})


def tuned(simulator: str, candidates: int, seed: int) -> dict[str, float]:
    """The best set of constants for a simulator."""
    random = np.random.default_rng(derive(seed, simulator))
    drawn = [PACKAGED] + [
        {
            name: round(value * math.exp(random.normal(0, SPREAD)), 3)
            for name, value in PACKAGED.items()
        }
        for _ in range(candidates - 1)
    ]
    with tempfile.TemporaryDirectory() as folder:
        results = ray.tune.Tuner(
            ray.tune.with_resources(trial, {"CPU": 1}),
            param_space={"simulator": simulator, "gains": ray.tune.grid_search(drawn)},
            tune_config=ray.tune.TuneConfig(
                metric="return",
                mode="max",
                reuse_actors=True,
            ),
            run_config=ray.tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        ranked = sorted(results, key=lambda one: -one.metrics["return"])[:FINALISTS]
        finalists: list[dict[str, float]] = [one.config["gains"] for one in ranked]
    final = ray.remote(earned)
    returns = ray.get([final.remote(simulator, one, "finals", EPISODES) for one in finalists])
    best: dict[str, float] = finalists[returns.index(max(returns))]
    return best


def main() -> None:
    """Tune all sets and print them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--candidates", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    ray.init(include_dashboard=False, log_to_driver=False)
    final = ray.remote(earned)
    for simulator in SIMULATORS:
        gains = tuned(simulator, given.candidates, given.seed)
        shown = ", ".join(f"{name}: {value:g}" for name, value in gains.items())
        returns = ray.get([final.remote(other, gains, "shown", EPISODES) for other in SIMULATORS])
        told = ", ".join(f"{o} {r:.0f}" for o, r in zip(SIMULATORS, returns, strict=True))
        print(f"{simulator}: {{{shown}}}  # {told}")


if __name__ == "__main__":
    main()
