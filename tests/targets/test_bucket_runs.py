"""Whole jobs over a store in a bucket."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import ray
import raykd_forked_writers as writers

from raykd import errors
from raykd.cli import main
from raykd.config import Config
from raykd.config.check_targets import target_problems
from raykd.config.root import TeacherCluster
from raykd.folders import read_json
from raykd.pipeline.runs import run
from raykd.pipeline.session import Options
from raykd.targets import EntryKey, TargetStore, TeacherKeys
from raykd.targets.buckets import Bucket
from raykd.targets.maintenance import verify_bucket
from raykd.targets.remote import Remote
from raykd.targets.shards import write_shard
from raykd.targets.store import ORIGINAL
from raykd.teachers import ActorFleet, TeacherResources
from raykd.teachers.filling import fill, missing_parts


@pytest.fixture
def recipe(tiny_recipe):
    """One teacher, one student, one epoch."""
    tiny_recipe["teachers"] = tiny_recipe["teachers"][:1]
    tiny_recipe["teachers"][0]["fit"]["epochs"] = 5
    tiny_recipe["train"]["epochs"] = 1
    tiny_recipe["data"]["views"]["count"] = 1
    tiny_recipe["evaluate"] = {"controls": []}
    return tiny_recipe


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.slow
def test_a_second_home_finds_all_in_the_bucket(
    ray_cluster, recipe, s3_bucket, s3_options, tmp_path, raykd_home, monkeypatch
):
    uri = f"{s3_bucket}/targets{s3_options}"
    config = Config.model_validate({**recipe, "targets": {"store": uri, "mode": "stored"}})
    run(config, Options(output=tmp_path / "first", until="targets"))
    report = verify_bucket(Bucket(uri))
    assert report.problems == ()
    assert report.rows == 1797, "every sample of digits once"
    other = tmp_path / "other home"
    shutil.copytree(raykd_home / "teachers", other / "teachers")
    monkeypatch.setenv("RAYKD_HOME", str(other))
    second = run(config, Options(output=tmp_path / "second"))
    assert second.summary["targets"]["teacher_samples_scored"] == 0
    assert second.summary["targets"]["hit_rate"] == 1.0
    assert second.summary["status"] == "complete"
    store = read_json(tmp_path / "second" / "targets.json")["store"]
    assert store.startswith(str(other / "targets-of"))


@pytest.mark.ray
def test_actors_upload_what_they_write(ray_cluster, samples, make_spec, tmp_path, heard):
    """A driver on another node has nothing in its mirror until it brings it."""
    spec = make_spec("mlp")
    key = EntryKey(spec.fingerprint, samples.view_key)
    remote = Remote(f"file://{tmp_path}/bucket", tmp_path / "node")
    train, wanted = samples.splits["train"], {"wide": (key,)}
    parts = list(missing_parts(remote.root, wanted, samples, train, [0, 1]))
    settings, place = TeacherCluster(start_timeout_s=120), TeacherResources(1, 0.5, 0)
    with ActorFleet({"wide": spec}, {"wide": place}, ray.put(samples), settings, heard) as fleet:
        scored = fill(remote.root, parts, fleet, heard, None, remote)
    assert scored == {"wide": 2 * len(train)}
    assert verify_bucket(remote.bucket).rows == 2 * len(train)
    driver = Remote(remote.uri, tmp_path / "driver")
    assert list(missing_parts(driver.root, wanted, samples, train, [0, 1]))
    driver.sync([key])
    assert not list(missing_parts(driver.root, wanted, samples, train, [0, 1]))


def test_a_store_that_is_written_through_is_uploaded(tmp_path):
    keys = {"a": TeacherKeys(writers.KEY, replace(writers.KEY, views=ORIGINAL))}
    store = TargetStore.open(tmp_path / "node", keys, writers.IDS, writers.HASHES)
    store.remote = Remote(f"file://{tmp_path}/bucket", store.root)
    entry, rows = store.entries["a"], np.arange(4)
    arrays = {"ids": writers.IDS[rows], "hashes": writers.HASHES[rows], **writers.answers(rows, 0)}
    store.enter(entry, write_shard(entry.folder, 0, arrays, entry.key.to_json()), rows)
    assert verify_bucket(store.remote.bucket).rows == 4
    assert len(store.gather_arrays("a", rows, 0)["values"]) == 4


def test_an_unreadable_bucket_is_found_before_anything_starts(
    recipe, s3_bucket, s3_options, tmp_path
):
    uri = f"s3://nobodys-bucket/targets{s3_options}"
    config = Config.model_validate({**recipe, "targets": {"store": uri}})
    with pytest.raises(
        errors.InputError, match=r"targets\.store: s3://nobodys-bucket.*no such bucket"
    ):
        run(config, Options(output=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("ftp://host/path", "found ftp://, allowed are s3://, gs://, file://, or a folder"),
        ("s3://key:secret@bucket/p", "holds credentials"),
        ("s3:///prefix", "names no bucket or folder; write s3://bucket/prefix"),
        ("file://folder/x", "names no bucket or folder; write file:///folder"),
        ("s3://b/p?endpoint=x", "found the option endpoint, allowed are endpoint_override, region"),
    ],
)
def test_a_uri_that_cannot_be_is_refused(recipe, store, message):
    config = Config.model_validate({**recipe, "targets": {"store": store}})
    (problem,) = target_problems(config)
    assert problem.key == "targets.store"
    assert message in problem.message
    assert "secret" not in problem.message


def test_uris_that_can_be(recipe):
    for store in ("s3://b", "s3://b/p?region=eu-west-1", "gs://b/p", "file:///folder", "folder"):
        config = Config.model_validate({**recipe, "targets": {"store": store}})
        assert list(target_problems(config)) == []


@pytest.fixture
def filled(tmp_path):
    """The URI of a bucket with one shard, and the folder that its objects lie in."""
    remote = Remote(f"file://{tmp_path}/bucket", tmp_path / "writer")
    rows = np.arange(4)
    key = writers.KEY
    arrays = {"ids": writers.IDS[rows], "hashes": writers.HASHES[rows], **writers.answers(rows, 0)}
    remote.keep(key, [write_shard(remote.root / key.folder, 0, arrays, key.to_json())])
    return remote.uri, tmp_path / "bucket" / key.folder


def test_list_and_verify_a_bucket(filled, capsys):
    uri, folder = filled
    assert main(["targets", "list", "--store", uri]) == 0
    assert "1 entries, 4 rows" in capsys.readouterr().out
    assert main(["targets", "list", "--store", uri, "--quiet"]) == 0
    assert capsys.readouterr().out.split() == [folder.name]
    assert main(["targets", "verify", "--store", uri]) == 0
    assert "1 shards, 4 rows" in capsys.readouterr().out
    (shard,) = folder.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    assert main(["targets", "verify", "--store", uri]) == 1
    assert f"{folder.name}/{shard.name}: its bytes have the checksum" in capsys.readouterr().err


def test_prune_a_bucket(filled, tmp_path, capsys, monkeypatch):
    uri, folder = filled
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "config.json").write_text("{}")
    prune = ["targets", "prune", "--store", uri, "--unused", str(tmp_path / "runs")]
    assert main([*prune, "--dry-run"]) == 0
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert f"would delete {uri}/{folder.name}: {size:,} bytes" in capsys.readouterr().out
    assert len(list(folder.iterdir())) == 2
    assert main(prune) == 0
    assert f"deleted {uri}/{folder.name}: {size:,} bytes" in capsys.readouterr().out
    assert list(folder.iterdir()) == []


def test_prune_what_killed_writers_left(filled, tmp_path, capsys):
    """The entry itself is of a teacher that a run has heard."""
    uri, folder = filled
    card = tmp_path / "runs" / "one" / "teachers" / "a.json"
    card.parent.mkdir(parents=True)
    card.write_text(json.dumps({"fingerprint": writers.KEY.teacher}))
    (card.parent.parent / "config.json").write_text("{}")
    (whole,) = folder.glob("*.safetensors")
    left = whole.with_name(whole.name.replace("view+00000", "view+00001"))
    shutil.copyfile(whole, left)
    prune = ["targets", "prune", "--store", uri, "--unused", str(tmp_path / "runs")]
    assert main(prune) == 0
    assert left.exists(), "a writer may still be at work"
    long_ago = time.time() - 7200
    os.utime(left, (long_ago, long_ago))
    capsys.readouterr()
    assert main(prune) == 0
    told = capsys.readouterr().out
    assert f"deleted {uri}/{folder.name}/{left.name}: {whole.stat().st_size:,} bytes" in told
    assert "0 of 1 entries and 1 leftovers deleted" in told
    assert not left.exists()
    assert whole.exists()


def test_commands_on_a_bucket_that_is_not_there(s3_bucket, s3_options, capsys):
    assert main(["targets", "list", "--store", f"s3://nobodys-bucket/x{s3_options}"]) == 2
    assert "--store" in (told := capsys.readouterr().err)
    assert "no such bucket" in told
