"""Everything that reaches a Ray cluster and gets results and events back from it."""

from raykd.runtime.cluster import (
    Resources,
    available_slots,
    check_machine,
    check_shared,
    connect,
    cpu_count,
    is_connected,
    keep_logs,
    machine,
    put,
    why_unsendable,
)
from raykd.runtime.crew import Crew, Limit
from raykd.runtime.engine import engine
from raykd.runtime.mailbox import Mailbox, Sender

__all__ = [
    "Crew",
    "Limit",
    "Mailbox",
    "Resources",
    "Sender",
    "available_slots",
    "check_machine",
    "check_shared",
    "connect",
    "cpu_count",
    "engine",
    "is_connected",
    "keep_logs",
    "machine",
    "put",
    "why_unsendable",
]
