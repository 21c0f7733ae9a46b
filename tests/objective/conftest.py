"""Batches and teachers' answers without data, models or Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from raykd.config.objective import Objective
from raykd.objective import DistillObjective, TeacherInfo
from raykd.tasks.classification.rule import RULE
from raykd.types import Batch, Dense, Mixed

UNITS, CLASSES = 12, 4


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture
def make_batch(generator: torch.Generator) -> Callable[..., Batch]:
    def make(
        *, units: int = UNITS, labels: Any = None, present: Any = None, weights: Any = None,
        partners: Any = None, shares: Any = None,
    ) -> Batch:  # fmt: skip
        if labels is None:
            labels = torch.randint(0, CLASSES, (units,), generator=generator)
            labels[::3] = -1
        rows = torch.arange(units)
        mixed = None
        if partners is not None:
            mixed = Mixed(
                partner_labels_B=torch.as_tensor(partners), share_B=torch.as_tensor(shares)
            )
        return Batch(
            ids=rows,
            rows=rows,
            view_B=torch.zeros_like(rows),
            inputs={},
            labels=torch.as_tensor(labels),
            present_B=torch.ones(units, dtype=torch.bool)
            if present is None
            else torch.as_tensor(present),
            mixed=mixed,
            weight_B=None if weights is None else torch.as_tensor(weights),
            domain_B=rows % 3 - 1,
        )

    return make


@pytest.fixture
def make_answers(generator: torch.Generator) -> Callable[..., dict[str, Dense]]:
    """Random logits (and a map as feature `tap`) of each named teacher."""

    def make(
        *names: str, units: int = UNITS, silent: dict[str, Any] | None = None
    ) -> dict[str, Dense]:
        return {
            name: Dense(
                kind="logits",
                values_NC=torch.randn(units, CLASSES, generator=generator) * 4,
                valid_N=~torch.as_tensor((silent or {}).get(name, torch.zeros(units))).bool(),
                features={"tap": torch.randn(units, 6, 4, 4, generator=generator)},
            )
            for name in names
        }

    return make


@pytest.fixture
def make_objective() -> Callable[..., DistillObjective]:
    def make(
        settings: dict[str, Any],
        *names: str,
        temperatures: dict[str, float] | None = None,
        class_weights: Tensor | None = None,
    ) -> DistillObjective:
        torch.manual_seed(0)
        return DistillObjective(
            Objective.model_validate(settings),
            [
                TeacherInfo(
                    name,
                    (temperatures or {}).get(name, 1.0),
                    domains=(place,),
                    stacked=(1 + place) / 10,
                )
                for place, name in enumerate(names)
            ],
            rule=RULE,
            student_shapes={"tap": (3, 8, 8)},
            teacher_shapes={(name, "tap"): (6, 4, 4) for name in names},
            class_weights_C=class_weights,
        )

    return make
