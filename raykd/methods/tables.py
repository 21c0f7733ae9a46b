"""The tables as the documentation shows them."""

from __future__ import annotations

from raykd.methods.losses import LOSS_ROWS
from raykd.methods.weightings import WEIGHTING_ROWS


def loss_table() -> str:
    """Markdown table of every loss: formula, source, default weight, use of stored targets."""
    lines = [
        "| loss | formula | paper | default weight | works from stored targets |",
        "|---|---|---|---|---|",
    ]
    for name, row in LOSS_ROWS.items():
        stored = "yes" if row.stored else "no"
        lines.append(
            f"| `{name}` | {row.formula} | {row.paper} | {row.default_weight:g} | {stored} |"
        )
    return "\n".join(lines) + "\n"


def weighting_table() -> str:
    """Markdown table of every weighting: formula, source, needs, use of stored targets."""
    lines = [
        "| weighting | formula | paper | needs | works from stored targets |",
        "|---|---|---|---|---|",
    ]
    for name, row in WEIGHTING_ROWS.items():
        stored = "yes" if row.stored else "no"
        needs = ", ".join(f"`{need}`" for need in row.needs) or "-"
        lines.append(f"| `{name}` | {row.formula} | {row.paper} | {needs} | {stored} |")
    return "\n".join(lines) + "\n"
