"""`raykd recipes`, `init` and `config`: recipes as files; nothing here needs torch or Ray.

`init` writes a recipe as YAML in which every setting is explained, from the schema itself. What the recipe sets
is live; every other setting is there with its default, commented out. Of settings that occur several times (a
teacher's) the first occurrence explains all.
"""

from __future__ import annotations

import argparse
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from raykd.cli.options import Command, add_command, add_recipe, print_json, read_config
from raykd.config import Config, check_search, load_config
from raykd.config.base import Settings
from raykd.config.choosing import with_menu
from raykd.config.load import recipe_names, recipe_path
from raykd.config.optimizers import left_out, with_training_settings
from raykd.config.resolving import resolutions
from raykd.disks import write_whole
from raykd.errors import DiskError, InputError, Problem
from raykd.tasks import find_task

_WIDTH = 100
_EXAMPLE = 60
_Seen = set[tuple[type[Settings], str]]


_OPEN_MODE = (
    "# objective.labels.mode: null = replace where unlabelled training samples outnumber labelled ones, else add; "
    "`raykd check` says which"
)
_OPEN_TEMPERATURE = (
    "# objective.soft_targets.temperature: null = 4 where every training sample is labelled and the mixture is not "
    "remade, else 1"
)
_OPEN_TARGET = (
    "# objective.soft_targets: temperature, sharpen and hard_share are chosen on validation by objective.choose, and kept "
    "in the run's choice.json"
)


def add(commands: Command) -> None:
    """The commands of this module."""
    add_command(commands, "recipes", _recipes, "list the packaged recipes")
    init = add_command(commands, "init", _init, "write a recipe with every setting explained")
    init.add_argument("--recipe", default="digits", help="what to start from; default: digits")
    init.add_argument("file", nargs="?", type=Path, default=Path("recipe.yaml"), metavar="FILE")
    about = "show a recipe as it is resolved, check it, or print its schema"
    parts = add_command(commands, "config", _schema, about).add_subparsers(
        dest="part", metavar="PART", required=True
    )
    show = add_command(parts, "show", _show, "print the resolved recipe, defaults included")
    add_recipe(show)
    show.add_argument("--json", action="store_true", help="as JSON, not YAML")
    add_recipe(add_command(parts, "validate", _validate, "check a recipe; loads no data, no model"))
    add_command(parts, "schema", _schema, "print the JSON Schema of recipes")


def _recipes(args: argparse.Namespace) -> int:
    del args
    names = recipe_names()
    width = max(len(name) for name in names)
    for name in names:
        first = recipe_path(name).read_text(encoding="utf-8").splitlines()[0]
        print(f"{name:<{width}}  {first.lstrip('# ')}")
    return 0


def _init(args: argparse.Namespace) -> int:
    file: Path = args.file
    if file.exists():
        raise InputError.at("FILE", f"{file} exists and is not overwritten; name another one")
    config = load_config(args.recipe)
    if find_task(config.task).settings.class_logits and config.objective.soft_targets is not None:
        config = with_menu(config)
    text = recipe_template(config, args.recipe)
    try:
        write_whole(file, [text.encode()], durable=False)
    except DiskError as error:
        raise InputError.at("FILE", error.what) from None
    print(f"{file} is written; edit it, then: raykd check {file}")
    return 0


def _show(args: argparse.Namespace) -> int:
    config = read_config(args)
    settled, shown = _settled(config), with_training_settings(config).model_dump(mode="json")
    if settled is not None:
        shown["objective"]["labels"]["mode"] = settled
    if args.json:
        print_json(shown)
        return 0
    print(yaml.safe_dump(shown, sort_keys=False, width=100).rstrip())
    if settled is None:
        print(_OPEN_MODE)
    if config.objective.choose is not None:
        print(_OPEN_TARGET)
    elif (
        config.objective.soft_targets is not None
        and config.objective.soft_targets.temperature is None
    ):
        print(_OPEN_TEMPERATURE)
    for key, optimizer in left_out(config).items():
        print(f"# {key}: {optimizer}")
    return 0


def _settled(config: Config) -> str | None:
    """What labels do, where that does not depend on the data."""
    if config.objective.choose is not None:
        return None
    classes = find_task(config.task).settings.class_logits
    modes = {one.labels.mode or "add" for one in resolutions(config.objective, classes=classes)}
    return modes.pop() if len(modes) == 1 else None


def _validate(args: argparse.Namespace) -> int:
    config = read_config(args)
    try:
        check_search(config)
    except InputError as error:
        alone = "only `raykd sweep` reads `search`; other commands accept the recipe as it is"
        raise InputError(
            [Problem(p.key, f"{p.message} ({alone})") for p in error.problems]
        ) from None
    students = max(1, len(config.stages)) + len(config.students)
    fits = config.seeds * (students + len(config.evaluate.controls))
    more = "" if config.objective.choose is None else ", and those of the menu"
    print(
        f"ok  {len(config.teachers)} teachers, {fits} student fits{more}; `raykd check` tries it on the data"
    )
    return 0


def _schema(args: argparse.Namespace) -> int:
    del args
    print_json(Config.model_json_schema())
    return 0


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
    """The YAML text; it validates to `config` as it is, and also with everything uncommented."""
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
    """The lines of one settings object, without those that are not set and were explained before."""
    for name, field in type(settings).model_fields.items():
        is_set = live and name in settings.model_fields_set
        first = (type(settings), name) not in seen
        seen.add((type(settings), name))
        if is_set or first:
            value = getattr(settings, name)
            doc = _doc(settings, name, field, value, types_here) if first else ""
            yield from _field(
                field.alias or name, field, value, _Line(indent, "", doc, is_set), seen
            )


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
            text = f"{name}: {_flow(value.model_dump(mode='json'))}"
            if indent + len(text) > _WIDTH:
                text = f"{name}: {_flow(value.model_dump(mode='json', exclude_defaults=True))}"
            yield _Line(indent, text, line.doc, live)
    elif isinstance(value, tuple) and value and isinstance(value[0], Settings):
        yield _Line(indent, f"{name}:", line.doc, live)
        for item in value:
            yield from _item(item, indent + 2, live, seen, _types(field.annotation))
    elif isinstance(value, dict) and any(isinstance(item, Settings) for item in value.values()):
        yield _Line(indent, f"{name}:", line.doc, live)
        for key, item in value.items():  # keys of the user's own
            given = item.model_dump(mode="json", exclude_unset=True)
            yield _Line(indent + 2, f"{key}: {_flow(given)}", "", live)
    else:
        yield _Line(indent, f"{name}: {_flow(value)}", line.doc, live)


def _item(
    item: Settings, indent: int, live: bool, seen: _Seen, types_here: tuple[str, ...]
) -> Iterator[_Line]:
    """The entry of a list: what it sets comes first, after the dash."""
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
    """A value that can replace null, if it is short."""
    for model in _models(annotation):
        if all(not field.is_required() for field in model.model_fields.values()):
            text = _flow(model().model_dump(mode="json"))
            if len(text) <= _EXAMPLE:
                return text
    return ""


def _types(annotation: Any) -> tuple[str, ...]:
    """The values that `type` can have there."""
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
    text = yaml.safe_dump(
        to_jsonable_python(value), default_flow_style=True, width=float("inf"), sort_keys=False
    )
    return str(text).removesuffix("...\n").strip()
