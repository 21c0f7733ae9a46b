"""The table of weightings, as the documentation shows it."""

from __future__ import annotations

from raykd.ensemble import INFO


def weighting_table() -> str:
    """Markdown table of every weighting: formula, source, needs, use of stored targets."""
    lines = [
        "| weighting | formula | paper | needs | works from stored targets |",
        "|---|---|---|---|---|",
    ]
    for name, info in INFO.items():
        stored = "yes" if info.stored else "no"
        needs = ", ".join(f"`{need}`" for need in info.needs) or "-"
        lines.append(f"| `{name}` | {info.formula} | {info.paper} | {needs} | {stored} |")
    return "\n".join(lines) + "\n"
