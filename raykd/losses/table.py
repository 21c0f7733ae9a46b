"""The table of losses, as the documentation shows it."""

from __future__ import annotations

from raykd.losses import INFO


def method_table() -> str:
    """Markdown table of every loss: formula, source, default weight, use of stored targets."""
    lines = [
        "| loss | formula | paper | default weight | works from stored targets |",
        "|---|---|---|---|---|",
    ]
    for name, info in INFO.items():
        stored = "yes" if info.stored else "no"
        lines.append(
            f"| `{name}` | {info.formula} | {info.paper} | {info.default_weight:g} | {stored} |"
        )
    return "\n".join(lines) + "\n"
