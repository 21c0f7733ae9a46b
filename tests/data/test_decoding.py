from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import raykd_test_files as files
import torch

from raykd.config.data import Data
from raykd.data import Dataset, Samples, build_samples, check_data
from raykd.data.decoding import Mark, Part, Target, in_process
from raykd.data.decoding.cache import locked
from raykd.data.decoding.layout import Groups, Layout, group_parts, part_rows
from raykd.data.mapped import Mapped
from raykd.errors import DataError, InputError

POLICY = [{"type": "shift", "pixels": 1}, {"type": "mixup"}]


def data_of(source: dict[str, Any], **given: Any) -> Data:
    return Data.model_validate({"source": source, **given})


def samples_of(source: dict[str, Any], **given: Any) -> Samples:
    more = {name: given.pop(name) for name in ("decode", "tell", "task") if name in given}
    return build_samples(data_of(source, **given), seed=3, **more)


class Counting:
    """Decodes here, and counts parts."""

    def __init__(self) -> None:
        self.parts: list[int] = []

    def __call__(self, target: Target, parts: Sequence[Part]) -> Any:
        for mark in in_process(target, parts):
            self.parts.append(mark.number)
            yield mark


@pytest.mark.parametrize("kind", files.SOURCES)
def test_samples_are_those_of_the_same_data_in_memory(kind: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "same.npz", **files.in_memory(kind))
    policy = POLICY if "list" not in kind and "columns" not in kind else [{"type": "mixup"}]
    given = {"views": {"count": 2, "policy": policy}, "labels": 30}
    memory = samples_of({"type": "arrays", "path": str(tmp_path / "same.npz")}, **given)
    found = samples_of(files.SOURCES[kind](tmp_path / "source"), **given)
    rows = np.random.default_rng(0).permutation(files.COUNT)
    for view in (-1, 0, 1):
        one, other = memory.batch(rows, view), found.batch(rows, view)
        for name in ("ids", "labels"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert torch.equal(one.inputs["inputs"], other.inputs["inputs"])
    assert all(np.array_equal(memory.splits[part], found.splits[part]) for part in memory.splits)
    assert np.array_equal(memory.content_hash(rows), found.content_hash(rows))
    assert (memory.view_key, memory.classes) == (found.view_key, found.classes)
    assert memory.statistics() == found.statistics()
    assert replace(check_data(found), columns=()) == check_data(memory)


def test_a_pickle_of_samples_is_a_path(tmp_path: Path) -> None:
    samples = samples_of(files.write_images(tmp_path, 600))
    sent = pickle.dumps(samples, protocol=5)
    assert len(sent) < samples.inputs["inputs"].nbytes / 2
    back = pickle.loads(sent)  # noqa: S301
    assert isinstance(back.inputs["inputs"], Mapped)
    rows = np.arange(len(samples))
    assert torch.equal(
        back.batch(rows, 0).inputs["inputs"], samples.batch(rows, 0).inputs["inputs"]
    )
    part = pickle.loads(pickle.dumps(samples.inputs["inputs"][3:5]))  # noqa: S301
    assert type(part) is np.ndarray
    assert np.array_equal(part, samples.inputs["inputs"][3:5])


def test_part_of_a_mapped_array_is_pickled_as_it_is(tmp_path: Path) -> None:
    array = samples_of(files.write_images(tmp_path)).inputs["inputs"]
    half = np.ndarray.__getitem__(array, slice(45, None))
    assert isinstance(half, Mapped)
    assert np.array_equal(pickle.loads(pickle.dumps(half)), array[45:])  # noqa: S301


def test_each_image_is_decoded_once_for_all_runs(tmp_path: Path) -> None:
    source, first, second = files.write_images(tmp_path), Counting(), Counting()
    heard: list[tuple[int, int]] = []
    samples_of(source, decode=first, tell=lambda *told: heard.append(told))
    samples_of(source, decode=second, views={"count": 1, "policy": POLICY}, splits={"test": 0.3})
    assert first.parts == list(range(len(first.parts)))
    assert len(first.parts) > 1
    assert heard[0] == (0, files.COUNT)
    assert heard[-1] == (files.COUNT, files.COUNT)
    assert second.parts == []


def test_a_changed_file_is_decoded_anew(tmp_path: Path) -> None:
    source, again = files.write_images(tmp_path), Counting()
    before = samples_of(source)
    file = tmp_path / "images" / "cat" / "0000.png"
    file.write_bytes(files.png(255 - files.pixels()[0]))
    after = samples_of(source, decode=again)
    assert again.parts
    rows = np.arange(files.COUNT)
    differing = before.content_hash(rows) != after.content_hash(rows)
    assert after.ids[differing].tolist() == before.ids[:1].tolist()


def test_files_alike_but_for_their_bytes_are_told_apart(tmp_path: Path) -> None:
    """As two archives give them: the same name, size and time."""
    found = []
    for folder in ("one", "other"):
        path = tmp_path / folder / "data.csv"
        path.parent.mkdir()
        rows = [f"{row % 10},{len(folder)},{row % 2}" for row in range(40)]
        path.write_text("\n".join(["a,b,label", *rows]))
        os.utime(path, (10**9, 10**9))
        source = {"type": "csv", "path": str(path), "inputs": ["a", "b"], "label": "label"}
        found.append(samples_of(source).inputs["inputs"][:, 1].tolist())
    assert found == [[3.0] * 40, [5.0] * 40]


def test_new_labels_decode_nothing(tmp_path: Path) -> None:
    source, again = files.write_images(tmp_path), Counting()
    samples_of(source)
    _, names = files.image_order()
    rows = [f"{name},{place % 2},{place % 9}" for place, name in enumerate(names[:80])]
    (tmp_path / "labels.csv").write_text("\n".join(["file,kind,who", *rows]))
    table = {"path": str(tmp_path / "labels.csv"), "key": "file", "column": "kind"}
    samples = samples_of({**source, "labels": table}, decode=again)
    assert again.parts == []
    assert samples.all_labels.tolist() == [place % 2 for place in range(80)] + [-1] * 10
    by = {"by": {"type": "group", "column": "who"}}
    with pytest.raises(InputError, match="10 of 90 samples have no 'who'"):
        samples_of({**source, "labels": table}, splits=by)


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_labels_of_other_tasks(task: str, tmp_path: Path) -> None:
    marks = np.random.default_rng(0).integers(0, 2, (files.COUNT, 2))
    columns = {
        "x": files.floats().tolist(),
        "y": files.floats()[:, 0],
        "odd": marks[:, 0],
        "big": marks[:, 1],
    }
    files.write_parquet(tmp_path, columns)
    label = "y" if task == "regression" else ["odd", "big"]
    source = {"type": "parquet", "path": str(tmp_path), "inputs": "x", "label": label}
    samples = samples_of(source, task=task)
    if task == "regression":
        assert np.array_equal(samples.all_labels, files.floats()[:, 0])
        assert samples.classes == ("y",)
    else:
        assert np.array_equal(samples.all_labels, marks)
        assert samples.classes == ("odd", "big")


def test_group_split_keeps_groups_together(tmp_path: Path) -> None:
    source = files.write_shards(tmp_path)
    by = {"by": {"type": "group", "column": "who"}, "validation": 0.1, "test": 0.2}
    splits = samples_of(source, splits=by).splits
    who = np.arange(files.COUNT) % 7
    groups = {part: set(who[rows].tolist()) for part, rows in splits.items()}
    assert not groups["train"] & groups["test"]
    assert not groups["train"] & groups["validation"]
    assert not groups["test"] & groups["validation"]
    assert sum(map(len, splits.values())) == files.COUNT
    assert len(splits["test"]) >= 0.2 * files.COUNT
    other = build_samples(data_of(source, splits=by), seed=4).splits
    assert any(set(who[rows].tolist()) != groups[part] for part, rows in other.items())


def test_time_split_tests_on_the_newest(tmp_path: Path) -> None:
    day = np.random.default_rng(0).permutation(files.COUNT) // 3
    taken = np.datetime64("2026-01-01") + day
    files.write_parquet(tmp_path, {"x": files.floats().tolist(), "taken": taken})
    source = {"type": "parquet", "path": str(tmp_path), "inputs": "x", "label": "label"}
    by = {"by": {"type": "time", "column": "taken"}, "validation": 9, "test": 10}
    splits = samples_of(source, splits=by).splits
    assert day[splits["train"]].max() < day[splits["validation"]].min()
    assert day[splits["validation"]].max() < day[splits["test"]].min()
    assert [len(splits[part]) for part in ("train", "validation", "test")] == [69, 9, 12]


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("%d/%m/2026", "01/01/2026"),
        ("%-d", "1"),
        ("2026-%m-%d", None),
        ("2026-%m-%dT%H:%M:%S", None),
    ],
)
def test_texts_are_times_where_they_sort_as_such(
    said: str, wrong: str | None, tmp_path: Path
) -> None:
    days = [date(2026, 1, 1) + timedelta(days=place // 3) for place in range(files.COUNT)]
    taken = [day.strftime(said) for day in days]
    files.write_parquet(tmp_path, {"x": files.floats().tolist(), "taken": taken})
    source = {"type": "parquet", "path": str(tmp_path), "inputs": "x", "label": "label"}
    by = {"by": {"type": "time", "column": "taken"}, "validation": 9, "test": 10}
    if wrong is None:
        splits = samples_of(source, splits=by).splits
        assert splits["train"].max() < splits["validation"].min()
        return
    with pytest.raises(InputError, match=f"found the text '{wrong}' in 'taken'.*ISO 8601"):
        samples_of(source, splits=by)


def test_columns_to_slice_by_come_along(tmp_path: Path) -> None:
    sex = np.where(np.arange(files.COUNT) % 3 == 0, "f", "m")
    files.write_parquet(tmp_path / "data", {"x": files.floats().tolist(), "sex": sex})
    source = {"type": "parquet", "path": str(tmp_path / "data"), "inputs": "x", "label": "label"}
    samples = build_samples(data_of(source), seed=0, columns=["sex"])
    assert samples.columns["sex"].tolist() == sex.tolist()
    assert not build_samples(data_of(source), seed=0).columns
    with pytest.raises(InputError, match=r"evaluate.slices: .*'age'"):
        build_samples(data_of(source), seed=0, columns=["age"])


def test_column_split_says_it(tmp_path: Path) -> None:
    said = np.array(["train"] * 60 + ["validation"] * 20 + ["test"] * 10)
    files.write_parquet(tmp_path, {"x": files.floats().tolist(), "part": said})
    source = {"type": "parquet", "path": str(tmp_path), "inputs": "x", "label": "label"}
    splits = samples_of(source, splits={"by": {"type": "column", "column": "part"}}).splits
    assert {name: rows.tolist() for name, rows in splits.items()} == {
        name: np.flatnonzero(said == name).tolist() for name in splits
    }


def spoil(root: Path) -> list[str]:
    """Three images that cannot be decoded: cut off, no image at all, of another size."""
    (root / "images/cat/0003.png").write_bytes(files.encoded()[3][:40])
    (root / "images/dog/0004.png").write_bytes(b"no image")
    (root / "images/eel/0089.png").write_bytes(files.png(np.zeros((3, 7, 9), np.uint8)))
    return ["cat/0003.png", "dog/0004.png", "eel/0089.png"]


def test_samples_that_cannot_be_decoded_are_left_out_by_all(tmp_path: Path) -> None:
    source = files.write_images(tmp_path)
    spoilt = spoil(tmp_path)
    samples = samples_of(source, bad_samples={"max_fraction": 0.05})
    assert [name.split(" (")[0] for name in samples.left_out] == spoilt
    assert "is 9×7 pixels, others are 8×8; set data.source.size" in samples.left_out[2]
    assert len(samples) == files.COUNT - 3
    order, names = files.image_order()
    good = [row for row, name in zip(order, names, strict=True) if name not in spoilt]
    assert sum(map(len, samples.splits.values())) == len(good)
    shown = (samples.batch(np.arange(len(samples)), -1).inputs["inputs"].numpy() * 255).round()
    wanted = {files.pixels()[row].tobytes(): files.labels()[row] for row in good}
    found = {
        s.astype(np.uint8).tobytes(): y for s, y in zip(shown, samples.all_labels, strict=True)
    }
    assert found == wanted
    assert samples_of(source, bad_samples={"max_fraction": 0.05}).left_out == samples.left_out


@pytest.mark.parametrize(
    ("given", "key", "allowed"),
    [
        ({"policy": "stop"}, "data.bad_samples.policy", 0),
        ({"max_fraction": 0.02}, "data.bad_samples.max_fraction", 1),
    ],
)
def test_too_many_of_them_stop_it(
    given: dict[str, Any], key: str, allowed: int, tmp_path: Path
) -> None:
    source = files.write_images(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError) as raised:
        samples_of(source, bad_samples=given)
    (problem,) = raised.value.problems
    assert problem.key == key
    assert f"cannot be decoded, allowed are {allowed}: cat/0003.png" in problem.message
    samples_of(source, bad_samples={"max_fraction": 0.05})
    with pytest.raises(InputError, match="3 of 90"):  # decoded by now: the policy still holds
        samples_of(source, bad_samples=given)


def test_lists_of_another_length_and_missing_ones_are_bad(tmp_path: Path) -> None:
    lists = files.floats().tolist()
    lists[7], lists[8], lists[9] = [1.0], None, [float("nan")] * 5
    files.write_parquet(tmp_path, {"x": lists})
    source = {"type": "parquet", "path": str(tmp_path), "inputs": "x", "id": "id", "label": "label"}
    samples = samples_of(source, bad_samples={"max_fraction": 0.1})
    assert samples.left_out == (
        "22 (has 1 numbers, not 5)", "25 (has no value)",
        "28 (has NaN, infinity, a number too large for float32 or no value at place 0, from 0)",
    )  # fmt: skip
    assert 22 not in samples.ids


_DECODE = """
import sys, time
import numpy
from raykd.config.data import Data
from raykd.data import build_samples
from raykd.data.decoding import in_process

def slow(target, parts):
    for mark in in_process(target, parts):
        yield mark
        time.sleep(0.2)

build_samples(Data.model_validate_json(sys.argv[1]), seed=3, decode=slow)
"""


def test_a_killed_decoding_goes_on_with_the_next_part(
    tmp_path: Path, raykd_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = files.write_images(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", _DECODE, data_of(source).model_dump_json()]
    ) as child:
        until = time.monotonic() + 60
        while len(list(raykd_home.glob("decoded/*/parts/0*.json"))) < 3:
            assert time.monotonic() < until, "no part was finished"
            assert child.poll() is None, "it ended by itself"
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
    (folder,) = (path for path in (raykd_home / "decoded").iterdir() if path.is_dir())
    kept = len(list(folder.glob("parts/0*.json")))
    assert not (folder / "manifest.json").exists()
    heard: list[tuple[int, int]] = []
    rest = Counting()
    samples_of(source, decode=rest, tell=lambda *told: heard.append(told))
    assert rest.parts == list(range(kept, -(-files.COUNT // 16)))
    assert heard[0] == (16 * kept, files.COUNT)
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "other"))
    samples_of(source)
    for name in ("inputs.bin", "hashes.bin", "manifest.json"):
        fresh = tmp_path / "other" / "decoded" / folder.name / name
        assert fresh.read_bytes() == (folder / name).read_bytes()


def test_a_kill_while_gaps_are_filled_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, allowed = files.write_images(tmp_path), {"max_fraction": 0.05}
    spoil(tmp_path)
    write, done = os.pwrite, []

    def breaks(descriptor: int, payload: bytes, offset: int) -> int:
        done.append(offset)
        if len(payload) == 192 and len(done) > 12:  # one sample: a gap that is filled
            raise KeyboardInterrupt
        return write(descriptor, payload, offset)

    monkeypatch.setattr(os, "pwrite", breaks)
    with pytest.raises(KeyboardInterrupt):
        samples_of(source, bad_samples=allowed)
    monkeypatch.undo()
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "home"))
    again = samples_of(source, bad_samples=allowed)
    whole = samples_of(source, bad_samples=allowed, cache=str(tmp_path / "other"))
    rows = np.arange(len(whole))
    assert np.array_equal(again.content_hash(rows), whole.content_hash(rows))
    assert np.array_equal(again.inputs["inputs"][rows], whole.inputs["inputs"][rows])


def test_of_two_that_start_together_one_decodes(tmp_path: Path) -> None:
    source, counts = files.write_images(tmp_path), [Counting(), Counting()]
    start = threading.Barrier(2)
    found: list[Samples] = []

    def load(count: Counting) -> None:
        start.wait()
        found.append(samples_of(source, decode=count))

    threads = [threading.Thread(target=load, args=[count]) for count in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(count.parts) for count in counts) == [0, 6]
    rows = np.arange(files.COUNT)
    assert np.array_equal(found[0].inputs["inputs"][rows], found[1].inputs["inputs"][rows])


def test_one_that_hangs_is_not_waited_for_without_end(tmp_path: Path) -> None:
    target = Target(tmp_path / "x", Layout("numbers", (2,), "<f4"), 3)
    with locked(target), pytest.raises(DataError, match=r"finished no part for 0\.1 s"):
        with locked(target, is_stalled_s=0.1):
            pass


def test_room_is_looked_at_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, decode = files.write_images(tmp_path), Counting()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(
        InputError, match=r"90 decoded samples take 18,000 bytes.* 10,000 free"
    ) as found:
        samples_of(source, decode=decode)
    assert found.value.problems[0].key == "data.cache"
    assert decode.parts == []


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"views": {"policy": [{"type": "shift", "pixels": 8}]}}, "data.views.policy.0.pixels"),
        ({"labels": 2000}, "data.labels"),
        ({"splits": {"test": 0}}, "data.splits.test"),
        ({"source": {"labels": {"path": "table.csv"}}}, "data.source.ids"),
        ({"cache": "table.csv"}, "data.cache"),
        ({"source": {"label": "colour"}}, "data.source.label"),
    ],
)
def test_what_can_be_known_before_decoding_is_told_before(
    given: dict[str, Any], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source, decode = files.write_images(tmp_path), Counting()
    (tmp_path / "table.csv").write_text("id,label\ncat/0000.png,1\nimages/cat/0000.png,1\n")
    source |= given.pop("source", {})
    if key == "data.source.ids":
        source["path"] = [str(tmp_path / "images")] * 2
    with pytest.raises(InputError) as found:
        samples_of(source, decode=decode, **given)
    assert [problem.key for problem in found.value.problems] == [key]
    assert decode.parts == []


def test_a_full_disk_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = files.write_images(tmp_path)

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match=r"No space left.*set data\.cache to a folder on another"):
        samples_of(source)


