"""Imports by name are imports too: the registry is the only place that makes them, and they close no circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import raykd
from raykd.data.sources import SOURCES
from raykd.methods import LOSS_ROWS, WEIGHTING_ROWS
from raykd.models import MODELS
from raykd.tasks import BUILT_IN
from raykd.tasks.registry import FACETS

ROOT = Path(raykd.__file__).parent
BY_NAME = {
    "raykd/__init__.py",  # the public names, from above
    "raykd/pipeline/__init__.py",  # its own, each when it is asked for
    "raykd/importing.py",  # what a user's own recipe names
    "raykd/tasks/registry.py",
    "raykd/runtime/crew.py",  # what a process that trains will need, while nobody waits for it
    "raykd/data/sources.py",
    "raykd/models/__init__.py",
    "raykd/losses/__init__.py",
    "raykd/ensemble/__init__.py",
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(node: ast.AST):
    """Every node but those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if not is_typing(child):
            yield child
            yield from statements(child)


def imported(name: str) -> set[str]:
    """Modules of raykd that a module imports, at the top or in a function."""
    found = set()
    for node in statements(TREES[name]):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {one if one in FILES else node.module for one in inner}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {one for one in found if one in FILES}


GRAPH = {name: imported(name) for name in FILES}
LOADERS = {"import_module", "resolve_name", "__import__"}
LOOK_UPS = {"find_task", "known_task", "text_of", "metrics_of"}


def asks_for(name: str, facet: str) -> bool:
    """Whether a module looks a task up and reads this facet of it."""
    nodes = list(statements(TREES[name]))
    looks = any(isinstance(n, ast.Call) and getattr(n.func, "id", "") in LOOK_UPS for n in nodes)
    return looks and any(isinstance(n, ast.Attribute) and n.attr == facet for n in nodes)


def test_only_registries_import_by_name():
    users = {
        str(FILES[name].relative_to(ROOT.parent))
        for name, tree in TREES.items()
        if any(getattr(node.func, "id", getattr(node.func, "attr", "")) in LOADERS
               for node in ast.walk(tree) if isinstance(node, ast.Call))
    }  # fmt: skip
    assert users <= BY_NAME


def reached_from(module: str) -> set[str]:
    """What a module imports, directly or not; itself too."""
    reached, ahead = set(), [module]
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead += GRAPH[name]
    return reached


@pytest.mark.parametrize("facet", FACETS)
def test_a_facet_never_needs_who_asks_for_it(facet):
    """What a facet imports, directly or not, looks up no such facet: so the look-up closes no circle."""
    for paths in BUILT_IN.values():
        reached = reached_from(f"raykd.tasks.{paths[facet].partition(':')[0]}")
        assert [name for name in sorted(reached) if asks_for(name, facet)] == []


@pytest.mark.parametrize(
    ("registry", "paths"),
    [
        ("raykd.data.sources", SOURCES),
        ("raykd.models", MODELS),
        ("raykd.losses", {name: row.path for name, row in LOSS_ROWS.items()}),
        ("raykd.ensemble", {name: row.path for name, row in WEIGHTING_ROWS.items()}),
    ],
)
def test_what_a_registry_names_does_not_need_the_registry(registry, paths):
    for path in paths.values():
        assert registry not in reached_from(path.partition(":")[0])
