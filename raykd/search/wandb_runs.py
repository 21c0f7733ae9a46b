"""A search as W&B runs of one group: its own, and one for each teacher fitted, the targets, each trial and finalist.

The driver keeps all of them, in threads of one process: no key leaves it, and no run needs a process of its own.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from raykd.config import Config
from raykd.config.load import read_recipe
from raykd.folders import RunFolder
from raykd.search.results import rows_of
from raykd.search.space import FINALIST, TRIAL_FIT, TRIALS, plain_recipe
from raykd.tracking import (
    Event,
    LogNotifier,
    NewOutputs,
    Notifier,
    WandbSink,
    targets_done,
)
from raykd.tracking.artefacts import student_of, targets_of, teachers_of
from raykd.tracking.wandb_service import Artefact

_TEACHER = "teacher/"
_OTHERS = "tracked"
_OFFLINE = "offline-run-*"


class SweepRuns:
    """A listener that keeps the W&B runs of a sweep.

        sweep      failures, and at the end numbers, the table of trials and the report's figures
        teacher    of a fitted teacher: its epochs, its artefact
        targets    if the store was filled: uses the teachers, logs the targets
        trial      uses the targets; the metrics of every trial are called `student/<metric>`
        finalist   uses the targets; `replica<r>/<metric>`; logs the student of replica 0

    Runs are opened and closed in threads of their own, and waited for only at the end.

    Args:
        config: the recipe; its `tracking.wandb.group` is the group.
        folder: of the sweep; each run has a folder of its own in it, with its id, so that a resumed
            trial continues the same run.
        notifier: gets failures; None = the log.
    """

    def __init__(self, config: Config, folder: RunFolder, notifier: Notifier | None = None) -> None:
        self._config = config
        self._plain = config.model_dump(mode="json")
        self._settings = config.tracking.wandb
        self._folder = folder
        self._notifier: Notifier = notifier or LogNotifier()
        self._warn_once = _WarnOnce(self._notifier)
        self._new = NewOutputs()
        self._results: dict[str, Mapping[str, Any]] = {}
        self._sinks: dict[str, WandbSink] = {}
        self._closing: list[threading.Thread] = []
        self._closed: list[WandbSink] = []

    def begin(self, name: str, config: Config, values: Mapping[str, Any]) -> None:
        """Open the run of a trial; returns at once."""
        recipe = {**config.model_dump(mode="json"), "searched": dict(values)}
        self._open(f"{TRIAL_FIT}{name}", "trial", name, self._folder.path / TRIALS / name, recipe)
        self._use_artefacts(f"{TRIAL_FIT}{name}", self._targets)

    def end(self, name: str, record: Mapping[str, Any]) -> None:
        """Close the run of a trial with its result; returns at once."""
        failed = record["state"] == "failed"
        self._close(f"{TRIAL_FIT}{name}", {**record, "status": "failed" if failed else "complete"})

    def on(self, event: Event) -> None:
        """Pass the event on to the runs that it concerns."""
        if self._settings.mode == "disabled":
            return
        self._new.on(event)
        self._open_for(event)
        if event.kind == "failure" and "sweep" in self._sinks:
            self._sinks["sweep"].on(event)
        if event.fit is not None:
            self._forward(event, event.fit)
        if targets_done(event):
            self._on_targets_done()

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """Close the runs that are still open, each within its own time limits."""
        if summary is not None and "sweep" in self._sinks:
            self._log_results(summary, self._sinks["sweep"])
        if summary is not None:
            methods = (summary["finalists"] or {"methods": {}})["methods"]
            self._results |= {"sweep": summary, "targets": summary["targets"], **methods}
        for name in list(self._sinks):
            self._close(name, self._results.get(name))
        for thread in self._closing:
            thread.join()
        if any(sink.fell_offline for sink in self._closed):
            folder = shlex.quote(str(self._folder.path))
            inner = ("", f"{TRIALS}/*/", f"{_OTHERS}/*/")
            parts = " ".join(f"{folder}/{one}wandb/{_OFFLINE}" for one in inner)
            self._notifier.print(
                f"W&B is offline; upload the sweep's runs with\n  wandb sync {parts}"
            )

    def _open_for(self, event: Event) -> None:
        """Open the runs that an event is the first to concern."""
        plain = self._plain
        if "sweep" not in self._sinks and not self._closed:
            self._open("sweep", "sweep", "", self._folder.path, plain)
        starts = event.kind == "stage" and event.values.get("state") == "started"
        fits = event.values.get("fits") if starts else None
        if event.stage == "teachers" and fits:
            for fit in fits:
                name = fit.removeprefix(_TEACHER)
                spec = next(one for one in plain["teachers"] if one["name"] == name)
                self._open(fit, "teacher", f"teacher-{name}", None, spec)
        if event.stage == "targets" and event.kind == "progress" and "targets" not in self._sinks:
            given = {key: plain[key] for key in ("seed", "data", "teachers", "targets")}
            self._open("targets", "targets", "targets", None, given)
        if event.stage == "student" and fits:
            for name in dict.fromkeys(fit.split("/")[0] for fit in fits):
                self._open(name, "finalist", f"finalist-{name}", None, self._recipe(name))
                self._use_artefacts(name, self._targets)

    def _forward(self, event: Event, fit: str) -> None:
        name, _, replica = fit.partition("/")
        if fit in self._sinks:  # a trial or a teacher
            role = "student" if fit.startswith(TRIAL_FIT) else "teacher"
            self._sinks[fit].on(replace(event, fit=role))
        elif name in self._sinks:
            self._sinks[name].on(replace(event, fit=replica))

    def _on_targets_done(self) -> None:
        """Close the runs of teachers and targets: their cards and manifests exist now."""
        for name in self._new.fitted & {fit.removeprefix(_TEACHER) for fit in self._sinks}:
            self._log_artefacts(f"{_TEACHER}{name}", partial(self._teachers, name))
            self._close(f"{_TEACHER}{name}", {})
        if "targets" in self._sinks:
            self._use_artefacts("targets", self._teachers)
            self._log_artefacts("targets", self._targets)
            self._results["targets"] = {}
        self._use_artefacts("sweep", self._targets)

    def _log_results(self, summary: Mapping[str, Any], sink: WandbSink) -> None:
        sink.log_table("trials", rows_of(summary))
        figures = sorted((self._folder.path / "report" / "figures").glob("*.png"))
        sink.log_images({f"report/{path.stem}": path for path in figures})
        for name in (summary["finalists"] or {"methods": {}})["methods"]:
            self._log_artefacts(name, partial(self._student, name))

    def _student(self, name: str) -> list[Artefact]:
        """The artefact of a finalist: replica 0 at its best epoch."""
        weights = self._folder.checkpoints(f"{name}/replica0") / "best.safetensors"
        title = f"{self._settings.group}-{name}"
        return [student_of(self._folder, title, {"model.safetensors": weights})]

    def _teachers(self, only: str | None = None) -> list[Artefact]:
        teachers = teachers_of(self._folder)
        return list(teachers.values()) if only is None else [teachers[only]]

    def _targets(self) -> list[Artefact]:
        targets = targets_of(self._folder)
        return [] if targets is None else [targets]

    def _recipe(self, finalist: str) -> Mapping[str, Any]:
        if not finalist.startswith(FINALIST):
            return plain_recipe(self._config).model_dump(mode="json")
        path = self._folder.path / TRIALS / finalist.removeprefix(FINALIST) / "config.yaml"
        return read_recipe(path)

    def _open(self, key: str, job_type: str, name: str, run_dir: Path | None, config: Any) -> None:
        if self._settings.mode == "disabled":
            return
        self._sinks[key] = WandbSink(
            self._settings,
            run_dir=run_dir or self._folder.path / _OTHERS / name,
            run_name=f"{self._settings.group}-{name}" if name else str(self._settings.group),
            config=config,
            job_type=job_type,
            notifier=self._warn_once,
        )

    def _use_artefacts(self, key: str, find: Callable[[], list[Artefact]]) -> None:
        if key in self._sinks:
            self._sinks[key].use_artefacts(find)

    def _log_artefacts(self, key: str, find: Callable[[], list[Artefact]]) -> None:
        if key in self._sinks:
            self._sinks[key].log_artefacts(find)

    def _close(self, key: str, summary: Mapping[str, Any] | None) -> None:
        sink = self._sinks.pop(key, None)
        if sink is not None:
            thread = threading.Thread(target=sink.close, args=(summary,), daemon=True)
            thread.start()
            self._closing.append(thread)
            self._closed.append(sink)


class _WarnOnce:
    """Passes on each warning once; the sync commands of single runs are left to the sweep's own line."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def print(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Pass the warning on if it is new."""
        with self._lock:
            new = text not in self._warned
            self._warned.add(text)
        if new:
            self._notifier.warn(text)
