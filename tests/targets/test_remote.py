"""A store in a bucket: writers and readers at once, kills, damaged and foreign objects, buckets that refuse."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import socket
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import raykd_forked_writers as writers

from raykd.errors import InputError, TargetError
from raykd.targets import TargetStore, TeacherKeys, buckets
from raykd.targets.buckets import Bucket
from raykd.targets.maintenance import (
    delete_folder,
    leftovers_in,
    survey_bucket,
    verify_bucket,
    verify_store,
)
from raykd.targets.quarantine_log import add_quarantined, read_quarantined
from raykd.targets.remote import Remote, remote_of
from raykd.targets.shards import write_file, write_shard
from raykd.targets.store import ORIGINAL, Entry, append

KEY = writers.KEY


def arrays_of(rows, view):
    answers = writers.answers(rows, view)
    return {"ids": writers.IDS[rows], "hashes": writers.HASHES[rows], **answers}


def shard_in(root, rows, view, key=KEY):
    return write_shard(root / key.folder, view, arrays_of(rows, view), key.to_json())


def rows_in(root, view):
    missing = Entry(root, KEY).missing(writers.IDS, writers.HASHES, view)
    rows = np.setdiff1d(np.arange(writers.COUNT), missing)
    keys = {"a": TeacherKeys(KEY, replace(KEY, views=ORIGINAL))}
    store = TargetStore.open(root, keys, writers.IDS, writers.HASHES)
    if len(rows):
        found, expected = store.gather_arrays("a", rows, view), writers.answers(rows, view)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    return len(rows)


@pytest.fixture(params=["file", "s3"])
def uri(request, tmp_path):
    """An empty bucket: a folder, and one of an S3 server on a loopback port."""
    if request.param == "file":
        return f"file://{tmp_path}/bucket/prefix"
    return request.getfixturevalue("s3_bucket") + "/prefix" + request.getfixturevalue("s3_options")


@pytest.fixture
def folder_uri(tmp_path):
    return f"file://{tmp_path}/bucket/prefix"


@pytest.fixture
def filled(folder_uri, tmp_path):
    """A bucket with two shards, written by one node; its objects lie in the folder that is given back."""
    remote = Remote(folder_uri, tmp_path / "writer")
    for view in range(2):
        remote.keep(KEY, [shard_in(remote.root, np.arange(10), view)])
    return tmp_path / "bucket" / "prefix" / KEY.folder


def test_what_one_node_writes_another_one_reads(uri, tmp_path):
    first, second = Remote(uri, tmp_path / "1"), Remote(uri, tmp_path / "2")
    first.check()
    shards = [shard_in(first.root, np.arange(start, start + 8), 0) for start in (0, 8)]
    first.keep(KEY, shards)
    add_quarantined(first.root / KEY.folder, [(7, 2**63 + 1, 0)])
    first.sync([KEY])
    second.pull([KEY])
    assert Entry(second.root, KEY).shards == Entry(first.root, KEY).shards
    assert rows_in(second.root, 0) == 16
    assert read_quarantined(second.root / KEY.folder) == {(7, 2**63 + 1, 0)}
    assert verify_store(second.root).problems == ()
    report = verify_bucket(first.bucket)
    assert (report.shards, report.rows, report.problems) == (2, 16, ())
    assert report.bytes == verify_store(second.root).bytes
    (listing,) = survey_bucket(second.bucket)
    assert (listing.key, listing.shards) == (KEY, Entry(first.root, KEY).shards)
    assert first.bucket.names().keys() == {
        *(f"{KEY.folder}/{s.file}" for s in shards),
        *(f"{KEY.folder}/{s.file}.json" for s in shards),
        f"{KEY.folder}/gap-7-{2**63 + 1}-0.json",
    }, "no probe is left"


def test_two_writers_at_once_lose_nothing(uri, tmp_path):
    def write(number):
        remote = Remote(uri, tmp_path / str(number))
        for start in range(0, 32, 8):
            rows = np.arange(start, start + 8) + 32 * number
            remote.keep(KEY, [shard_in(remote.root, rows, 0)])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    reader = Remote(uri, tmp_path / "reader")
    reader.pull([KEY])
    assert rows_in(reader.root, 0) == 64


def test_a_mirror_is_filled_once_by_all_processes_of_a_node(
    filled, folder_uri, tmp_path, monkeypatch
):
    read = []
    pieces = Bucket.pieces
    monkeypatch.setattr(Bucket, "pieces", lambda self, n: read.append(n) or pieces(self, n))
    remote = Remote(folder_uri, tmp_path / "node")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: remote.pull([KEY]), range(4)))
    assert len(read) == len(set(read)) == 4, "two shards and two records"


def test_a_shard_that_lies_in_the_mirror_is_not_read_again(
    filled, folder_uri, tmp_path, monkeypatch
):
    remote = Remote(folder_uri, tmp_path / "writer")
    (remote.root / KEY.folder / "manifest.json").unlink()
    monkeypatch.setattr("raykd.targets.remote.download", lambda *_: pytest.fail("read again"))
    remote.pull([KEY])
    assert len(Entry(remote.root, KEY).shards) == 2


def test_killed_at_any_line_of_the_writer(nursery, tmp_path):
    """Whoever looks into the bucket finds whole shards alone, and each resumed writer finishes the store."""
    uri = f"file://{tmp_path}/whole/bucket"
    whole = nursery(root=str(tmp_path / "whole"), bucket=uri, trace=True)
    assert whole["codes"] == [0]
    expected = objects(tmp_path / "whole" / "bucket")
    shards, finished = writers.VIEWS * writers.COUNT // writers.ROWS, set()
    assert len(expected) == 2 * shards
    for point in np.linspace(1, int(whole["lines"]), 12).astype(int).tolist():
        root = tmp_path / str(point)
        order = {"root": str(root), "bucket": f"file://{root}/bucket"}
        assert nursery(**order, line=point)["codes"] == [-signal.SIGKILL]
        reader = Remote(order["bucket"], root / "reader")
        reader.pull([KEY])
        assert verify_store(reader.root).problems == ()
        finished.add(sum(rows_in(reader.root, view) for view in range(writers.VIEWS)))
        assert nursery(**order)["codes"] == [0]
        assert objects(root / "bucket") == expected
    assert finished == {writers.ROWS * number for number in range(shards + 1)}


def objects(folder):
    """Name -> bytes of all objects; those of writers that were killed are hidden."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_many_writers_on_nodes_of_their_own(nursery, tmp_path):
    uri = f"file://{tmp_path}/bucket"
    codes = nursery(root=str(tmp_path), writers=4, bucket=uri, line=400)["codes"]
    assert codes == [-signal.SIGKILL, 0, 0, 0]
    reader = Remote(uri, tmp_path / "reader")
    reader.pull([KEY])
    assert [rows_in(reader.root, view) for view in range(writers.VIEWS)] == [writers.COUNT] * 2
    assert verify_bucket(reader.bucket).problems == ()


