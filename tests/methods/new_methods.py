"""Two losses and a weighting that raykd does not have: each a function and a row, used in a recipe.

Run by itself it prints what came of them as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from raykd.methods import LOSS_ROWS, WEIGHTING_ROWS, Knob, LossRow, WeightingRow


def cubed(student, teacher, *, strength=3.0, sign="any", temperature=1.0):
    assert sign == "any"
    return strength * (student - teacher.detach()).abs().pow(3).flatten(1).mean(1)


def cubed_map(student, teacher, *, strength=2.0):
    return cubed(student, teacher, strength=strength)


def last(logits_TNC, labels_N=None, *, share=0.75, **more):
    weights_TN = torch.full(logits_TNC.shape[:2], 1 - share)
    weights_TN[-1] = share
    return weights_TN


_ABOUT: dict[str, Any] = {"about": "Cubes.", "formula": "mean ‖s − t‖³", "paper": "nobody 1900"}
NEW_LOSSES = {
    "cubed": LossRow(
        path="__main__:cubed",
        kind="logits",
        knobs={
            "strength": Knob(3.0, "Factor.", gt=0),
            "sign": Knob("any", "Of the difference.", choices=("any", "both")),
        },
        **_ABOUT,
    ),
    "cubed_map": LossRow(
        path="__main__:cubed_map",
        kind="features",
        knobs={"strength": Knob(2.0, "Factor.", gt=0)},
        default_weight=7.0,
        **_ABOUT,
    ),
}
NEW_WEIGHTINGS = {
    "last": WeightingRow(
        path="__main__:last",
        about="The last teacher counts most.",
        formula="share for the last",
        paper="nobody 1900",
        knobs={"share": Knob(0.75, "Of the last of two teachers.", ge=0, le=1)},
    )
}


def recipe(loss: dict[str, Any], feature: dict[str, Any]) -> dict[str, Any]:
    model = {"type": "mlp"}
    term = {"loss": feature, "teacher": "b", "student_tap": "s", "teacher_tap": "t"}
    return {
        "data": {"source": {"type": "digits"}},
        "teachers": [{"name": n, "model": model, "fit": {"epochs": 1}} for n in ("a", "b")],
        "student": {"model": model},
        "objective": {
            "labels": {"weight": 0.0},
            "soft_targets": {"loss": loss, "weight": 1.0},
            "weighting": {"type": "last"},
            "features": [term],
        },
    }


def main() -> None:
    LOSS_ROWS.update(NEW_LOSSES)
    WEIGHTING_ROWS.update(NEW_WEIGHTINGS)
    # Only now: the settings and the registries are made of the rows.
    from raykd.config import Config, load_config
    from raykd.config.variants import method_variants
    from raykd.errors import InputError
    from raykd.methods import loss_table, weighting_table
    from raykd.objective import DistillObjective, TeacherInfo
    from raykd.tasks.classification.rule import RULE
    from raykd.types import Batch, Dense

    found: dict[str, Any] = {"refused": {}}
    for bad in (
        recipe({"type": "cubed"}, {"type": "cubed_map", "strength": 0}),
        recipe({"type": "cubed", "strenght": 1}, {"type": "cubed_map"}),
    ):
        try:
            load_config(bad)
        except InputError as error:
            found["refused"] |= {problem.key: problem.message for problem in error.problems}
    config = load_config(recipe({"type": "cubed"}, {"type": "cubed_map"}))
    objective = config.objective
    assert objective.soft_targets is not None
    parts = [objective.soft_targets.loss, objective.features[0].loss, objective.weighting]
    found["dump"] = [part.model_dump(mode="json") for part in parts]
    found["combine"] = objective.soft_targets.mixing
    found["weight"] = objective.features[0].strength
    found["variant"] = method_variants(config)[0].name
    found["tables"] = loss_table() + weighting_table()
    found["schema"] = list(Config.model_json_schema()["$defs"])

    draw = torch.Generator().manual_seed(0)
    student, *teachers = (torch.randn(6, 5, generator=draw) for _ in range(3))
    own, theirs = (torch.randn(6, 3, generator=draw) for _ in range(2))
    rows = torch.arange(6)
    every = torch.ones(6).bool()
    batch = Batch(ids=rows, rows=rows, view_B=rows, inputs={}, labels=rows % 5, present_B=every)
    answers = {
        name: Dense(kind="logits", values_NC=values, valid_N=every, features={"t": theirs})
        for name, values in zip("ab", teachers, strict=True)
    }
    taught = DistillObjective(
        objective,
        [TeacherInfo("a"), TeacherInfo("b")],
        rule=RULE,
        student_shapes={"s": (3,)},
        teacher_shapes={("b", "t"): (3,)},
    )
    terms, _ = taught(student.requires_grad_(), {"s": own}, batch, answers)
    (feature,) = (name for name in terms if name not in ("labels", "soft_targets"))
    found["terms"] = [terms["soft_targets"].loss_N.tolist(), terms[feature].loss_N.tolist()]
    each = [cubed(student, values) for values in teachers]
    found["expected"] = [
        (0.25 * each[0] + 0.75 * each[1]).tolist(),
        cubed_map(own, theirs).tolist(),
    ]
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
