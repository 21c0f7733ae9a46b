"""pydantic's errors in our words: dotted key, what was found, what is allowed, the nearest name."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from raykd.config.root import Config
from raykd.config.schedules import NUMBER
from raykd.errors import Problem

_ALMOST = 0.75
"""Likeness above which a key is a slip of the pen."""
_DEEPEST = 4
_WRITTEN = {
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
    "dict_type": "keys and values",
    "tuple_type": "a list",
    "list_type": "a list",
}
"""What pydantic wants, as YAML calls it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest of the known names, or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _meant(path: Sequence[str], value: Any, siblings: Sequence[str]) -> str:
    """`; did you mean 'x'?` for an unknown key: a sibling written almost so, else a key of that name elsewhere.

    Args:
        path: where it was written.
        value: what it was to be; `student.train.epochs=5` is an unknown `student.train` that holds `epochs`.
        siblings: the keys that are known there.
    """
    if difflib.get_close_matches(path[-1], siblings, n=1, cutoff=_ALMOST):
        return nearest(path[-1], siblings)
    inside = ""
    while isinstance(value, Mapping) and len(value) == 1:
        [(key, value)] = value.items()
        inside += f".{key}"
    elsewhere = [key for key in _every_key() if f".{key}".endswith(f".{path[-1]}{inside}")]
    found = min(elsewhere, key=lambda key: key.count("."), default=None)
    return nearest(path[-1], siblings) if found is None else f"; did you mean {found!r}?"


@cache
def _every_key() -> tuple[str, ...]:
    """Dotted keys of a recipe, but those inside lists; the shortest first."""
    found: dict[str, None] = {}
    level: list[tuple[str, type[BaseModel]]] = [("", Config)]
    for _ in range(_DEEPEST):
        fields = [(f"{prefix}{field.alias or name}", field.annotation)
                  for prefix, model in level for name, field in model.model_fields.items()]  # fmt: skip
        found |= dict.fromkeys(key for key, _ in fields)
        level = [(f"{key}.", model) for key, annotation in fields for model in _models(annotation)]
    return tuple(found)


def explain(error: ValidationError, tree: Mapping[str, Any]) -> list[Problem]:
    """One problem for every error, keyed as the user wrote it."""
    problems: dict[str, Problem] = {}
    for detail in error.errors(include_url=False):
        if detail["type"] == "too_short" and detail["input"]:
            continue  # its items were wrong, which is reported already
        path, model = _walk(detail["loc"], tree)
        key = ".".join(path)
        problems.setdefault(key, Problem(key, _message(detail, path, model)))
    return list(problems.values())


def _walk(loc: Sequence[str | int], tree: Any) -> tuple[list[str], type[BaseModel] | None]:
    """The key as the user wrote it, and the settings class that should have held its last part.

    pydantic puts union tags into the location; they are no keys and are left out.
    """
    path: list[str] = []
    node: Any = tree
    model: type[BaseModel] | None = Config
    holder: type[BaseModel] | None = Config
    annotation: Any = Config
    for part in loc:
        if isinstance(part, int):
            item = node[part] if isinstance(node, list | tuple) and part < len(node) else None
            named = isinstance(item, Mapping) and path in (["teachers"], ["evaluate", "compare"])
            path.append(str(item.get("name", part)) if named and item is not None else str(part))
            node, annotation = item, _element(annotation)
            model = _model_of(annotation, node)
            continue
        if model is not None and part in model.model_fields:
            holder, annotation = model, model.model_fields[part].annotation
        elif _is_tag(part, annotation, node):
            continue
        else:
            holder = model
            annotation = _value(annotation)
        path.append(part)
        node = node.get(part) if isinstance(node, Mapping) else None
        model = _model_of(annotation, node)
    return path, holder


