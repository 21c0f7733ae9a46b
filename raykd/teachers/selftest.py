"""What a teacher must show before any student trains: checks of its answers that hold in every task."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import torch
from torch import Tensor

from raykd.config.roles import Expect
from raykd.errors import TeacherError
from raykd.types import TeacherOutputs

_ROUGHLY = 0.02


class SelfTest(Protocol):
    """The selftest facet of a task: what a teacher must show on validation."""

    def __call__(
        self,
        name: str,
        outputs_NC: Tensor,
        labels_N: Tensor,
        expect: Expect,
        own_map: tuple[int | None, ...] | None = None,
    ) -> float:
        """The task's metric on labelled validation samples, held against `expect` and against chance.

        Args:
            name: the teacher's name.
            outputs_NC: its outputs.
            labels_N: all known; may be none.
            expect: what it has to reach.
            own_map: its `label_map` so far; None in tasks without one.

        Raises:
            TeacherError: worse than expected, no better than chance, or it looks wired up wrongly.
        """
        ...


def check_repeatable(
    first: TeacherOutputs, second: TeacherOutputs, rough: Collection[str] = ()
) -> None:
    """Scoring the same rows twice gives the same bits.

    Args:
        first: what was said.
        second: what was said the second time.
        rough: teachers whose probabilities may differ a little: servers compute in half precision, and in batches of
            whoever asks.

    Raises:
        TeacherError: names the teacher whose answers differ.
    """
    for name, answer in first.items():
        if name in rough:
            said = [one.values_NC.softmax(dim=1) for one in (answer, second[name])]
            if (said[0] - said[1]).abs().max().item() <= _ROUGHLY:
                continue
        pairs = [(answer.values_NC, second[name].values_NC)]
        pairs += [(answer.features[tap], second[name].features[tap]) for tap in answer.features]
        if not all(torch.equal(one, other) for one, other in pairs):
            worst = max((one - other).abs().max().item() for one, other in pairs)
            raise TeacherError(
                f"teacher {name!r} answers the same samples differently (by up to {worst:.2g}): its forward "
                "pass is random; put it into evaluation mode, or make it deterministic"
            )


def check_classes(outputs: TeacherOutputs, classes: int) -> None:
    """Every teacher speaks of the data's classes; embeddings may have any length.

    Raises:
        TeacherError: names the teacher and both counts.
    """
    wrong: Mapping[str, int] = {
        name: answer.values_NC.shape[1]
        for name, answer in outputs.items()
        if answer.values_NC.shape[1] != classes and answer.kind != "embedding"
    }
    for name, count in wrong.items():
        raise TeacherError(
            f"teacher {name!r} answers {count} classes (labels, values), the data has {classes}"
        )
