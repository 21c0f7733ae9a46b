"""What each part of a recipe is worth: the recipe held against itself without that part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Numbers = Mapping[str, Any]


def worths(compared: Numbers, about: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """A comparison with the whole recipe as its reference, about_part as the worth of what was left out.

    Args:
        compared: what `raykd.evaluate.comparison.compare` returned.
        about: part -> `kind` and `about`; each is a method of the comparison, trained without it.

    Returns:
        `reference`, `metric`, `whole` (numbers of the whole recipe), `parts`: name -> `kind`, `about`, the
        numbers of the recipe without it, `worth_validation` and `worth` (on test; paired differences of the
        whole recipe from the one without the part, positive = the part helps), `p`, `p_holm`; and `ranking`:
        names, worth most on validation first (on test where validation has no labels).
    """
    methods, reference = compared["methods"], compared["reference"]
    parts = {name: {**about_part, **_worth(methods[name])} for name, about_part in about.items()}

    def rank(name: str) -> float:
        worth = parts[name]["worth_validation"] or parts[name]["worth"]
        return float("-inf") if worth is None else worth["mean"]

    return {
        "reference": reference,
        "metric": compared["metric"],
        "whole": methods[reference],
        "parts": parts,
        "ranking": sorted(parts, key=rank, reverse=True),
        "ensemble": compared["ensemble"],
        "teachers": compared["teachers"],
    }


def _worth(method: Numbers) -> dict[str, Any]:
    """A method's numbers, its gains over the reference turned round."""
    kept = {name: value for name, value in method.items() if not name.startswith("gain")}
    return {
        **kept,
        "worth_validation": turned(method["gain_validation"]),
        "worth": turned(method["gain"]),
    }


def turned(gain: Numbers | None) -> dict[str, Any] | None:
    """A paired difference the other way round."""
    if gain is None:
        return None

    def bounds(interval: list[float] | None) -> list[float] | None:
        return interval and [-interval[1], -interval[0]]

    return {
        "mean": -gain["mean"],
        "ci95": bounds(gain["ci95"]),
        "ci95_bootstrap": bounds(gain["ci95_bootstrap"]),
        "n": gain["n"],
        "values": [-value for value in gain["values"]],
    }
