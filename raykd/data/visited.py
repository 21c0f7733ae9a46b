"""States that students visited, as further training samples behind those of the recipe.

Shapes: N samples, M states, O numbers of an observation, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from raykd.data.samples import Samples
from raykd.data.transfer.joining import fresh_ids
from raykd.tasks import find_task


@dataclass(frozen=True, eq=False)
class Visited:
    """States, of which nobody knows the right action.

    Attributes:
        observations: float32 [M, O].
        replica: int64 [M], whose they are.
        names: M different texts, from which ids are made.
        answers: privileged teacher -> float32 [M, C].
        simulators: [M] texts, where they were visited; None where nobody wrote it down.
    """

    observations: np.ndarray
    replica: np.ndarray
    names: tuple[str, ...]
    answers: Mapping[str, np.ndarray] = field(default_factory=dict)
    simulators: np.ndarray | None = None


def with_visited(samples: Samples, visited: Visited) -> Samples:
    """The samples with states behind them, which are training rows of the replica that visited them."""
    before, more = len(samples), len(visited.observations)
    ((name, array),) = samples.inputs.items()
    form = find_task(samples.task).labels
    unknown = form.empty(more, len(samples.classes))
    rows = np.arange(before, before + more, dtype=np.int64)
    own = {int(one): rows[visited.replica == one] for one in np.unique(visited.replica)}
    every = {
        one: np.concatenate([samples.visited.get(one, rows[:0]), own.get(one, rows[:0])])
        for one in sorted({*samples.visited, *own})
    }
    domains = samples.domains and samples.domains.with_more(visited.simulators, more)
    user_ids = pa.concat_arrays(
        [samples.user_ids.cast(pa.string()), pa.array(visited.names, pa.string())]
    )
    return replace(
        samples,
        inputs={name: _behind(array, visited.observations.astype(array.dtype))},
        labels=_behind(samples.labels, unknown),
        all_labels=_behind(samples.all_labels, unknown),
        ids=_behind(samples.ids, fresh_ids(visited.names, samples.ids)),
        splits={**samples.splits, "train": _behind(samples.splits["train"], rows)},
        recorded={n: _behind(said, visited.answers[n]) for n, said in samples.recorded.items()},
        user_ids=user_ids,
        visited=every,
        domains=domains,
        columns={n: _behind(one, np.repeat(one[:1], more)) for n, one in samples.columns.items()},
    )


def _behind(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Both as one read-only array."""
    both = np.concatenate([first, second])
    both.flags.writeable = False
    return both
