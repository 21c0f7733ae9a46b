"""YAML of a stranger as plain values, within bounds: no text takes longer to read than a recipe may."""

from __future__ import annotations

from typing import Any

import yaml

from raykd.errors import InputError

DEEPEST = 40
"""Levels of lists and mappings inside each other, aliases counted with what they name."""
MOST_VALUES = 50_000
"""Keys and values of one text, aliases counted with all that they name."""
LONGEST = 1_000_000
"""Characters of one text."""
_PLAIN = ("null", "bool", "int", "float", "timestamp", "str", "seq", "map")
_TAG = "tag:yaml.org,2002:"
_BAD_VALUES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What PyYAML's own constructors raise for `2020-13-45` or `!!int abc`."""


class _Loader(yaml.SafeLoader):
    """Refuses what YAML would silently take the last of, and what is small as a text and huge as values."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._measured: dict[int, tuple[int, int]] = {}
        """Of a finished node, by identity: values in it and levels below it."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As in SafeLoader, within the bounds."""
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        self._refuse_circle(event)
        self._level += 1
        if self._level > DEEPEST:
            raise _too_deep(event.start_mark)
        node = super().compose_node(parent, index)
        self._level -= 1
        if node is not None and id(node) not in self._measured:
            self._measure(node)
        return node

    def _refuse_circle(self, event: yaml.Event) -> None:
        if not isinstance(event, yaml.AliasEvent):
            return
        anchored = self.anchors.get(event.anchor)
        if anchored is not None and id(anchored) not in self._measured:
            why = f"*{event.anchor} stands inside what it names"
            raise _refused(why, event.start_mark)

    def _measure(self, node: yaml.Node) -> None:
        """Keep how large a node is with all that its aliases name, and hold it to the bounds."""
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            self._refuse_repeated(node)
            children = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        sizes = [self._measured[id(child)] for child in children]
        values, levels = (
            1 + sum(one for one, _ in sizes),
            1 + max((one for _, one in sizes), default=0),
        )
        if values > MOST_VALUES:
            raise _refused(f"more than {MOST_VALUES:,} keys and values, counting what aliases repeat; write fewer", node.start_mark)  # fmt: skip
        if levels > DEEPEST:
            raise _too_deep(node.start_mark)
        self._measured[id(node)] = values, levels

    @staticmethod
    def _refuse_repeated(node: yaml.MappingNode) -> None:
        """A key that is given twice, of which YAML would silently take the last."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                more = "; merge several by <<: [*a, *b]" if key.value == "<<" else ""
                raise _refused(f"the key {key.value!r} is given twice{more}", key.start_mark)
            seen.add(key.value)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As in SafeLoader; a value that is none of its kind is told with its line."""
        try:
            value = super().construct_object(node, deep)
        except _BAD_VALUES as error:
            kind = node.tag.removeprefix(_TAG)
            raise _refused(f"{_short(node.value)} is no {kind} ({error}); a text is written in quotes", node.start_mark) from None  # fmt: skip
        if isinstance(value, str) and (what := unreadable(value)):
            raise _refused(f"a text holds {what}", node.start_mark)
        return value


_Loader.yaml_constructors = {
    None: yaml.SafeLoader.yaml_constructors[None],
    **{f"{_TAG}{one}": yaml.SafeLoader.yaml_constructors[f"{_TAG}{one}"] for one in _PLAIN},
    f"{_TAG}value": yaml.SafeLoader.yaml_constructors[f"{_TAG}str"],  # `=`, which is a text
}


def read_yaml(text: str, key: str) -> Any:
    """The plain values of a YAML text: texts, numbers, dates, lists and mappings.

    Args:
        text: one document.
        key: what names the text in errors: a key of the recipe, or a file.

    Raises:
        InputError: it is no YAML, or beyond `DEEPEST`, `MOST_VALUES` or `LONGEST`; names the line.
    """
    if len(text) > LONGEST:
        raise InputError.at(key, f"has more than {LONGEST:,} characters; a recipe is shorter")
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, *_BAD_VALUES) as error:
        found = f"{_short(text)} is" if "\n" not in text else "is"
        raise InputError.at(key, f"{found} not valid YAML: {_told(error)}") from None


def _told(error: Exception) -> str:
    """The line, the column and what is wrong there, without a drawing of the place."""
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    if mark is None:
        return str(error)
    what = ", ".join(part for part in (error.context, error.problem) if part)  # type: ignore[attr-defined]
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}"


def _refused(what: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, what, mark)


def _too_deep(mark: Any) -> yaml.MarkedYAMLError:
    return _refused(f"more than {DEEPEST} levels of lists and keys inside each other", mark)


def unreadable(text: str) -> str:
    """What no file name, JSON or terminal takes; empty where there is nothing of it."""
    if "\0" in text:
        return "the character NUL, which means nothing here; leave it out"
    surrogates = any("\ud800" <= one <= "\udfff" for one in text)
    return (
        "half of a character (a surrogate), which is no Unicode; leave it out" if surrogates else ""
    )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else "this"
    return repr(text if len(text) <= 60 else text[:57] + "...")
