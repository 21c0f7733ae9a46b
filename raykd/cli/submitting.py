"""`raykd submit`: any job on a running cluster, through Ray Jobs, with the exit code of its driver."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.cli.options import Command, add_command, parse_words

if TYPE_CHECKING:
    from raykd.cli.job_request import Request
    from raykd.runtime.jobs import Ended, Follower, Jobs


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
        "--no-wait", action="store_true", help="print the job's id and leave; the job goes on"
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
        from raykd.cli.job_request import make_request, unguarded

        request = make_request(args, args.parse_job)
    except SystemExit as end:  # argparse has said what is wrong with the job's arguments
        return end.code if isinstance(end.code, int) else 2
    from raykd.runtime.jobs import Follower, Jobs

    if unguarded(request.address):
        _tell(f"warning: {request.address} is another machine, and RAY_AUTH_MODE is not token: whoever "
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
    """Until it ends. Ctrl-C stops the job; a second one leaves at once."""
    try:
        return follower.follow()
    except KeyboardInterrupt:
        _tell(f"stopping {job}; Ctrl-C again leaves it to itself")
        jobs.stop(job)
        return follower.follow()


def _report(ended: Ended, job: str, request: Request) -> int:
    from raykd.runtime.jobs import STOPPED

    if ended.message:
        _tell(f"error  job {job}: {ended.message}")
    if ended.exit_code == STOPPED:
        _tell(f"stopped; go on with: raykd submit --address {request.address} {request.resume}")
    return ended.exit_code


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
