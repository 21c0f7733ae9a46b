"""The part of the target store that a recipe reads: where it is, what it lacks, what it will take."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from raykd.config import Config
from raykd.config.load import chain_of
from raykd.config.places import store_root
from raykd.config.variants import fold_recipes
from raykd.data import Samples
from raykd.data.transfer_parts import at_home_rows
from raykd.disks import disk_error
from raykd.errors import InputError, Problem, refuse
from raykd.folders import RunFolder, home, read_json
from raykd.pipeline.fits import known_weights, shown_views
from raykd.pipeline.placement import target_mode
from raykd.pipeline.preparation import Prepared, prepare
from raykd.pipeline.teachers import Specs
from raykd.targets import EntryKey, TargetStore, TeacherKeys
from raykd.targets.codec import feature_version, version
from raykd.targets.entries import MANIFEST
from raykd.targets.maintenance import size_of
from raykd.targets.marks import Mark, board_of, hold
from raykd.targets.quarantine_log import QUARANTINE, read_quarantined
from raykd.targets.remote import Remote, is_uri, remote_of
from raykd.targets.shards import unwritable
from raykd.targets.store import ORIGINAL
from raykd.teachers import ActorFleet, AnySpec
from raykd.teachers.filling import Part, fill, missing_parts
from raykd.teachers.model import kept_of_originals
from raykd.teachers.quarantine import Tolerance
from raykd.tracking import Event, events
from raykd.types import ORIGINAL_VIEW

Keys = dict[str, TeacherKeys]
_KEYS_BYTES = 8 + 8
"""Sample id and content hash."""
_MARGIN = 0.95
"""Part of the free space that a store may fill."""


def bucket_of(config: Config) -> Remote | None:
    """The bucket that the target store is in; None = a folder."""
    store = config.targets.store
    return remote_of(store) if store is not None and is_uri(store) else None


def store_keys(specs: Specs, samples: Samples) -> Keys:
    """Where each teacher's answers are kept."""
    return {name: _keys(spec, samples.view_key) for name, spec in specs.items()}


def _keys(spec: AnySpec, views: str) -> TeacherKeys:
    teacher, features = spec.fingerprint, feature_version(spec.packing)
    return TeacherKeys(
        views=EntryKey(teacher, views, codec=version(spec.answers, spec.packing)),
        originals=EntryKey(teacher, ORIGINAL, codec=version(spec.answers, kept_of_originals(spec))),
        features=tuple(EntryKey(teacher, views, tap, features) for tap in spec.taps),
    )


def open_store(
    root: Path, keys: Keys, samples: Samples, temperatures: Mapping[str, float] | None = None
) -> TargetStore:
    """The store as students and evaluation read it."""
    return TargetStore.open(root, keys, samples.ids, samples.content_hashes, temperatures)


