"""How the numbers of each task are told: which metric, in which form, with which words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raykd.config.tasks import TaskName
from raykd.report.wording import BASELINE, mean_of, number, percent, points, significant

Form = Callable[[float | None], str]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of V, of a gain or of fidelity.

    Attributes:
        key: its name in the summary.
        name: its name in words.
        form: a value as text.
        spread: a standard deviation as text.
    """

    key: str
    name: str
    form: Form
    spread: Callable[[float], str] = number


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How a gain is told; a positive one always means that the student is better.

    Attributes:
        name: what it is: "difference", "reduction".
        signed: with its sign and without its unit.
        unit: with a leading space where it has one.
        factor: what it is multiplied by on an axis.
        better: how a positive one is: "2.1 points more".
        worse: how a negative one is.
        heading: of its column in tables.
    """

    name: str
    signed: Callable[[float], str]
    unit: str
    factor: float
    better: str
    worse: str
    heading: str

    def size(self, value: float) -> str:
        """Without sign, with its unit."""
        return f"{self.signed(abs(value)).lstrip('+')}{self.unit}"

    def change(self, value: float) -> str:
        """With sign and unit."""
        return f"{self.signed(value)}{self.unit}"


@dataclass(frozen=True, kw_only=True)
class TaskText:
    """Words and forms of one task.

    Attributes:
        metric: the task's metric.
        ties: key of the metric that decides between equal teachers.
        ties_lower: whether less of that is better.
        lower: whether less of the metric is better.
        spread: a standard deviation of the metric, beside a value.
        reached: a value of the metric on test, as what a student "reaches".
        gain: how gains are told.
        second: the second number in the result table.
        numbers: every number of V.
        numbers_note: what to know of them.
        panels: learning curves.
        outputs: names of the outputs -> how many of what there are.
        kept: metric of student and ensemble -> what "it" does against the ensemble.
        follows: fidelity -> how "it" follows the ensemble.
        fidelity: numbers of fidelity to the ensemble.
        by_teacher: the one of them that is known for each teacher.
        hard: what the control `hard` is taught.
        tile: metric of student and ensemble -> value and words of a number at the top.
        baseline: the control that tells whether distillation helps.
        base: what that control is called.
        untaught: how its network came about.
    """

    metric: Measure
    ties: str
    ties_lower: bool = True
    lower: bool = False
    spread: Callable[[float], str]
    reached: Callable[[float | None], str]
    gain: Gain
    second: Measure
    numbers: tuple[Measure, ...]
    numbers_note: str
    panels: tuple[Measure, ...]
    outputs: Callable[[Sequence[str]], str]
    kept: Callable[[float, float], str]
    follows: Callable[[Mapping[str, Any]], str]
    fidelity: tuple[Measure, ...]
    by_teacher: Measure
    hard: str
    tile: Callable[[float, float], tuple[str, str]]
    baseline: str = BASELINE
    base: str = "labels alone"
    untaught: str = "trained on labels alone"

    def value(self, value: float | None) -> str:
        """A value of the metric."""
        return self.metric.form(value)


def text_of(summary: Mapping[str, Any]) -> TaskText:
    """How a run's numbers are told; a summary that names no task is of a classification."""
    return TASK_TEXTS[summary.get("task") or "classification"]


_MAP = Measure(key="map_10", name="mAP@10", form=percent)
_NLL = Measure(key="nll", name="NLL (nats)", form=number)
_POINTS = Gain(
    name="difference",
    signed=points,
    unit=" points",
    factor=100.0,
    better="more",
    worse="less",
    heading="points",
)
_MACRO = (
    Measure(key="precision_macro", name="precision", form=percent),
    Measure(key="recall_macro", name="recall", form=percent),
    Measure(key="f1_macro", name="F1", form=percent),
    Measure(key="nll", name="NLL", form=number),
    Measure(key="ece", name="ECE", form=number),
    Measure(key="brier", name="Brier", form=number),
)


