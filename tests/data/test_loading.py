"""Sources of files through the cluster, and through whole runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import raykd_test_files as files

import raykd
from raykd import load_config
from raykd.cli import main
from raykd.config.data import Data
from raykd.data import Samples, build_samples
from raykd.data.decoding import Part, Target
from raykd.data.mapped import Mapped
from raykd.errors import DataError, InputError, Problem
from raykd.folders import RunFolder
from raykd.models.preprocess import resolve
from raykd.models.weights import fingerprint, load_weights
from raykd.pipeline import Options
from raykd.pipeline.loading import load_samples
from raykd.pipeline.preparation import prepare
from raykd.runtime import put
from raykd.runtime.decoding import decode_parts
from raykd.targets import NoTargets, Ticket
from raykd.tracking import Event
from raykd.train import Fit, FolderReporter, Plan, World, train
from raykd.types import Batch

COUNT, FEW = 240, 48


def recipe(tiny_recipe: dict[str, Any], source: dict[str, Any], **data: Any) -> dict[str, Any]:
    views = {"count": 2, "policy": [{"type": "shift", "pixels": 1}, {"type": "mixup"}]}
    given = {
        "source": source,
        "views": views,
        "labels": 0.5,
        "splits": {"validation": 1 / 6, "test": 1 / 6},
    }
    fit = {**tiny_recipe["teachers"][0]["fit"], "epochs": 20}
    teachers = [{**tiny_recipe["teachers"][0], "fit": fit}]
    return {**tiny_recipe, "data": {**given, **data}, "teachers": teachers}


def spoil(root: Path) -> None:
    (root / "images/dog/0001.png").write_bytes(b"no image")


@pytest.mark.soak
@pytest.mark.ray
def test_workers_decode_what_one_process_does(
    ray_cluster: None, tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = files.write_images(tmp_path, FEW)
    spoil(tmp_path)
    tree = recipe(
        tiny_recipe, source, bad_samples={"max_fraction": 0.03}, cache=str(tmp_path / "a")
    )
    heard: list[Event] = []
    found = load_samples(load_config(tree), listen=heard.append)
    states = [event.values.get("state") for event in heard if event.kind == "stage"]
    assert states == ["started", "finished"]
    done = [event.values["done"] for event in heard if event.kind == "progress"]
    assert (done[0], done[-1], done) == (0, FEW, sorted(done))
    assert len(done) > 2
    tree["data"]["cache"] = str(tmp_path / "b")
    monkeypatch.setattr("raykd.runtime.decoding.decode_parts", _refused)
    config = load_config(tree)
    alone = build_samples(config.data, seed=0)
    rows = np.arange(FEW - 1)
    assert np.array_equal(found.inputs["inputs"][rows], alone.inputs["inputs"][rows])
    assert np.array_equal(found.content_hash(rows), alone.content_hash(rows))
    assert found.left_out == alone.left_out
    assert found.left_out[0].startswith("dog/0001.png (cannot identify")
    again: list[Event] = []
    load_samples(
        config, listen=again.append
    )  # nothing is lacking: no worker is asked, nothing is told
    assert again == []


def _refused(*_: Any) -> Any:
    raise AssertionError("asked the cluster")


@pytest.mark.soak
@pytest.mark.ray
def test_what_a_worker_cannot_read_is_told_by_its_name(ray_cluster: None, tmp_path: Path) -> None:
    source = files.write_images(tmp_path)

    def decode(target: Target, parts: Sequence[Part]) -> Any:
        (tmp_path / "images/eel/0002.png").unlink()
        return decode_parts(target, parts)

    with pytest.raises(DataError, match=r"eel/0002\.png cannot be read here"):
        build_samples(Data.model_validate({"source": source}), seed=0, decode=decode)


@pytest.mark.ray
def test_the_object_store_holds_paths(ray_cluster: None, tmp_path: Path) -> None:
    data = Data.model_validate({"source": files.write_images(tmp_path, COUNT)})
    samples = build_samples(data, seed=0)

    @ray.remote(num_cpus=0)
    def look(held: Any) -> tuple[bool, list[int]]:
        return isinstance(held.inputs["inputs"], Mapped), held.content_hash(np.arange(9)).tolist()

    mapped, hashes = ray.get(look.remote(put(samples)), timeout=60)
    assert mapped
    assert hashes == samples.content_hash(np.arange(9)).tolist()


class Recording:
    """Labels alone; keeps the rows of every batch."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []

    def submit(self, batch: Batch) -> Ticket:
        self.rows.append(batch.rows.numpy()[batch.present_B.numpy()])
        return Ticket(batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> dict[str, Any]:
        return NoTargets().collect(ticket, timeout_s)


def sources(root: Path) -> dict[str, dict[str, Any]]:
    """The same samples in memory and as files."""
    order, names = files.image_order(COUNT)
    np.savez(
        root / "same.npz",
        inputs=files.pixels(COUNT)[order],
        labels=files.labels(COUNT)[order],
        ids=np.array(names),
        classes=np.array(files.CLASSES),
    )
    memory = {"type": "arrays", "path": str(root / "same.npz")}
    return {"memory": memory, "files": files.write_images(root, COUNT)}


def trained(tree: dict[str, Any], root: Path, heard: list[Event]) -> tuple[Samples, Recording, str]:
    """Train the student on labels alone, here; the samples, what it was shown, and the hash of its weights."""
    config = load_config(tree)
    samples, source = build_samples(config.data, seed=0), Recording()
    rows = samples.splits["train"]
    preprocessing = resolve(
        config.student.preprocess, samples.statistics(), input_shape=samples.input_shape, key="x"
    )
    fit = Fit(
        fit_id="student/replica0", stage="student", key="student.model", model=config.student.model,
        preprocessing=preprocessing, weights=None, teacher_infos=(), student_shapes={}, teacher_shapes={},
        objective=config.objective.model_copy(update={"soft_targets": None}), training=config.train,
        plan=Plan(rows, len(rows), 32, seed=0, views=2), seed=0, labels="budget", data="x",
    )  # fmt: skip
    reporter = FolderReporter(RunFolder(root), heard.append)
    train(fit, samples, source, reporter, World())
    weights = load_weights(reporter.folder(fit.fit_id).weights("last"), key="x")
    return samples, source, fingerprint(weights)


def test_every_sample_once_in_each_epoch_and_the_student_of_the_same_data_in_memory(
    tiny_recipe: dict[str, Any], tmp_path: Path, one_thread: None
) -> None:
    found, heard = {}, list[Event]()
    for name, one in sources(tmp_path).items():
        samples, source, weights = trained(recipe(tiny_recipe, one), tmp_path / name, heard)
        found[name] = weights
        rows = samples.splits["train"].tolist()
        steps = len(source.rows) // 2
        for shown in (source.rows[:steps], source.rows[steps:]):
            assert Counter(np.concatenate(shown).tolist()) == Counter(rows)
    assert found["files"] == found["memory"]
    waits = [event.values["input_wait_fraction"] for event in heard if event.kind == "epoch"]
    assert len(waits) == 4
    assert all(0 <= wait < 1 for wait in waits)


@pytest.mark.soak
@pytest.mark.ray
def test_a_run_on_files_finds_the_targets_of_the_run_on_arrays(
    ray_cluster: None, tiny_recipe: dict[str, Any], tmp_path: Path
) -> None:
    told, noted = {}, {}
    for name, source in sources(tmp_path).items():
        config = load_config(recipe(tiny_recipe, source))
        build_samples(config.data, seed=0)  # the run starts no worker to decode
        raykd.run(config, Options(output=tmp_path / name, until="targets"))
        noted[name] = json.loads((tmp_path / name / "targets.json").read_text())["entries"]
        told[name] = (tmp_path / name / "metrics.jsonl").read_text()
    assert f" {2 * 160 + 80:,} teacher samples scored, 0 of" in told["memory"]
    assert f" 0 teacher samples scored, {2 * 160 + 80:,} of" in told["files"]
    assert noted["files"] == noted["memory"]


@pytest.mark.ray
def test_a_run_tells_what_it_leaves_out(
    ray_cluster: None, tiny_recipe: dict[str, Any], tmp_path: Path
) -> None:
    source = files.write_images(tmp_path, COUNT)
    spoil(tmp_path)
    config = load_config(recipe(tiny_recipe, source, bad_samples={"max_fraction": 0.01}))
    raykd.run(config, Options(output=tmp_path / "run", until="teachers"))
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    (told,) = [one for one in map(json.loads, lines) if one["kind"] == "failure"]
    assert told["decision"] == "skip"
    assert "1 samples cannot be decoded: dog/0001.png" in told["message"]


@pytest.mark.ray
def test_data_check_reads_files(
    ray_cluster: None,
    tiny_recipe: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        json.dumps(
            recipe(
                tiny_recipe,
                files.write_saved(tmp_path / "saved"),
                labels=None,
                splits={"validation": 9},
            )
        )
    )
    assert main(["data", "check", str(path)]) == 0
    assert "inputs: uint8 [3, 8, 8]" in capsys.readouterr().out
    assert main(["data", "check", str(path), "data.source.path=nowhere"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error  data.source.path: there is no file or folder nowhere")


WRONG = {
    "data.source.size=0": "data.source.size",
    "data.source.mode=CMYK": "data.source.mode",
    "data.source.sise=8": "data.source.sise",
    "data.splits.by={type: month, column: x}": "data.splits.by.type",
    "data.splits.by={type: group}": "data.splits.by.column",
    "data.source={type: parquet, path: x, text: a, inputs: b}": "data.source.inputs",
    "data.source.labels={path: nowhere.csv}": "data.source.labels.path",
}


@pytest.mark.parametrize("override", WRONG)
def test_wrong_settings_are_exit_2(
    override: str, tiny_recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe(tiny_recipe, files.write_images(tmp_path))))
    assert main(["run", str(path), override, "--output", str(tmp_path / "run")]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error  ")]
    assert any(line.startswith(f"error  {WRONG[override]}") for line in told), told
    assert not (tmp_path / "run").exists()


def test_preparing_needs_no_cluster_once_it_is_decoded(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(recipe(tiny_recipe, files.write_images(tmp_path, COUNT)))
    build_samples(config.data, seed=0)
    monkeypatch.setattr("raykd.pipeline.loading.connect", _refused)
    assert len(prepare(config).samples) == COUNT


def test_a_single_part_is_decoded_here_and_several_on_a_cluster(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(recipe(tiny_recipe, files.write_images(tmp_path, FEW)))
    monkeypatch.setattr("raykd.pipeline.loading.connect", _refused)
    monkeypatch.setattr("raykd.data.decoding.layout._LEAST_ROWS", FEW - 1)
    with pytest.raises(AssertionError, match="asked the cluster"):
        load_samples(config)
    monkeypatch.setattr("raykd.data.decoding.layout._LEAST_ROWS", FEW)
    assert len(load_samples(config)) == FEW


def test_on_a_cluster_at_an_address_every_node_has_to_see_the_cache(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def shared(folders: Any) -> None:
        asked.append(folders)
        raise InputError(Problem("data.cache", "one node does not see it"))

    monkeypatch.setattr("raykd.pipeline.loading.connect", nullcontext)
    monkeypatch.setattr("raykd.pipeline.loading.check_shared", shared)
    cache = tmp_path / "cache"
    config = load_config(recipe(tiny_recipe, files.write_images(tmp_path, FEW), cache=str(cache)))
    with pytest.raises(InputError, match="one node does not see it"):
        load_samples(config, address="10.0.0.1:6379")
    assert asked == [{"data.cache": cache}]
