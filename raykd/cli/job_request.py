"""What `raykd submit` sends, checked before anything is: the command, its files, its folders, no secrets."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from raykd.cli.options import read_config, recipe_of
from raykd.cli.storing import WORDS, take_imported
from raykd.errors import InputError, Problem

JOBS = ("run", "teachers", "targets", "distill", "evaluate", "sweep", "compare", "ablate")
_HOME = "RAYKD_HOME"
_SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$")
_LEAST_SECRET = 8  # characters; a shorter value is found by chance
_EXCLUDES = ("/runs", "/.raykd", "/wandb")
_STOPPING = {
    "RAY_JOB_STOP_SIGNAL": "SIGINT",  # as Ctrl-C: the driver ends its workers and says how to go on
    "RAY_JOB_STOP_WAIT_TIME_S": "30",
}
_DASHBOARD = re.compile(r"https?://(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?(/[^\s?#]*)?")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Request:
    """A job to be submitted.

    Attributes:
        address: of the cluster's dashboard.
        entrypoint: the shell command of its driver.
        runtime_env: Ray's runtime environment.
        output: the run's folder.
        resume: the arguments that go on with it.
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
        raise InputError(Problem("COMMAND", f"{found}; allowed are {', '.join(JOBS)}"))
    job = parse_job(words)
    output, problems = _output(job)
    problems += _recipe_problems(job)
    address, found_problems = _address(args.address, environ)
    problems += found_problems + _token_problems(environ)
    given, found_problems = _read_runtime_env(args.runtime_env)
    problems += found_problems
    env_vars = {**_STOPPING, _HOME: _home(output, environ), **given.get("env_vars", {})}
    runtime_env = {"working_dir": ".", "excludes": list(_EXCLUDES), **given, "env_vars": env_vars}
    problems += _secret_problems(words, runtime_env, environ)
    if problems:
        raise InputError(problems)
    entrypoint = shlex.join(["python", "-m", "raykd", *words])
    resume = shlex.join([*words, *([] if job.resume else ["--resume"])])
    return Request(address, entrypoint, runtime_env, output, resume)


def unguarded(address: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the cluster is another machine's and asks for no token."""
    return (
        urlsplit(address).hostname not in _LOOPBACK
        and environ.get("RAY_AUTH_MODE", "").lower() != "token"
    )


def _output(job: argparse.Namespace) -> tuple[Path, list[Problem]]:
    """The run's folder, which has to outlive the job's own."""
    path: Path | None = job.output
    if path is None and job.command == "evaluate" and (recipe := recipe_of(job)) is not None:
        path = Path(recipe)  # `evaluate RUN`
    if path is None:
        why = "none given; what a job writes into its own folder is thrown away: name an absolute path that every node sees"
        return Path(), [Problem("--output", why)]
    if "://" in str(path) or str(path).startswith(("s3:", "gs:")):
        why = f"found {path}; a folder is needed: mount the bucket on every node and name the mount"
        return path, [Problem("--output", why)]
    if not path.is_absolute():
        why = f"found {path}, which would lie in the job's own folder, that is thrown away; give an absolute path that every node sees"
        return path, [Problem("--output", why)]
    return path, []


def _recipe_problems(job: argparse.Namespace) -> list[Problem]:
    """The recipe is right, and the cluster gets its files. One that lies in a run's folder is read there."""
    if job.address is not None:
        why = (
            "stands among the job's own arguments; give it before the command: the job uses the cluster "
            "that it is submitted to"
        )
        return [Problem("--address", why)]
    special = job.words[0] if job.words else ""
    if job.command == "targets" and special in WORDS:
        why = f"`targets {special}` reads files and needs no cluster; run it where the store is mounted"
        return [Problem("COMMAND", why)]
    if job.command == "teachers" and special == "rank":
        job.words.pop(0)
    if job.command == "targets" and special == "import":
        take_imported(job)
    recipe = recipe_of(job)
    if job.command == "ablate" and recipe is not None and Path(recipe, "config.json").is_file():
        job.words[job.words.index(recipe)] = recipe = str(Path(recipe, "config.json"))
    of_run = job.command == "evaluate" and job.output is None
    if of_run or (job.resume and recipe is None and not job.layers):
        return []
    problems = [
        Problem("recipe", f"{layer} lies outside the working directory, which is what is sent; move it below, or give "
                "an absolute path that every node sees")
        for layer in [*([recipe] if recipe else []), *job.layers]
        if not Path(layer).is_absolute() and not _below_here(Path(layer))
    ]  # fmt: skip
    try:
        read_config(job)
    except InputError as error:
        problems += error.problems
    return problems


def _below_here(path: Path) -> bool:
    return path.resolve().is_relative_to(Path.cwd().resolve())


def _address(given: str | None, environ: Mapping[str, str]) -> tuple[str, list[Problem]]:
    """Of the dashboard: as given, else $RAY_API_SERVER_ADDRESS, else $RAY_ADDRESS."""
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
    """A token is there where one is to be sent; never shows it."""
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
    """What the file says."""
    if path is None:
        return {}, []
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return {}, [Problem("--runtime-env", f"{path} cannot be read: {error}")]
    if not isinstance(given, dict) or not isinstance(given.get("env_vars", {}), dict):
        why = f"{path} holds no mapping (or its env_vars none); see cluster/runtime_env.yaml"
        return {}, [Problem("--runtime-env", why)]
    from raykd.runtime.jobs import unknown_fields  # imports ray

    if unknown := unknown_fields(given):
        why = (
            f"{path} has keys that Ray does not know: {', '.join(unknown)}; correct or remove them"
        )
        return {}, [Problem("--runtime-env", why)]
    return given, []


def _home(output: Path, environ: Mapping[str, str]) -> str:
    """Where teachers and targets are kept: on the same storage as the run, unless another place is named."""
    named = environ.get(_HOME)
    return named if named and Path(named).is_absolute() else str(output.parent / ".raykd")


def _secret_problems(
    words: Sequence[str], runtime_env: Mapping[str, Any], environ: Mapping[str, str]
) -> list[Problem]:
    """Ray shows runtime environment and command to everyone who may list jobs, and writes them into logs."""
    advice = "secrets come from the nodes' own environment (a Kubernetes Secret, a netrc file), or as a path to a file"
    problems = [
        Problem(f"runtime_env.env_vars.{name}", f"looks like a secret, and Ray shows it to all; {advice}")
        for name in runtime_env["env_vars"]
        if _SECRET.search(str(name).upper())
    ]  # fmt: skip
    sent = json.dumps([list(words), runtime_env], default=str)
    problems += [
        Problem(f"${name}", f"its value stands in the command or the runtime environment; {advice}")
        for name, value in environ.items()
        if _SECRET.search(name.upper()) and len(value) >= _LEAST_SECRET and value in sent
    ]
    return problems
