"""Run as a script: a sweep on a local cluster of its own, and what is left of it there.

Arguments: recipe, output folder, CPUs of the cluster, `on` or `off` for its dashboard. Writes one line of
JSON: `states` of the trials, and names of `actors` and number of `groups` that were left.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

RAYS_OWN = ("_AutoscalingCoordinatorActor", "_StatsActor")
"""Of Ray Train and Ray Data, one for each cluster, kept for who comes next."""
_SETTLED_S = 20.0


def left_behind():
    """Living actors but for Ray's own, and placement groups that are not removed, once they have had time to end."""
    from ray._private.state import actors
    from ray.util import placement_group_table

    deadline = time.monotonic() + _SETTLED_S
    while True:
        living = ("ALIVE", "PENDING_CREATION", "RESTARTING")
        alive = [a["ActorClassName"] for a in actors().values() if a["State"] in living]
        alive = [name for name in alive if name not in RAYS_OWN]
        groups = [g for g in placement_group_table().values() if g["state"] != "REMOVED"]
        if not (alive or groups) or time.monotonic() > deadline:
            return alive, len(groups)
        time.sleep(0.2)


def main(recipe, output, cpus, dashboard):
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"
    import ray

    from raykd.config import load_config
    from raykd.pipeline import Options
    from raykd.search import sweep

    ray.init(address="local", num_cpus=int(cpus), include_dashboard=dashboard == "on",
             log_to_driver=False, namespace="raykd", object_store_memory=256 * 2**20)  # fmt: skip
    summary = sweep(load_config(Path(recipe)), Options(output=Path(output))).summary
    actors, groups = left_behind()
    states = [trial["state"] for trial in summary["trials"]]
    sys.stdout.write(json.dumps({"states": states, "actors": actors, "groups": groups}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
