"""Weights & Biases: the driver's copy of the run, which may be late or lost but never delays the run.

The W&B run belongs to one thread. Events are put into a bounded queue and never waited for; whatever
wandb does (raise, hang, lose the network), training goes on and `metrics.jsonl` has every number.
"""

from __future__ import annotations

import hashlib
import math
import os
import queue
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from raykd.config.root import Wandb
from raykd.tracking.events import Event, LogNotifier, Notifier
from raykd.tracking.wandb_service import (
    Artefact,
    Limits,
    epoch_row,
    flat_numbers,
    has_key,
    mask,
    secrets,
    shallow,
    unanswered,
)

_ID_FILE = "raykd_run_id"

_Call = Callable[[Any], None]
"""Gets the W&B run; called in the run's own thread."""


class WandbSink:
    """A listener that mirrors epochs, fits and the summary to one W&B run.

    Metrics are called `<fit>/<metric>` and plotted against `<fit>/epoch`; the run's summary holds the
    numbers of `summary.json` (best, not last). The first failure is reported once and ends the
    mirror; it is never raised. Without a key, and if the service does not answer or refuses, the run
    is kept offline.

    Args:
        settings: of the recipe; its mode must not be "disabled".
        run_dir: the run folder; W&B writes to `wandb/` in it. W&B's id is stored there, so that a resumed run
            continues the same one.
        run_name: shown name.
        config: resolved config.
        job_type: "run", "trial", ...
        notifier: gets failures and the sync command; None = the log.
        limits: how long W&B may take.

    Attributes:
        sync_command: uploads an offline run, with all parts of earlier starts; None until the run is open,
            and when online.
    """

    def __init__(
        self,
        settings: Wandb,
        *,
        run_dir: Path,
        run_name: str,
        config: Mapping[str, Any],
        job_type: str = "run",
        notifier: Notifier | None = None,
        limits: Limits | None = None,
    ) -> None:
        assert settings.mode != "disabled", "there is no sink where W&B is disabled"
        self.sync_command: str | None = None
        self._notifier: Notifier = notifier or LogNotifier()
        self._limits = limits = limits or Limits()
        self._secrets = secrets()
        self._mode = self._choose_mode(settings.mode)
        self._online_wanted = settings.mode == "online" or self._mode == "online"
        self._fits: set[str] = set()
        self._failures = 0
        self._dropped = 0
        self._warnings: list[str] = []  # of the run's thread, on their way to the notifier
        self._problem: str | None = None
        self._lost: str | None = None
        self._closed = False
        self._url = self._stored_at = ""
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
            target=self._work, args=(run_dir, options), name="raykd-wandb", daemon=True
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

    def log_artefacts(self, find: Callable[[], Iterable[Artefact]]) -> None:
        """Add artefacts that this run made; `find` is called in the run's own thread."""

        def log(run: Any) -> None:
            for artefact in find():
                run.log_artifact(_artifact(artefact))

        self._submit_optional(log)

    def use_artefacts(self, find: Callable[[], Iterable[Artefact]]) -> None:
        """Note artefacts that this run uses: in its config, and online as its inputs.

        W&B records inputs online only.
        """

        def use(run: Any) -> None:
            names: dict[str, list[str]] = {}
            artefacts = list(find())
            for artefact in artefacts:
                names.setdefault(f"uses/{artefact.kind}", []).append(artefact.name)
            run.config.update(names, allow_val_change=True)
            for artefact in artefacts if self._mode == "online" else ():
                run.use_artifact(_artifact(artefact))

        self._submit_optional(use)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a table; the columns are those of the first row."""

        def log(run: Any) -> None:
            import wandb

            columns = list(rows[0])
            data = [[row[column] for column in columns] for row in rows]
            run.log({name: wandb.Table(columns=columns, data=data, allow_mixed_types=True)})

        self._submit_optional(log)

    def log_images(self, images: Mapping[str, Path]) -> None:
        """Add images, each under its name."""

        def log(run: Any) -> None:
            import wandb

            run.log({name: wandb.Image(str(path)) for name, path in images.items()})

        self._submit_optional(log)

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """Send the summary and end the run, within the limits; None = the run failed."""
        if self._closed:
            return
        self._closed = True
        if not self._gave_up():
            self._finish(summary)
        if self._dropped:
            self._give_up(f"it was too slow for {self._dropped:,} rows")
        if self._lost is not None:
            self._give_up(self._lost)
        self._gave_up()
        if self.fell_offline:
            self._notifier.print(f"W&B is offline; upload this run with\n  {self.sync_command}")

    @property
    def fell_offline(self) -> bool:
        """Whether the run was to be online and is kept offline."""
        return self.sync_command is not None and self._online_wanted

    def _finish(self, summary: Mapping[str, Any] | None) -> None:
        numbers = flat_numbers(summary or {}) | {"failures": self._failures}
        failed = summary is None or summary.get("status") == "failed"

        def end(run: Any) -> None:
            run.summary.update(numbers)
            if self._mode == "online":
                self._check_still_there()
            run.finish(exit_code=1 if failed else 0)

        wait = self._patience_s()
        deadline = time.monotonic() + wait
        try:
            self._queue.put(end, timeout=wait)
            self._queue.put(None, timeout=max(0.01, deadline - time.monotonic()))
        except queue.Full:
            self._dropped += 1
        self._thread.join(max(0.01, deadline - time.monotonic()))
        if self._thread.is_alive():
            doing = "end" if self._opened.is_set() else "open"
            self._give_up(f"the run did not {doing} within {wait:.3g} s")

    def _patience_s(self) -> float:
        """How long to wait for the run's end."""
        limits, age = self._limits, time.monotonic() - self._started
        opened = self._opened.is_set()
        if self._mode == "offline":
            opening = 0.0 if opened else max(0.0, limits.init_timeout_s - age)
            return limits.finish_timeout_s + opening
        least = limits.patience_s - (0.0 if opened else age)
        return min(limits.finish_timeout_s, max(least, limits.patience_fraction * age))

    def _check_still_there(self) -> None:
        """Raise if a service that opened the run is gone: its client would wait for it."""
        limits, age = self._limits, time.monotonic() - self._started
        timeout_s = min(limits.answer_timeout_s, max(0.5, limits.patience_fraction * age))
        if why := unanswered(self._url, timeout_s):
            raise ConnectionError(f"{why}; upload this run with wandb sync {self._stored_at}")

    def _submit(self, call: _Call) -> None:
        try:
            self._queue.put_nowait(call)
        except queue.Full:
            self._dropped += 1

    def _submit_optional(self, call: _Call) -> None:
        """Submit a call whose failure does not end the mirror: the numbers still to come matter more."""

        def attempt(run: Any) -> None:
            try:
                call(run)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is reported at the end
                self._lost = f"{type(error).__name__}: {error}"

        self._submit(attempt)

    def _give_up(self, problem: str) -> None:
        """Note the first problem; from then on nothing more is mirrored."""
        if self._problem is None:
            self._problem = problem
            self._warnings.append(
                f"W&B is incomplete: {problem}; the run goes on, metrics.jsonl has every number"
            )

    def _gave_up(self) -> bool:
        """Whether there was a problem; passes on the warnings so far."""
        while self._warnings:
            self._notifier.warn(mask(self._warnings.pop(0), self._secrets))
        return self._problem is not None

    def _work(self, run_dir: Path, options: dict[str, Any]) -> None:
        try:
            run = self._open(run_dir, _stored_id(run_dir), options)
            self._opened.set()
            while (call := self._queue.get()) is not None:
                call(run)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not stop the run
            self._give_up(f"{type(error).__name__}: {error}")

    def _open(self, run_dir: Path, run_id: str, options: dict[str, Any]) -> Any:
        # W&B sends reports on its own errors when offline too; if nobody answers, exit waits 10 s for them
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb  # heavy, and only needed here
        except ImportError as error:
            how = "pip install wandb, or set tracking.wandb.mode=disabled"
            raise ImportError(f"{error}; {how}") from error

        settings = wandb.Settings(
            console="off",
            silent=True,
            init_timeout=self._limits.init_timeout_s,
            login_timeout=self._limits.init_timeout_s,
            finish_timeout=self._limits.finish_timeout_s,
            disable_git=True,  # environment.json has it; a remote's address may hold a password
            disable_code=True,
        )
        given = {**options, "resume": "allow", "reinit": "create_new", "settings": settings}
        if self._mode == "online":
            try:
                self._log_in(wandb, settings)
            except Exception as error:  # noqa: BLE001 - whatever it is, there is another way
                self._turn_offline(error)
        if self._mode == "online":
            try:
                run = wandb.init(**given, id=run_id, mode="online")
                self._stored_at = shlex.quote(str(Path(run.dir).parent))
            except Exception as error:  # noqa: BLE001 - as above
                self._turn_offline(error)
                run_id = _new_id(run_dir)  # W&B's client still holds the other one
            else:
                return run
        run = wandb.init(**given, id=run_id, mode="offline")
        parts = {str(path) for path in (run_dir / "wandb").glob(f"offline-run-*-{run_id}")}
        parts.add(str(Path(run.dir).parent))
        self.sync_command = shlex.join(["wandb", "sync", *sorted(parts)])
        return run

    def _log_in(self, wandb: Any, settings: Any) -> None:
        """Raise if the service does not answer or refuses the key; quickly, unlike W&B's own client."""
        self._url = str(wandb.setup(settings).settings.base_url)
        if why := unanswered(self._url, self._limits.answer_timeout_s):
            raise ConnectionError(why)
        wandb.login(verify=True, timeout=math.ceil(self._limits.answer_timeout_s))

    def _turn_offline(self, error: Exception) -> None:
        why = f"{type(error).__name__}: {error}"
        self._warnings.append(f"W&B cannot be used ({why}); this run is kept offline")
        self._mode = "offline"

    def _choose_mode(self, mode: str) -> Literal["online", "offline"]:
        if mode != "offline" and has_key():
            return "online"
        if mode == "online":
            self._notifier.warn(
                "tracking.wandb.mode is online, but there is no W&B key, so this run is kept "
                "offline; set WANDB_API_KEY or call `wandb login`"
            )
        return "offline"


