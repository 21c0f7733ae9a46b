"""What the student keeps and loses, and from whom: a run's decisions analysed, and told in sentences.

Shapes: N decisions, G groups of them (classes, labels), T teachers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.evaluate.influence import Pivotal, Pull, pivotal, pull_of
from raykd.evaluate.kept import (
    LEAST,
    MEASURES,
    Decisions,
    Shares,
    entropy_kept,
    kept_shares,
    more_than_elsewhere,
    overconfidence,
)
from raykd.evaluate.summary import student_temperatures
from raykd.report.comparison import p_value
from raykd.report.diagnostics import class_names
from raykd.report.folder import RunData, mean_weights, metrics_of, text_of
from raykd.report.task import TaskText
from raykd.report.wording import listed, mean_of, number, percent

Floats = NDArray[np.float64]
WORST = 5
_NAMED = 3
_SURE = 0.05


@dataclass(frozen=True, kw_only=True)
class Part:
    """A share on some of the decisions.

    Attributes:
        share: in [0, 1].
        low: of its 95 % interval.
        high: of the same.
        n: how many decisions it is a share of, mean over replicas.
        p: corrected p-value that more is lost here than elsewhere; None where that is not tested.
    """

    share: float
    low: float
    high: float
    n: float
    p: float | None = None


@dataclass(frozen=True)
class Place:
    """A class, a label or a slice of test, and what is kept there; a measure is absent where it is of nothing."""

    name: str
    kind: str
    parts: Mapping[str, Part]


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """What the figures, tables and sentences show.

    Attributes:
        words: of the task.
        whole: measure -> over all labelled decisions.
        places: classes or labels in their order, then slices.
        names: of the groups.
        counts_G: labelled decisions of each.
        teachers: names.
        weights_T: how much each counts in the mixture.
        pull: what draws a student to the mixture; None without teachers.
        from_labels: whether that student has learnt from labels alone; else it knows nothing.
        groups_N: the group of each decision.
        pivotal: teacher -> what it decides.
        entropy: as of `entropy_kept`.
        overconfidence: model -> confidence minus accuracy by group; empty without labels.
    """

    words: TaskText
    whole: Mapping[str, Part]
    places: Sequence[Place]
    names: Sequence[str]
    counts_G: NDArray[np.int64]
    teachers: Sequence[str]
    weights_T: Floats
    pull: Pull | None
    from_labels: bool
    groups_N: NDArray[np.int64]
    pivotal: Mapping[str, Pivotal | None]
    entropy: Mapping[str, Any]
    overconfidence: Mapping[str, Floats]

    def worst(self, measure: str) -> list[Place]:
        """The places where most is lost by a measure, of those with enough decisions; the worst first."""
        sign = 1 if measure == "retention" else -1
        known = [place for place in self.places if measure in place.parts]
        large = [place for place in known if place.parts[measure].n >= LEAST]
        return sorted(large, key=lambda place: sign * place.parts[measure].share)


def analyse(run: RunData) -> Analysis | None:
    """The analysis of a run; None where it was not evaluated, or its task's answers are no decisions."""
    decide = metrics_of(run.summary).decisions
    if run.evaluation is None or decide is None:
        return None
    decisions, words = decide(run.evaluation.splits["test"]), text_of(run.summary)
    names, groups_N = class_names(run.evaluation), decisions.groups_N.numpy()
    shares = kept_shares(decisions, len(names))
    wholes = {measure: found.whole for measure, found in shares.items()}
    known_N = (decisions.labels_N >= 0).numpy() & (groups_N >= 0)
    weights_T = mean_weights(run, list(decisions.teachers))
    some = bool(decisions.teachers)
    return Analysis(
        words=words,
        whole={m: part for m, found in wholes.items() if (part := _parts(found)[0]) is not None},
        places=[
            *_places(names, words.group, shares, wholes),
            *_places(*_slices(run.summary, names), wholes),
        ],
        names=names,
        counts_G=np.bincount(groups_N[known_N], minlength=len(names)),
        teachers=list(decisions.teachers),
        weights_T=weights_T,
        pull=pull_of(decisions, weights_T) if some else None,
        from_labels=decisions.baseline_RNC is not None,
        groups_N=groups_N,
        pivotal=pivotal(decisions, weights_T) if some else {},
        entropy=entropy_kept(decisions),
        overconfidence=_overconfidence(run, decisions, len(names)) if known_N.any() else {},
    )