class RecipeStore:
    """The entries of a recipe's teachers in the target store.

    Args:
        prepared: the recipe with its data.
        specs: its teachers, as they are hosted; none where only the place and the sizes matter.

    Attributes:
        bucket: where the store is in one; its `root` is this node's mirror.
        root: the store's folder.
        keys: teacher -> its entries.
    """

    def __init__(self, prepared: Prepared, specs: Specs | None = None) -> None:
        self.prepared, self.samples = prepared, prepared.samples
        self.bucket = bucket_of(prepared.config)
        folder = store_root(prepared.config)
        self.root = folder if self.bucket is None else self.bucket.root
        self.keys = store_keys(specs or {}, self.samples)

    def open(self) -> TargetStore:
        """The store, with all that it holds by now."""
        return open_store(self.root, self.keys, self.samples)

    def sync(self, views: int) -> None:
        """Make this node's mirror and the bucket alike, before it is judged what the store lacks.

        Args:
            views: how many are required; of none, only the entries of untransformed samples are fetched.

        Raises:
            TargetError: an object is damaged or of other targets, or one side cannot be read or written.
        """
        if self.bucket is not None:
            entries = [one.every if views else (one.originals,) for one in self.keys.values()]
            self.bucket.sync(key for several in entries for key in several)

    @contextmanager
    def in_use(self, job: str, waiting: Callable[[Mark], None]) -> Iterator[None]:
        """Keep `raykd targets prune`, of any node, from these entries for the length of a block.

        Args:
            job: what is told whoever prunes.
            waiting: is told who prunes while the block waits for it to begin.

        Raises:
            TargetError: the mark cannot be written.
        """
        entries = {key.folder for one in self.keys.values() for key in one.every}
        with hold(board_of(self.root, self.bucket), Mark.own("reads", entries, job), waiting):
            yield

    def gone(self, noted: Path) -> list[str]:
        """Folders of these entries that a job once noted as filled and that are not in the store any more.

        Args:
            noted: its `targets.json`, which need not be there.
        """
        if not noted.is_file():
            return []
        before = read_json(noted)
        if before.get("store") != str(self.root):
            return []
        own = {key.folder for one in self.keys.values() for key in one.every}
        lost = {one["folder"] for one in before["entries"]} & own
        return sorted(name for name in lost if not (self.root / name / MANIFEST).is_file())

    def missing(self, views: int) -> tuple[list[Part], list[Part]]:
        """What the store lacks: validation, test and some samples of transfer sets untransformed, training samples in so many views."""
        splits = self.samples.splits
        probes = at_home_rows(self.samples).values()
        held_out = np.concatenate([splits["validation"], splits["test"], *probes])
        augmented = {name: one.augmented for name, one in self.keys.items()}
        originals = {name: (one.originals,) for name, one in self.keys.items()}
        shown, train = list(range(views)), self.prepared.asked
        return (
            list(missing_parts(self.root, originals, self.samples, held_out, [ORIGINAL_VIEW])),
            list(missing_parts(self.root, augmented, self.samples, train, shown)),
        )

    def required(self, views: int) -> int:
        """How many answers of one teacher a run needs, over samples and views."""
        return self._held_out + views * len(self.prepared.asked)

    @property
    def _held_out(self) -> int:
        """How many samples are scored untransformed."""
        splits, probes = self.samples.splits, at_home_rows(self.samples).values()
        return sum(map(len, (splits["validation"], splits["test"], *probes)))

    def fill(
        self,
        parts: list[Part],
        fleet: ActorFleet,
        emit: Callable[[Event], None],
        tolerance: Tolerance | None = None,
    ) -> int:
        """Score what the store lacks; the number of teacher samples scored.

        Without a tolerance, as for validation and test, no sample may break a teacher.

        Raises:
            TargetError: the store cannot be written.
        """
        try:
            scored = sum(fill(self.root, parts, fleet, emit, tolerance, self.bucket).values())
        except OSError as error:
            raise unwritable(disk_error(self.root, error)) from error
        if self.bucket is not None:
            keys = [key for part in parts for key in (*part.lacking, part.outputs)]
            self.bucket.sync(dict.fromkeys(keys))
        return scored

    def report_quarantined(self, views: int | None, emit: Callable[[Event], None]) -> None:
        """Tell of samples that broke a teacher in an earlier run: this one has no answer for them either.

        Args:
            views: how many of each sample this run shows; None = without end.
            emit: who is told.
        """
        for name, one in self.keys.items():
            folder = self.root / one.views.folder
            if any(views is None or view < views for _, _, view in read_quarantined(folder)):
                text = f"teacher {name!r} has samples in quarantine, see {folder / QUARANTINE}; delete it to try again"
                if self.bucket is not None:
                    text += f", and the objects gap-* of {one.views.folder} in the bucket"
                emit(events.failure("targets", text, decision="quarantine", teacher=name))

    def whole_bytes(self) -> int | None:
        """Bytes of all answers that are stored, headers apart; None where views are endless."""
        views = shown_views(self.prepared.config)
        if views is None:
            return None
        held_out = self._held_out
        total = 0
        for teacher in self.prepared.teachers.values():
            whole, shown = (
                sum(
                    array.nbytes
                    for array in teacher.empty_answer(self.samples, held_out=h).values()
                )
                for h in (True, False)
            )
            entries = 1 + len(teacher.taps)
            total += views * len(self.prepared.asked) * (shown + entries * _KEYS_BYTES)
            total += held_out * (whole + _KEYS_BYTES)
        return total

    def shortage(self) -> str | None:
        """Why the targets cannot be stored, in words; None where they can.

        What the store takes already counts as free: some of it may be these targets.
        """
        needed = self.whole_bytes()
        if needed is None:
            return None
        there = next(path for path in (self.root, *self.root.parents) if path.exists())
        free = shutil.disk_usage(there).free * _MARGIN + size_of(self.root)
        if needed <= free:
            return None
        return f"the targets take {needed / 1e9:,.2f} GB, {self.root} has room for {free / 1e9:,.2f} GB"


