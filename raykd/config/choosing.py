"""`objective.choose`: the targets that stand on its menu, and the ordinary objective that each of them is."""

from __future__ import annotations

from typing import Any

from raykd.config.objective import (
    Candidate,
    Choose,
    Labels,
    Objective,
    SoftTargets,
)
from raykd.config.resolving import FULLY_LABELLED_TEMPERATURE, is_hard, resolved
from raykd.config.root import Config
from raykd.config.search import Search

HALF = 0.5
TARGETS: dict[Candidate, dict[str, Any]] = {
    "hard": {"temperature": 1.0, "sharpen": None, "hard_share": 1.0},
    "soft": {"temperature": 1.0, "sharpen": None, "hard_share": 0.0},
    "calibrated": {"temperature": 1.0, "sharpen": "fit", "hard_share": 0.0},
    "mixed": {"temperature": 1.0, "sharpen": "fit", "hard_share": HALF},
    "tempered": {"temperature": FULLY_LABELLED_TEMPERATURE, "sharpen": None, "hard_share": 0.0},
}
"""What each target sets of `objective.soft_targets`."""
CHOSEN = tuple(f"objective.soft_targets.{name}" for name in TARGETS["soft"])
"""Keys that the choice sets."""


def given_keys(soft: SoftTargets) -> list[str]:
    """Keys among `CHOSEN` that a recipe gives itself."""
    fields = type(soft).model_fields
    given = {name for name in TARGETS["soft"] if getattr(soft, name) != fields[name].default}
    return [key for key in CHOSEN if key.rpartition(".")[2] in given]


def menu(objective: Objective, *, fully_labelled: bool) -> tuple[Candidate, ...]:
    """The targets to choose from; none where the recipe says itself what is learnt.

    Args:
        objective: as the recipe has it.
        fully_labelled: whether every training sample has a label.
    """
    if objective.choose is None:
        return ()
    if objective.choose.menu != "auto":
        return objective.choose.menu
    return tuple(name for name in TARGETS if fully_labelled or name != "tempered")


def settled(objective: Objective, target: Candidate) -> Objective:
    """The ordinary objective that one target of the menu is.

    Hard labels take the place of the true ones' term too where the recipe leaves `labels.mode` open, as they do for
    the `hard` control.
    """
    soft = objective.soft_targets
    assert soft is not None, "cross_check demands it"
    update: dict[str, Any] = {
        "choose": None,
        "soft_targets": soft.model_copy(update=TARGETS[target]),
    }
    if target == "hard" and _open(objective.labels):
        update["labels"] = objective.labels.model_copy(update={"mode": "replace"})
    return objective.model_copy(update=update)


def with_target(config: Config, target: Candidate) -> Config:
    """The recipe with one target of its menu; as it is where it has no menu."""
    if config.objective.choose is None:
        return config
    return config.model_copy(update={"objective": settled(config.objective, target)})


def every_recipe(config: Config, *, fully_labelled: bool) -> list[Config]:
    """The recipe with each target of its menu; itself where it has none."""
    targets = menu(config.objective, fully_labelled=fully_labelled)
    return [with_target(config, target) for target in targets] or [config]


def extra_fits(config: Config, *, labelled: int, samples: int) -> int:
    """Students that are trained for the menu alone: those that are no replicas of the student or of `hard`.

    Args:
        config: the recipe.
        labelled: training samples with a label.
        samples: training samples.
    """
    targets = menu(config.objective, fully_labelled=labelled == samples)
    if config.objective.choose is None:
        return 0
    replicas = config.objective.choose.replicas
    shared = min(replicas, config.seeds)
    is_control = "hard" in targets and "hard" in config.evaluate.controls
    if is_control:
        hard = settled(config.objective, "hard")
        is_control = is_hard(resolved(hard, labelled=labelled, samples=samples, classes=True))
    return len(targets) * replicas - shared * (1 + is_control)


def with_menu(config: Config) -> Config:
    """The recipe with the whole menu in place of the target that it gives itself, or searches."""
    soft = config.objective.soft_targets
    assert soft is not None, "there is no target otherwise"
    own = {
        name: value
        for name, value in soft
        if name in soft.model_fields_set - TARGETS["soft"].keys()
    }
    update = {"choose": Choose(menu="auto", replicas=2), "soft_targets": SoftTargets(**own)}
    changed: dict[str, Any] = {"objective": config.objective.model_copy(update=update)}
    if config.search is not None:
        changed["search"] = _searching_others(config.search)
    return config.model_copy(update=changed)


def _searching_others(search: Search) -> Search | None:
    """A search without the keys that the choice sets; none where nothing is left to be searched."""
    parameters = {key: space for key, space in search.parameters.items() if key not in CHOSEN}
    return search.model_copy(update={"parameters": parameters}) if parameters else None


def _open(labels: Labels) -> bool:
    return labels.mode is None and labels.weight is None and labels.fill == "none"
