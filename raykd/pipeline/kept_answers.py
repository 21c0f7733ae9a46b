"""What evaluation keeps of the teachers' stored answers; of a task with columns a few samples at a time.

Shapes: N units, n units of a few samples, C classes, A columns, T teachers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raykd.config import Config
from raykd.data import Samples
from raykd.evaluate import SplitOutputs
from raykd.evaluate.outputs import Split
from raykd.targets import TargetStore, TeacherKeys
from raykd.targets.remote import Remote, is_uri, remote_of
from raykd.tasks import find_task
from raykd.train.validation import Beside, few_at_a_time
from raykd.types import ORIGINAL_VIEW, TeacherOutputs


@dataclass(frozen=True)
class KeptAnswers:
    """The teachers' answers and their ensemble's, as evaluation keeps them.

    Attributes:
        teachers: name -> [N, C], or columns [N, A].
        ensemble: the same of their plain mean.
    """

    teachers: Mapping[str, Tensor]
    ensemble: Tensor


@dataclass(frozen=True)
class StoredAnswers:
    """What it takes to read the teachers' answers to untransformed samples in any process.

    Attributes:
        root: the store's folder.
        keys: teacher -> its entries there.
        bucket: of which it is a mirror, or None.
    """

    root: Path
    keys: Mapping[str, TeacherKeys]
    bucket: Remote | None

    @classmethod
    def of(cls, store: TargetStore, config: Config, names: Sequence[str]) -> StoredAnswers:
        """Of some teachers of a store that is open."""
        place = config.targets.store
        bucket = remote_of(place) if place is not None and is_uri(place) else None
        keys = store.keys
        return cls(store.root, {name: keys[name] for name in names}, bucket)

    def open(self, samples: Samples) -> TargetStore:
        """The store; the first process of a node fetches what its mirror of a bucket lacks."""
        if self.bucket is not None:
            self.bucket.pull(key.originals for key in self.keys.values())
        hashes = samples.content_hashes
        return TargetStore.open(self.root, self.keys, samples.ids, hashes)


def kept_of(samples: Samples, rows: np.ndarray, outputs: TeacherOutputs) -> KeptAnswers:
    """Of outputs that are all there."""
    task = find_task(samples.task).metrics
    labels = torch.from_numpy(samples.unit_labels(rows))
    ensemble_NC = task.ensemble([output.values_NC for output in outputs.values()])
    return KeptAnswers(
        {name: task.kept(task.answer(one.values_NC), labels) for name, one in outputs.items()},
        task.kept(ensemble_NC, labels),
    )


def kept_in(
    samples: Samples, store: TargetStore, rows: np.ndarray, names: Sequence[str]
) -> KeptAnswers:
    """Of stored outputs: where columns are kept, those of a few samples are in memory at a time.

    Raises:
        TargetError: the store lacks an answer, or a shard is damaged.
    """
    task, parts = find_task(samples.task).metrics, [rows]
    if task.columns is not None:
        parts = list(few_at_a_time(samples, rows)) or parts
    found = []
    for part in parts:
        outputs = store.gather(part, ORIGINAL_VIEW)
        found.append(kept_of(samples, part, {name: outputs[name] for name in names}))
    if len(found) == 1:
        return found[0]
    return KeptAnswers(
        {name: torch.cat([one.teachers[name] for one in found]) for name in names},
        torch.cat([one.ensemble for one in found]),
    )


def keep_stored(samples: Samples, stored: StoredAnswers, rows: np.ndarray) -> KeptAnswers:
    """As `kept_in`, in a process that has not opened the store."""
    return kept_in(samples, stored.open(samples), rows, list(stored.keys))


def teachers_beside(samples: Samples, stored: StoredAnswers) -> Beside:
    """What a student is held against: rows of a few samples -> answers of the ensemble [n, C] and of each teacher."""
    store, task = stored.open(samples), find_task(samples.task).metrics

    def beside(rows: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        outputs = store.gather(rows, ORIGINAL_VIEW)
        values = [outputs[name].values_NC for name in stored.keys]
        return task.ensemble(values), [task.answer(values_NC) for values_NC in values]

    return beside


def split_outputs(
    samples: Samples,
    split: Split,
    outputs: TeacherOutputs,
    students: Mapping[str, Tensor],
    students_last: Mapping[str, Tensor],
    external_baselines: Mapping[str, Tensor] | None = None,
) -> SplitOutputs:
    """The answers of all models; the ensemble says the plain mean of its teachers' (probabilities, values)."""
    kept = kept_of(samples, samples.splits[split], outputs)
    return kept_outputs(samples, split, kept, students, students_last, external_baselines)


def kept_outputs(
    samples: Samples,
    split: Split,
    kept: KeptAnswers,
    students: Mapping[str, Tensor],
    students_last: Mapping[str, Tensor],
    external_baselines: Mapping[str, Tensor] | None = None,
) -> SplitOutputs:
    """The same of what is kept of the teachers' answers."""
    rows = samples.splits[split]
    return SplitOutputs(
        labels_N=torch.from_numpy(samples.unit_labels(rows)),
        ids_N=torch.from_numpy(samples.per_unit(rows, samples.ids[rows]).copy()),
        user_ids=tuple(samples.named(samples.per_unit(rows, rows))),
        teachers=kept.teachers,
        ensemble=kept.ensemble,
        students=students,
        students_last=students_last,
        rivals=external_baselines or {},
        task=samples.task,
    )
