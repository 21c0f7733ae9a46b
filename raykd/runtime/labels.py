"""Labels of nodes among the resources of a process: `label:NAME=VALUE`, see `raykd.config.base.label_needs`."""

from __future__ import annotations

from collections.abc import Mapping

from raykd.config.base import LABEL


def selector(resources: Mapping[str, float]) -> dict[str, str] | None:
    """Ray's `label_selector`; None where no label is asked for."""
    found = {}
    for name in resources:
        if name.startswith(LABEL):
            label, _, value = name.removeprefix(LABEL).partition("=")
            found[label] = value
    return found or None


def amounts(resources: Mapping[str, float]) -> dict[str, float]:
    """The resources themselves."""
    return {name: count for name, count in resources.items() if not name.startswith(LABEL)}
