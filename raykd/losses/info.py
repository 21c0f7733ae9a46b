"""The facts about a loss that its callers and the documentation need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["logits", "features", "pairs", "values", "labels"]


@dataclass(frozen=True, kw_only=True)
class LossInfo:
    """One line of the table of losses.

    Attributes:
        kind: what is compared: logits [N, C], features, pairs of features, values [N] / [N, D], or logits of
            yes-or-no labels [N, K].
        formula: the mean of loss_N, one line of plain text.
        paper: authors, year and place in the paper.
        default_weight: weight of the term that the paper or its benchmark uses.
        stored: works from stored targets (no live teacher needed).
        needs: keyword arguments without which the loss cannot be computed.
        per_sample: loss_N of one sample does not depend on the other samples.
        scope: accepts `gather`, to compare the local rows with those of all workers.
    """

    kind: Kind
    formula: str
    paper: str
    default_weight: float = 1.0
    stored: bool = True
    needs: tuple[str, ...] = ()
    per_sample: bool = True
    scope: bool = False
