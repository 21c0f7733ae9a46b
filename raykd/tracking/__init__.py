"""Tracking of a run: its events, and the listeners that store, show and mirror them."""

from __future__ import annotations

from raykd.tracking import events
from raykd.tracking.artefacts import NewOutputs, RunMirror, targets_done
from raykd.tracking.console import Console
from raykd.tracking.events import Broadcast, Event, Listener, LogNotifier, Notifier
from raykd.tracking.jsonl import JsonLines, read_lines
from raykd.tracking.wandb_service import Limits
from raykd.tracking.wandb_sink import WandbSink

__all__ = [
    "Broadcast",
    "Console",
    "Event",
    "JsonLines",
    "Limits",
    "Listener",
    "LogNotifier",
    "NewOutputs",
    "Notifier",
    "RunMirror",
    "WandbSink",
    "events",
    "read_lines",
    "targets_done",
]
