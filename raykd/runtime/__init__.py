"""Everything that reaches a Ray cluster and gets results and events back from it."""

from raykd.runtime.cluster import (
    Resources,
    available_slots,
    check_shared,
    connect,
    is_connected,
    machine,
    put,
)
from raykd.runtime.mailbox import Mailbox, Sender

__all__ = [
    "Mailbox",
    "Resources",
    "Sender",
    "available_slots",
    "check_shared",
    "connect",
    "is_connected",
    "machine",
    "put",
]
