"""What a teacher must show before any student trains: pure checks of its answers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom, rankdata
from torch import Tensor

from raykd.config.models import Expect
from raykd.config.tasks import TaskName
from raykd.ensemble import unknown
from raykd.errors import TeacherError
from raykd.evaluate.multilabel import right_shares
from raykd.evaluate.retrieval import has_pairs, retrieval_metrics
from raykd.evaluate.values import value_metrics
from raykd.types import TeacherOutputs

_MARGIN = 0.2
_BY_CHANCE = 0.025
"""How probable an accuracy may be by guessing, so as to count as better than chance."""
_LEAST_R2 = 1e-3


def check_repeatable(first: TeacherOutputs, second: TeacherOutputs) -> None:
    """Scoring the same rows twice gives the same bits.

    Raises:
        TeacherError: names the teacher whose answers differ.
    """
    for name, answer in first.items():
        pairs = [(answer.values_NC, second[name].values_NC)]
        pairs += [(answer.features[tap], second[name].features[tap]) for tap in answer.features]
        if not all(torch.equal(one, other) for one, other in pairs):
            worst = max((one - other).abs().max().item() for one, other in pairs)
            raise TeacherError(
                f"teacher {name!r} answers the same samples differently (by up to {worst:.2g}): its forward "
                "pass is random; put it into evaluation mode, or make it deterministic"
            )


def best_label_map(predicted_N: np.ndarray, labels_N: np.ndarray, classes: int) -> tuple[int, ...]:
    """The one-to-one map from a teacher's classes to the data's with the most hits."""
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
    logits_NC: Tensor,
    labels_N: Tensor,
    expect: Expect,
    own_map: tuple[int | None, ...] | None = None,
) -> float:
    """Accuracy on labelled validation samples against `expect` and against chance.

    Of a teacher that knows only some classes: on the samples of those.

    Args:
        name: the teacher's name.
        logits_NC: its logits over the data's classes.
        labels_N: int64, all known.
        expect: what it has to reach.
        own_map: its `label_map` so far.

    Raises:
        TeacherError: worse than expected, no better than chance, or the classes look permuted.
    """
    every = logits_NC.shape[1]
    logits_NC, labels_N, places = _of_known(logits_NC, labels_N)
    predicted_N = logits_NC.argmax(dim=1)
    count, classes = labels_N.numel(), len(places)
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
        order = dict(zip(places, (places[c] for c in label_map), strict=True))
        proposed = [None if c is None else order[c] for c in own_map or places]
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
    too_few = (
        binom.sf(count - 1, count, chance) > _BY_CHANCE
    )  # all right would prove nothing either
    if expect.accuracy is None and not too_few and binom.sf(right - 1, count, chance) > _BY_CHANCE:
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


def check_values(
    name: str,
    values_N1: Tensor,
    labels_N: Tensor,
    expect: Expect,
    own_map: tuple[int | None, ...] | None = None,  # noqa: ARG001 - one signature for all tasks
) -> float:
    """RMSE on labelled validation samples against `expect` and against always saying their mean.

    Args:
        name: the teacher's name.
        values_N1: its answers in original units.
        labels_N: float, all known.
        expect: what it has to reach.
        own_map: a regression has none.

    Raises:
        TeacherError: worse than expected, or no better than the mean; with a hint when its values look
            to be in another unit.
    """
    numbers = value_metrics(values_N1, labels_N)
    rmse, r2 = numbers["rmse"], numbers["r2"]
    found = (
        f"teacher {name!r} has RMSE {rmse:.4g} and R² {r2:.3f} on {labels_N.numel()} labelled "
        "validation samples"
    )
    if expect.rmse is not None and rmse > expect.rmse:
        raise TeacherError(
            f"{found}, more than teachers.{name}.expect.rmse={expect.rmse:g}; fit it longer, check its "
            "preprocessing and unit, or raise the expectation"
        )
    if expect.r2 is not None and r2 < expect.r2:
        raise TeacherError(
            f"{found}, less than teachers.{name}.expect.r2={expect.r2:g}; fit it longer, check its "
            "preprocessing and unit, or lower the expectation"
        )
    if expect.r2 is None and expect.rmse is None and not r2 > _LEAST_R2:
        raise TeacherError(
            f"{found}, no better than always saying their mean{_unit_hint(values_N1[:, 0], labels_N)}; "
            f"check its weights, preprocessing and unit, or set teachers.{name}.expect.r2=-1e9 to use "
            "it all the same"
        )
    return rmse


def _unit_hint(values_N: Tensor, labels_N: Tensor) -> str:
    """What a straight line through answers and truth says, where they follow each other well."""
    values, labels = values_N.double(), labels_N.double()
    spread = values - values.mean()
    if not spread.square().sum() > 0:
        return ""
    slope = float(spread @ (labels - labels.mean()) / spread.square().sum())
    offset = float(labels.mean() - slope * values.mean())
    explained = value_metrics((slope * values + offset)[:, None], labels)["r2"]
    if explained < _MARGIN:
        return ""
    return (
        f", but R² would be {explained:.3f} for {slope:.4g} · answer + {offset:.4g}: its values look to "
        "be in another unit"
    )


def check_marks(
    name: str,
    logits_NK: Tensor,
    labels_NK: Tensor,
    expect: Expect,
    own_map: tuple[int | None, ...] | None = None,  # noqa: ARG001 - one signature for all tasks
) -> float:
    """Share of right label decisions against `expect`, and the order of samples against chance.

    Chance is judged by the area under the ROC curve, mean over labels, since where labels are rare a
    useful teacher may decide no better than always saying no.

    Args:
        name: the teacher's name.
        logits_NK: its label logits.
        labels_NK: 0 and 1, all known.
        expect: what it has to reach.
        own_map: label maps are for classes.

    Raises:
        TeacherError: worse than expected, or no better than chance.
    """
    accuracy = float(right_shares(logits_NK, labels_NK).mean())
    areas = [_area(*pair) for pair in zip(logits_NK.T, labels_NK.T, strict=True)]
    known = [(area, error) for area, error in areas if error > 0]
    found = (
        f"teacher {name!r} has {accuracy:.1%} right label decisions on {len(labels_NK)} labelled "
        "validation samples"
    )
    if expect.accuracy is not None:
        if accuracy < expect.accuracy:
            raise TeacherError(
                f"{found}, less than teachers.{name}.expect.accuracy={expect.accuracy:g}; fit it longer, "
                "check its preprocessing and the order of its labels, or lower the expectation"
            )
        return accuracy
    area = sum(area for area, _ in known) / max(1, len(known))
    error = sum(error for _, error in known) / max(1, len(known))
    if known and area <= 0.5 + 2 * error:
        raise TeacherError(
            f"{found} and a mean ROC area of {area:.3f}, no better than chance (0.5); check its weights, "
            f"preprocessing and the order of its labels, or set teachers.{name}.expect.accuracy=0 to use "
            "it all the same"
        )
    return accuracy


def _area(logits_N: Tensor, labels_N: Tensor) -> tuple[float, float]:
    """Area under the ROC curve and its standard error at chance; (0, 0) without both kinds."""
    positive = int(labels_N.sum())
    negative = len(labels_N) - positive
    if not positive or not negative:
        return 0.0, 0.0
    ranks = rankdata(logits_N.numpy())
    above = ranks[labels_N.numpy() == 1].sum() - positive * (positive + 1) / 2
    error = math.sqrt((positive + negative + 1) / (12 * positive * negative))
    return float(above / (positive * negative)), error


def check_vectors(
    name: str,
    vectors_ND: Tensor,
    labels_N: Tensor,
    expect: Expect,
    own_map: tuple[int | None, ...] | None = None,  # noqa: ARG001 - one signature for all tasks
) -> float:
    """The mAP at 10 on labelled validation samples; their recall at 1 is held against `expect` and chance.

    Chance is that another sample, drawn at random, is of the same class. Without two labelled samples of one
    class there is nothing to judge by: NaN then.

    Args:
        name: the teacher's name.
        vectors_ND: its embeddings.
        labels_N: classes, all known; may be none.
        expect: what it has to reach.
        own_map: label maps are for classes.

    Raises:
        TeacherError: worse than expected, or no better than chance.
    """
    if not has_pairs(labels_N):
        return math.nan
    numbers = retrieval_metrics(vectors_ND, labels_N)
    recall, size_C = numbers["recall_1"], torch.bincount(labels_N).double()
    askers = float(size_C[size_C > 1].sum())
    found = f"teacher {name!r} has a recall at 1 of {recall:.1%} on {askers:.0f} labelled validation samples"
    if expect.recall_1 is not None:
        if recall < expect.recall_1:
            raise TeacherError(
                f"{found}, less than teachers.{name}.expect.recall_1={expect.recall_1:g}; check its "
                "preprocessing and weights, or lower the expectation"
            )
        return numbers["map_10"]
    chance = float((size_C * (size_C - 1)).sum()) / (askers * (len(labels_N) - 1))
    if recall <= chance + 2 * math.sqrt(chance * (1 - chance) / askers):
        raise TeacherError(
            f"{found}, no better than chance ({chance:.1%}); check its weights and preprocessing, or set "
            f"teachers.{name}.expect.recall_1=0 to use it all the same"
        )
    return numbers["map_10"]


CHECKS: dict[TaskName, Callable[..., float]] = {
    "classification": check_accuracy,
    "regression": check_values,
    "multilabel": check_marks,
    "embedding": check_vectors,
}
