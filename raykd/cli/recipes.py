"""`raykd recipes`, `init` and `config`: recipes as files; nothing here needs torch or Ray."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import yaml

from raykd.cli.options import Command, add_command, add_recipe, read_config
from raykd.cli.template import recipe_template
from raykd.config import Config, check_search, load_config
from raykd.config.load import recipe_names, recipe_path
from raykd.errors import InputError, Problem


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
        raise InputError(Problem("FILE", f"{file} exists and is not overwritten; name another one"))
    text = recipe_template(load_config(args.recipe), args.recipe)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(Problem("FILE", f"{file} cannot be written: {error}")) from None
    print(f"{file} is written; edit it, then: raykd check {file}")
    return 0


def _show(args: argparse.Namespace) -> int:
    resolved = read_config(args).model_dump(mode="json")
    if args.json:
        print(json.dumps(resolved, indent=2))
    else:
        print(yaml.safe_dump(resolved, sort_keys=False, width=100).rstrip())
    return 0


def _validate(args: argparse.Namespace) -> int:
    config = read_config(args)
    try:
        check_search(config)
    except InputError as error:
        alone = "`raykd sweep` alone reads `search`: other commands take the recipe as it is"
        raise InputError(
            [Problem(p.key, f"{p.message} ({alone})") for p in error.problems]
        ) from None
    fits = config.seeds * (1 + len(config.evaluate.controls))
    print(
        f"ok  {len(config.teachers)} teachers, {fits} student fits; `raykd check` tries it on the data"
    )
    return 0


def _schema(args: argparse.Namespace) -> int:
    del args
    print(json.dumps(Config.model_json_schema(), indent=2))
    return 0
