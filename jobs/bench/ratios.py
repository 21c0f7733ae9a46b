"""Teachers that cost a student's step three times or twenty times; what they really cost is measured.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.bench.measuring import in_turns

STUDENT: Mapping[str, Any] = {"type": "cnn", "width": 0.25, "depth": 3}
TEACHERS: Mapping[str, Mapping[str, Any]] = {
    "3:1": {"type": "cnn", "width": 0.5, "depth": 3},
    "20:1": {"type": "resnet", "width": 2.0, "depth": 8},
}
"""Cost of three teachers like this, against `STUDENT` on images of 28×28 -> one teacher."""
COUNT = 3
"""Teachers."""
_REPEATS = 3


@dataclass(frozen=True)
class Cost:
    """Of one batch, with all cores.

    Attributes:
        teachers_ms: the forward passes of all teachers.
        step_ms: forward, backward and update of the student.
    """

    teachers_ms: float
    step_ms: float

    @property
    def ratio(self) -> float:
        """Teachers to student."""
        return self.teachers_ms / self.step_ms

    def __str__(self) -> str:
        return f"{COUNT} teachers : student = {self.ratio:.1f} : 1, its step {self.step_ms:.0f} ms"


def cost(
    teachers: Sequence[nn.Module],
    student: nn.Module,
    inputs: Mapping[str, Tensor],
    labels_B: Tensor,
    threads: int,
) -> Cost:
    """Measure both in turns with `threads` threads; the student is trained a little by it."""
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(student(inputs), labels_B).backward()
        optimizer.step()

    @torch.inference_mode()
    def forward() -> None:
        for teacher in teachers:
            teacher(inputs)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    asked, stepped = in_turns({"teachers": forward, "student": step}, _REPEATS)
    torch.set_num_threads(before)
    return Cost(float(asked["median"]), float(stepped["median"]))
