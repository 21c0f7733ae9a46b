"""Ray nodes on this machine that come and go: a head, one for teachers, some for students."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

_OBJECTS_BYTES = 128 * 2**20
TEACHER_GPUS = 8.0
"""Logical ones, which only nodes of teachers have."""
STUDENT_CPUS = 2.0
"""Of a student's worker: all that a node for students has, and more than any other has."""


class Machines:
    """A cluster of Ray nodes; the driver is on the head, which has room for no worker.

    Attributes:
        teachers: the node of the teachers.
        students: nodes with room for one student worker each.
    """

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.teachers: Any = None
        self.students: list[Any] = []

    @property
    def address(self) -> str:
        """Of the cluster."""
        return str(self._cluster.address)

    def add_teachers(self) -> None:
        """A node more with room for teachers."""
        self.teachers = self._add(num_cpus=1, num_gpus=int(TEACHER_GPUS))

    def add_student(self) -> Any:
        """A node more with room for one student worker."""
        self.students.append(self._add(num_cpus=int(STUDENT_CPUS)))
        return self.students[-1]

    def remove(self, node: Any) -> None:
        """End a node as a power cut does."""
        self._cluster.remove_node(node, allow_graceful=False)
        if node in self.students:
            self.students.remove(node)

    def give_notice(self, node: Any, seconds: float) -> None:
        """Say, as a provider of spot instances does, that the node will be taken back so soon."""
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int(1000 * (time.time() + seconds))
        client = ray._raylet.GcsClient(address=self.address)
        accepted, why = client.drain_node(node.node_id, reason, "taken back", deadline_ms)
        assert accepted, f"the node is not drained: {why}"

    def _add(self, **given: Any) -> Any:
        return self._cluster.add_node(object_store_memory=_OBJECTS_BYTES, **given)


@contextmanager
def machines(students: int) -> Iterator[Machines]:
    """Nodes for the length of a block, to which this process is connected."""
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": _OBJECTS_BYTES}
    # With Ray's own hooks nodes could be added in the main thread alone, and died with the thread.
    cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
    try:
        made = Machines(cluster)
        made.add_teachers()
        for _ in range(students):
            made.add_student()
        hidden = {
            "env_vars": {"CUDA_VISIBLE_DEVICES": ""}
        }  # the GPUs are logical: teachers on them run on the CPU
        ray.init(
            address=cluster.address, namespace="raykd", log_to_driver=False, runtime_env=hidden
        )
        cluster.wait_for_nodes()
        yield made
    finally:
        ray.shutdown()
        cluster.shutdown()