def _overconfidence(run: RunData, decisions: Decisions, groups: int) -> dict[str, Floats]:
    assert run.evaluation is not None, "the caller has looked"
    models = {"student": decisions.student_RNC, "ensemble": decisions.ensemble_NC[None]}
    temperatures = student_temperatures(run.evaluation, "student")
    if temperatures is not None and set(temperatures) != {1.0}:
        tempered = models["student"] / models["student"].new_tensor(temperatures)[:, None, None]
        models["calibrated"] = tempered.log_softmax(dim=-1)
    return {name: overconfidence(said, decisions, groups) for name, said in models.items()}


def _slices(
    summary: Mapping[str, Any], classes: Sequence[str]
) -> tuple[list[str], str, dict[str, Shares]]:
    """Names, kind, and shares of the slices that are no class; a run of an earlier version has none."""
    same = {f"class {name}" for name in classes}
    slices = summary.get("slices") or {}
    found = {n: s["kept"] for n, s in slices.items() if s.get("kept") and n not in same}

    def of(measure: str) -> Shares:
        parts = [kept[measure] for kept in found.values()]
        n_G = np.array([part["n"] for part in parts], dtype=np.float64)
        share_G = np.array([part["share"] or 0.0 for part in parts], dtype=np.float64)
        return Shares(share_G * n_G, n_G)

    return list(found), "slice", {measure: of(measure) for measure in MEASURES}


def _places(
    names: Sequence[str], kind: str, shares: Mapping[str, Shares], wholes: Mapping[str, Shares]
) -> list[Place]:
    """What is kept in each group, those compared with each other being corrected for together."""
    by_measure = {m: _parts(shares[m], whole, m) for m, whole in wholes.items() if m in shares}
    return [
        Place(name, kind, {m: part for m, parts in by_measure.items() if (part := parts[g])})
        for g, name in enumerate(names)
    ]


def _parts(shares: Shares, whole: Shares | None = None, measure: str = "") -> list[Part | None]:
    p_G = np.full(len(shares.of_G), np.nan)
    if whole is not None and measure != "positive_flips":
        lost = (shares, whole) if measure == "negative_flips" else (shares.others, whole.others)
        p_G = more_than_elsewhere(*lost)
    return [
        Part(share=share, low=low, high=high, n=n, p=None if np.isnan(p) else p) if n > 0 else None
        for share, (low, high), n, p in zip(
            shares.share.tolist(),
            shares.interval.tolist(),
            shares.of_G.tolist(),
            p_G.tolist(),
            strict=True,
        )
    ]


def kept_sentences(analysis: Analysis) -> list[str]:
    """What is kept, what is lost, and from whom, for somebody who reads the words for the first time."""
    return [
        *_kept(analysis),
        *_worst(analysis),
        *_pulled(analysis),
        *_decided(analysis),
        *_unsure(analysis),
    ]


def interval(part: Part) -> str:
    """`95.9 % to 98.8 %`."""
    return f"{percent(part.low)} to {percent(part.high)}"


def _kept(a: Analysis) -> Iterator[str]:
    if kept := a.whole.get("retention"):
        yield (
            f"Of the {a.words.decisions} that the ensemble gets right, the student gets {percent(kept.share)} right, too "
            f"(95 % interval {interval(kept)}): its retention."
        )
    lost, won = a.whole.get("negative_flips"), a.whole.get("positive_flips")
    if lost is not None:
        text = f"Of those that the same network trained on labels alone gets right, it gets {percent(lost.share)} wrong"
        text += f" (negative flips, {interval(lost)})"
        if won is not None:
            text += f"; of those that this one gets wrong, it gets {percent(won.share)} right (positive flips, "
            text += f"{interval(won)})"
        yield f"{text}."


