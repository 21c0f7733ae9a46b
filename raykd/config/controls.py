"""The controls of a recipe that names none: those of its task, without those that could show nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raykd.config.peers import WITHOUT_PEERS
from raykd.config.root import Config, Evaluate
from raykd.config.stages import STAGE_CONTROLS, is_chain
from raykd.config.tasks import TaskSettings

_USUAL: tuple[str, ...] = Evaluate.model_fields["controls"].default


def with_controls(
    tree: Mapping[str, Any], given: Mapping[str, Any], task: TaskSettings
) -> Mapping[str, Any]:
    """A recipe's plain values, with fewer controls where it names none and some of the usual ones could show nothing.

    A recipe with several stages has those of a chain beside the usual ones, one with peers that without them.

    Args:
        tree: the recipe over its task's defaults.
        given: the recipe alone.
        task: its settings.
    """
    own = given.get("evaluate")
    idle = _idle(tree.get("data"), tree.get("teachers"))
    more = (
        *((WITHOUT_PEERS,) if _has_peers(tree.get("peers")) else ()),
        *(STAGE_CONTROLS if is_chain(tree.get("stages")) else ()),
    )
    if not (idle or more) or (isinstance(own, Mapping) and "controls" in own):
        return tree
    kept = [name for name in (*_usual(task), *more) if name not in idle]
    evaluate = tree.get("evaluate")
    return {
        **tree,
        "evaluate": {**(evaluate if isinstance(evaluate, Mapping) else {}), "controls": kept},
    }


def left_out_controls(config: Config, task: TaskSettings) -> dict[str, str]:
    """Each control that `with_controls` left out of a recipe -> why, in words."""
    idle = _idle({"labels": config.data.labels}, config.teachers)
    usual = _usual(task)
    own = tuple(name for name in config.evaluate.own_controls if name != WITHOUT_PEERS)
    if own != tuple(name for name in usual if name not in idle):
        return {}
    return {name: why for name, why in idle.items() if name in usual}


def _has_peers(peers: Any) -> bool:
    """Whether there is a peer beside the student, or an average of it."""
    return isinstance(peers, Mapping) and peers.get("count") != 1


def _usual(task: TaskSettings) -> tuple[str, ...]:
    """The controls of a task's recipe that names none."""
    return tuple(task.defaults.get("evaluate", {}).get("controls", _USUAL))


def _idle(data: Any, teachers: Any) -> dict[str, str]:
    """Controls that could show nothing -> why."""
    found = {}
    labels = data.get("labels") if isinstance(data, Mapping) else None
    if labels == 0 and not isinstance(labels, bool):
        found["labels"] = (
            "no training sample keeps its label (data.labels: 0), so that it has nothing to learn from"
        )
    if isinstance(teachers, list | tuple) and len(teachers) == 1:
        found["best_teacher"] = "there is one teacher, so that it would be the student again"
    return found
