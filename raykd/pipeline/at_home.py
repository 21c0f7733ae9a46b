"""What a job's summary says of its transfer sets: how much the ensemble is at home there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from raykd.data.transfer_parts import at_home_rows
from raykd.evaluate.at_home import REFERENCE, at_home
from raykd.evaluate.outputs import SplitOutputs
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.taught import student_rows
from raykd.targets import TargetStore
from raykd.tasks import find_task
from raykd.types import ORIGINAL_VIEW


def transfer_numbers(prepared: Prepared, store: TargetStore) -> dict[str, Any]:
    """`transfer`: each set and validation, see `raykd.evaluate.at_home`, with `samples` and `learnt` (of the recipe's student).

    Empty where the recipe has no transfer set.
    """
    samples = prepared.samples
    if not samples.transfer:
        return {}
    shown = {**at_home_rows(samples), REFERENCE: samples.splits["validation"]}
    found = at_home({name: _answers(prepared, store, rows) for name, rows in shown.items()})
    learnt = student_rows(prepared.config, samples)
    sizes = {**samples.transfer, REFERENCE: samples.splits["validation"]}
    return {
        "transfer": {
            name: {
                "samples": len(sizes[name]),
                "learnt": int(np.isin(sizes[name], learnt).sum()),
                **numbers,
            }
            for name, numbers in found.items()
        }
    }


def _answers(prepared: Prepared, store: TargetStore, rows: np.ndarray) -> SplitOutputs:
    """What the teachers and their plain mean answer to untransformed samples."""
    samples, task = prepared.samples, find_task(prepared.samples.task).metrics
    outputs = store.gather(rows, ORIGINAL_VIEW)
    values = {name: outputs[name].values_NC for name in prepared.teachers}
    whole = task.ensemble(list(values.values()))
    return SplitOutputs(
        labels_N=torch.from_numpy(samples.unit_labels(rows)),
        ids_N=torch.from_numpy(samples.ids[rows].copy()),
        teachers={name: task.answer(value) for name, value in values.items()},
        ensemble=whole,
        students={"student": whole[None]},
        task=samples.task,
    )