def _worst(a: Analysis) -> Iterator[str]:
    said = {
        "retention": "It keeps least of what the ensemble gets right on",
        "negative_flips": "It loses most of what labels alone get right on",
    }
    for measure, words in said.items():
        worst = [p for p in a.worst(measure) if p.kind != "slice"]
        if measure in a.whole and len(worst) > 1:
            named = [f"{p.name} ({percent(p.parts[measure].share)})" for p in worst[:_NAMED]]
            yield f"{words} the {a.words.groups} {listed(named)}; {_sure_of(a, measure)}."


def _sure_of(a: Analysis, measure: str) -> str:
    tested = [p for p in a.worst(measure) if p.parts[measure].p is not None]
    sure = [p for p in tested if (p.parts[measure].p or 0.0) < _SURE]
    if not sure:
        return "nowhere is it surely worse than elsewhere"
    named = [f"{p.name} (p {_p(p.parts[measure].p)})" for p in sure[:WORST]]
    more = f" and {len(sure) - WORST} more" if len(sure) > WORST else ""
    return f"it is surely worse than elsewhere on {listed(named)}{more}"


def _p(value: float | None) -> str:
    text = p_value(value)
    return text if text.startswith("<") else f"= {text}"


def _pulled(a: Analysis) -> Iterator[str]:
    if a.pull is None or len(a.teachers) < 2 or not a.pull.size_N.any():
        return
    shares_T = a.pull.shares()
    order = np.argsort(-shares_T, kind="stable")[:_NAMED]
    start = "what labels alone teach" if a.from_labels else "knowing nothing"
    named = [f"{percent(shares_T[k], 0)} from {a.teachers[k]}" for k in order]
    yield f"The ensemble pulls the student away from {start}; of that pull come {listed(named)}."


def _decided(a: Analysis) -> Iterator[str]:
    found = {name: one for name, one in a.pivotal.items() if one is not None and one.samples}
    if not found:
        return
    name = max(found, key=lambda one: found[one].samples)
    most = found[name]
    yield (
        f"The teacher that decides most often is {name}: without it the ensemble would answer {most.samples} "
        f"{a.words.decisions} otherwise; there the student answers as the ensemble does with it in "
        f"{percent(most.followed / most.samples, 0)} of the cases."
    )


def _unsure(a: Analysis) -> Iterator[str]:
    linear, ranks = (mean_of(a.entropy[key]) for key in ("correlation", "rank_correlation"))
    if linear is not None and ranks is not None:
        yield (
            f"How unsure it is (the entropy of its probabilities) goes with how unsure the ensemble is: correlation "
            f"{number(linear, 2)}, of ranks {number(ranks, 2)}; on average {number(mean_of(a.entropy['student']), 2)} nats, "
            f"the ensemble {number(a.entropy['ensemble'], 2)}."
        )
    gaps = a.overconfidence
    if not gaps or not (large := a.counts_G >= LEAST).any() or len(a.names) < 2:
        return
    worst = int(np.argmax(np.where(large, np.abs(gaps["student"]), -1.0)))
    others = {"at its own temperature": "calibrated", "the ensemble": "ensemble"}
    beside = [f"{name} {_off(gaps[key][worst])}" for name, key in others.items() if key in gaps]
    yield (
        f"Its confidence is furthest from its accuracy on the {a.words.group} {a.names[worst]}: "
        f"{_off(gaps['student'][worst])} ({'; '.join(beside)})."
    )


def _off(gap: float) -> str:
    return f"{number(abs(100 * gap), 1)} points too {'high' if gap > 0 else 'low'}"


def samples(n: float) -> str:
    """A number of samples; with a decimal where a mean over replicas is no whole one."""
    return f"{n:.1f}".removesuffix(".0")