def _share_spread(std: float) -> str:
    return f"{100 * std:.1f}"


def _value_spread(std: float) -> str:
    return significant(std, 2)


def _signed_value(value: float) -> str:
    return significant(value, 3, signed=True)


def _share_kept(metric: str) -> Callable[[float, float], str]:
    def kept(own: float, whole: float) -> str:
        if own >= whole:
            return f"It reaches the ensemble's {metric} ({percent(own)} against {percent(whole)})"
        return (
            f"It keeps {percent(own / whole)} of the ensemble's {metric} ({percent(own)} of "
            f"{percent(whole)}, {points(whole - own, signed=False)} points short)"
        )

    return kept


def _value_kept(own: float, whole: float) -> str:
    numbers = f"({significant(own)} against {significant(whole)})"
    if own <= whole:
        return f"It reaches the ensemble's RMSE {numbers}"
    return f"Its RMSE is {percent(own / whole - 1)} above the ensemble's {numbers}"


def _class_follows(fidelity: Mapping[str, Any]) -> str:
    agreement = percent(mean_of(fidelity["agreement_ensemble"]))
    kl = number(mean_of(fidelity["kl_ensemble_nats"]))
    return f"gives the ensemble's answer on {agreement} of the test samples (KL {kl} nats)"


def _mark_follows(fidelity: Mapping[str, Any]) -> str:
    agreement = percent(mean_of(fidelity["agreement_ensemble"]))
    kl = number(mean_of(fidelity["kl_ensemble_nats"]))
    return f"decides {agreement} of the test labels as the ensemble does (KL {kl} nats per label)"


def _value_follows(fidelity: Mapping[str, Any]) -> str:
    distance = significant(mean_of(fidelity["rmse_ensemble"]))
    correlation = number(mean_of(fidelity["correlation_ensemble"]))
    return (
        f"differs from the ensemble's answers by an RMSE of {distance} (correlation {correlation})"
    )


def _vector_follows(fidelity: Mapping[str, Any]) -> str:
    correlation = number(mean_of(fidelity["spearman_ensemble"]))
    shared = percent(mean_of(fidelity["overlap_ensemble"]))
    return (
        f"orders pairs of test samples by likeness as the ensemble does with a rank correlation of {correlation} "
        f"and shares {shared} of the 10 nearest neighbours"
    )


def _share_tile(metric: str) -> Callable[[float, float], tuple[str, str]]:
    return lambda own, whole: (percent(own / whole), f"of the ensemble's {metric}")


