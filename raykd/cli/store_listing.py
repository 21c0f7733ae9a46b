"""A store to look after: in a folder, or in a bucket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raykd.targets import maintenance
from raykd.targets.buckets import PROBE
from raykd.targets.maintenance import AT_WORK_S, Listing
from raykd.targets.marks import Board, board_of
from raykd.targets.remote import Remote
from raykd.targets.store import Report


@dataclass(frozen=True)
class StoreListing:
    """What `raykd targets list | verify | prune` ask of a store; names are relative to its location.

    Attributes:
        root: its folder; of a store in a bucket this machine's mirror, from which what is deleted goes too.
        remote: the bucket, or None.
    """

    root: Path
    remote: Remote | None = None

    @property
    def location(self) -> str:
        """The folder, or the bucket's URI without its options."""
        return str(self.root) if self.remote is None else self.remote.bucket.place

    def entries(self) -> list[Listing]:
        """Every folder of it; of a bucket, from the records."""
        if self.remote is None:
            return maintenance.list_entries(self.root)
        return maintenance.survey_bucket(self.remote.bucket)

    def verify(self) -> Report:
        """Reads every shard; of a bucket through this machine's temporary folder."""
        if self.remote is None:
            return maintenance.verify_store(self.root)
        return maintenance.verify_bucket(self.remote.bucket)

    def leftovers(self, older_than_s: float = AT_WORK_S) -> dict[str, int]:
        """What writers left that were killed, and its bytes: in no manifest, or without a record."""
        if self.remote is not None:
            return maintenance.leftovers_in(self.remote.bucket, older_than_s=older_than_s)
        found = maintenance.leftovers(self.root, older_than_s=older_than_s)
        return {str(path.relative_to(self.root)): maintenance.size_of(path) for path in found}

    @property
    def board(self) -> Board:
        """Where live jobs leave their marks."""
        return board_of(self.root, self.remote)

    def delete(self, name: str) -> int:
        """Delete an entry or a leftover; the bytes that it took."""
        if self.remote is None:
            return maintenance.delete(self.root / name)
        if "/" in name or name.startswith(PROBE):
            return maintenance.delete_object(self.remote.bucket, name)
        return maintenance.delete_folder(self.remote, name)
