"""One W&B run for each trial, in the group of the sweep; the driver keeps them, so no key travels."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raykd.config import Config
from raykd.tracking import Event, LogVoice, Voice, WandbSink, make_wandb

PREFIX = "trial/"
FINALIST = "trial-"


class TrialRuns:
    """A listener that hands every trial's events to a run of its own.

    In it metrics are called `student/<metric>`, whichever the trial, so that W&B can compare them. Opening
    and closing happen in threads of their own; like all of W&B they are never waited for but at the end.

    Args:
        config: the recipe; its `tracking.wandb.group` is the group.
        folder: of all trials; each run's files lie in its trial's folder, with its id, so that a resumed
            trial goes on in the same run.
        voice: where a failure is told.
    """

    def __init__(self, config: Config, folder: Path, voice: Voice | None = None) -> None:
        self._settings = config.tracking.wandb
        self._folder = folder
        self._told: Voice = voice or LogVoice()
        self._voice = _Once(self._told)
        self._sinks: dict[str, WandbSink] = {}
        self._closing: list[threading.Thread] = []
        self._closed: list[WandbSink] = []

    def begin(self, name: str, config: Config, values: Mapping[str, Any]) -> None:
        """Open the run of a trial; returns at once."""
        sink = make_wandb(
            self._settings,
            run_dir=self._folder / name,
            run_name=f"{self._settings.group}-{name}",
            config={**config.model_dump(mode="json"), "searched": dict(values)},
            job_type="trial",
            voice=self._voice,
        )
        if sink is not None:
            self._sinks[name] = sink

    def end(self, name: str, record: Mapping[str, Any]) -> None:
        """Close it with what came of the trial; returns at once."""
        sink = self._sinks.pop(name, None)
        if sink is not None:
            summary = {**record, "status": "failed" if record["state"] == "failed" else "complete"}
            thread = threading.Thread(target=sink.close, args=(summary,), daemon=True)
            thread.start()
            self._closing.append(thread)
            self._closed.append(sink)

    def on(self, event: Event) -> None:
        """Pass on what concerns a trial."""
        if event.fit is not None and event.fit.startswith(PREFIX):
            sink = self._sinks.get(event.fit.removeprefix(PREFIX))
            if sink is not None:
                sink.on(replace(event, fit="student"))

    def close(self, summary: Mapping[str, Any] | None) -> None:  # noqa: ARG002 (of the sweep, not of a trial)
        """End what is still open; each run within its own limits."""
        for name in list(self._sinks):
            self.end(name, {"state": "failed"})
        for thread in self._closing:
            thread.join()
        if any(sink.sync_command is not None for sink in self._closed):
            parts = self._folder / "*" / "wandb" / "offline-run-*"
            self._told.say(f"and those of its trials with\n  wandb sync {parts}")


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
