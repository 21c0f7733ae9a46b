"""`raykd submit`: any job on a running cluster, through Ray Jobs, with the exit code of its driver.

What is sent is checked before: the command, its files, its folders, and that there are no secrets in it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from raykd.cli.ending import signalled
from raykd.cli.options import (
    Command,
    add_command,
    parse_words,
    print_error,
    read_config,
    recipe_of,
)
from raykd.cli.storing import WORDS, take_imported
from raykd.config.yaml_text import read_yaml
from raykd.errors import InputError, Problem
from raykd.masking import LEAST_SECRET, SECRET_NAME, SECRET_VALUE

if TYPE_CHECKING:
    from raykd.runtime.jobs import Ended, Follower, Jobs

JOBS = ("run", "teachers", "targets", "distill", "evaluate", "sweep", "compare", "ablate")
_HOME = "RAYKD_HOME"
_PLAIN_NAMES = ("KEY", "TOKEN", "PASS", "PAT")
"""Names in a recipe that may well be something else."""
_EXCLUDES = ("/runs", "/.raykd", "/wandb")
_NEVER_SENT = (
    ".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*",
    ".netrc", "_netrc", ".pgpass", ".pypirc", ".git-credentials", ".git/", ".ssh/", ".aws/", ".gnupg/", ".kube/", ".azure/",
    "gcloud/",
)  # fmt: skip
"""Patterns of files that hold secrets; as in .gitignore, at any depth."""
_GIT_S = 30
_SPECIAL = re.compile(r"([\\*?\[ ])")
"""What a pattern of .gitignore takes for more than itself."""
_STOPPING = {
    "RAY_JOB_STOP_SIGNAL": "SIGINT",  # as Ctrl-C: the driver ends its workers and prints how to continue
    "RAY_JOB_STOP_WAIT_TIME_S": "30",
}
_DASHBOARD = re.compile(r"https?://(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?(/[^\s?#]*)?")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add(commands: Command) -> None:
    """The command of this module."""
    about = (
        "run one of these commands on a running cluster, follow its log, and end with its exit code"
    )
    parser = add_command(commands, "submit", _submit, about)
    parser.add_argument(
        "--address",
        metavar="URL",
        help="the cluster's dashboard, http://HOST:8265; default: $RAY_API_SERVER_ADDRESS, else $RAY_ADDRESS",
    )
    parser.add_argument(
        "--runtime-env",
        type=Path,
        metavar="FILE",
        help="Ray runtime environment, e.g. cluster/runtime_env.yaml; the working directory is sent",
    )
    parser.add_argument(
        "--no-wait", action="store_true", help="print the job's id and leave; the job continues"
    )
    parser.add_argument(
        "job",
        nargs=argparse.REMAINDER,
        metavar="COMMAND ...",
        help="e.g. `run digits --output /shared/runs/digits`",
    )
    parser.set_defaults(parse_job=partial(_parse_job, commands))


def _parse_job(commands: Command, words: Sequence[str]) -> argparse.Namespace:
    args = parse_words(commands.choices[words[0]], words[1:])
    args.command = words[0]
    return args


def _submit(args: argparse.Namespace) -> int:
    try:
        request = make_request(args, args.parse_job)
    except SystemExit as end:  # argparse has printed what is wrong with the job's arguments
        return end.code if isinstance(end.code, int) else 2
    from raykd.runtime.jobs import Follower, Jobs

    if unguarded(request.address):
        print_error(f"warning: {request.address} is another machine, and RAY_AUTH_MODE is not token: whoever "
              "reaches it can run code there")  # fmt: skip
    os.environ["RAY_API_SERVER_ADDRESS"] = request.address  # Ray prefers it to its own argument
    jobs = Jobs(request.address)
    job = jobs.submit(request.entrypoint, request.runtime_env)
    home = request.runtime_env["env_vars"]["RAYKD_HOME"]
    print(f"job {job} on {request.address}; teachers and targets are kept in {home}", flush=True)
    if args.no_wait:
        return 0
    return _report(_follow(jobs, job, Follower(jobs, job, _write)), job, request)


def _follow(jobs: Jobs, job: str, follower: Follower) -> Ended:
    """Until the job ends. Ctrl-C stops it; a second Ctrl-C leaves at once, as do other signals, which stop nothing."""
    try:
        return follower.follow()
    except KeyboardInterrupt:
        if signalled():
            print_error(f"job {job} goes on; follow it with: ray job logs --follow {job}")
            raise
        print_error(f"stopping {job}; Ctrl-C again leaves at once")
        jobs.stop(job)
        return follower.follow()


def _report(ended: Ended, job: str, request: Request) -> int:
    from raykd.runtime.jobs import STOPPED

    if ended.message:
        print_error(f"error  job {job}: {ended.message}")
    if ended.exit_code == STOPPED:
        print_error(
            f"stopped; continue with: raykd submit --address {request.address} {request.resume}"
        )
    return ended.exit_code


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@dataclass(frozen=True)
class Request:
    """A job to be submitted.

    Attributes:
        address: of the cluster's dashboard.
        entrypoint: the shell command of its driver.
        runtime_env: Ray's runtime environment.
        output: the run's folder.
        resume: the arguments that continue it.
    """

    address: str
    entrypoint: str
    runtime_env: Mapping[str, Any]
    output: Path
    resume: str


def make_request(
    args: argparse.Namespace,
    parse_job: Callable[[Sequence[str]], argparse.Namespace],
    environ: Mapping[str, str] = os.environ,
) -> Request:
    """The checked request.

    Args:
        args: of `raykd submit`.
        parse_job: parses the job's own arguments.
        environ: this process's environment.

    Raises:
        InputError: with every problem found.
    """
    words = list(args.job)
    if not words or words[0] not in JOBS:
        found = f"found {words[0]!r}" if words else "none given"
        raise InputError.at("COMMAND", f"{found}; allowed are {', '.join(JOBS)}")
    job = parse_job(words)
    output, problems = _output(job)
    found_problems, recipe = _recipe_problems(job)
    problems += found_problems
    address, found_problems = _address(args.address, environ)
    problems += found_problems + _token_problems(environ)
    given, found_problems = _read_runtime_env(args.runtime_env)
    problems += found_problems
    env_vars = {**_STOPPING, _HOME: _home(output, environ), **given.get("env_vars", {})}
    runtime_env = {"working_dir": ".", "excludes": list(_EXCLUDES), **given, "env_vars": env_vars}
    runtime_env["excludes"] = [
        *(runtime_env["excludes"] or ()),
        *ignored_by_git(str(runtime_env["working_dir"])),
        *_NEVER_SENT,
    ]
    problems += _secret_problems(words, runtime_env, recipe, environ)
    if problems:
        raise InputError(problems)
    entrypoint = shlex.join(["python", "-m", "raykd", *words])
    resume = shlex.join([*words, *([] if job.resume else ["--resume"])])
    return Request(address, entrypoint, runtime_env, output, resume)


def unguarded(address: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the cluster is on another machine and requires no token."""
    return (
        urlsplit(address).hostname not in _LOOPBACK
        and environ.get("RAY_AUTH_MODE", "").lower() != "token"
    )