def test_damaged_caches_are_named(tmp_path: Path, raykd_home: Path) -> None:
    source = files.write_images(tmp_path)
    samples_of(source)
    (manifest,) = raykd_home.glob("decoded/*/manifest.json")
    whole = manifest.read_text()
    manifest.write_text(whole[:-9])
    with pytest.raises(DataError, match=r"manifest\.json is damaged.*delete"):
        samples_of(source)
    manifest.write_text(whole)
    os.truncate(manifest.with_name("inputs.bin"), 100)
    with pytest.raises(DataError, match=r"inputs\.bin cannot be read here"):
        samples_of(source)


def test_data_check_finds_what_was_changed_on_disk(tmp_path: Path, raykd_home: Path) -> None:
    source = files.write_images(tmp_path)
    samples = samples_of(source)
    assert not any("changed on disk" in warning for warning in check_data(samples).warnings)
    (inputs,) = raykd_home.glob("decoded/*/inputs.bin")
    with inputs.open("r+b") as file:
        file.seek(7 * 3 * files.SIDE**2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    (warning,) = (w for w in check_data(samples).warnings if "changed on disk" in w)
    assert warning.startswith(
        f"1 decoded samples were changed on disk (ids {samples.named(np.array([7]))[0]});"
    )


def test_a_file_that_goes_away_meanwhile_is_no_bad_sample(tmp_path: Path) -> None:
    source = files.write_images(tmp_path)

    def decode(target: Target, parts: Sequence[Part]) -> Any:
        (tmp_path / "images/cat/0000.png").unlink()
        return in_process(target, parts)

    with pytest.raises(DataError, match=r"0000\.png cannot be read here"):
        samples_of(source, decode=decode, bad_samples={"max_fraction": 1.0})


def test_images_are_resized_and_cropped(tmp_path: Path) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "b").mkdir()
    wide = np.zeros((3, 8, 16), np.uint8)
    wide[0, :, 4:12] = 200  # the central square is red
    for number in range(4):
        (tmp_path / "images" / "ab"[number % 2] / f"{number}.png").write_bytes(files.png(wide))
    given = {"splits": {"validation": 1, "test": 1}}
    source = {"type": "images", "path": str(tmp_path / "images")}
    colour = samples_of({**source, "size": 4}, **given).inputs["inputs"][0]
    assert colour.shape == (3, 4, 4)
    assert (colour[0, :, 1:3] > 190).all()
    assert not colour[1:].any()
    assert samples_of({**source, "size": 4, "mode": "L"}, **given).input_shape == (1, 4, 4)