def _is_tag(part: str, annotation: Any, node: Any) -> bool:
    """Whether a location's part names a member of a union rather than a key."""
    if isinstance(node, Mapping) and part in node:
        return False
    tags = {tag for model in _models(annotation) for tag in _tags(model)} | {NUMBER}
    return part in tags or not _models(annotation) or "[" in part


def _models(annotation: Any) -> list[type[BaseModel]]:
    """All settings classes inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        return [model for arg in get_args(annotation) for model in _models(arg)]
    return []


def _model_of(annotation: Any, node: Any) -> type[BaseModel] | None:
    models = _models(annotation)
    if len(models) <= 1:
        return models[0] if models else None
    kind = _discriminator(models[0])
    tag = node.get(kind) if isinstance(node, Mapping) else None
    return next((model for model in models if tag in _tags(model)), None)


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    field = model.model_fields.get(_discriminator(model))
    return get_args(field.annotation) if field is not None else ()


def _discriminator(model: type[BaseModel]) -> str:
    """The key whose value says which member of a union it is."""
    return "space" if "space" in model.model_fields else "type"


def _value(annotation: Any) -> Any:
    """What a mapping with keys of the user's own holds; None for anything else."""
    if get_origin(annotation) is Annotated:
        return _value(get_args(annotation)[0])
    return get_args(annotation)[1] if get_origin(annotation) is dict else None


def _element(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated or get_origin(annotation) in (Union, types.UnionType):
        inner = [_element(arg) for arg in get_args(annotation)]
        return next((item for item in inner if item is not None), None)
    if get_origin(annotation) in (tuple, list):
        return get_args(annotation)[0]
    return None


def _message(detail: ErrorDetails, path: Sequence[str], model: type[BaseModel] | None) -> str:
    kind, found = detail["type"], detail.get("input")
    context = detail.get("ctx", {})
    if kind == "extra_forbidden":
        fields = model.model_fields if model else {}
        known = sorted(field.alias or name for name, field in fields.items())
        allowed = f"; allowed here: {', '.join(known)}" if known else ""
        return f"unknown key{_meant(path, found, known)}{allowed}"
    if kind == "missing":
        return "is required and missing"
    if kind == "union_tag_invalid":
        tags = [tag.strip().strip("'") for tag in context["expected_tags"].split(",")]
        tags = [tag for tag in tags if tag != NUMBER]
        tag = context["tag"]
        return f"unknown {_kind(context)} {tag!r}; allowed: {', '.join(tags)}{nearest(tag, tags)}"
    if kind == "union_tag_not_found":
        return f"needs a `{_kind(context)}`; found {_short(found)}"
    if kind == "literal_error":
        allowed = context["expected"]
        names = [name.strip(" '") for name in allowed.replace(" or ", ", ").split(",")]
        return f"found {_short(found)}; allowed: {allowed}{nearest(str(found), names)}"
    if kind == "task":
        return str(context["why"])
    if kind in _WRITTEN:
        return f"needs {_WRITTEN[kind]}{_short_form(found, path, model)}; found {_short(found)}"
    if kind == "too_short":
        return "needs at least one entry; found none"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}; found {_short(found)}"


def _short_form(found: Any, path: Sequence[str], model: type[BaseModel] | None) -> str:
    """How a name that stands for a whole mapping is written."""
    names = [part for part in path if not part.isdecimal()]
    field = model.model_fields.get(names[-1]) if model is not None and names else None
    inside = None if field is None else field.annotation
    tags = [tag for one in _models(inside) or _models(_element(inside)) for tag in _tags(one)]
    if not isinstance(found, str) or not tags:
        return ""
    if found in tags:
        return f": write {{type: {found}}}"
    return f", such as {{type: {tags[0]}}}{nearest(found, tags)}"


def _kind(context: Mapping[str, Any]) -> str:
    """The discriminator as pydantic quotes it; of a function only its name is known, and all look at `type`."""
    quoted = str(context["discriminator"]).strip("'")
    return "type" if quoted.endswith("()") else quoted


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