def _output(job: argparse.Namespace) -> tuple[Path, list[Problem]]:
    """The run's folder, which must outlive the job's working directory."""
    path: Path | None = job.output
    if path is None and job.command == "evaluate" and (recipe := recipe_of(job)) is not None:
        path = Path(recipe)  # `evaluate RUN`
    absolute = "give an absolute path that every node sees"
    if path is None:
        why = f"none given, and a job's working directory is deleted; {absolute}"
    elif "://" in str(path) or str(path).startswith(("s3:", "gs:")):
        why = f"found {path}; a folder is needed: mount the bucket on every node and name the mount"
    elif not path.is_absolute():
        why = f"found {path}, which would be in the job's working directory, which is deleted; {absolute}"
    else:
        return path, []
    return path or Path(), [Problem("--output", why)]


def ignored_by_git(folder: str) -> list[str]:
    """Patterns of what git ignores in a folder: also by a .gitignore above it, which Ray does not read.

    Args:
        folder: of a working tree; none where it is no such folder, or there is no git.
    """
    command = [
        "git",
        "ls-files",
        "--others",
        "--ignored",
        "--exclude-standard",
        "--directory",
        "-z",
    ]
    try:
        found = subprocess.run(  # noqa: S603
            command, cwd=folder, capture_output=True, timeout=_GIT_S, check=True, text=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []
    return ["/" + _SPECIAL.sub(r"\\\1", name) for name in found.stdout.split("\0") if name]


def _recipe_problems(job: argparse.Namespace) -> tuple[list[Problem], Mapping[str, Any]]:
    """Whether the recipe is right and the cluster gets its files, and what it says. One in a run's folder is read there."""
    if job.address is not None:
        why = "is among the job's own arguments; give it before the command: the job uses the cluster that it is submitted to"
        return [Problem("--address", why)], {}
    special = job.words[0] if job.words else ""
    if job.command == "targets" and special in WORDS:
        why = f"`targets {special}` reads files and needs no cluster; run it where the store is mounted"
        return [Problem("COMMAND", why)], {}
    if job.command == "teachers" and special == "rank":
        job.words.pop(0)
    if job.command == "targets" and special == "import":
        take_imported(job)
    recipe = recipe_of(job)
    if job.command == "ablate" and recipe is not None and Path(recipe, "config.json").is_file():
        job.words[job.words.index(recipe)] = recipe = str(Path(recipe, "config.json"))
    of_run = job.command == "evaluate" and job.output is None
    if of_run or (job.resume and recipe is None and not job.layers):
        return [], {}
    problems = [
        Problem("recipe", f"{layer} is outside the working directory, and only that is sent; move it there, or give "
                "an absolute path that every node sees")
        for layer in [*([recipe] if recipe else []), *job.layers]
        if not Path(layer).is_absolute() and not _below_here(Path(layer))
    ]  # fmt: skip
    try:
        config = read_config(job)
    except InputError as error:
        return problems + list(error.problems), {}
    problems += [
        Problem(key, f"is an object of a Python process ({one.describes}), which cannot be submitted; call raykd.run "
                "from a process that has it, with Options(address=...) for the cluster")
        for key, one in config.objects.items()
    ]  # fmt: skip
    return problems, config.model_dump(mode="json")


def _below_here(path: Path) -> bool:
    return path.resolve().is_relative_to(Path.cwd().resolve())


def _address(given: str | None, environ: Mapping[str, str]) -> tuple[str, list[Problem]]:
    """The dashboard's address: as given, else $RAY_API_SERVER_ADDRESS, else $RAY_ADDRESS."""
    name, address = "--address", given
    for variable in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if address is None and environ.get(variable):
            name, address = f"${variable}", environ[variable]
    needed = "the dashboard of the head node, http://HOST:8265"
    if address is None:
        return "", [Problem("--address", f"none given; name {needed}")]
    if _DASHBOARD.fullmatch(address):
        return address.rstrip("/"), []
    return address, [Problem(name, f"found {address!r}; needed is {needed}")]


def _token_problems(environ: Mapping[str, str]) -> list[Problem]:
    """Whether there is a token if one must be sent; never shows it."""
    if environ.get("RAY_AUTH_MODE", "").lower() != "token" or environ.get("RAY_AUTH_TOKEN"):
        return []
    given = environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(given) if given else Path(environ.get("HOME", "~")).expanduser() / ".ray/auth_token"
    if file.is_file():
        return []
    name = "RAY_AUTH_TOKEN_PATH" if given else "RAY_AUTH_MODE"
    return [
        Problem(f"${name}", f"no token in {file}; put the cluster's token into a file that only you can read and set "
                "RAY_AUTH_TOKEN_PATH to its path")
    ]  # fmt: skip


def _read_runtime_env(path: Path | None) -> tuple[dict[str, Any], list[Problem]]:
    """The content of the file."""
    if path is None:
        return {}, []
    try:
        given = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError, InputError) as error:
        return {}, [Problem("--runtime-env", f"{path} cannot be read: {error}")]
    if not isinstance(given, dict) or not isinstance(given.get("env_vars", {}), dict):
        why = f"{path}, or its env_vars, is not a mapping; see cluster/runtime_env.yaml"
        return {}, [Problem("--runtime-env", why)]
    from raykd.runtime.jobs import unknown_fields  # imports ray

    if unknown := unknown_fields(given):
        why = f"{path} has keys unknown to Ray: {', '.join(unknown)}; correct or remove them"
        return {}, [Problem("--runtime-env", why)]
    return given, []


