"""The facts about a weighting that its callers and the documentation need."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WeightingInfo:
    """One line of the table of weightings.

    Attributes:
        formula: the weight of teacher k, before it is normalised, one line of plain text.
        paper: authors and year, or what it is.
        needs: arguments without which it cannot be computed (`labels`: without them it is uniform).
        stored: works from stored targets alone (no live student needed).
        random: the weights are drawn.
        looks: at the teachers' logits; otherwise only their shape counts.
    """

    formula: str
    paper: str
    needs: tuple[str, ...] = ()
    stored: bool = True
    random: bool = False
    looks: bool = True
