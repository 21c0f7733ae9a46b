"""Run as a script: reads orders from stdin, a line of JSON each, and forks writers of target stores.

An order: `root`, `writers` (how many at once, each a replica of the same fill), and where to kill the first
of them with signal 9: `line` (the n-th line of raykd/{disks,folders}.py and raykd/targets/{entries,shards,remote,buckets}.py that it runs) or
`after_s`; `bucket` is the URI that the store is a mirror of. The answer: `{"codes": [...], "lines": lines run}`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from raykd import disks, folders
from raykd.targets import EntryKey, buckets, entries, remote, shards
from raykd.targets.store import Entry, append

KEY = EntryKey("teacher", "shift seed 0")
COUNT, ROWS, VIEWS, CLASSES = 64, 32, 2, 500
IDS = np.random.default_rng(0).permutation(10 * COUNT)[:COUNT]
HASHES = np.arange(COUNT, dtype=np.uint64) + np.uint64(2**63)
_WATCHED = {module.__file__ for module in (entries, disks, folders, shards, remote, buckets)}


def answers(rows, view):
    """What the teacher says: a pure function of row and view."""
    base = np.arange(CLASSES, dtype=np.float32) * (view + 1)
    values = np.stack([np.sin(base + row) for row in rows]).astype(np.float16)
    return {"values": values, "offset": np.asarray(rows, np.float32)}


def fill(root, order=1, bucket=None):
    """What the store lacks, shard by shard, as `raykd.teachers.filling` does it."""
    mirrored = bucket and remote.Remote(bucket, root)
    if mirrored:
        mirrored.sync([KEY])
    for view in range(VIEWS):
        lacking = Entry(root, KEY).missing(IDS, HASHES, view)
        starts = range(0, len(lacking), ROWS)
        for start in list(starts)[::order]:
            rows = lacking[start : start + ROWS]
            arrays = {"ids": IDS[rows], "hashes": HASHES[rows], **answers(rows, view)}
            shard = shards.write_shard(root / KEY.folder, view, arrays, KEY.to_json())
            if mirrored:
                mirrored.keep(KEY, [shard])
            else:
                append(root, KEY, [shard])


def _killing(at):
    """A trace function that ends the process at its `at`-th line, and counts."""
    ran = [0]

    def on_line(frame, event, argument):
        if event == "line":
            ran[0] += 1
            if ran[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
        return on_line

    def on_call(frame, event, argument):
        return on_line if frame.f_code.co_filename in _WATCHED else None

    return on_call, ran


def _write(order, number, report):
    line = order.get("line") if number == 0 else None
    trace, ran = _killing(line or -1)
    if order.get("trace") or line:
        sys.settrace(trace)
    root = Path(order["root"])
    if "bucket" in order:
        root /= str(number)  # each on a node of its own
    fill(root, -1 if number % 2 else 1, order.get("bucket"))
    sys.settrace(None)
    os.write(report, json.dumps(ran[0]).encode())


def _fork(order, number, report):
    if pid := os.fork():
        return pid
    code = 1
    try:
        _write(order, number, report)
        code = 0
    finally:
        os._exit(code)


def main():
    """Answer orders until stdin ends."""
    for text in sys.stdin:
        order = json.loads(text)
        reader, writer = os.pipe()
        pids = [_fork(order, number, writer) for number in range(order.get("writers", 1))]
        if "after_s" in order:
            time.sleep(order["after_s"])
            os.kill(pids[0], signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        os.close(writer)
        with os.fdopen(reader) as told:
            lines = told.read()
        sys.stdout.write(json.dumps({"codes": codes, "lines": lines}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