def pieces_of(monkeypatch: pytest.MonkeyPatch, samples: Samples, size: int) -> list[Any]:
    monkeypatch.setattr("raykd.data.mapped.PIECE_BYTES", size)
    fresh = pickle.loads(pickle.dumps(samples))  # noqa: S301
    object.__setattr__(fresh, "hashes", None)
    return [
        fresh.statistics(),
        fresh.content_hash(np.arange(len(fresh))).tolist(),
        check_data(fresh),
    ]


@pytest.mark.parametrize("kind", ["images", "parquet of lists"])
def test_in_pieces_it_comes_to_the_same(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = samples_of(files.SOURCES[kind](tmp_path))
    whole, pieces = pieces_of(monkeypatch, samples, 2**26), pieces_of(monkeypatch, samples, 700)
    assert whole[1:] == pieces[1:]
    if kind == "images":
        assert whole[0] == pieces[0]
    else:
        for one, other in zip(whole[0], pieces[0], strict=True):
            assert one == pytest.approx(other, rel=1e-12)


def test_parts_hold_every_sample_once() -> None:
    layout = Layout("numbers", (4,), "<f4")
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = {f"f{n}": rng.integers(0, 60, rng.integers(0, 9)).tolist() for n in range(3)}
        parts = group_parts(sizes, ("x",), layout)
        first, groups = 0, []
        for number, part in enumerate(parts):
            assert (part.number, part.first) == (number, first)
            assert isinstance(part.place, Groups)
            here = range(part.place.first, part.place.first + part.place.count)
            assert sum(sizes[part.place.path][group] for group in here) == part.count
            groups += [(part.place.path, group) for group in here if sizes[part.place.path][group]]
            first += part.count
        every = [(path, n) for path, some in sizes.items() for n, size in enumerate(some) if size]
        assert groups == every
    assert part_rows(10**9, layout) * layout.row_bytes == 64 * 2**20
    assert part_rows(100, layout) == 16


def _shard(root: Path) -> dict[str, Any]:
    source = files.write_shards(root)
    with (root / "1.tar").open("r+b") as file:
        file.truncate(9_000)
    return source


def _empty(root: Path) -> dict[str, Any]:
    root.mkdir()
    (root / "notes.txt").write_text("")
    return {"type": "images", "path": str(root)}


def _text(root: Path) -> dict[str, Any]:
    files.write_parquet(root, {"x": [f"text {row}" for row in range(files.COUNT)]})
    return {"type": "parquet", "path": str(root), "inputs": "x"}


def _mixed(root: Path) -> dict[str, Any]:
    files.write_parquet(root, {"x": files.floats().tolist()})
    pq.write_table(pa.table({"x": [1, 2], "id": [1, 2]}), root / "c.parquet")
    return {"type": "parquet", "path": str(root), "inputs": "x"}


def _half(root: Path) -> dict[str, Any]:
    return {**files.SOURCES["parquet of lists"](root), "label": "half"}


def _values(root: Path) -> dict[str, Any]:
    files.write_parquet(root, {"x": files.floats().tolist(), "y": files.floats()[:, 0]})
    return {"type": "parquet", "path": str(root), "inputs": "x", "label": "y"}


def _csv(text: str, **given: Any) -> Callable[[Path], dict[str, Any]]:
    def write(root: Path) -> dict[str, Any]:
        root.mkdir()
        (root / "a.csv").write_text(text)
        return {"type": "csv", "path": str(root), **given}

    return write


def _repeated(root: Path) -> dict[str, Any]:
    return {**files.SOURCES["parquet of lists"](root), "id": "label"}


def _no_match(root: Path) -> dict[str, Any]:
    source = files.write_images(root)
    (root / "t.csv").write_text("id,label\n0000.png,1\n")
    return {**source, "labels": {"path": str(root / "t.csv")}}


def _twice(root: Path) -> dict[str, Any]:
    source = files.write_images(root)
    (root / "t.csv").write_text("id,label\na,1\na,2\n")
    return {**source, "labels": {"path": str(root / "t.csv")}}


WRONG: dict[str, tuple[Callable[[Path], dict[str, Any]], str, str]] = {
    "no folder": (
        lambda root: {"type": "images", "path": str(root / "nowhere")},
        "data.source.path",
        "there is no file or folder",
    ),
    "a bucket": (
        lambda _: {"type": "images", "path": "s3://b/x"},
        "data.source.path",
        "mount the bucket",
    ),
    "a name of the hub": (
        lambda _: {"type": "hf", "path": "org/set"},
        "data.source.path",
        "no hub is asked: bring it once with `hf download org/set --repo-type dataset --local-dir FOLDER`",
    ),
    "no images": (_empty, "data.source.path", r"no .jpg .* file; it has .txt"),
    "a cut shard": (_shard, "data.source.path", "is no whole tar file"),
    "a text column": (
        _text,
        "data.source.inputs",
        r"'x' has \d+ different words in .*: ids or texts, .*texts go into data.source.text",
    ),
    "two types": (_mixed, "data.source.inputs", "make it one type"),
    "no such column": (_half, "data.source.label", r"no column 'half'; it has id, label, x"),
    "values for classes": (_values, "data.source.label", "set `task: regression`"),
    "ids twice": (_repeated, "data.source.ids", "ids are repeated"),
    "a table of others": (
        _no_match,
        "data.source.labels.key",
        "take the column with the samples' ids",
    ),
    "a key twice": (_twice, "data.source.labels.key", r"keys twice \(e.g. a\)"),
    "csv: text among numbers": (
        _csv("x,y\n1,0\ntwo,1\n", inputs="x", label="y"),
        "data.source.inputs",
        r"'x' has 1 numbers in 2 cells, but also 'two' in row 2 of a\.csv: inputs have to be numbers",
    ),
    "csv: a row too long": (
        _csv("x,y\n1,0\n1,2,3\n", label="y"),
        "data.source.path",
        r"a\.csv cannot be read: .*Expected 2 columns, got 3",
    ),
    "csv: no numbers": (
        _csv("x;y\n1;0\n"),
        "data.source.inputs",
        r"no column of numbers .*'x;y' has 1 different words in 1 cells.*; another data\.source\.delimiter\?",
    ),
    "csv: no such input": (
        _csv("x,y\n1,0\n", inputs=["x", "z"]),
        "data.source.inputs",
        r"a\.csv has no column 'z'; it has x, y",
    ),
    "csv: no such label": (_csv("x,y\n1,0\n", label="z"), "data.source.label", "no column 'z'"),
    "csv: one name twice": (_csv("x,x\n1,0\n"), "data.source.path", "columns of one name: 'x'"),
    "csv: no rows": (_csv("x,y\n", inputs="x"), "data.source.path", "has no row"),
    "csv: empty": (_csv(""), "data.source.path", "a first line with the names of its columns"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_sources_are_named(name: str, tmp_path: Path) -> None:
    make, key, text = WRONG[name]
    with pytest.raises(InputError, match=text) as found:
        samples_of(make(tmp_path / "source"))
    assert [problem.key for problem in found.value.problems] == [key]


def test_columns_of_a_csv_that_are_numbers(tmp_path: Path) -> None:
    rows = [
        f"{row};{row / 7};n{row % 3};{'odd' if row % 2 else 'NA'};d{row};{row}" for row in range(60)
    ]
    (tmp_path / "rows.csv").write_text("\n".join([";price;note;kind;name;size", *rows]))
    source = {"type": "csv", "path": str(tmp_path / "rows.csv"), "label": "kind", "delimiter": ";"}
    samples = samples_of(source, splits={"by": {"type": "group", "column": "size"}})
    assert samples.classes == ("NA", "odd")
    wanted = np.array([[row / 7] for row in range(60)], np.float32)
    assert samples.features == ("price", "note"), "not the label, the group, no name; no text"
    assert samples.words == {"note": ("n0", "n1", "n2")}
    assert list(samples.unused) == ["name"]
    assert np.array_equal(samples.inputs["inputs"][:, :1], wanted)
    assert samples.inputs["inputs"][:, 1].tolist() == [row % 3 for row in range(60)]
    named = samples_of({**source, "id": "name", "inputs": ["size", "price"]})
    assert np.array_equal(named.inputs["inputs"][:, 0], np.arange(60, dtype=np.float32))
    assert np.array_equal(named.inputs["inputs"][:, 1], wanted[:, 0])
    ids = Dataset(inputs=np.ones((60, 1)), ids=[f"d{row}" for row in range(60)]).ids
    assert np.array_equal(named.ids, ids)


def test_rows_of_a_csv_with_infinity_are_bad_samples_and_gaps_are_none(tmp_path: Path) -> None:
    cells = [("NA", "", "nan", "inf")[row] if row < 4 else str(row) for row in range(90)]
    rows = [f'{cell},{row % 2},"a\n{row}"' for row, cell in enumerate(cells)]
    (tmp_path / "rows.csv").write_text("\n".join(["x,y,note", *rows]))
    source = {"type": "csv", "path": str(tmp_path), "label": "y"}
    with pytest.raises(
        InputError,
        match=r"1 of 90 samples cannot be decoded.*rows\.csv#3 \('x' is infinite, or too",
    ):
        samples_of(source)
    samples = samples_of(source, bad_samples={"max_fraction": 0.1})
    values = samples.inputs["inputs"][:, 0]
    assert np.isnan(values).sum() == 3
    known = ~np.isnan(values)
    assert sorted(values[known].tolist()) == list(range(4, 90))
    assert np.array_equal(samples.all_labels[known], values[known] % 2)


def test_a_regression_of_a_csv(tmp_path: Path) -> None:
    rows = [f"{row},{row * 0.5},{row * 2}" for row in range(60)]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,y", *rows]))
    samples = samples_of({"type": "csv", "path": str(tmp_path), "label": "y"}, task="regression")
    assert samples.input_shape == (2,)
    assert len(samples.features) == 2
    assert samples.all_labels.tolist() == [row * 2.0 for row in range(60)]
    assert samples.classes == ("y",)


@pytest.mark.parametrize(
    ("by", "key", "text"),
    [
        ({"type": "group", "column": "whom"}, "data.splits.by.column", "no sample has 'whom'"),
        (
            {"type": "column", "column": "who"},
            "data.splits.by.column",
            "says p0, p1, .*; allowed are train",
        ),
    ],
)
def test_wrong_splits_are_named(by: dict[str, Any], key: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=text) as found:
        samples_of(files.write_shards(tmp_path), splits={"by": by})
    assert [problem.key for problem in found.value.problems] == [key]


def test_sources_without_columns_cannot_be_split_by_one() -> None:
    by = {"by": {"type": "group", "column": "who"}}
    with pytest.raises(InputError, match="the source has none"):
        samples_of({"type": "digits"}, splits=by)


def test_sources_with_parts_of_their_own_are_not_split_again(tmp_path: Path) -> None:
    by = {"by": {"type": "group", "column": "label"}}
    with pytest.raises(InputError, match=r"brings its own parts \(train, test\)"):
        samples_of(files.write_saved(tmp_path), splits=by)


def test_few_groups_leave_some_for_training(tmp_path: Path) -> None:
    by = {"by": {"type": "group", "column": "who"}, "test": 0.99}
    with pytest.raises(InputError, match="has to leave some for training") as found:
        samples_of(files.write_shards(tmp_path), splits=by)
    assert found.value.problems[0].key == "data.splits.test"


def test_marks_that_are_told_again_are_the_same(tmp_path: Path) -> None:
    source = files.write_images(tmp_path)
    spoil(tmp_path)
    told: list[Mark] = []

    def decode(target: Target, parts: Sequence[Part]) -> Any:
        for mark in in_process(target, parts):
            told.append(mark)
            kept = json.loads(target.mark(mark.number).read_text())
            assert {int(place): why for place, why in kept["bad"].items()} == mark.bad
            yield mark

    samples_of(source, decode=decode, bad_samples={"max_fraction": 0.1})
    assert sum(len(mark.bad) for mark in told) == 3


def test_what_hugging_face_saves_is_read_without_its_package(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs pip install 'raykd[hf]'")
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(files.CLASSES))}
    images = [{"bytes": one} for one in files.encoded()]
    whole = datasets.Dataset.from_dict(
        {"image": images, "label": files.labels().tolist()}, features=datasets.Features(features)
    )
    parts = {"train": whole.select(range(60)).shuffle(seed=1), "test": whole.select(range(60, 90))}
    datasets.DatasetDict(parts).save_to_disk(
        str(tmp_path / "saved"), num_shards={"train": 2, "test": 1}
    )
    (tmp_path / "hub" / "data").mkdir(parents=True)
    whole.to_parquet(str(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet"))
    wanted = {
        image.tobytes(): label for image, label in zip(files.pixels(), files.labels(), strict=True)
    }
    for name, held_out in (("saved", 30), ("hub", 18)):
        samples = samples_of({"type": "hf", "path": str(tmp_path / name)})
        shown = samples.inputs["inputs"][np.arange(90)]
        assert {s.tobytes(): y for s, y in zip(shown, samples.all_labels, strict=True)} == wanted
        assert samples.classes == files.CLASSES
        assert len(samples.splits["test"]) == held_out


def test_texts_are_labelled_in_the_order_of_the_given_names(tmp_path: Path) -> None:
    source = files.write_images(tmp_path)
    order = files.image_order()[0]
    said = samples_of(source, classes=["eel", "cat", "dog"])
    assert said.classes == ("eel", "cat", "dog")
    places = [said.classes.index(files.CLASSES[label]) for label in files.labels()[order]]
    assert said.all_labels.tolist() == places
    for wrong, why in (
        (["eel", "cat", "cow"], r"'folder' has 'dog', not among the 3 names \(eel, cat, cow\)"),
        (["eel", "cat"], "'folder' has 'dog', not among the 2 names"),
    ):
        with pytest.raises(InputError, match=rf"data\.classes: {why}"):
            samples_of(source, classes=wrong)
    with pytest.raises(InputError, match=r"classes have no labelled training sample \(fox\)"):
        samples_of(source, classes=["eel", "cat", "dog", "fox"])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_only_an_empty_cell_is_no_label(suffix: str, tmp_path: Path) -> None:
    source, (_, names) = files.write_images(tmp_path), files.image_order()
    said = [("NA", "nan", None)[place % 3] for place in range(files.COUNT)]
    path = tmp_path / f"labels{suffix}"
    if suffix == ".csv":
        rows = [f"{name},{one or ''}" for name, one in zip(names, said, strict=True)]
        path.write_text("\n".join(["id,label", *rows]))
    else:
        pq.write_table(pa.table({"id": names, "label": pa.array(said).dictionary_encode()}), path)
    samples = samples_of({**source, "labels": {"path": str(path)}})
    assert samples.classes == ("NA", "nan")
    assert samples.all_labels.tolist() == [(0, 1, -1)[place % 3] for place in range(files.COUNT)]
