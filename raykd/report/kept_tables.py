"""What the student keeps and loses, and from whom, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.evaluate import spread
from raykd.evaluate.kept import LEAST, MEASURES
from raykd.evaluate.representation import debiased_cka
from raykd.evaluate.statistics import wilson
from raykd.report.comparison import p_value
from raykd.report.folder import RunData, metrics_of, text_of
from raykd.report.kept import WORST, Analysis, Part, Place, interval, samples
from raykd.report.tables import Cell, Table
from raykd.report.wording import NONE, number, percent, points

_COMPARED = 2000
_NAMES = {
    "retention": "retention",
    "negative_flips": "negative flips",
    "positive_flips": "positive flips",
}
_MEANT = (
    "Retention: share of what the ensemble gets right that the student gets right, too; negative flips: share of what "
    "labels alone get right that it gets wrong; positive flips: share of what these get wrong that it gets right; n: what "
    "it is a share of. 95 % Wilson intervals; counts are means over replicas, so that more replicas make none narrower."
)


def kept_tables(run: RunData, analysis: Analysis | None) -> list[Table]:
    """All tables of the section, without those that have nothing to show."""
    made = [] if analysis is None else [_worst(analysis), _places(analysis), _teachers(analysis),
                                        _attribution(analysis), _calibration(analysis)]  # fmt: skip
    return [table for table in (*made, _representation(run)) if table is not None]


def _worst(a: Analysis) -> Table | None:
    rows, records = [], []
    for measure in MEASURES[:2]:
        for place in a.worst(measure)[:WORST]:
            part = place.parts[measure]
            rows.append((_name(place), _NAMES[measure], samples(part.n), percent(part.share),
                         interval(part), p_value(part.p)))  # fmt: skip
            records.append((place.name, place.kind, measure, *_record(part)))
    if not rows:
        return None
    return Table(
        name="kept_worst",
        title="Where most is lost",
        columns=(a.words.group, "measure", "n", "share", "95 % interval", "p"),
        rows=rows,
        records=records,
        fields=("name", "kind", "measure", *_FIELDS),
        note=f"The {WORST} lowest retentions and highest negative flips with n ≥ {LEAST}. {_MEANT} p: "
        f"Fisher's exact test, one-sided, that more is lost than elsewhere, corrected for the number of {a.words.groups} (or "
        f"of slices) with n ≥ {LEAST} (Holm).",
    )


_FIELDS = ("n", "share", "low95", "high95", "p")


def _record(part: Part | None) -> tuple[Cell, ...]:
    return (
        (None,) * len(_FIELDS)
        if part is None
        else (part.n, part.share, part.low, part.high, part.p)
    )


def _shown(part: Part | None) -> tuple[str, str]:
    if part is None:
        return NONE, NONE
    bounds = f"{100 * part.low:.1f} to {100 * part.high:.1f}"
    return samples(part.n), f"{percent(part.share)} ({bounds})"


def _name(place: Place) -> str:
    return f"slice: {place.name}" if place.kind == "slice" else place.name


def _places(a: Analysis) -> Table | None:
    places = [place for place in a.places if place.parts]
    if not places:
        return None
    measures = [measure for measure in MEASURES if measure in a.whole]
    whole = Place(f"all {a.words.decisions}", "all", a.whole)
    rows, records = [], []
    for place in (whole, *places):
        parts = [place.parts.get(measure) for measure in measures]
        cells = [cell for part in parts for cell in _shown(part)]
        rows.append((_name(place), *cells))
        records.append((place.name, place.kind, *(v for part in parts for v in _record(part))))
    return Table(
        name="kept",
        title=f"Kept and lost by {a.words.group}",
        columns=(a.words.group, *(c for m in measures for c in ("n", _NAMES[m]))),
        rows=rows,
        records=records,
        fields=("name", "kind", *(f"{m}_{field}" for m in measures for field in _FIELDS)),
        note=_MEANT,
    )


def teacher_rows(
    teachers: Sequence[str], weights_T: NDArray[np.float64], shares_T: NDArray[np.float64]
) -> tuple[list[tuple[str, ...]], list[tuple[Cell, ...]]]:
    """Rows and records of the teachers: name, weight, share of the pull."""
    known = [None if np.isnan(share) else share for share in shares_T.tolist()]
    numbers = list(zip(teachers, weights_T.tolist(), known, strict=True))
    return [(n, percent(w), percent(s)) for n, w, s in numbers], [(n, w, s) for n, w, s in numbers]


PULL_NOTE = (
    "Weight: how much the teacher counted in the mixture p̄ = Σ w p, mean over training. Share of the pull: what draws "
    "a student that says q is q − p̄ = Σ w (q − p), of which each teacher has a part; the shares w⟨q − p, q − p̄⟩ / "
    "‖q − p̄‖², each sample weighed by ‖q − p̄‖², sum to 1 exactly, and one below 0 draws the other way."
)


def _teachers(a: Analysis) -> Table | None:
    if a.pull is None:
        return None
    rows, records = teacher_rows(a.teachers, a.weights_T, a.pull.shares())
    for index, one in enumerate(a.pivotal[name] for name in a.teachers):
        if one is None:
            rows[index] += (NONE,) * 5
            records[index] += (None,) * 6
            continue
        follows = one.followed / one.samples if one.samples else None
        low, high = wilson(one.followed, one.samples).tolist() if one.samples else (None, None)
        shown = NONE if low is None else f"{percent(low)} to {percent(high)}"
        rows[index] += (*map(str, (one.samples, one.right, one.wrong)), percent(follows), shown)
        records[index] += (one.samples, one.right, one.wrong, follows, low, high)
    start = "of labels alone says" if a.from_labels else "to which all answers are alike would say"
    none = a.pull.without
    rest = f" Nothing draws on {none} of the {a.words.decisions}; they are left out." * (none > 0)
    alone = " Without its only teacher there is no ensemble, so that nothing is said of what it decides."
    return Table(
        name="teachers_kept",
        title="From whom",
        columns=("teacher", "weight", "share of the pull", "decides", "rightly", "wrongly",
                 "student follows", "95 % interval"),
        rows=rows,
        records=records,
        fields=("teacher", "weight", "pull", "decides", "rightly", "wrongly", "follows", "low95", "high95"),
        note=f"{PULL_NOTE} Here q is what a student {start}, at temperature 1.{rest} A teacher decides where the "
        "ensemble without it, the other weights renormalised, answers otherwise: rightly where its answer is right only with "
        "the teacher, wrongly where it is right only without it. The student follows where it says what the ensemble says "
        f"with it (mean over replicas, Wilson interval).{alone * (len(a.teachers) == 1)}",
    )  # fmt: skip


def pull_by_group(a: Analysis) -> NDArray[np.float64]:
    """Share of the pull of each teacher in each group, [T, G]; NaN where there is none."""
    assert a.pull is not None, "the caller has looked"
    return np.stack([a.pull.shares(a.groups_N == g) for g in range(len(a.names))], axis=1)


def _attribution(a: Analysis) -> Table | None:
    if a.pull is None or len(a.teachers) < 2 or len(a.names) < 2:
        return None
    shares_TG = pull_by_group(a)
    counts_G = np.bincount(a.groups_N[a.groups_N >= 0], minlength=len(a.names))
    known = np.flatnonzero(np.isfinite(shares_TG).all(axis=0))
    if not len(known):
        return None
    lines = [("all", len(a.groups_N), a.pull.shares().tolist())]
    lines += [(a.names[g], int(counts_G[g]), shares_TG[:, g].tolist()) for g in known.tolist()]
    return Table(
        name="attribution",
        title=f"Share of the pull by {a.words.group}",
        columns=(a.words.group, "n", *a.teachers),
        rows=[(name, str(n), *map(percent, shares)) for name, n, shares in lines],
        records=[(name, n, *shares) for name, n, shares in lines],
        fields=(a.words.group, "n", *a.teachers),
        note=f"Each row sums to 100 %. n: {a.words.decisions}.",
    )


def _calibration(a: Analysis) -> Table | None:
    if not a.overconfidence or len(a.names) < 2:
        return None
    heads = {
        "student": "student",
        "calibrated": "student, own temperature",
        "ensemble": "ensemble",
    }
    there = [name for name in heads if name in a.overconfidence]
    lines = [
        (a.names[g], int(a.counts_G[g]), [float(a.overconfidence[name][g]) for name in there])
        for g in np.flatnonzero(a.counts_G).tolist()
    ]
    return Table(
        name="confidence",
        title=f"Confidence by {a.words.group}",
        columns=(a.words.group, "n", *(heads[name] for name in there)),
        rows=[(name, str(n), *map(points, gaps)) for name, n, gaps in lines],
        records=[(name, n, *gaps) for name, n, gaps in lines],
        fields=(a.words.group, "n", *there),
        note=f"Mean confidence minus accuracy, in points: above 0 a model is too sure of itself. Over the {a.words.decisions} "
        f"of each {a.words.group}; means over replicas. Its own temperature is fitted on half of validation.",
    )


def _representation(run: RunData) -> Table | None:
    found = [*(run.summary.get("cka") or ()), *_outputs_alike(run)]
    if not found:
        return None
    rows, records = [], []
    for one in found:
        names = (one["teacher"], one["teacher_tap"] or "output", one["student_tap"] or "output")
        own, base = one["student"], one["baseline"] or {}
        cells = [number(own["mean"]), number(own["std"]), number(base.get("mean")), str(one["n"])]
        rows.append((*names, *cells))
        records.append((*names, own["mean"], own["std"], base.get("mean"), one["n"]))
    return Table(
        name="cka",
        title="How alike the features are",
        columns=("teacher", "its module", "student's module", "CKA", "standard deviation",
                 text_of(run.summary).base, "n"),
        rows=rows,
        records=records,
        fields=("teacher", "teacher_tap", "student_tap", "cka", "cka_std", "cka_baseline", "n"),
        note="Debiased linear CKA: 1 where the features differ by a rotation and a factor, about 0 where they have nothing "
        "to do with each other. Mean over replicas. Of modules on training samples, whose features of the teachers are "
        "kept; of outputs on test.",
    )  # fmt: skip


def _outputs_alike(run: RunData) -> list[dict[str, Any]]:
    """CKA of the student's vectors with each teacher's on test, where outputs are features of their own."""
    if run.evaluation is None or not metrics_of(run.summary).own_width:
        return []
    test, baseline = run.evaluation.splits["test"], metrics_of(run.summary).baseline
    rows = slice(0, _COMPARED)

    def alike(role: str, teacher: Any) -> Mapping[str, Any] | None:
        if role not in test.students:
            return None
        return spread([debiased_cka(one[rows], teacher[rows]) for one in test.students[role]])

    return [
        {"teacher": name, "teacher_tap": "", "student_tap": "", "student": alike("student", vectors),
         "baseline": alike(baseline, vectors), "n": len(vectors[rows])}
        for name, vectors in test.teachers.items()
    ]  # fmt: skip
