"""A recipe as YAML in which every setting is explained, written from the schema itself.

What the recipe sets is live; every other setting stands there with its default, commented out. Of
settings that occur several times (a teacher's) the first occurrence explains them all.
"""

from __future__ import annotations

import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from raykd.config import Config
from raykd.config.base import Settings

_WIDTH = 100
_EXAMPLE = 60
_Seen = set[tuple[type[Settings], str]]


@dataclass(frozen=True)
class _Line:
    """One line: `text` at `indent`, commented out unless `live`, with its explanation."""

    indent: int
    text: str
    doc: str
    live: bool

    def render(self) -> Iterator[str]:
        pad = " " * self.indent
        text = f"{pad}{'' if self.live else '# '}{self.text}"
        if not self.doc:
            yield text
        elif len(text) + len(self.doc) + 4 <= _WIDTH:
            yield f"{text}  # {self.doc}"
        else:
            for part in textwrap.wrap(self.doc, _WIDTH - self.indent - 3):
                yield f"{pad}## {part}"
            yield text


def recipe_template(config: Config, name: str) -> str:
    """The YAML text; it validates to `config` as it stands, and also with all of it uncommented."""
    head = [
        f"## Written by `raykd init` from the recipe {name!r}.",
        "## A line that starts with `# ` shows a default: take the `# ` away to change it.",
        "## `raykd config schema` lists every type with its settings; `raykd check FILE` tries it.",
    ]
    lines = [text for line in _settings(config, 0, True, set(), ()) for text in line.render()]
    return "\n".join([*head, *lines]) + "\n"


def _settings(
    settings: Settings, indent: int, live: bool, seen: _Seen, types_here: tuple[str, ...]
) -> Iterator[_Line]:
    """The lines of one settings object; those not set and explained before are left out."""
    for name, field in type(settings).model_fields.items():
        is_set = live and name in settings.model_fields_set
        first = (type(settings), name) not in seen
        seen.add((type(settings), name))
        if is_set or first:
            value = getattr(settings, name)
            doc = _doc(settings, name, field, value, types_here) if first else ""
            yield from _field(name, field, value, _Line(indent, "", doc, is_set), seen)


def _field(name: str, field: FieldInfo, value: Any, line: _Line, seen: _Seen) -> Iterator[_Line]:
    indent, live = line.indent, line.live
    if isinstance(value, Settings):
        inner = list(_settings(value, indent + 2, live, seen, _types(field.annotation)))
        if inner and live == any(one.live for one in inner):
            yield _Line(indent, f"{name}:", line.doc, live)
            yield from inner
        elif live:
            yield _Line(indent, f"{name}: {{}}", line.doc, live)
        else:  # explained before, under another key
            yield _Line(indent, f"{name}: {_flow(value.model_dump(mode='json'))}", line.doc, live)
    elif isinstance(value, tuple) and value and isinstance(value[0], Settings):
        yield _Line(indent, f"{name}:", line.doc, live)
        for item in value:
            yield from _item(item, indent + 2, live, seen, _types(field.annotation))
    elif isinstance(value, dict) and any(isinstance(item, Settings) for item in value.values()):
        yield _Line(indent, f"{name}:", line.doc, live)
        for key, item in value.items():  # keys of the user's own
            told = item.model_dump(mode="json", exclude_unset=True)
            yield _Line(indent + 2, f"{key}: {_flow(told)}", "", live)
    else:
        yield _Line(indent, f"{name}: {_flow(value)}", line.doc, live)


def _item(
    item: Settings, indent: int, live: bool, seen: _Seen, types_here: tuple[str, ...]
) -> Iterator[_Line]:
    """A list's entry: what it sets comes first, after the dash."""
    lines = list(_settings(item, indent + 2, live, seen, types_here))
    blocks: list[list[_Line]] = []
    for line in lines:
        if line.indent == indent + 2:
            blocks.append([])
        blocks[-1].append(line)
    ordered = [line for block in sorted(blocks, key=lambda b: not b[0].live) for line in block]
    first = ordered[0]
    yield _Line(indent, f"- {first.text}", first.doc, first.live)
    yield from ordered[1:]


def _doc(
    settings: Settings, name: str, field: FieldInfo, value: Any, types_here: tuple[str, ...]
) -> str:
    if name == "type":
        others = [tag for tag in types_here if tag != value]
        about = " ".join((type(settings).__doc__ or "").split())
        return f"{about} Or: {', '.join(others)}." if others else about
    doc = " ".join((field.description or "").split())
    example = _example(field.annotation) if value is None else ""
    return f"{doc} E.g. {example}" if example else doc


def _example(annotation: Any) -> str:
    """What may stand in place of null, when it is short."""
    for model in _models(annotation):
        if all(not field.is_required() for field in model.model_fields.values()):
            text = _flow(model().model_dump(mode="json"))
            if len(text) <= _EXAMPLE:
                return text
    return ""


def _types(annotation: Any) -> tuple[str, ...]:
    """The values that `type` may have there."""
    fields = [model.model_fields.get("type") for model in _models(annotation)]
    return tuple(tag for field in fields if field is not None for tag in get_args(field.annotation))


def _models(annotation: Any) -> list[type[Settings]]:
    """All settings classes that an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    if get_origin(annotation) in (Annotated, Union, types.UnionType, tuple):
        return [model for inner in get_args(annotation) for model in _models(inner)]
    return []


def _flow(value: Any) -> str:
    """A plain value on one line of YAML."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(
        _listed(plain), default_flow_style=True, width=float("inf"), sort_keys=False
    )
    return str(text).removesuffix("...\n").strip()


def _listed(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_listed(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _listed(inner) for key, inner in value.items()}
    return value
