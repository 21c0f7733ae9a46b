"""How files are written and locked, for targets and decoded samples alike."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from raykd.disks import write_whole
from raykd.errors import DiskError
from raykd.folders import lock_file, read_json, write_json


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_there_wholly_or_not_at_all(tmp_path, durable):
    path = tmp_path / "made" / "name"
    write_whole(path, [b"a", b"b"], durable=durable)

    def pieces(error):
        yield b"half"
        assert path.read_bytes() == b"ab", "what was there is seen until the new one is whole"
        raise error

    for error in (OSError(errno.EIO, "disk"), ValueError("no more"), KeyboardInterrupt()):
        with pytest.raises(DiskError if isinstance(error, OSError) else type(error)):
            write_whole(path, pieces(error), durable=durable)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == {"name": b"ab"}


@pytest.mark.parametrize(("durable", "synced"), [(True, 2), (False, 0)])
def test_what_is_durable_is_synced_with_its_folder(tmp_path, monkeypatch, durable, synced):
    calls, sync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (calls.append(descriptor), sync(descriptor))
    )
    write_json(tmp_path / "name", {"a": [1]}, durable=durable)
    assert len(calls) == synced
    assert read_json(tmp_path / "name") == {"a": [1]}


def test_one_waits_for_the_other_and_may_give_up(tmp_path):
    path, order = tmp_path / "made" / ".lock", []

    def second():
        with lock_file(path):
            order.append("second")

    def busy():
        raise TimeoutError("held for too long")

    thread = threading.Thread(target=second)
    with lock_file(path, busy):
        with pytest.raises(TimeoutError), lock_file(path, busy):
            pass
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]
    with lock_file(path, busy):
        order.append("again")
