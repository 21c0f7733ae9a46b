"""Weights & Biases: the driver's copy of the run, which may be late or lost but never in the way.

The run belongs to one thread. Events are put into a bounded queue and never waited for; whatever
wandb does (raise, hang, lose the network), training goes on and `metrics.jsonl` has every number.
"""

from __future__ import annotations

import hashlib
import netrc
import os
import queue
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from raykd.config.root import Wandb
from raykd.tracking.events import Event
from raykd.tracking.listeners import LogVoice, Voice
from raykd.tracking.shape import epoch_row, flat_numbers, mask, shallow

_ID_FILE = "raykd_run_id"
_CLOUD = "https://api.wandb.ai"

_Call = Callable[[Any], None]
"""What is done with the run, in the run's own thread."""


@dataclass(frozen=True)
class Limits:
    """How long and how much W&B may keep a run waiting.

    Attributes:
        init_timeout_s: longest wait for a run to open.
        finish_timeout_s: longest wait, at the end, for what is left to be sent.
        waiting_rows: rows that may wait to be handed over; more are left out, and counted.
    """

    init_timeout_s: float = 20.0
    finish_timeout_s: float = 30.0
    waiting_rows: int = 10_000


class WandbSink:
    """A listener that mirrors epochs, fits and the summary to one W&B run.

    Metrics are called `<fit>/<metric>` and plotted against `<fit>/epoch`; the run's summary holds the
    numbers of `summary.json` (best, not last). The first failure is reported once and ends the
    mirror; it is never raised. Without a key the run is kept offline.

    Args:
        settings: of the recipe; its mode must not be "disabled" (see `make_wandb`).
        run_dir: the run folder; W&B writes to `wandb/` in it.
        run_name: shown name.
        config: resolved config.
        job_type: "run", "trial", ...
        run_id: the W&B id, which makes a resumed run go on in the same one; None = made on the first
            start in this folder and kept there.
        voice: where a failure and the sync command are told; None = the log.
        limits: how long W&B may take.

    Attributes:
        sync_command: what uploads an offline run, with every part that resuming left; None until
            it is open, and when online.
    """

    def __init__(
        self,
        settings: Wandb,
        *,
        run_dir: Path,
        run_name: str,
        config: Mapping[str, Any],
        job_type: str = "run",
        run_id: str | None = None,
        voice: Voice | None = None,
        limits: Limits = Limits(),
    ) -> None:
        assert settings.mode != "disabled", "a disabled sink is not made; use make_wandb"
        self.sync_command: str | None = None
        self._voice: Voice = voice or LogVoice()
        self._limits = limits
        self._secrets = _secrets()
        self._mode = self._choose_mode(settings.mode)
        self._fits: set[str] = set()
        self._failures = 0
        self._left_out = 0
        self._problem: str | None = None
        self._reported = False
        self._closed = False
        self._opened = threading.Event()
        self._queue: queue.Queue[_Call | None] = queue.Queue(limits.waiting_rows)
        run_dir = run_dir.resolve()
        options: dict[str, Any] = {
            "dir": str(run_dir),
            "project": settings.project,
            "entity": settings.entity,
            "group": settings.group,
            "tags": list(settings.tags),
            "name": run_name,
            "job_type": job_type,
            "config": shallow(config, secrets=self._secrets),
        }
        self._started = time.monotonic()
        self._thread = threading.Thread(
            target=self._work, args=(run_dir, run_id, options), name="raykd-wandb", daemon=True
        )
        self._thread.start()

    def on(self, event: Event) -> None:
        """Queue what W&B should know of the event; returns at once."""
        if event.kind == "failure":
            self._failures += 1
        if event.fit is None or event.kind not in {"epoch", "fit"} or self._gave_up():
            return
        if event.kind == "epoch":
            row = epoch_row(event)
            if event.fit not in self._fits:
                self._fits.add(event.fit)
                self._submit(_definition(event.fit))
            self._submit(lambda run: run.log(row))
        elif event.values.get("state") in {"finished", "reused", "stopped"}:
            best = flat_numbers(event.values.get("metrics") or {}, f"{event.fit}/best/")
            self._submit(lambda run: run.summary.update(best))

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """Send the summary and end the run, within the limits; None = the run failed."""
        if self._closed:
            return
        self._closed = True
        if not self._gave_up():
            self._finish(summary)
        if self._problem is None and self._left_out:
            self._problem = f"it was too slow for {self._left_out:,} rows"
        self._gave_up()
        if self.sync_command is not None:
            self._voice.say(f"W&B is offline; upload this run with\n  {self.sync_command}")

    def _finish(self, summary: Mapping[str, Any] | None) -> None:
        numbers = flat_numbers(summary or {}) | {"failures": self._failures}
        failed = summary is None or summary.get("status") == "failed"

        def end(run: Any) -> None:
            run.summary.update(numbers)
            run.finish(exit_code=1 if failed else 0)

        opening = max(0.0, self._started + self._limits.init_timeout_s - time.monotonic())
        wait = self._limits.finish_timeout_s + (0.0 if self._opened.is_set() else opening)
        deadline = time.monotonic() + wait
        try:
            self._queue.put(end, timeout=wait)
            self._queue.put(None, timeout=max(0.01, deadline - time.monotonic()))
        except queue.Full:
            self._left_out += 1
        self._thread.join(max(0.01, deadline - time.monotonic()))
        if self._thread.is_alive() and self._problem is None:
            doing = "end" if self._opened.is_set() else "open"
            self._problem = f"the run did not {doing} within {wait:.0f} s"

    def _submit(self, call: _Call) -> None:
        try:
            self._queue.put_nowait(call)
        except queue.Full:
            self._left_out += 1

    def _gave_up(self) -> bool:
        if self._problem is not None and not self._reported:
            self._reported = True
            self._voice.warn(
                f"W&B is incomplete: {mask(self._problem, self._secrets)}; "
                "the run goes on, metrics.jsonl has every number"
            )
        return self._problem is not None

    def _work(self, run_dir: Path, run_id: str | None, options: dict[str, Any]) -> None:
        try:
            run = self._open(run_dir, run_id or _kept_id(run_dir), options)
            self._opened.set()
            while (call := self._queue.get()) is not None:
                call(run)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not stop the run
            self._problem = f"{type(error).__name__}: {error}"

    def _open(self, run_dir: Path, run_id: str, options: dict[str, Any]) -> Any:
        import wandb  # heavy, and only needed here

        settings = wandb.Settings(
            console="off",
            silent=True,
            init_timeout=self._limits.init_timeout_s,
            login_timeout=self._limits.init_timeout_s,
            finish_timeout=self._limits.finish_timeout_s,
            disable_git=True,  # environment.json has it; a remote's address may hold a password
            disable_code=True,
        )
        run = wandb.init(
            **options,
            id=run_id,
            resume="allow",
            mode=self._mode,
            reinit="create_new",
            settings=settings,
        )
        if self._mode == "offline":
            parts = {str(path) for path in (run_dir / "wandb").glob(f"offline-run-*-{run_id}")}
            parts.add(str(Path(run.dir).parent))
            self.sync_command = shlex.join(["wandb", "sync", *sorted(parts)])
        return run

    def _choose_mode(self, mode: str) -> Literal["online", "offline"]:
        if mode != "offline" and has_key():
            return "online"
        if mode == "online":
            self._voice.warn(
                "tracking.wandb.mode is online, but there is no W&B key, so this run is kept "
                "offline; set WANDB_API_KEY or call `wandb login`"
            )
        return "offline"


