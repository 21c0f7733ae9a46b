"""What teachers say of samples: the protocol the trainer asks through, the codec, the store."""

from raykd.targets.source import NoTargets, TargetSource, Ticket
from raykd.targets.store import EntryKey, TargetStore, TeacherKeys
from raykd.targets.stored import StoredTargets

__all__ = [
    "EntryKey",
    "NoTargets",
    "StoredTargets",
    "TargetSource",
    "TargetStore",
    "TeacherKeys",
    "Ticket",
]