def _home(output: Path, environ: Mapping[str, str]) -> str:
    """Where teachers and targets are kept: on the same storage as the run, unless RAYKD_HOME names a folder."""
    home = environ.get(_HOME)
    return home if home and Path(home).is_absolute() else str(output.parent / ".raykd")


def _secret_problems(
    words: Sequence[str],
    runtime_env: Mapping[str, Any],
    recipe: Mapping[str, Any],
    environ: Mapping[str, str],
) -> list[Problem]:
    """Ray shows runtime environment and command to everyone who can list jobs, and writes them into logs.

    What a recipe says is kept in the run's folder, too.
    """
    advice = "secrets come from the nodes' own environment (a Kubernetes Secret, a netrc file), or as a path to a file"
    variables, others = runtime_env["env_vars"], {**runtime_env, "env_vars": {}}
    shown = f"looks like a secret, and Ray shows it to everyone; {advice}"
    leaves = {
        **{f"runtime_env.env_vars.{name}": value for name, value in variables.items()},
        **dict(_leaves(others, "runtime_env")),
        **dict(_leaves(recipe, "")),
        **{f"COMMAND, word {place}": word for place, word in enumerate(words, start=1)},
    }
    problems = [
        Problem(key, shown)
        for key, value in leaves.items()
        if _is_secret_name(key, value, variables) or SECRET_VALUE.search(str(value))
    ]
    sent = json.dumps([list(words), runtime_env, recipe], default=str)
    problems += [
        Problem(f"${name}", f"its value is in the command, the recipe or the runtime environment; {advice}")
        for name, value in environ.items()
        if SECRET_NAME.search(name.upper()) and len(value) >= LEAST_SECRET and value in sent
    ]  # fmt: skip
    return problems


def _is_secret_name(key: str, value: Any, variables: Mapping[str, Any]) -> bool:
    """Whether a variable, or a text of the recipe, is called like a secret."""
    name = key.rpartition(".")[2].upper()
    if not SECRET_NAME.search(name):
        return False
    forwarded = key.startswith("runtime_env.env_vars.") and key.rpartition(".")[2] in variables
    return forwarded or (name not in _PLAIN_NAMES and isinstance(value, str) and bool(value))


def _leaves(tree: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of all that is no mapping and no list."""
    pairs = (
        tree.items() if isinstance(tree, Mapping)
        else enumerate(tree) if isinstance(tree, list | tuple)
        else None
    )  # fmt: skip
    if pairs is None:
        yield key, tree
        return
    for name, value in pairs:
        yield from _leaves(value, f"{key}.{name}".lstrip("."))
