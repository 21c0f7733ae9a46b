"""How much more the cluster has room for at this moment."""

from __future__ import annotations

from collections.abc import Mapping

import ray
from ray.util.placement_group import placement_group, remove_placement_group


def available_slots(resources: Mapping[str, float], most: int, wait_s: float) -> int:
    """How many processes of these resources, each on one node, could start now; at most `most`.

    Found by reserving and giving back, so that it counts what others hold, and leaves out a node that is
    gone. An autoscaler hears of what is lacking.

    Args:
        resources: of one process, by Ray's names.
        most: when there is room for so many, the answer comes at once.
        wait_s: how long resources that are being given back, or nodes that are starting, are waited for.
    """
    reserved = [placement_group([dict(resources)]) for _ in range(most)]
    try:
        given = [one.ready() for one in reserved]
        return len(ray.wait(given, num_returns=len(given), timeout=wait_s)[0])
    finally:
        for one in reserved:
            remove_placement_group(one)
