"""Everything that knows how to reach a Ray cluster and get word back from it."""

from raykd.runtime.cluster import Resources, connect, is_connected, machine, put
from raykd.runtime.mailbox import Mailbox, Sender
from raykd.runtime.shared import check_shared

__all__ = [
    "Mailbox",
    "Resources",
    "Sender",
    "check_shared",
    "connect",
    "is_connected",
    "machine",
    "put",
]
