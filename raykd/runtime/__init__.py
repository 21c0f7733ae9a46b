"""Everything that reaches a Ray cluster and gets results and events back from it."""

from raykd.runtime.cluster import (
    Resources,
    available_slots,
    check_shared,
    connect,
    is_connected,
    machine,
    put,
    starting,
)
from raykd.runtime.crew import Crew
from raykd.runtime.mailbox import Mailbox, Sender

__all__ = [
    "Crew",
    "Mailbox",
    "Resources",
    "Sender",
    "available_slots",
    "check_shared",
    "connect",
    "is_connected",
    "machine",
    "put",
    "starting",
]
