"""How often teachers are asked and what the store will take, counted before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raykd.objective import Role, training_role
from raykd.pipeline.fits import roles, shown_views
from raykd.pipeline.placement import target_mode
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.serving import (
    make_specs,
    missing_work,
    required_answers,
    store_keys,
    store_root,
)
from raykd.pipeline.storage_estimate import answer_of
from raykd.pipeline.store_references import known_weights
from raykd.targets import EntryKey, TeacherKeys
from raykd.targets.entries import Entry
from raykd.targets.remote import is_uri
from raykd.targets.sizes import manifest_bytes, shard_bytes
from raykd.teachers.filling import Part
from raykd.types import ORIGINAL_VIEW


@dataclass(frozen=True)
class Share:
    """What a filled store takes of one teacher.

    Attributes:
        passes: of its answers, over samples and views, that the run needs.
        passes_to_come: of them, that the store lacks.
        bytes: of its shards, once they are all there.
        bytes_to_come: of them, that are not there yet.
        manifests_bytes: of the lists of its shards.
    """

    passes: int
    passes_to_come: int
    bytes: int
    bytes_to_come: int
    manifests_bytes: int


@dataclass(frozen=True)
class Forecast:
    """What a recipe will ask of its teachers.

    Attributes:
        mode: as the run will begin.
        reason: why.
        stored: teacher -> its share where every view is stored ahead; None where views are endless.
        live: teacher -> its share where each student asks anew, without early stopping; only the answers
            for untransformed samples are stored then.
        node_bytes: that each node keeps beside the store, where views are stored: a mirror of a bucket, and
            nothing of a folder, whose files all processes of a node read through one page cache.
        step_bytes: that travel to one student in each step, live, where it asks all its teachers.
        unfitted: teachers that no run has fitted yet: the store has nothing of them.
        better: the mode with fewer teacher passes to come.
    """

    mode: str
    reason: str
    stored: Mapping[str, Share] | None
    live: Mapping[str, Share]
    node_bytes: int
    step_bytes: int
    unfitted: tuple[str, ...]
    better: str

    def to_json(self) -> dict[str, Any]:
        """As plain values, with the sums over the teachers."""
        stored = None if self.stored is None else _told(self.stored)
        return {**asdict(self), "stored": stored, "live": _told(self.live)}


def total(shares: Mapping[str, Share]) -> Share:
    """The sum over all teachers."""
    every = [asdict(share) for share in shares.values()]
    return Share(**{name: sum(one[name] for one in every) for name in every[0]})


def _told(shares: Mapping[str, Share]) -> dict[str, Any]:
    return {**asdict(total(shares)), "teachers": {n: asdict(s) for n, s in shares.items()}}


def forecast(prepared: Prepared) -> Forecast:
    """Count what a run will score and store; what the store holds already is taken off.

    Of a bucket that is what this node has mirrored: nothing is fetched.

    Raises:
        TargetError: the store is damaged.
    """
    config = prepared.config
    mode, reason = target_mode(config)
    known = known_weights(prepared)
    # A teacher to be fitted has no weights yet: its stand-in's fingerprint is nobody's in the store.
    keys = store_keys(
        make_specs(prepared, {n: {} for n in prepared.teachers} | known), prepared.samples
    )
    count = shown_views(config)
    originals, augmented = missing_work(prepared, keys, range(count or 0))
    live = {
        name: _with_passes(share, asked)
        for (name, share), asked in zip(
            _shares(prepared, keys, 0, originals).items(), _asked_live(prepared), strict=True
        )
    }
    stored = None
    if count is not None:
        stored = _shares(prepared, keys, count, [*originals, *augmented])
    filled = total(stored or live)
    mirrored = is_uri(config.targets.store)
    fewer = stored and total(stored).passes_to_come <= total(live).passes_to_come
    return Forecast(
        mode=mode,
        reason=reason,
        stored=stored,
        live=live,
        node_bytes=filled.bytes + filled.manifests_bytes if mirrored else 0,
        step_bytes=_step_bytes(prepared),
        unfitted=tuple(name for name in prepared.teachers if name not in known),
        better="stored" if fewer else "live",
    )


def _shares(
    prepared: Prepared, keys: Mapping[str, TeacherKeys], views: int, parts: Sequence[Part]
) -> dict[str, Share]:
    """Each teacher's share where so many views of each training sample are stored."""
    needed = required_answers(prepared, 1, views)
    return {
        name: _share(prepared, name, keys[name], needed, [p for p in parts if p.teacher == name])
        for name in prepared.teachers
    }


def _share(
    prepared: Prepared, name: str, keys: TeacherKeys, needed: int, parts: Iterable[Part]
) -> Share:
    """One teacher's share, from what its entries hold and what they lack."""
    root = store_root(prepared.config)
    entries = {key: Entry(root, key) for key in (*keys.augmented, keys.originals)}
    lists = {key: [(s.view, s.rows) for s in entry.shards] for key, entry in entries.items()}
    held = sum(
        (e.folder / shard.file).stat().st_size for e in entries.values() for shard in e.shards
    )
    passes, to_come = 0, 0
    for part in parts:
        passes += len(part.rows)
        for key in part.lacking:
            to_come += _part_bytes(prepared, name, key, part)
            lists[key].append((part.view, len(part.rows)))
    manifests = sum(manifest_bytes(key, shards) for key, shards in lists.items() if shards)
    return Share(needed, passes, held + to_come, to_come, manifests)


def _part_bytes(prepared: Prepared, name: str, key: EntryKey, part: Part) -> int:
    held_out = part.view == ORIGINAL_VIEW
    answer = answer_of(prepared.teachers[name], prepared.samples, held_out=held_out)
    return shard_bytes(key, part.view, len(part.rows), answer)


def _with_passes(share: Share, asked: int) -> Share:
    """The same, and so many answers that are not stored."""
    passes, to_come = share.passes + asked, share.passes_to_come + asked
    return Share(passes, to_come, share.bytes, share.bytes_to_come, share.manifests_bytes)


def _asked_live(prepared: Prepared) -> list[int]:
    """How often students and controls ask each teacher where nothing is stored.

    Which teacher is the best is not known yet: the first one stands for it.
    """
    config, train = prepared.config, len(prepared.samples.splits["train"])
    listens = [heard for role in roles(config) for heard in heard_by(prepared, role)]
    each = config.seeds * config.train.epochs * train
    return [each * listens.count(name) for name in prepared.teachers]


def heard_by(prepared: Prepared, role: str) -> tuple[str, ...]:
    """The teachers that a student or control listens to; the first one stands for the best."""
    names = list(prepared.teachers)
    taught: Role = role  # type: ignore[assignment]
    return training_role(taught, prepared.config.objective, names, names[0]).teachers


def _step_bytes(prepared: Prepared) -> int:
    """Of the arrays that answer one batch of the student's."""
    sizes = [
        sum(array.nbytes for array in answer_of(candidate, prepared.samples).values())
        for candidate in prepared.teachers.values()
    ]
    return prepared.config.train.batch_size * sum(sizes)
