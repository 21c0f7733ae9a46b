"""How often teachers are asked and what the store will take, counted before anything runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from raykd.config.peers import Codistillation
from raykd.objective import training_role
from raykd.pipeline.choosing import extra_fits_of, typical
from raykd.pipeline.fits import known_weights, peers_of, roles, shown_views, teachers_of
from raykd.pipeline.placement import target_mode
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.recipe_store import RecipeStore
from raykd.pipeline.taught import student_rows
from raykd.pipeline.token_scales import scale_rows
from raykd.targets import EntryKey
from raykd.targets.entries import Entry
from raykd.targets.shards import rows_of_a_shard
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

    def asked(self, more: int) -> Share:
        """The same, and so many answers that are not stored."""
        return replace(self, passes=self.passes + more, passes_to_come=self.passes_to_come + more)


@dataclass(frozen=True)
class Written:
    """What students will write themselves, and teachers will be asked about it; all fits together.

    Attributes:
        rounds: in which they write.
        sequences: teacher -> texts that it scores.
        tokens: teacher -> tokens of them, if no prompt is longer than the recipe says.
    """

    rounds: int
    sequences: Mapping[str, int]
    tokens: Mapping[str, int]


@dataclass(frozen=True)
class Counts:
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
        on_policy: what students will write themselves, which passes have in them; None where they write nothing.
    """

    mode: str
    reason: str
    stored: Mapping[str, Share] | None
    live: Mapping[str, Share]
    node_bytes: int
    step_bytes: int
    unfitted: tuple[str, ...]
    better: str
    on_policy: Written | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values, with the sums over the teachers."""
        stored = None if self.stored is None else _summed(self.stored)
        return {**asdict(self), "stored": stored, "live": _summed(self.live)}


def total(shares: Mapping[str, Share]) -> Share:
    """The sum over all teachers."""
    every = [asdict(share) for share in shares.values()]
    return Share(**{name: sum(one[name] for one in every) for name in every[0]})


def not_before(
    counts: Counts, before: Mapping[str, Share], originals: int
) -> tuple[Counts, dict[str, Share]]:
    """What a stage asks of its teachers that no earlier stage has asked.

    Args:
        counts: of the stage by itself.
        before: teacher -> its largest share in an earlier stage.
        originals: untransformed samples, of which each teacher's answers are stored in any mode.

    Returns:
        The counts, without what is stored by then and the teachers that are fitted by then; and `before` for the next
        stage.
    """
    stored = counts.stored and {
        name: share if name not in before else _less(share, before[name])
        for name, share in counts.stored.items()
    }
    kept = Share(originals, originals, 0, 0, 0)
    live = {
        name: share if name not in before else _less(share, kept)
        for name, share in counts.live.items()
    }
    unfitted = tuple(name for name in counts.unfitted if name not in before)
    own = counts.live if counts.stored is None else counts.stored
    largest = {
        name: max(share, before.get(name, share), key=lambda one: one.passes)
        for name, share in own.items()
    }
    rest = replace(counts, stored=stored, live=live, unfitted=unfitted)
    return rest, {**before, **largest}


def _less(share: Share, before: Share) -> Share:
    """What remains of a share where another one of the same teacher is there already."""
    names = asdict(share)
    return Share(**{name: max(0, value - getattr(before, name)) for name, value in names.items()})


def _summed(shares: Mapping[str, Share]) -> dict[str, Any]:
    return {**asdict(total(shares)), "teachers": {n: asdict(s) for n, s in shares.items()}}


def count(prepared: Prepared) -> Counts:
    """Count what a run will score and store; what the store holds already is taken off.

    Of a bucket that is what this node has mirrored: nothing is fetched.

    Raises:
        TargetError: the store is damaged.
    """
    config, views = prepared.config, shown_views(prepared.config)
    mode, reason = target_mode(config)
    known = known_weights(prepared)
    # A teacher to be fitted has no weights yet: its stand-in's fingerprint is nobody's in the store.
    store = RecipeStore(prepared, prepared.specs({n: {} for n in prepared.teachers} | known))
    originals, augmented = store.missing(views or 0)
    asked = _asked_live(prepared)
    live = {name: share.asked(asked[name]) for name, share in _shares(store, 0, originals).items()}
    stored = None if views is None else _shares(store, views, [*originals, *augmented])
    written = _written(prepared)
    if written is not None:
        live, stored = _with(live, written), stored and _with(stored, written)
    filled = total(stored or live)
    fewer = stored and total(stored).passes_to_come <= total(live).passes_to_come
    answers = [one.empty_answer(prepared.samples) for one in prepared.teachers.values()]
    step_bytes = sum(array.nbytes for arrays in answers for array in arrays.values())
    return Counts(
        mode=mode,
        reason=reason,
        stored=stored,
        live=live,
        node_bytes=0 if store.bucket is None else filled.bytes + filled.manifests_bytes,
        step_bytes=0 if config.cluster.with_student else config.train.batch_size * step_bytes,
        unfitted=tuple(name for name in prepared.teachers if name not in known),
        better="stored" if fewer else "live",
        on_policy=written,
    )


def _with(shares: Mapping[str, Share], written: Written) -> dict[str, Share]:
    """Shares with what teachers score of the students' own texts, which no target store keeps."""
    return {name: share.asked(written.sequences[name]) for name, share in shares.items()}