def refuse_unreachable(prepared: Prepared) -> None:
    """Refuse a job that would have to ask an engine which cannot be asked now.

    Where the store has all of its answers that the job needs, the engine itself is not needed, and nothing is said.

    Raises:
        InputError: the store lacks some, the job asks live, or the engine is one that the student is compared with.
    """
    silent = {
        n: one for n, one in prepared.teachers.items() if one.engine and one.engine.unreachable
    }
    problems = [
        Problem(f"evaluate.compare.{name}.model", one.engine.unreachable)
        for name, one in prepared.external_baselines.items()
        if one.engine and one.engine.unreachable
    ]
    lacking = Counter[str]()
    views = None if target_mode(prepared.config)[0] == "live" else shown_views(prepared.config)
    if silent and views is not None:
        only = replace(prepared, teachers=silent)
        store = RecipeStore(only, only.specs({name: {} for name in silent}))
        store.sync(views)
        for part in (one for parts in store.missing(views) for one in parts):
            lacking[part.teacher] += len(part.rows)
    for name, one in silent.items():
        assert one.engine is not None, "it was chosen for that"
        if views is None or lacking[name]:
            what = (
                "it is asked live"
                if views is None
                else f"the store lacks {lacking[name]:,} of its answers"
            )
            problems.append(Problem(f"teachers.{name}.model", f"{one.engine.unreachable}; {what}"))
    refuse(problems)


def used_entries(config: Config) -> tuple[set[str], list[str]]:
    """Folders in the store that a recipe reads, and its teachers that were not fitted yet: they have none.

    Raises:
        InputError: the recipe does not fit its data and models.
    """
    if config.folds is not None:
        found = [used_entries(recipe) for recipe in fold_recipes(config)]
        unfitted = dict.fromkeys(name for _, names in found for name in names)
        return set().union(*(folders for folders, _ in found)), list(unfitted)
    if config.stages:
        stages, controls = chain_of(config, home())
        found = [used_entries(stage.plan) for stage in (*stages, *controls)]
        unfitted = dict.fromkeys(name for _, names in found for name in names)
        return set().union(*(folders for folders, _ in found)), list(unfitted)
    prepared = prepare(config)
    weights = known_weights(prepared)
    ready = replace(prepared, teachers={name: prepared.teachers[name] for name in weights})
    keys = store_keys(ready.specs(weights), prepared.samples)
    folders = {key.folder for one in keys.values() for key in one.every}
    return folders, [name for name in prepared.teachers if name not in weights]


def referenced_teachers(folder: Path) -> tuple[set[str], int]:
    """Fingerprints of all teachers of the runs in a folder, and how many runs these are.

    Raises:
        InputError: there is no run.
    """
    found = sorted(folder.glob("**/config.json")) if folder.is_dir() else []
    # Another student of a run has its teachers' cards from the run.
    runs = [one.parent for one in found if RunFolder(one.parent).run_of_student is None]
    if not runs:
        raise InputError(
            Problem("--unused", f"found no run in {folder}; name the folder that holds your runs, or name the "
                    "recipes whose targets are to stay")
        )  # fmt: skip
    cards = [card for run in runs for card in sorted((run / "teachers").glob("*.json"))]
    return {str(read_json(card).get("fingerprint")) for card in cards}, len(runs)
