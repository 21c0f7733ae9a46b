"""Listening to a run: events, and the listeners that store, show and mirror them."""

from __future__ import annotations

from raykd.tracking import events
from raykd.tracking.console import Console
from raykd.tracking.events import Event
from raykd.tracking.jsonl import JsonLines, read_lines
from raykd.tracking.listeners import Broadcast, Listener, LogVoice, Voice
from raykd.tracking.mirror import Making, RunMirror, targets_done
from raykd.tracking.service import Limits
from raykd.tracking.wandb_sink import WandbSink, make_wandb

__all__ = [
    "Broadcast",
    "Console",
    "Event",
    "JsonLines",
    "Limits",
    "Listener",
    "LogVoice",
    "Making",
    "RunMirror",
    "Voice",
    "WandbSink",
    "events",
    "make_wandb",
    "read_lines",
    "targets_done",
]
