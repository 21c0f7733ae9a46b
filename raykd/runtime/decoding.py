"""Ray Data shell: the parts of a source are decoded on the whole cluster; samples never pass the object store."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.exceptions import RayError, RayTaskError

from raykd.data.decoding import Mark, Part, Target, write_part
from raykd.errors import DataError, RaykdError

_MARK_BYTES = 256


class _Parts(Datasource):  # type: ignore[misc]
    """A read task for each part: it reads, decodes and writes the part, and returns its mark.

    Ray Data's own readers do not return a row's index in its file, without which a sample has no fixed index in
    the decoded file, and no stable id.
    """

    def __init__(self, target: Target, parts: Sequence[Part]) -> None:
        super().__init__()
        self._target, self._parts = target, parts

    def estimate_inmemory_data_size(self) -> int:
        return _MARK_BYTES * len(self._parts)

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 - a part is what is repeated after a kill
        per_task_row_limit: int | None = None,  # noqa: ARG002
        data_context: Any = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        about = BlockMetadata(num_rows=1, size_bytes=_MARK_BYTES, input_files=None, exec_stats=None)
        return [ReadTask(partial(_decode, self._target, part), about) for part in self._parts]


def _decode(target: Target, part: Part) -> list[Any]:
    """Runs in a worker; a table of one row."""
    mark = write_part(target, part)
    bad = json.dumps(list(mark.bad.items()))
    return [pa.table({"number": [mark.number], "count": [mark.count], "bad": [bad]})]


def decode_parts(target: Target, parts: Sequence[Part]) -> Iterator[Mark]:
    """Decode parts on the cluster that this process is connected to, as many at a time as it has CPUs.

    Raises:
        DataError: a file cannot be read or written, or workers died too often.
    """
    with _silent():
        marks = ray.data.read_datasource(_Parts(target, parts), override_num_blocks=len(parts))
        try:
            for row in marks.iter_rows():
                yield Mark(int(row["number"]), int(row["count"]), dict(json.loads(row["bad"])))
        except RayTaskError as error:
            if isinstance(error.cause, RaykdError):
                raise error.cause from None
            raise DataError(f"samples cannot be decoded: {error.cause!r}") from error
        except RayError as error:
            raise DataError(
                f"the workers that decode samples died: {error}; finished parts are kept, start again"
            ) from error


@contextmanager
def _silent() -> Iterator[None]:
    """Without Ray Data's own progress bars and plans: raykd shows its own."""
    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = before