def make_wandb(
    settings: Wandb,
    *,
    run_dir: Path,
    run_name: str,
    config: Mapping[str, Any],
    job_type: str = "run",
    run_id: str | None = None,
    voice: Voice | None = None,
) -> WandbSink | None:
    """The sink that the settings ask for; None where W&B is disabled."""
    if settings.mode == "disabled":
        return None
    return WandbSink(
        settings,
        run_dir=run_dir,
        run_name=run_name,
        config=config,
        job_type=job_type,
        run_id=run_id,
        voice=voice,
    )


def has_key() -> bool:
    """Whether W&B would find a key without asking: in the environment or the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    given = os.environ.get("NETRC")
    candidates = [given] if given else ["~/.netrc", "~/_netrc"]
    hosts = {urlsplit(os.environ.get("WANDB_BASE_URL") or _CLOUD).netloc, urlsplit(_CLOUD).netloc}
    for candidate in candidates:
        path = Path(candidate).expanduser()
        try:
            known = netrc.netrc(path).hosts
        except (OSError, netrc.NetrcParseError):
            continue
        return any(host in known and known[host][2] for host in hosts)
    return False


def _definition(fit: str) -> _Call:
    def define(run: Any) -> None:
        # summary "none": W&B would put the last value there, and the last is not the best
        run.define_metric(f"{fit}/epoch", hidden=True, summary="none")
        run.define_metric(f"{fit}/*", step_metric=f"{fit}/epoch", summary="none")

    return define


def _secrets() -> tuple[str, ...]:
    key = os.environ.get("WANDB_API_KEY")
    return (key,) if key else ()


def _kept_id(run_dir: Path) -> str:
    """The id of this folder's W&B run, made from its name and the time of its first start."""
    path = run_dir / "wandb" / _ID_FILE
    if path.is_file() and (kept := path.read_text().strip()):
        return kept
    made = hashlib.sha256(f"{run_dir.name} {time.time_ns()}".encode()).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(made)
    return made
