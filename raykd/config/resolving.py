"""What an objective leaves to the data, and what it comes to: pure functions of the settings and two counts."""

from __future__ import annotations

from typing import Any

from raykd.config.objective import SOFT_WEIGHT, Objective

FULLY_LABELLED_TEMPERATURE = 4.0


def resolved(objective: Objective, *, labelled: int, samples: int, classes: bool) -> Objective:
    """The objective with what it leaves to the data; as it is where its target is still to be chosen.

    Args:
        objective: as the recipe has it.
        labelled: training samples with a label.
        samples: training samples.
        classes: whether outputs are logits of classes, of which labels can take the place.
    """
    if objective.choose is not None:
        return objective
    labels, soft = objective.labels, objective.soft_targets
    mode = labels.mode
    if mode is None:
        few = classes and soft is not None and samples - labelled > labelled
        unusual = bool(objective.phases) or labels.fill != "none"
        mode = "replace" if few and labels.weight is None and not unusual else "add"
    replacing = {"mode": mode}
    adding = {"mode": None, "weight": labels.strength}  # as it was written before there was a mode
    update: dict[str, Any] = {
        "labels": labels.model_copy(update=replacing if mode == "replace" else adding)
    }
    if soft is not None:
        smooth = labelled == samples and not soft.remakes_target
        weight = (1.0 if mode == "replace" else SOFT_WEIGHT) if soft.weight is None else soft.weight
        temperature = soft.loss.row.default_temperature
        if temperature is None:
            temperature = FULLY_LABELLED_TEMPERATURE if smooth else 1.0
        own = {
            "weight": weight,
            "temperature": temperature if soft.temperature is None else soft.temperature,
        }
        update["soft_targets"] = soft.model_copy(update=own)
    return objective.model_copy(update=update)


def resolutions(objective: Objective, *, classes: bool) -> list[Objective]:
    """All that `resolved` can make of an objective, whatever the data."""
    cases = ((2, 2), (1, 2), (0, 2))
    return [
        resolved(objective, labelled=labelled, samples=samples, classes=classes)
        for labelled, samples in cases
    ]


def is_hard(objective: Objective) -> bool:
    """Whether all that is learnt are labels: true ones where they are known, the ensemble's hard ones elsewhere."""
    soft = objective.soft_targets
    return (
        soft is not None
        and (soft.hard_share, soft.weight, soft.disagreement) == (1.0, 1.0, None)
        and objective.labels.replaces
        and objective.weighting.row.stored
        and not objective.weighting.row.random
        and not objective.features
        and not objective.phases
    )
