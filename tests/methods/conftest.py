"""Batches, teachers' answers and objectives of any method, without models, data or Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from raykd.config.objective import Objective
from raykd.objective import DistillObjective, TeacherInfo
from raykd.tasks.classification.rule import RULE
from raykd.types import Batch, Dense

UNITS, CLASSES = 8, 5
STUDENT_SHAPES = {
    "map": (3, 6, 6),
    "wide": (6, 3, 3),
    "vector": (7,),
    "tokens": (5, 4),
    "heads": (2, 5, 5),
}
TEACHER_SHAPES = {"map": (4, 3, 3), "same": (3, 5, 5), "wide": (6, 2, 2), "vector": (9,),
                  "tokens": (5, 6), "heads": (3, 5, 5)}  # fmt: skip


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def make_batch(generator: torch.Generator) -> Callable[..., Batch]:
    def make(*, units: int = UNITS, labels: Any = None, present: Any = None) -> Batch:
        if labels is None:
            labels = torch.randint(0, CLASSES, (units,), generator=generator)
            labels[::3] = -1
        rows = torch.arange(units)
        return Batch(
            ids=rows * 11 + 3,
            rows=rows,
            view_B=torch.zeros_like(rows),
            inputs={},
            labels=torch.as_tensor(labels),
            present_B=torch.ones(units).bool() if present is None else torch.as_tensor(present),
        )

    return make


@pytest.fixture
def make_answers(generator: torch.Generator) -> Callable[..., dict[str, Dense]]:
    def make(*names: str, units: int = UNITS, silent: Any = None) -> dict[str, Dense]:
        return {
            name: Dense(
                kind="logits",
                values_NC=torch.randn(units, CLASSES, generator=generator) * 3,
                valid_N=~torch.as_tensor((silent or {}).get(name, torch.zeros(units))).bool(),
                features={
                    tap: torch.randn(units, *shape, generator=generator) + 1
                    for tap, shape in TEACHER_SHAPES.items()
                },
            )
            for name in names
        }

    return make


@pytest.fixture
def make_student(
    generator: torch.Generator,
) -> Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Logits and features that require a gradient."""

    def make(units: int = UNITS) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = torch.randn(units, CLASSES, generator=generator).requires_grad_()
        features = {
            tap: torch.randn(units, *shape, generator=generator).requires_grad_()
            for tap, shape in STUDENT_SHAPES.items()
        }
        return logits, features

    return make


@pytest.fixture
def make_objective() -> Callable[..., DistillObjective]:
    def make(settings: dict[str, Any], *teacher_infos: str | TeacherInfo) -> DistillObjective:
        torch.manual_seed(0)
        heard = [v if isinstance(v, TeacherInfo) else TeacherInfo(v) for v in teacher_infos]
        return DistillObjective(
            Objective.model_validate(settings),
            heard,
            rule=RULE,
            student_shapes=STUDENT_SHAPES,
            teacher_shapes={(v.name, tap): s for v in heard for tap, s in TEACHER_SHAPES.items()},
        )

    return make