TASK_TEXTS: dict[TaskName, TaskText] = {
    "classification": TaskText(
        metric=Measure(key="accuracy", name="accuracy", form=percent),
        ties="nll",
        spread=_share_spread,
        reached=lambda value: f"{percent(value)} test accuracy",
        gain=_POINTS,
        second=_NLL,
        numbers=(Measure(key="accuracy", name="accuracy", form=percent), *_MACRO),
        numbers_note="Precision, recall and F1 are macro means; NLL in nats",
        panels=(
            Measure(key="accuracy", name="validation accuracy", form=percent),
            Measure(key="nll", name="validation NLL (nats)", form=number),
        ),
        outputs=lambda names: f"{len(names)} classes",
        kept=_share_kept("accuracy"),
        follows=_class_follows,
        fidelity=(
            Measure(key="agreement_ensemble", name="same answer as the ensemble", form=percent),
            Measure(key="kl_ensemble_nats", name="KL(ensemble ‖ student), nats", form=number),
        ),
        by_teacher=Measure(key="agreement", name="same answer as", form=percent),
        hard="the ensemble's hard labels",
        tile=_share_tile("accuracy"),
    ),
    "regression": TaskText(
        metric=Measure(key="rmse", name="RMSE", form=significant),
        ties="mae",
        lower=True,
        spread=_value_spread,
        reached=lambda value: f"a test RMSE of {significant(value)}",
        gain=Gain(
            name="reduction",
            signed=_signed_value,
            unit="",
            factor=1.0,
            better="lower",
            worse="higher",
            heading="RMSE reduction",
        ),
        second=Measure(key="r2", name="R²", form=number),
        numbers=(
            Measure(key="rmse", name="RMSE", form=significant),
            Measure(key="mae", name="MAE", form=significant),
            Measure(key="r2", name="R²", form=number),
        ),
        numbers_note="RMSE and MAE in the unit of the target; R² is the share of the variance explained",
        panels=(
            Measure(key="rmse", name="validation RMSE", form=significant),
            Measure(key="r2", name="validation R²", form=number),
        ),
        outputs=lambda names: f"one value, {names[0]}",
        kept=_value_kept,
        follows=_value_follows,
        fidelity=(
            Measure(key="rmse_ensemble", name="RMSE to the ensemble", form=significant),
            Measure(key="correlation_ensemble", name="correlation with the ensemble", form=number),
        ),
        by_teacher=Measure(key="rmse", name="RMSE to", form=significant),
        hard="the ensemble's values as labels",
        tile=lambda own, whole: (f"{own / whole:.3f}×", "the ensemble's RMSE"),
    ),
    "multilabel": TaskText(
        metric=Measure(key="accuracy", name="label accuracy", form=percent),
        ties="nll",
        spread=_share_spread,
        reached=lambda value: f"{percent(value)} right label decisions on test",
        gain=_POINTS,
        second=Measure(key="nll", name="NLL (nats per label)", form=number),
        numbers=(
            Measure(key="accuracy", name="label accuracy", form=percent),
            Measure(key="accuracy_subset", name="all labels right", form=percent),
            *_MACRO,
        ),
        numbers_note="Label accuracy is the share of right label decisions; precision, recall and F1 are "
        "means over the labels; NLL in nats per label",
        panels=(
            Measure(key="accuracy", name="validation label accuracy", form=percent),
            Measure(key="nll", name="validation NLL (nats per label)", form=number),
        ),
        outputs=lambda names: f"{len(names)} labels",
        kept=_share_kept("label accuracy"),
        follows=_mark_follows,
        fidelity=(
            Measure(
                key="agreement_ensemble", name="same label decisions as the ensemble", form=percent
            ),
            Measure(
                key="kl_ensemble_nats", name="KL(ensemble ‖ student), nats per label", form=number
            ),
        ),
        by_teacher=Measure(key="agreement", name="same label decisions as", form=percent),
        hard="the ensemble's hard labels",
        tile=_share_tile("label accuracy"),
    ),
    "embedding": TaskText(
        metric=_MAP,
        ties="recall_1",
        ties_lower=False,
        spread=_share_spread,
        reached=lambda value: f"a test mAP@10 of {percent(value)}",
        gain=_POINTS,
        second=Measure(key="probe", name="linear probe", form=percent, spread=_share_spread),
        numbers=(
            _MAP,
            Measure(key="recall_1", name="recall@1", form=percent),
            Measure(key="recall_10", name="recall@10", form=percent),
            Measure(key="probe", name="linear probe", form=percent),
        ),
        numbers_note="Each sample asks all others of its split by cosine; relevant are those of its class. "
        "Linear probe: accuracy of ridge regression on the classes, each sample left out in turn",
        panels=(
            Measure(key="map_10", name="validation mAP@10", form=percent),
            Measure(key="recall_1", name="validation recall@1", form=percent),
        ),
        outputs=lambda names: f"{len(names)} classes to judge by" if names else "no labels",
        kept=_share_kept("mAP@10"),
        follows=_vector_follows,
        fidelity=(
            Measure(
                key="spearman_ensemble", name="rank correlation with the ensemble", form=number
            ),
            Measure(key="overlap_ensemble", name="neighbours shared with it", form=percent),
        ),
        by_teacher=Measure(key="spearman", name="rank correlation with", form=number),
        hard="",
        tile=_share_tile("mAP@10"),
        baseline="untrained",
        base="no training",
        untaught="before training",
    ),
}
