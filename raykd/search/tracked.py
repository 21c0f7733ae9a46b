"""A search as W&B runs of one group: its own, and one for each teacher fitted, the targets, each trial and finalist.

The driver keeps them all, in threads of one process, so no key travels and none costs a process of its own.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from raykd.config import Config
from raykd.folders import RunFolder
from raykd.search.results import rows_of
from raykd.search.space import plain_recipe
from raykd.tracking import (
    Event,
    LogVoice,
    Making,
    Voice,
    WandbSink,
    make_wandb,
    targets_done,
)
from raykd.tracking.artefacts import Artefact, student_of, targets_of, teachers_of

PREFIX = "trial/"
FINALIST = "trial-"
TRIALS = "trials"
_TEACHER = "teacher/"
_OTHERS = "tracked"
_OFFLINE = "offline-run-*"


class SweepRuns:
    """A listener that keeps the W&B runs of a sweep.

        sweep      failures, and at the end numbers, the table of trials and the report's figures
        teacher    one that was fitted: its epochs, its artefact
        targets    made if the store was filled: uses the teachers, gives the targets
        trial      uses the targets; its metrics are called `student/<metric>`, whichever the trial
        finalist   uses the targets; `replica<r>/<metric>`; gives the student of replica 0

    Opening and closing happen in threads of their own; like all of W&B they are never waited for but at
    the end.

    Args:
        config: the recipe; its `tracking.wandb.group` is the group.
        folder: of the sweep; each run's files lie in a folder of its own, with its id, so that a resumed
            one goes on in the same run.
        voice: where a failure is told.
    """

    def __init__(self, config: Config, folder: RunFolder, voice: Voice | None = None) -> None:
        self._config = config
        self._plain = config.model_dump(mode="json")
        self._settings = config.tracking.wandb
        self._folder = folder
        self._told: Voice = voice or LogVoice()
        self._voice = _Once(self._told)
        self._making = Making()
        self._results: dict[str, Mapping[str, Any]] = {}
        self._sinks: dict[str, WandbSink] = {}
        self._closing: list[threading.Thread] = []
        self._closed: list[WandbSink] = []

    def begin(self, name: str, config: Config, values: Mapping[str, Any]) -> None:
        """Open the run of a trial; returns at once."""
        recipe = {**config.model_dump(mode="json"), "searched": dict(values)}
        self._open(f"{PREFIX}{name}", "trial", name, self._folder.path / TRIALS / name, recipe)
        self._use(f"{PREFIX}{name}", self._targets)

    def end(self, name: str, record: Mapping[str, Any]) -> None:
        """Close it with what came of the trial; returns at once."""
        failed = record["state"] == "failed"
        self._close(f"{PREFIX}{name}", {**record, "status": "failed" if failed else "complete"})

    def on(self, event: Event) -> None:
        """Pass on what concerns a run."""
        if self._settings.mode == "disabled":
            return
        self._making.on(event)
        self._open_for(event)
        if event.kind == "failure" and "sweep" in self._sinks:
            self._sinks["sweep"].on(event)
        if event.fit is not None:
            self._pass_on(event, event.fit)
        if targets_done(event):
            self._targets_are_there()

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """End what is still open; each run within its own limits."""
        if summary is not None and "sweep" in self._sinks:
            self._tell_results(summary, self._sinks["sweep"])
        if summary is not None:
            methods = (summary["finalists"] or {"methods": {}})["methods"]
            self._results |= {"sweep": summary, "targets": summary["targets"], **methods}
        for name in list(self._sinks):
            self._close(name, self._results.get(name))
        for thread in self._closing:
            thread.join()
        if any(sink.sync_command is not None for sink in self._closed):
            folder = shlex.quote(str(self._folder.path))
            places = ("", f"{TRIALS}/*/", f"{_OTHERS}/*/")
            parts = " ".join(f"{folder}/{place}wandb/{_OFFLINE}" for place in places)
            self._told.say(f"W&B is offline; upload the sweep's runs with\n  wandb sync {parts}")

    def _open_for(self, event: Event) -> None:
        """Open the runs that an event is the first to concern."""
        plain, folder = self._plain, self._folder.path
        if "sweep" not in self._sinks and not self._closed:
            self._open("sweep", "sweep", "", folder, plain)
        starts = event.kind == "stage" and event.values.get("state") == "started"
        fits = event.values.get("fits") if starts else None
        if event.stage == "teachers" and fits:
            for fit in fits:
                name = fit.removeprefix(_TEACHER)
                spec = next(one for one in plain["teachers"] if one["name"] == name)
                place = folder / _OTHERS / f"teacher-{name}"
                self._open(fit, "teacher", f"teacher-{name}", place, spec)
        if event.stage == "targets" and event.kind == "progress" and "targets" not in self._sinks:
            given = {key: plain[key] for key in ("seed", "data", "teachers", "targets")}
            self._open("targets", "targets", "targets", folder / _OTHERS / "targets", given)
        if event.stage == "student" and fits:
            for name in dict.fromkeys(fit.split("/")[0] for fit in fits):
                place = folder / _OTHERS / f"finalist-{name}"
                self._open(name, "finalist", f"finalist-{name}", place, self._recipe(name))
                self._use(name, self._targets)

    def _pass_on(self, event: Event, fit: str) -> None:
        name, _, replica = fit.partition("/")
        if fit in self._sinks:  # a trial or a teacher
            alike = "student" if fit.startswith(PREFIX) else "teacher"
            self._sinks[fit].on(replace(event, fit=alike))
        elif name in self._sinks:
            self._sinks[name].on(replace(event, fit=replica))

    def _targets_are_there(self) -> None:
        """End the runs of teachers and targets: their cards and manifests are written now."""
        for name in self._making.fitted & {fit.removeprefix(_TEACHER) for fit in self._sinks}:
            self._keep(f"{_TEACHER}{name}", lambda name=name: [teachers_of(self._folder)[name]])  # type: ignore[misc]
            self._close(f"{_TEACHER}{name}", {})
        if "targets" in self._sinks:
            self._use("targets", self._teachers)
            self._keep("targets", self._targets)
            self._results["targets"] = {}
        self._use("sweep", self._targets)

    def _tell_results(self, summary: Mapping[str, Any], sink: WandbSink) -> None:
        sink.table("trials", rows_of(summary))
        figures = sorted((self._folder.path / "report" / "figures").glob("*.png"))
        sink.images({f"report/{path.stem}": path for path in figures})
        for name in (summary["finalists"] or {"methods": {}})["methods"]:
            self._keep(name, lambda name=name: [self._student(name)])  # type: ignore[misc]

    def _student(self, name: str) -> Artefact:
        """A finalist's, of replica 0 at its best epoch."""
        weights = self._folder.checkpoints(f"{name}/replica0") / "best.safetensors"
        title = f"{self._settings.group}-{name}"
        return student_of(self._folder, title, {"model.safetensors": weights})

    def _teachers(self) -> list[Artefact]:
        return list(teachers_of(self._folder).values())

    def _targets(self) -> list[Artefact]:
        targets = targets_of(self._folder)
        return [] if targets is None else [targets]

    def _recipe(self, finalist: str) -> Mapping[str, Any]:
        if not finalist.startswith(FINALIST):
            return plain_recipe(self._config).model_dump(mode="json")
        path = self._folder.path / TRIALS / finalist.removeprefix(FINALIST) / "config.yaml"
        recipe: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        return recipe

    def _open(self, key: str, job_type: str, name: str, place: Path, config: Any) -> None:
        sink = make_wandb(
            self._settings,
            run_dir=place,
            run_name=f"{self._settings.group}-{name}" if name else str(self._settings.group),
            config=config,
            job_type=job_type,
            voice=self._voice,
        )
        if sink is not None:
            self._sinks[key] = sink

    def _use(self, key: str, find: Callable[[], list[Artefact]]) -> None:
        if key in self._sinks:
            self._sinks[key].use(find)

    def _keep(self, key: str, find: Callable[[], list[Artefact]]) -> None:
        if key in self._sinks:
            self._sinks[key].keep(find)

    def _close(self, key: str, summary: Mapping[str, Any] | None) -> None:
        sink = self._sinks.pop(key, None)
        if sink is not None:
            thread = threading.Thread(target=sink.close, args=(summary,), daemon=True)
            thread.start()
            self._closing.append(thread)
            self._closed.append(sink)


class _Once:
    """Passes on warnings, each once; how to upload each single run is left to the sweep's own line."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Pass it on if it is new."""
        with self._lock:
            new = text not in self._told
            self._told.add(text)
        if new:
            self._voice.warn(text)