def flip(path, place=-100):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def retold(path, **told):
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, **told}))


def swapped(shard, other):
    shard.write_bytes(other.read_bytes())


def foreign(shard, other):
    """Another teacher's shard under this name, with a record that fits its bytes."""
    key = replace(KEY, teacher="other")
    made = write_shard(shard.parent.parent / "x", 0, arrays_of(np.arange(10), 0), key.to_json())
    shard.write_bytes((shard.parent.parent / "x" / made.file).read_bytes())
    told = json.loads(record_of(shard).read_text())["shard"]
    retold(record_of(shard), shard={**told, "xxh3": made.xxh3})


def record_of(shard):
    return shard.with_name(shard.name + ".json")


DAMAGES = {
    "flipped": (lambda s, _: flip(s), "checksum"),
    "truncated": (lambda s, _: s.write_bytes(s.read_bytes()[:-1]), "checksum"),
    "empty": (lambda s, _: s.write_bytes(b""), "checksum"),
    "gone": (lambda s, _: s.unlink(), "cannot be read"),
    "swapped": (swapped, "checksum"),
    "foreign": (foreign, "made for other targets: teacher is 'other'"),
    "record flipped": (lambda s, _: flip(record_of(s), 2), "record is damaged"),
    "record empty": (lambda s, _: record_of(s).write_bytes(b""), "record is damaged"),
    "record huge": (lambda s, _: record_of(s).write_bytes(b" " * 10**5), "65536 bytes"),
    "record a list": (lambda s, _: record_of(s).write_text("[1]"), "record is damaged"),
    "record swapped": (lambda s, o: swapped(record_of(s), record_of(o)), "tells of another one"),
    "record's rows": (
        lambda s, _: retold(
            record_of(s), shard={**json.loads(record_of(s).read_text())["shard"], "rows": 11}
        ),
        "header is refused",
    ),
    "record's key": (
        lambda s, _: retold(record_of(s), key=replace(KEY, views="flip").to_json()),
        "of other targets",
    ),
    "schema": (lambda s, _: retold(record_of(s), schema=1), "has schema 1"),
    "path": (
        lambda s, _: retold(
            record_of(s),
            shard={**json.loads(record_of(s).read_text())["shard"], "file": "../../out"},
        ),
        "tells of another one",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_object_is_named_and_refused(filled, folder_uri, tmp_path, damage):
    shard, other = sorted(filled.glob("*.safetensors"))
    harm, message = DAMAGES[damage]
    harm(shard, other)
    reader = Remote(folder_uri, tmp_path / "reader")
    with pytest.raises(TargetError) as caught:
        reader.pull([KEY])
    assert message in str(caught.value)
    assert f"prefix/{KEY.folder}/{shard.name}" in str(caught.value)
    assert Entry(reader.root, KEY).shards == ()
    assert not (reader.root / KEY.folder / shard.name).exists()
    (problem,) = [*verify_bucket(reader.bucket).problems]
    assert shard.name in problem
    for path in (shard, record_of(shard)):
        path.unlink(missing_ok=True)
    reader.pull([KEY])
    assert [one.file for one in Entry(reader.root, KEY).shards] == [other.name]


@pytest.mark.parametrize(
    "name",
    [
        "..json",
        "..safetensors.json",
        "view+00000-0.safetensors.json",
        "notes.json",
        "gap-1-x-0.json",
    ],
)
def test_objects_of_other_names_are_nobodys(filled, folder_uri, tmp_path, name):
    (filled / name).write_text("{}")
    reader = Remote(folder_uri, tmp_path / "reader")
    reader.pull([KEY])
    assert len(Entry(reader.root, KEY).shards) == 2
    assert {path.name for path in (reader.root / KEY.folder).iterdir()} == {
        *(path.name for path in filled.glob("*.safetensors")),
        "manifest.json",
        ".lock",
    }


def test_a_full_disk_says_so_and_keeps_what_was_whole(filled, folder_uri, tmp_path, monkeypatch):
    reader = Remote(folder_uri, tmp_path / "reader")
    replace_file, done = Path.replace, []

    def full(path, target):
        if target.suffix == ".safetensors" and done:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done.append(target)
        return replace_file(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(TargetError, match=r"cannot be written: .*No space left on device"):
            reader.pull([KEY])
    assert [path.name for path in (reader.root / KEY.folder).iterdir()] == [done[0].name]
    reader.pull([KEY])
    assert rows_in(reader.root, 0) == rows_in(reader.root, 1) == 10


def test_an_upload_that_fails_loses_nothing(folder_uri, tmp_path, monkeypatch):
    remote = Remote(folder_uri, tmp_path / "writer")
    shard = shard_in(remote.root, np.arange(10), 0)

    def refuse(path, pieces):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(buckets, "write_file", refuse)
        with pytest.raises(TargetError, match=r"cannot be written: .*the next run goes on from it"):
            remote.keep(KEY, [shard])
    assert rows_in(remote.root, 0) == 10
    assert remote.bucket.names() == {}
    remote.sync([KEY])
    assert verify_bucket(remote.bucket).rows == 10


def test_a_shard_damaged_on_this_machine_is_not_uploaded(folder_uri, tmp_path):
    remote = Remote(folder_uri, tmp_path / "writer")
    shard = shard_in(remote.root, np.arange(10), 0)
    append(remote.root, KEY, [shard])
    flip(remote.root / KEY.folder / shard.file)
    with pytest.raises(TargetError, match=r"is damaged: checksum .*delete the folder"):
        remote.sync([KEY])
    assert f"{KEY.folder}/{shard.file}.json" not in remote.bucket.names()


def test_pruning_deletes_records_first(filled, folder_uri, tmp_path, monkeypatch):
    remote = Remote(folder_uri, tmp_path / "writer")
    other = replace(KEY, teacher="kept")
    remote.keep(other, [shard_in(remote.root, np.arange(4), 0, other)])
    gone = []
    delete = Bucket.delete
    monkeypatch.setattr(Bucket, "delete", lambda self, n: gone.append(n) or delete(self, n))
    assert delete_folder(remote, KEY.folder) > 0
    assert [name.endswith(".json") for name in gone] == [True, True, False, False]
    assert [one.key for one in survey_bucket(remote.bucket)] == [other]
    assert not (remote.root / KEY.folder).exists(), "else the next run would upload it again"


def test_what_killed_writers_leave_is_told(filled, folder_uri):
    bucket = Bucket(folder_uri)
    shard, _ = sorted(filled.glob("*.safetensors"))
    record_of(shard).unlink()
    (filled.parent / ".raykd-probe-1").write_text("x")
    assert leftovers_in(bucket) == {}, "a writer may still be at work"
    left = leftovers_in(bucket, older_than_s=-60.0)
    assert left == {f"{KEY.folder}/{shard.name}": shard.stat().st_size, ".raykd-probe-1": 1}


def test_a_remote_is_sent_to_other_processes(filled, folder_uri, tmp_path):
    remote = Remote(folder_uri, tmp_path / "reader")
    remote.bucket.names()
    pickle.loads(pickle.dumps(remote)).pull([KEY])  # noqa: S301
    assert len(Entry(remote.root, KEY).shards) == 2


def test_each_uri_has_a_mirror_of_its_own(raykd_home):
    one, two = remote_of("s3://b/p"), remote_of("s3://b/q")
    assert remote_of("s3://b/p/") == one
    assert one.root != two.root
    assert one.root.parent == two.root.parent == raykd_home / "targets-of"


def refusal_of(uri, tmp_path, place=None):
    with pytest.raises(InputError) as caught:
        Remote(uri, tmp_path / "mirror").check()
    (problem,) = caught.value.problems
    assert problem.key == "targets.store"
    assert (place or uri.partition("?")[0]) in problem.message
    return problem.message


def test_a_bucket_that_is_not_there(s3_bucket, s3_options, tmp_path):
    message = refusal_of(f"s3://nobodys-bucket/p{s3_options}", tmp_path)
    assert "there is no such bucket" in message
    assert "create it" in message


def test_credentials_that_are_refused(s3_bucket, s3_endpoint, s3_options, tmp_path):
    def open_calls(count):
        """The server lets so many calls pass unchecked."""
        url = f"{s3_endpoint}/moto-api/reset-auth"
        kind = {"Content-Type": "text/plain"}
        order = urllib.request.Request(url, count.encode(), kind, method="POST")  # noqa: S310
        urllib.request.urlopen(order).close()  # noqa: S310

    open_calls("0")
    try:
        message = refusal_of(f"{s3_bucket}/p{s3_options}", tmp_path)
    finally:
        open_calls("inf")
    assert "access is refused" in message
    assert "AWS_ACCESS_KEY_ID" in message


def test_an_endpoint_that_refuses(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    message = refusal_of(f"s3://b/p?endpoint_override=http://127.0.0.1:{port}", tmp_path)
    assert "the endpoint does not answer" in message
    assert "AWS_ENDPOINT_URL" in message


def test_an_endpoint_that_never_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "_REQUEST_TIMEOUT_S", 1.0)
    monkeypatch.setattr(buckets, "_ATTEMPTS", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        port = silent.getsockname()[1]
        message = refusal_of(f"s3://b/silent?endpoint_override=http://127.0.0.1:{port}", tmp_path)
    assert "the endpoint does not answer" in message


def test_a_folder_that_refuses(tmp_path):
    (tmp_path / "file").write_text("")
    place = f"{tmp_path}/file/store"
    message = refusal_of(f"file://{place}", tmp_path, place)
    assert "Not a directory" in message


def test_the_endpoint_of_the_environment(s3_bucket, s3_endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    remote = Remote(f"{s3_bucket}/by-environment", tmp_path / "writer")
    remote.keep(KEY, [shard_in(remote.root, np.arange(10), 0)])
    assert len(remote.bucket.names()) == 2


def test_a_damaged_object_on_s3(s3_bucket, s3_options, tmp_path):
    remote = Remote(f"{s3_bucket}/harm{s3_options}", tmp_path / "writer")
    shard = shard_in(remote.root, np.arange(10), 0)
    remote.keep(KEY, [shard])
    whole = (remote.root / KEY.folder / shard.file).read_bytes()
    remote.bucket.write(f"{KEY.folder}/{shard.file}", [whole[:-1]])
    with pytest.raises(
        TargetError, match=rf"harm/{KEY.folder}/view.*: its bytes have the checksum"
    ):
        Remote(remote.uri, tmp_path / "reader").pull([KEY])


def test_pieces_that_raise_leave_no_file(tmp_path):
    def pieces():
        yield b"half"
        raise TargetError("no more")

    (tmp_path / "name").write_bytes(b"before")
    with pytest.raises(TargetError, match="no more"):
        write_file(tmp_path / "name", pieces())
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"name": b"before"}
