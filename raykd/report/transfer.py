"""How much the ensemble is at home on transfer sets, as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from raykd.report.folder import RunData
from raykd.report.tables import Table
from raykd.report.wording import number, percent, significant

_COLUMNS: Mapping[str, tuple[str, Callable[[float | None], str]]] = {
    "entropy_nats": ("entropy, nats", number),
    "confidence": ("mean largest probability", percent),
    "as_sure": ("as sure as half of validation", percent),
    "jsd_nats": ("disagreement (JSD), nats", number),
    "unanimous": ("all teachers agree", percent),
    "alternatives": ("as even as so many classes", lambda value: number(value, 1)),
    "shift": ("shift of classes", percent),
    "disagreement": ("deviation between teachers", significant),
    "inside": ("values within validation's", percent),
}
_NOTE = (
    "What the teachers say of transfer sets, untransformed, held against validation, whose samples are real: at most 500 of "
    "each set. An ensemble that is less sure, and whose teachers disagree more, is less at home. Shift of classes: the part of "
    "the ensemble's choices that would have to change for its classes to be as frequent as on validation. Learnt: samples "
    "that the recipe's student learns from."
)


def transfer_sets(run: RunData) -> Table | None:
    """A row for each set, and one for validation; None where there is no set."""
    found: Mapping[str, Mapping[str, Any]] = run.summary.get("transfer") or {}
    if not found:
        return None
    first = next(iter(found.values()))
    shown = {key: column for key, column in _COLUMNS.items() if key in first}
    return Table(
        name="transfer",
        title="At home on transfer sets",
        columns=("set", "samples", "learnt", *(name for name, _ in shown.values())),
        rows=[
            (
                name,
                f"{numbers['samples']:,}",
                f"{numbers['learnt']:,}",
                *(form(numbers[key]) for key, (_, form) in shown.items()),
            )
            for name, numbers in found.items()
        ],
        records=[
            (name, numbers["samples"], numbers["learnt"], *(numbers[key] for key in shown))
            for name, numbers in found.items()
        ],
        fields=("set", "samples", "learnt", *shown),
        note=_NOTE,
    )
