"""What Ray Train leaves behind when the trial that it trains for is ended: its placement group.

A controller that is killed removes nothing, and a placement group lives as long as its job unless someone
removes it, so that the next trial would wait for its CPUs for ever (ray-project/ray#54305). What a group's
creator was and whether it lives stands in the tables of the cluster, which need no dashboard; only Ray's
private modules read them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import ray
from ray._private.state import state
from ray._raylet import PlacementGroupID
from ray.core.generated.gcs_pb2 import ActorTableData, PlacementGroupTableData
from ray.util.placement_group import PlacementGroup, remove_placement_group

CONTROLLER = "TrainController"
_SETTLE_TIMEOUT_S = 30.0
_POLL_S = 0.1


def remove_orphaned_groups() -> int:
    """Remove the placement groups of this job whose creator, an actor, is dead; how many there were."""
    orphans = [table for table in _groups() if table.creator_actor_dead and _by_actor(table)]
    for table in orphans:
        remove_placement_group(PlacementGroup(PlacementGroupID(table.placement_group_id)))
    return len(orphans)


def wait_for_controllers() -> None:
    """Wait until no controller of this job lives, and tidy up; after 30 s what still lives is left to it."""
    deadline = time.monotonic() + _SETTLE_TIMEOUT_S
    while (remove_orphaned_groups() or _controllers()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _by_actor(table: PlacementGroupTableData) -> bool:
    """Groups that a driver made have no creating actor, which counts as dead."""
    return any(byte != 0xFF for byte in table.creator_actor_id)


def _groups() -> Iterator[PlacementGroupTableData]:
    """Those of this job that are there or waited for."""
    job = _job().binary()
    for raw in state._connect_and_get_accessor().get_placement_group_table():
        table = PlacementGroupTableData.FromString(raw)
        if table.creator_job_id == job and table.state != PlacementGroupTableData.REMOVED:
            yield table


def _controllers() -> int:
    """How many trainers of this job live."""
    raws = state._connect_and_get_accessor().get_actor_table(_job(), "ALIVE")
    return sum(ActorTableData.FromString(raw).class_name == CONTROLLER for raw in raws)


def _job() -> ray.JobID:
    return ray._private.worker.global_worker.current_job_id