def _written(prepared: Prepared) -> Written | None:
    """What is written by all replicas of the student and of the controls that write; the first teacher stands for the best."""
    config, names = typical(prepared).config, list(prepared.teachers)
    settings, vocabulary = config.objective.on_policy, prepared.samples.vocabulary
    if settings is None or vocabulary is None:
        return None
    taught = [
        training_role(role, config.objective, names, names[0], always_labelled=True)
        for role in roles(config)
    ]
    writing = [role for role in taught if role.objective.on_policy is not None]
    of_epoch = settings.of_epoch(len(prepared.samples.splits["train"]), config.train.batch_size)
    each = settings.rounds(config.train.epochs) * config.seeds
    tokens = settings.written_of(vocabulary.length) - settings.prompt_of(vocabulary.length)
    asked = Counter(name for role in writing for name in role.teachers)
    sequences = {name: each * asked[name] * (settings.sequences or of_epoch) for name in names}
    return Written(
        each * len(writing), sequences, {name: tokens * n for name, n in sequences.items()}
    )


def _shares(store: RecipeStore, views: int, parts: Sequence[Part]) -> dict[str, Share]:
    """Each teacher's share where so many views of each training sample are stored."""
    return {
        name: _share(store, name, store.required(views), [p for p in parts if p.teacher == name])
        for name in store.keys
    }


def _share(store: RecipeStore, name: str, required: int, parts: Sequence[Part]) -> Share:
    """One teacher's share, from what its entries hold and what they lack."""
    entries = {key: Entry(store.root, key) for key in store.keys[name].every}
    lists = {key: [(s.view, s.rows) for s in entry.shards] for key, entry in entries.items()}
    held = sum(
        (e.folder / shard.file).stat().st_size for e in entries.values() for shard in e.shards
    )
    to_come = 0
    for part in (one for whole in parts for one in _in_shards(store, whole)):
        for key in part.lacking:
            to_come += _part_bytes(store, key, part)
            lists[key].append((part.view, len(part.rows)))
    manifests = sum(manifest_bytes(key, shards) for key, shards in lists.items() if shards)
    passes = sum(len(part.rows) for part in parts)
    return Share(required, passes, held + to_come, to_come, manifests)


def _in_shards(store: RecipeStore, part: Part) -> Iterator[Part]:
    """A part as it is written; of samples with many units the first ones decide, of which the mean is taken here."""
    teacher = store.prepared.teachers[part.teacher]
    answer = teacher.empty_answer(store.samples, held_out=part.view == ORIGINAL_VIEW)
    row_bytes = float(sum(array.nbytes for array in answer.values()))
    if store.samples.is_tokens:
        row_bytes *= len(store.samples.per_unit(part.rows, part.rows)) / len(part.rows)
    most = rows_of_a_shard(row_bytes)
    for start in range(0, len(part.rows), most):
        yield replace(part, rows=part.rows[start : start + most])


def _part_bytes(store: RecipeStore, key: EntryKey, part: Part) -> int:
    teacher = store.prepared.teachers[part.teacher]
    answer = teacher.empty_answer(store.samples, held_out=part.view == ORIGINAL_VIEW)
    units = None
    if store.samples.is_tokens:
        units = len(store.samples.per_unit(part.rows, part.rows))
    return shard_bytes(key, part.view, len(part.rows), answer, units)


def _asked_live(prepared: Prepared) -> dict[str, int]:
    """How often students and controls ask each teacher where nothing is stored.

    Which teacher is the best is not known yet: the first one stands for it.
    """
    config, names = typical(prepared).config, list(prepared.teachers)
    asked = Counter[str]()
    for name in roles(config):
        role = training_role(name, config.objective, names, names[0])
        peers = peers_of(config, role)
        apart = peers.count if isinstance(peers, Codistillation) else 1
        asked.update(dict.fromkeys(teachers_of(config, role), apart))
    each = config.train.epochs * len(student_rows(config, prepared.samples))
    extra = extra_fits_of(prepared)
    once = len(scale_rows(prepared)) if prepared.scaled else 0  # unless another run has kept them
    replicas = {
        name: sum(one.settings.is_heard_by(replica) for replica in range(config.seeds))
        for name, one in prepared.teachers.items()
    }
    return {name: once + each * (replicas[name] * asked[name] + extra) for name in names}
