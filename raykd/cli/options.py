"""Arguments that several commands share, and the recipe that they make."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from raykd.config import Config, load_config
from raykd.config.places import RUNS, check_places
from raykd.errors import InputError, Problem
from raykd.folders import RunFolder, is_locked, is_taken, refuse_links
from raykd.shown import for_terminal

if TYPE_CHECKING:
    from raykd.pipeline import Options
    from raykd.tracking import Console

    Command: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Command = argparse._SubParsersAction

Act = Callable[[argparse.Namespace], int]


def add_command(commands: Command, name: str, act: Act, about: str) -> argparse.ArgumentParser:
    """A command with its help, and the function that runs it."""
    parser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    parser.set_defaults(act=act)
    return parser


def parse_words(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; options may stand between a recipe and its overrides.

    Raises:
        SystemExit: with status 2 when they are wrong, 0 after `--help` or `--version`.
    """
    args, rest = parser.parse_known_args(argv)
    flags = [word for word in rest if word.startswith("-") or not hasattr(args, "words")]
    if flags:
        parser.error(f"unknown arguments: {' '.join(flags)}; --help lists those that are known")
    if hasattr(args, "words"):
        args.words += rest
    return args


def add_recipe(parser: argparse.ArgumentParser, *, or_run: bool = False) -> None:
    """`RECIPE [key.sub=value ...]` and `-c FILE`."""
    also = ", or a run's folder" if or_run else ""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RECIPE [key.sub=value ...]",
        help=f"a YAML file or the name of a packaged recipe{also}; then overrides",
    )
    parser.add_argument(
        "-c",
        dest="layers",
        action="append",
        default=[],
        metavar="FILE",
        help="another recipe, whose settings replace those of the ones before; may be repeated",
    )
    add_trust(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """`--trust`."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run the code that a folder's recipe names, though raykd has not written it here; your own recipes need no "
        "such word",
    )


def add_job(parser: argparse.ArgumentParser, *, or_run: bool = False) -> None:
    """The arguments of every job."""
    add_recipe(parser, or_run=or_run)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="the run's folder; default: runs/<recipe>-<UTC time>",
    )
    add_address(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue in a folder that exists; without a recipe its own config.json is used",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, print it as JSON, start nothing"
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print only failures, and the run's folder at the end"
    )


def add_task(parser: argparse.ArgumentParser) -> None:
    """`--task`."""
    parser.add_argument(
        "--task",
        metavar="MODULE:NAME",
        help="a task of your own that the run is of: an artefact only names it, and is not believed",
    )


def add_student(parser: argparse.ArgumentParser) -> None:
    """`--student`."""
    parser.add_argument(
        "--student",
        metavar="NAME",
        help="one of the run's other students, as the recipe's `students` names it; default: its first one",
    )


def add_address(parser: argparse.ArgumentParser) -> None:
    """`--address`."""
    parser.add_argument(
        "--address",
        help="of a Ray cluster; default: $RAY_ADDRESS, else a local one that ends with the job",
    )


def make_parent(file: Path) -> None:
    """Make the folder that a file will be written to.

    Raises:
        InputError: it cannot be made.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError.at("--output", f"{file.parent} cannot be made: {error}") from None


def address_of(args: argparse.Namespace) -> str | None:
    """The cluster to use; None = a local one of our own."""
    address: str | None = args.address or os.environ.get("RAY_ADDRESS")
    return None if address in (None, "", "local") else address


def overrides_of(args: argparse.Namespace) -> list[str]:
    """The words that are overrides."""
    return [word for word in args.words if "=" in word]


def recipe_of(args: argparse.Namespace) -> str | None:
    """The word that is a recipe.

    Raises:
        InputError: there are several.
    """
    found = [word for word in args.words if "=" not in word]
    if len(found) > 1:
        raise InputError(
            Problem("recipe", f"found {len(found)}: {', '.join(found)}; give one, add others with -c FILE, and write "
                    "overrides as key.sub=value")
        )  # fmt: skip
    return found[0] if found else None


def read_config(args: argparse.Namespace, *, searches: bool = False) -> Config:
    """The recipe that the arguments name, checked; with the keys that it searches, where it is to be searched.

    Raises:
        InputError: no recipe, or a wrong one; with every problem found.
    """
    if getattr(args, "resume", False) and args.output is None:
        raise InputError.at("--resume", "needs --output DIR, the folder of the run to continue")
    recipe = recipe_of(args)
    layers = [*([recipe] if recipe else []), *args.layers]
    if not layers and getattr(args, "resume", False) and args.output is not None:
        refuse_links(args.output)
        layers = [RunFolder(args.output).recipe]
        if not layers[0].is_file():
            raise InputError.at(
                "--resume", f"{args.output} is no run's folder: it has no config.json"
            )
    if not layers:
        raise InputError(
            Problem("recipe", "none given; name a file or a packaged recipe (`raykd recipes` lists them)")
        )  # fmt: skip
    return load_config(layers, overrides_of(args), searches=searches, trust=args.trust)


def new_output(args: argparse.Namespace) -> Path:
    """A new folder, named after the recipe and claimed until the command ends."""
    from raykd.pipeline.session import new_run_folder

    recipe = recipe_of(args) or (args.layers[-1] if args.layers else "run")
    return new_run_folder(Path(recipe).stem)


def job_options(args: argparse.Namespace, until: str | None = None) -> Options:
    """How to run the job; gives it an output folder if the arguments name none."""
    from raykd.pipeline import Options

    args.output = args.output or new_output(args)
    return Options(output=args.output, address=address_of(args), resume=args.resume, until=until)


@contextmanager
def early_engine(args: argparse.Namespace, config: Config) -> Iterator[None]:
    """Ray starts while torch is imported, unless it is seen already that nothing will be run."""
    output: Path | None = args.output
    if output is not None and ((is_taken(output) and not args.resume) or is_locked(output)):
        yield
        return
    check_places(config, output or RUNS)
    from raykd.objects import refuse_lost
    from raykd.runtime import check_machine, engine

    refuse_lost(config.objects)
    if address_of(args) is None:
        check_machine()
    with engine(address_of(args), config, resume=args.resume):
        yield


def open_console(*, quiet: bool = False) -> Console:
    """A console on stdout."""
    from raykd.tracking import Console

    return Console(quiet=quiet, stream=sys.stdout)


def show_table(
    console: Console, cells: Sequence[Mapping[str, Any]], title: str, sentences: Sequence[str] = ()
) -> None:
    """A table with its title, then sentences below it."""
    console.print("")
    console.table(cells, title=title)
    if sentences:
        console.print("\n" + "\n".join(sentences))


def print_json(value: Any) -> None:
    """A value for another program, on stdout."""
    print(json.dumps(value, indent=2))


def print_text(text: str) -> None:
    """A text with names that others gave, on stdout."""
    print(for_terminal(text))


def print_error(text: str) -> None:
    """A text on stderr."""
    print(for_terminal(text), file=sys.stderr, flush=True)
