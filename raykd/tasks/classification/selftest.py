"""What a teacher must show in a classification: accuracy, and classes in the data's order."""

from __future__ import annotations

import json

import numpy as np
from scipy.special import bdtrc  # scipy.stats takes half a second to import
from torch import Tensor

from raykd.config.roles import Expect
from raykd.ensemble import unknown
from raykd.errors import TeacherError

_MARGIN = 0.2
_BY_CHANCE = 0.025
"""How probable an accuracy may be by guessing, so as to count as better than chance."""


def best_label_map(predicted_N: np.ndarray, labels_N: np.ndarray, classes: int) -> tuple[int, ...]:
    """The one-to-one map from a teacher's classes to the data's with the most hits."""
    from scipy.optimize import linear_sum_assignment  # few runs get here

    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (predicted_N, labels_N), 1)
    _, columns = linear_sum_assignment(-counts)
    return tuple(int(column) for column in columns)


def permuted(
    predicted_N: np.ndarray, labels_N: np.ndarray, classes: int
) -> tuple[tuple[int, ...], float] | None:
    """A map of classes that beats the given order by far, and its accuracy; or None.

    The map is found on every other sample and judged on the rest, since with few samples of many
    classes some map always fits those that it was found on.
    """
    found, judged = slice(0, None, 2), slice(1, None, 2)
    label_map = best_label_map(predicted_N[found], labels_N[found], classes)
    if not len(labels_N[judged]):
        return None
    mapped = np.asarray(label_map)[predicted_N[judged]]
    accuracy = float((mapped == labels_N[judged]).mean())
    plain = float((predicted_N[judged] == labels_N[judged]).mean())
    if accuracy <= plain + _MARGIN or accuracy <= 2 / classes:
        return None
    return best_label_map(predicted_N, labels_N, classes), accuracy


def check_accuracy(
    name: str,
    outputs_NC: Tensor,
    labels_N: Tensor,
    expect: Expect,
    own_map: tuple[int | None, ...] | None = None,
) -> float:
    """Accuracy on labelled validation samples against `expect` and against chance.

    Of a teacher that knows only some classes: on the samples of those.

    Args:
        name: the teacher's name.
        outputs_NC: its logits over the data's classes.
        labels_N: int64, all known.
        expect: what it has to reach.
        own_map: its `label_map` so far.

    Raises:
        TeacherError: worse than expected, no better than chance, or the classes look permuted.
    """
    every = outputs_NC.shape[1]
    logits_NC, labels_N, known = _of_known(outputs_NC, labels_N)
    predicted_N = logits_NC.argmax(dim=1)
    count, classes = labels_N.numel(), len(known)
    if not count:
        raise TeacherError(
            f"teacher {name!r} cannot be judged: no labelled validation sample is of one of the {classes} "
            f"classes that it knows; check teachers.{name}.label_map"
        )
    accuracy = (predicted_N == labels_N).double().mean().item()
    found = f"teacher {name!r} has {accuracy:.1%} accuracy on {count} labelled validation samples"
    if classes < every:
        found += f" of the {classes} classes that it knows"
    if other := permuted(predicted_N.numpy(), labels_N.numpy(), classes):
        label_map, mapped = other
        order = dict(zip(known, (known[c] for c in label_map), strict=True))
        proposed = [None if c is None else order[c] for c in own_map or known]
        raise TeacherError(
            f"{found}, but {mapped:.1%} with its classes in another order: they look permuted; set "
            f"teachers.{name}.label_map={json.dumps(proposed)} ({accuracy:.0%} -> {mapped:.0%} with this map)"
        )
    if expect.accuracy is not None and accuracy < expect.accuracy:
        raise TeacherError(
            f"{found}, less than teachers.{name}.expect.accuracy={expect.accuracy:g}; fit it longer, check "
            f"its preprocessing and classes, or lower the expectation"
        )
    chance, right = 1 / classes, int((predicted_N == labels_N).sum())
    too_few = _by_chance(count, count, chance)  # all right would prove nothing either
    if expect.accuracy is None and not too_few and _by_chance(right, count, chance):
        raise TeacherError(
            f"{found}, no better than chance ({chance:.1%}); check its weights, preprocessing and classes, or "
            f"set teachers.{name}.expect.accuracy=0 to use it all the same"
        )
    return accuracy


def _of_known(logits_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Samples of the classes that a teacher knows, over those alone, and which they are."""
    known_C = ~unknown(logits_NC)
    of_known_N, position_C = known_C[labels_N], known_C.cumsum(dim=0) - 1
    return (
        logits_NC[of_known_N][:, known_C],
        position_C[labels_N[of_known_N]],
        known_C.nonzero()[:, 0].tolist(),
    )


def _by_chance(right: int, count: int, chance: float) -> bool:
    """Whether guessing would well answer so many or more rightly."""
    return right == 0 or bool(bdtrc(right - 1, count, chance) > _BY_CHANCE)
