"""How far a student's heads were from each teacher, as a table; a pure function of the run's summary."""

from __future__ import annotations

from raykd.report.folder import RunData
from raykd.report.tables import Table
from raykd.report.verdicts import with_std
from raykd.report.wording import NONE, number


def heads(run: RunData) -> Table | None:
    """Both parts of the loss for each teacher, in units of that teacher's own spread."""
    found = run.summary.get("heads") or {}
    if not found:
        return None
    rows, records = [], []
    for teacher, numbers in found.items():
        cells, values = [], []
        for what in ("cosine", "smooth_l1"):
            one = numbers.get(what) or {"mean": None, "std": None}
            shown = NONE if one["mean"] is None else number(one["mean"])
            cells.append(with_std(shown, None if one["std"] is None else number(one["std"])))
            values.extend([one["mean"], one["std"]])
        rows.append((teacher, *cells))
        records.append((teacher, *values))
    return Table(
        name="heads",
        title="How far the heads are from each teacher",
        columns=("teacher", "cosine", "smooth L1"),
        rows=rows,
        records=records,
        fields=("teacher", "cosine", "cosine_std", "smooth_l1", "smooth_l1_std"),
        note="Means over the last epoch's training samples, over replicas, in units of the teacher's own spread: 1 is as far as a "
        "head that always says the teacher's mean. Where one teacher's numbers are much larger, the encoder leaves that one behind.",
    )
