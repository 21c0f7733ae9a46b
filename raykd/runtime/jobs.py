"""Ray Jobs: submit a command, follow its log, stop it, and learn the exit code of its driver."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.runtime_env import RuntimeEnv

from raykd.errors import InputError, Problem, RaykdError

FAILED, STOPPED = 1, 130
_REQUEST_TIMEOUT_S = 60.0
_SILENCE_S = 30.0
_LOST_TIMEOUT_S = 120.0
_POLL_S = 0.5
_SIGNALLED = 128
_NOISY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_LOST = (requests.RequestException, aiohttp.ClientError, RuntimeError, OSError, TimeoutError)


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        exit_code: of its driver, 128 + n where signal n ended it; 130 of a job that was stopped; 1 of one
            whose driver never started or was lost.
        message: from Ray, if the driver has no exit code of its own.
    """

    exit_code: int
    message: str = ""


class _Client(JobSubmissionClient):  # type: ignore[misc] # ray is untyped
    """Ray's client with a timeout; its requests would otherwise wait for ever."""

    def _do_request(self, *args: Any, **kwargs: Any) -> Any:
        return super()._do_request(*args, **{"timeout": _REQUEST_TIMEOUT_S, **kwargs})


class Jobs:
    """The job server of one cluster.

    Args:
        address: of its dashboard, `http(s)://host:port`. Ray's client prefers $RAY_API_SERVER_ADDRESS and
            $RAY_ADDRESS to it: the caller must make them agree.

    Raises:
        InputError: nothing answers there, or the token is missing or wrong.
    """

    def __init__(self, address: str) -> None:
        for name in _NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            self._client = _Client(address)
        except AuthenticationError as error:
            raise InputError(
                Problem("--address", f"{address} refuses the token ({_first_line(error)}); set RAY_AUTH_MODE=token and "
                        "RAY_AUTH_TOKEN_PATH to the file that holds the cluster's token")
            ) from error  # fmt: skip
        except (*_LOST, ValueError) as error:
            raise InputError(
                Problem("--address", f"no Ray dashboard answers at {address} ({_first_line(error)}); give that of the head "
                        "node, http://HOST:8265 unless --dashboard-port was given")
            ) from error  # fmt: skip

    def submit(self, entrypoint: str, runtime_env: Mapping[str, Any]) -> str:
        """Send the working directory and start the job; its id.

        Raises:
            InputError: the runtime environment is wrong, or the working directory too large.
            RaykdError: the cluster does not accept it.
        """
        try:
            job: str = self._client.submit_job(entrypoint=entrypoint, runtime_env=dict(runtime_env))
        except (ValueError, TypeError) as error:
            raise InputError(
                Problem("--runtime-env", f"Ray refuses the job: {_first_line(error)}; correct the file, or list what need not be "
                        "sent in .rayignore")
            ) from error  # fmt: skip
        except _LOST as error:
            raise RaykdError(
                f"the cluster does not accept the job: {_first_line(error)}"
            ) from error
        return job

    def stop(self, job: str) -> None:
        """Ask the job to stop; returns at once."""
        self._client.stop_job(job)

    def tail(self, job: str) -> AsyncGenerator[str, None]:
        """The job's log from its beginning, in parts as it grows."""
        log: AsyncGenerator[str, None] = self._client.tail_job_logs(job)
        return log

    def ended(self, job: str) -> Ended | None:
        """How the job ended; None while it runs."""
        details = self._client.get_job_info(job)
        if not details.status.is_terminal():
            return None
        if details.status == JobStatus.STOPPED:
            return Ended(STOPPED)
        code = details.driver_exit_code
        if code is None:
            return Ended(FAILED, details.message or "the driver ended without an exit code")
        return Ended(code if code >= 0 else _SIGNALLED - code)


class Follower:
    """Writes a job's log as it grows, each part once, even if connections break meanwhile.

    Args:
        jobs: where it runs.
        job: its id.
        write: receives the text.
    """

    def __init__(self, jobs: Jobs, job: str, write: Callable[[str], None]) -> None:
        self._jobs, self._job, self._write = jobs, job, write
        self._written = 0

    def follow(self) -> Ended:
        """Until the job ends.

        Raises:
            RaykdError: the cluster no longer answers.
            KeyboardInterrupt: Ctrl-C; `follow` may be called again.
        """
        answered_s = time.monotonic()
        while True:
            asyncio.run(self._tail())
            try:
                ended = self._jobs.ended(self._job)
                if ended is not None:
                    return ended
                answered_s = time.monotonic()
            except _LOST as error:
                if time.monotonic() - answered_s > _LOST_TIMEOUT_S:
                    raise RaykdError(
                        f"the cluster has not answered for {_LOST_TIMEOUT_S:g} s ({_first_line(error)}); job "
                        f"{self._job} may still run: check with `ray job status {self._job}`"
                    ) from error
            time.sleep(_POLL_S)

    async def _tail(self) -> None:
        """Write what is new, until the log ends, is quiet for a while, or the connection is lost."""
        seen = 0
        async with aclosing(self._jobs.tail(self._job)) as log:
            try:
                while True:
                    text = await asyncio.wait_for(anext(log), _SILENCE_S)
                    new = text[max(0, self._written - seen) :]
                    seen += len(text)
                    self._written = max(self._written, seen)
                    if new:
                        self._write(new)
            except (StopAsyncIteration, *_LOST):
                return


def unknown_fields(runtime_env: Mapping[str, Any]) -> list[str]:
    """Keys that Ray would ignore with a warning."""
    return sorted(set(runtime_env) - set(RuntimeEnv.known_fields))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
