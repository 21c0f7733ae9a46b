"""`raykd`: parse, run one command, return its exit code.

0 done; 1 the run failed; 2 the input is wrong; 3 done, but an `evaluate.require` does not hold;
130 interrupted; 143 and 129 ended by SIGTERM and SIGHUP.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from raykd import __version__
from raykd.cli import (
    checking,
    comparing,
    explaining,
    jobs,
    models,
    predicting,
    recipes,
    results,
    submitting,
)
from raykd.cli.ending import ends_at_signals, signalled
from raykd.cli.options import Command, parse_words, print_error
from raykd.disks import disk_error, is_full, write_whole
from raykd.errors import DiskError, InputError, Problem, RaykdError
from raykd.folders import release_all
from raykd.limits import too_little_memory
from raykd.tasks import find_task

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130
_GROUPS = (jobs, comparing, results, predicting, explaining, checking, models, recipes, submitting)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        args = parse(given)
    except SystemExit as end:  # argparse has printed why
        return end.code if isinstance(end.code, int) else WRONG_INPUT
    with ends_at_signals(lambda: print_error(_how_to_resume(args))):
        return _act(args)


def _act(args: argparse.Namespace) -> int:
    """Run the command; its exit code, after it has told what went wrong."""
    try:
        if getattr(args, "task", None):
            find_task(args.task, key="--task")
        code = int(args.act(args))
        sys.stdout.flush()  # what has no room is to be found here
    except InputError as error:
        if _debugs() and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        return _refuse(error.problems)
    except KeyboardInterrupt:
        if not signalled():  # which says so itself
            print_error(_how_to_resume(args))
        return INTERRUPTED
    except BrokenPipeError:  # `raykd … | head`: nobody reads the rest
        _forget_output()
        return FAILED
    except Exception as error:  # noqa: BLE001 (the outermost frame: it reports and ends)
        return _failed(error, args)
    else:
        return code
    finally:
        release_all()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; options may stand between a recipe and its overrides.

    Raises:
        SystemExit: with status 2 when they are wrong, 0 after `--help` or `--version`.
    """
    parser = argparse.ArgumentParser(
        prog="raykd",
        description="Distil an ensemble of teachers into one small student.",
        epilog="`raykd COMMAND --help` says more. Start with `raykd run digits`.",
    )
    parser.add_argument("--version", action="version", version=f"raykd {__version__}")
    commands: Command = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for group in _GROUPS:
        group.add(commands)
    return parse_words(parser, argv)


def _refuse(problems: Sequence[Problem]) -> int:
    """One line for each; the exit code."""
    for problem in problems:
        print_error(f"error  {' '.join(str(problem).split())}")
    return WRONG_INPUT


def _failed(error: Exception, args: argparse.Namespace) -> int:
    """Tell what nobody expected; the exit code."""
    if isinstance(error, ImportError | MemoryError) and (problems := [*too_little_memory()]):
        return _refuse(problems)  # torch or a library of its had no room
    if not signalled():  # which Ray's processes may have received first
        _report(error, args)
    return FAILED


def _debugs() -> bool:
    """Whether tracebacks are wanted."""
    return os.environ.get("RAYKD_DEBUG", "") not in ("", "0")


def _report(error: Exception, args: argparse.Namespace) -> None:
    """One clear message; the traceback only on request, or as a file."""
    if debug := _debugs():
        traceback.print_exception(error)
    if isinstance(error, OSError) and is_full(error):
        error = _told(error)
    ours = isinstance(error, RaykdError)
    text = f"{type(error).__name__}: {error} (this is an error in raykd, or in your own code)"
    print_error(f"error  {' '.join(str(error).split()) if ours else text}")
    for note in getattr(error, "__notes__", ()):
        print_error(f"       {note}")
    if ours:
        return
    run = _run_folder(args)
    if run is not None:
        file = run / "traceback.txt"
        with suppress(DiskError):  # that it went wrong matters less than why
            lines = "".join(traceback.format_exception(error))
            write_whole(file, [lines.encode()], durable=False)
            print_error(f"       traceback: {file}")
    elif not debug:
        print_error("       RAYKD_DEBUG=1 shows the traceback")


def _told(error: OSError) -> DiskError:
    """A full disk that no part of raykd has told of."""
    if error.filename is not None:
        return disk_error(Path(os.fsdecode(error.filename)), error)
    _forget_output()  # else it would be written once more, and fail again, when Python ends
    return DiskError(
        f"standard output, or a file without a name, cannot be written: {error.strerror or error}"
    )


def _forget_output() -> None:
    """What is still to be written to standard output goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _how_to_resume(args: argparse.Namespace) -> str:
    run = _run_folder(args)
    if run is None:
        return "interrupted"
    address = f" --address {args.address}" if args.address else ""
    return f"interrupted; continue with: raykd {args.command} --resume --output {run}{address}"


def _run_folder(args: argparse.Namespace) -> Path | None:
    """The run's folder that a command works on, once it exists."""
    path = getattr(args, "output", None) if hasattr(args, "resume") else None
    return path if path is not None and (path / "config.json").is_file() else None