def _artifact(artefact: Artefact) -> Any:
    import wandb

    metadata = {**artefact.metadata, "made_from": list(artefact.made_from)}
    made = wandb.Artifact(artefact.name, type=artefact.kind, metadata=metadata)
    for name, path in artefact.files.items():
        # read when it is sent, not copied to W&B's folder in the user's home
        made.add_file(str(path), name=name, policy="immutable", skip_cache=True)
    for name, path in artefact.references.items():
        made.add_reference(path.as_uri(), name=name)
    return made


def _definition(fit: str) -> _Call:
    def define(run: Any) -> None:
        # summary "none": W&B would put the last value there, and the last is not the best
        run.define_metric(f"{fit}/epoch", hidden=True, summary="none")
        run.define_metric(f"{fit}/*", step_metric=f"{fit}/epoch", summary="none")

    return define


def _stored_id(run_dir: Path) -> str:
    """The id of this folder's W&B run; a new one on the first start."""
    path = run_dir / "wandb" / _ID_FILE
    return (path.read_text().strip() if path.is_file() else "") or _new_id(run_dir)


def _new_id(run_dir: Path) -> str:
    """An id made from the folder's name and the time, and stored in the folder."""
    path = run_dir / "wandb" / _ID_FILE
    new = hashlib.sha256(f"{run_dir.name} {time.time_ns()}".encode()).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(new)
    return new
