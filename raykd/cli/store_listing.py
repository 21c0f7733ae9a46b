"""A store to look after: in a folder, or in a bucket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from raykd.targets.buckets import PROBE
from raykd.targets.maintenance import (
    AT_WORK_S,
    Listing,
    delete,
    delete_folder,
    delete_object,
    leftovers,
    leftovers_in,
    list_entries,
    size_of,
    survey_bucket,
    verify_bucket,
    verify_store,
)
from raykd.targets.remote import Remote
from raykd.targets.store import Report


class StoreListing(Protocol):
    """What `raykd targets list | verify | prune` ask of a store; names are relative to its place."""

    @property
    def place(self) -> str:
        """Where it is."""

    def survey(self) -> list[Listing]:
        """Its entries."""

    def verify(self) -> Report:
        """What reading all of it finds."""

    def leftovers(self, older_than_s: float = AT_WORK_S) -> dict[str, int]:
        """What writers left that were killed, and its bytes."""

    def delete(self, name: str) -> int:
        """Delete an entry or a leftover; the bytes that it took."""


@dataclass(frozen=True)
class FolderListing:
    """A store in a folder."""

    root: Path

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.root)

    def survey(self) -> list[Listing]:
        """Every folder of it."""
        return list_entries(self.root)

    def verify(self) -> Report:
        """Reads every shard."""
        return verify_store(self.root)

    def leftovers(self, older_than_s: float = AT_WORK_S) -> dict[str, int]:
        """Files and folders that no manifest lists."""
        found = leftovers(self.root, older_than_s=older_than_s)
        return {str(path.relative_to(self.root)): size_of(path) for path in found}

    def delete(self, name: str) -> int:
        """A file, or a folder as a whole."""
        return delete(self.root / name)


@dataclass(frozen=True)
class BucketListing:
    """A store in a bucket; what is deleted there is deleted in this machine's mirror too."""

    remote: Remote

    @property
    def place(self) -> str:
        """The URI, without its options."""
        return self.remote.bucket.place

    def survey(self) -> list[Listing]:
        """Every folder of it, from the records."""
        return survey_bucket(self.remote.bucket)

    def verify(self) -> Report:
        """Reads every shard, through this machine's temporary folder."""
        return verify_bucket(self.remote.bucket)

    def leftovers(self, older_than_s: float = AT_WORK_S) -> dict[str, int]:
        """Objects without a record."""
        return leftovers_in(self.remote.bucket, older_than_s=older_than_s)

    def delete(self, name: str) -> int:
        """An entry, records first, or one object."""
        if "/" in name or name.startswith(PROBE):
            return delete_object(self.remote.bucket, name)
        return delete_folder(self.remote, name)
