"""Weights & Biases: the driver's copy of the run, which may be late or lost but never in the way.

The run belongs to one thread. Events are put into a bounded queue and never waited for; whatever
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
from raykd.tracking.artefacts import Artefact
from raykd.tracking.events import Event
from raykd.tracking.listeners import LogVoice, Voice
from raykd.tracking.service import Limits, has_key, secrets, unanswered
from raykd.tracking.shape import epoch_row, flat_numbers, mask, shallow

_ID_FILE = "raykd_run_id"

_Call = Callable[[Any], None]
"""What is done with the run, in the run's own thread."""


class WandbSink:
    """A listener that mirrors epochs, fits and the summary to one W&B run.

    Metrics are called `<fit>/<metric>` and plotted against `<fit>/epoch`; the run's summary holds the
    numbers of `summary.json` (best, not last). The first failure is reported once and ends the
    mirror; it is never raised. Without a key, and where the service does not answer or refuses, the run
    is kept offline.

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
        limits: Limits | None = None,
    ) -> None:
        assert settings.mode != "disabled", "a disabled sink is not made; use make_wandb"
        self.sync_command: str | None = None
        self._voice: Voice = voice or LogVoice()
        self._limits = limits = limits or Limits()
        self._secrets = secrets()
        self._mode = self._choose_mode(settings.mode)
        self._fits: set[str] = set()
        self._failures = 0
        self._left_out = 0
        self._problem: str | None = None
        self._lost: str | None = None
        self._refused: str | None = None
        self._reported = self._told_refused = False
        self._closed = False
        self._url = self._kept_at = ""
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

    def keep(self, find: Callable[[], Iterable[Artefact]]) -> None:
        """Add artefacts that this run made; they are found in the run's own thread."""
        self._submit(self._harmless(lambda run: _log_artefacts(run, find())))

    def use(self, find: Callable[[], Iterable[Artefact]]) -> None:
        """Note artefacts that this run works with: in its config, and online as its inputs.

        W&B records inputs online only.
        """

        def note(run: Any) -> None:
            _use_artefacts(run, list(find()), online=self._mode == "online")

        self._submit(self._harmless(note))

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a table; the columns are those of the first row."""
        self._submit(self._harmless(lambda run: run.log({name: _table(rows)})))

    def images(self, pictures: Mapping[str, Path]) -> None:
        """Add pictures, each under its name."""
        self._submit(self._harmless(lambda run: _log_images(run, pictures)))

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """Send the summary and end the run, within the limits; None = the run failed."""
        if self._closed:
            return
        self._closed = True
        if not self._gave_up():
            self._finish(summary)
        if self._problem is None and self._left_out:
            self._problem = f"it was too slow for {self._left_out:,} rows"
        self._problem = self._problem or self._lost
        self._gave_up()
        if self.sync_command is not None:
            self._voice.say(f"W&B is offline; upload this run with\n  {self.sync_command}")

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
            self._left_out += 1
        self._thread.join(max(0.01, deadline - time.monotonic()))
        if self._thread.is_alive() and self._problem is None:
            doing = "end" if self._opened.is_set() else "open"
            self._problem = f"the run did not {doing} within {wait:.3g} s"

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
        """Raise where a service that opened the run has gone since: its client would wait for it."""
        limits, age = self._limits, time.monotonic() - self._started
        try:
            self._check_answers(
                min(limits.answer_timeout_s, max(0.5, limits.patience_fraction * age))
            )
        except ConnectionError as error:
            hint = f"upload this run with wandb sync {self._kept_at}"
            raise ConnectionError(f"{error}; {hint}") from error

    def _check_answers(self, timeout_s: float) -> None:
        if why := unanswered(self._url, timeout_s):
            raise ConnectionError(why)

    def _harmless(self, call: _Call) -> _Call:
        """The call, without which the run goes on: the numbers still to come matter more."""

        def tried(run: Any) -> None:
            try:
                call(run)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told at the end
                self._lost = f"{type(error).__name__}: {error}"

        return tried

    def _submit(self, call: _Call) -> None:
        try:
            self._queue.put_nowait(call)
        except queue.Full:
            self._left_out += 1

    def _gave_up(self) -> bool:
        if (refused := self._refused) is not None and not self._told_refused:
            self._told_refused = True
            self._voice.warn(
                f"W&B cannot be used ({mask(refused, self._secrets)}); this run is kept offline"
            )
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
        # W&B's reports on itself are sent when offline too; where nobody answers, exit waits 10 s for them
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
                self._kept_at = shlex.quote(str(Path(run.dir).parent))
            except Exception as error:  # noqa: BLE001 - as above
                self._turn_offline(error)
                run_id = _made_id(run_dir)  # W&B's client does not let go of the other one
            else:
                return run
        run = wandb.init(**given, id=run_id, mode="offline")
        parts = {str(path) for path in (run_dir / "wandb").glob(f"offline-run-*-{run_id}")}
        parts.add(str(Path(run.dir).parent))
        self.sync_command = shlex.join(["wandb", "sync", *sorted(parts)])
        return run

    def _log_in(self, wandb: Any, settings: Any) -> None:
        """Raise where the service is not there or takes no such key; quickly, unlike W&B's own client."""
        self._url = str(wandb.setup(settings).settings.base_url)
        self._check_answers(self._limits.answer_timeout_s)
        wandb.login(verify=True, timeout=math.ceil(self._limits.answer_timeout_s))

    def _turn_offline(self, error: Exception) -> None:
        self._refused = f"{type(error).__name__}: {error}"
        self._mode = "offline"

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


def _log_artefacts(run: Any, artefacts: Iterable[Artefact]) -> None:
    for artefact in artefacts:
        run.log_artifact(_artifact(artefact))


def _use_artefacts(run: Any, artefacts: Sequence[Artefact], *, online: bool) -> None:
    kinds = sorted({artefact.kind for artefact in artefacts})
    names = {kind: [one.name for one in artefacts if one.kind == kind] for kind in kinds}
    run.config.update(
        {f"uses/{kind}": listed for kind, listed in names.items()}, allow_val_change=True
    )
    for artefact in artefacts if online else ():
        run.use_artifact(_artifact(artefact))


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


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    import wandb

    columns = list(rows[0])
    data = [[row[column] for column in columns] for row in rows]
    return wandb.Table(columns=columns, data=data, allow_mixed_types=True)


def _log_images(run: Any, pictures: Mapping[str, Path]) -> None:
    import wandb

    run.log({name: wandb.Image(str(path)) for name, path in pictures.items()})


def _definition(fit: str) -> _Call:
    def define(run: Any) -> None:
        # summary "none": W&B would put the last value there, and the last is not the best
        run.define_metric(f"{fit}/epoch", hidden=True, summary="none")
        run.define_metric(f"{fit}/*", step_metric=f"{fit}/epoch", summary="none")

    return define


def _kept_id(run_dir: Path) -> str:
    """The id of this folder's W&B run, made from its name and the time of its first start."""
    path = run_dir / "wandb" / _ID_FILE
    if path.is_file() and (kept := path.read_text().strip()):
        return kept
    return _made_id(run_dir)


def _made_id(run_dir: Path) -> str:
    """A new id, kept in the folder."""
    path = run_dir / "wandb" / _ID_FILE
    made = hashlib.sha256(f"{run_dir.name} {time.time_ns()}".encode()).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(made)
    return made
