"""What whole runs are held against: that both sides do the same work, and that counters count."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from jobs.bench import (
    BENCHMARKS,
    Sizes,
    dense_features,
    driver_traffic,
    peer_loop,
    peer_runs,
    shared_cores,
    whole_runs,
)
from jobs.bench.plain_loop import HARD, SOFT, TEMPERATURE, distil
from jobs.bench.ratios import Cost, cost
from jobs.bench.synthetic import Bench
from raykd.config import load_config
from raykd.folders import RunFolder
from raykd.models import build_model
from raykd.models.weights import load_weights, save_weights
from raykd.runtime import Resources
from raykd.teachers.model import TeacherModel
from raykd.types import ORIGINAL_VIEW, Dense

TINY = {"type": "mlp", "width": 0.1, "depth": 1}


@pytest.fixture
def whole_batches(tmp_path):
    """A recipe on digits, one batch an epoch, with everybody's weights written beside it."""
    names = ["student", "t0", "t1"]
    files = {name: str(tmp_path / f"{name}.safetensors") for name in names}
    config = load_config(
        {
            "data": {
                "source": {"type": "digits"},
                "splits": {"validation": 200, "test": 0.2},
                "views": {"count": 2, "policy": [{"type": "shift", "pixels": 1}]},
            },
            "teachers": [
                {"name": name, "model": TINY, "weights": files[name]} for name in names[1:]
            ],
            "student": {"model": TINY, "weights": files["student"]},
            "objective": {
                "labels": {"weight": HARD},
                "soft_targets": {"temperature": TEMPERATURE, "weight": SOFT, "combine": "logits"},
            },
            "train": {
                "epochs": 4,
                "batch_size": 4096,
                "optimizer": {"type": "adamw", "lr": 0.01, "weight_decay": 0.0},
                "schedule": {"type": "cosine", "warmup_epochs": 0},
            },
            "tracking": {"wandb": {"mode": "disabled"}},
        }
    )
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        model = build_model(config.student.model, input_shape=(1, 8, 8), classes=10, key="model")
        save_weights({n: 3 * w for n, w in model.state_dict().items()}, tmp_path / files[name])
    return config


def test_the_plain_loop_and_raykd_train_the_same_student(whole_batches, tmp_path, one_thread):
    bench = Bench.of(whole_batches, RunFolder(tmp_path / "run"))
    prepared, names = bench.prepared, list(bench.prepared.teachers)
    specs = prepared.specs({n: c.weights for n, c in prepared.teachers.items()})
    source = shared_cores.InProcess({name: TeacherModel(spec) for name, spec in specs.items()})
    bench.fit_s("student/replica0", source, names, lambda event: None)
    ours = load_weights(
        bench.folder.checkpoints("student/replica0") / "last.safetensors", key="student"
    )
    plain = distil(whole_batches, bench.samples)
    begun = prepared.student_weights
    for name, tensor in plain.model.state_dict().items():
        moved = (tensor - begun[name]).abs().max()
        assert (tensor - ours[name]).abs().max() < 0.02 * moved, name
    rows = bench.samples.splits["validation"]
    with torch.no_grad():
        logits = plain.eval()(bench.samples.batch(rows, ORIGINAL_VIEW).inputs)
    assert logits.isfinite().all()


def test_cost_is_that_of_all_teachers_against_a_step():
    class Counted(torch.nn.Linear):
        calls = 0

        def forward(self, inputs):
            type(self).calls += 1
            return super().forward(inputs["x"])

    class Student(Counted):
        calls = 0

    inputs, threads = {"x": torch.zeros(4, 3)}, torch.get_num_threads()
    found = cost([Counted(3, 2), Counted(3, 2)], Student(3, 2), inputs, torch.zeros(4).long(), 1)
    assert Counted.calls == 2 * Student.calls > 0
    assert found.ratio == found.teachers_ms / found.step_ms
    assert torch.get_num_threads() == threads


def test_rows_of_whole_runs_are_ratios_of_pairs_with_what_arithmetic_allows():
    pairs = [((10.0, 0.80), (40.0, 0.82)), ((10.0, 0.90), (60.0, 0.90))]
    table = whole_runs.rows(pairs, Cost(60.0, 20.0), 500, Sizes(epochs=20))
    faster, most, *_, points = table
    assert (faster["median"], faster["spread"], faster["repeats"]) == (5.0, 2.0, "2")
    assert "3.0 : 1" in faster["name"]
    assert most["median"] == 20 * 4 / (2 * 3 + 20)
    assert points["median"] == pytest.approx(-1)


def test_without_the_other_library_a_row_says_so_and_how_to_install_it(monkeypatch):
    monkeypatch.setattr(peer_runs, "find_spec", lambda name: None)
    (row,) = BENCHMARKS["peer"](Sizes())
    assert row["median"] == "not measured"
    assert row["bar"] == ">= 2.6"
    assert "torchdistill is not installed: pip install" in row["why"]


def test_rows_beside_another_library_are_ratios_of_pairs_its_seconds_first():
    pairs = [((60.0, 0.80), (20.0, 0.82)), ((50.0, 0.90), (25.0, 0.91))]
    ratio, theirs, ours, *accuracies = peer_runs.rows(pairs, 59000, Sizes())
    assert (ratio["median"], ratio["spread"], ratio["repeats"]) == (2.5, 1.0, "2")
    assert "59,000 images, 6 epochs" in ratio["name"]
    assert (theirs["median"], ours["median"]) == (55.0, 22.5)
    assert [row["median"] for row in accuracies] == pytest.approx([85.0, 86.5])


def test_both_sides_of_the_peer_row_read_the_same_recipe(tmp_path):
    config = peer_runs.recipe(tmp_path, Sizes(peer_images=100, peer_epochs=3))
    settings = peer_loop.settings(config, 80)
    assert settings["num_epochs"] == config.train.epochs == 3
    assert settings["scheduler"]["kwargs"]["T_max"] == 3, "one step of 128 images an epoch"
    assert settings["optimizer"]["kwargs"]["lr"] == config.train.optimizer.lr
    kd = settings["criterion"]["kwargs"]["sub_terms"]["kd"]["criterion"]["kwargs"]
    assert (kd["alpha"], kd["beta"]) == (config.objective.labels.weight, 0.9)
    assert kd["temperature"] == config.objective.soft_targets.temperature
    assert load_config(tmp_path / "recipe.yaml") == config


@pytest.mark.soak  # starts a cluster of its own
def test_whole_runs_report_both_accuracies(raykd_home, monkeypatch):
    draw, folder = np.random.default_rng(0), raykd_home / "data" / "fashion_mnist"
    folder.mkdir(parents=True)
    for part, count in (("train", 120), ("t10k", 40)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = draw.integers(0, 255, (count, 28, 28), dtype=np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    monkeypatch.setattr(whole_runs, "TEACHERS", {"3:1": TINY})
    table = whole_runs.end_to_end(Sizes(images=120, epochs=1, fits=1))
    found = {row["name"]: row["median"] for row in table}
    assert found["raykd run"] > 0
    assert found["plain loop"] > 0
    for side in ("plain loop", "raykd run"):
        hits = found[f"accuracy on test, {side}"] / 100 * 20  # of a sixth of 120 images
        assert hits == pytest.approx(round(hits), abs=1e-4)


@pytest.mark.soak
def test_live_and_fill_are_measured_beside_a_loop_over_the_same_models(ray_cluster, monkeypatch):
    monkeypatch.setattr(shared_cores, "TEACHERS", {"3:1": TINY})
    monkeypatch.setattr(shared_cores, "machine", lambda: Resources(cpus=1.0, gpus=0.0, local=True))
    live, fill = shared_cores.shared(Sizes(units=128, samples=256, repeats=1))
    assert (live["bar"], fill["bar"]) == ("<= 1.15", ">= 0.9")
    times = {"live": [9.0, 2.0], "loop": [1.0, 4.0], "fill": [9.0, 5.0], "bare": [1.0, 4.0]}
    live, fill = shared_cores.table(times, Cost(3.0, 1.0))
    assert (live["median"], fill["median"]) == (0.5, 0.8)


def test_the_driver_sees_what_it_packs_and_unpacks(ray_cluster):
    import ray

    sockets, array = driver_traffic.Sockets(), np.zeros(1_000_000, np.uint8)

    @ray.remote(num_cpus=0)
    class Receiver:  # an actor: bytes of a connection that ends between two looks are not seen
        def length(self, value):
            return len(value)

    length = Receiver.remote().length
    with driver_traffic.counted() as traffic:
        reference = ray.put(array)
        assert traffic.objects > array.nbytes
        ray.get(reference)
        assert traffic.objects > 2 * array.nbytes
        assert traffic.largest < 1.1 * array.nbytes
        before, seen = traffic.objects, sockets.bytes()
        assert ray.get([length.remote(bytes(50_000)) for _ in range(20)]) == [50_000] * 20
        assert traffic.objects - before > 20 * 50_000
        assert sockets.bytes() - seen > 20 * 50_000
        before = traffic.objects
        ray.get(length.remote(reference))
        assert traffic.objects - before < 10_000, "a reference is not what it refers to"
    outside = traffic.objects
    ray.put(array)
    assert traffic.objects == outside


@pytest.mark.soak
def test_no_tensor_crosses_the_driver(ray_cluster):
    sizes = Sizes(units=64, classes=200, teachers=2, samples=512, repeats=1)
    table = driver_traffic.driver(sizes)
    found = {row["name"]: row for row in table}
    answers = found["teachers' answers"]["median"]
    assert answers == 2 * 64 * 200 * 2
    for what in ("live", "stored"):
        assert 0 < found[f"driver, {what}: largest object"]["median"] < answers / 2
        objects = found[f"driver, {what}: objects packed and unpacked"]
        assert 0 < objects["median"] < answers / 2


def answer(seed, maps):
    values = torch.randn(32, 6, generator=torch.Generator().manual_seed(seed))
    features = {dense_features.TAP: maps}
    return {"t": Dense(kind="logits", values_NC=values, valid_N=torch.ones(32).bool(), features=features)}  # fmt: skip


def test_bytes_and_time_of_dense_features_are_side_by_side():
    maps = torch.randn(32, 4, 5, 5)
    times = {"actor": [4.0, 6.0, 5.0], "inside": [2.0, 3.0, 2.0]}
    answers = {way: [answer(0, maps)] for way in times}
    rows = dense_features.table("t", times, answers, {"actor": 250.0, "inside": 0.0}, 1000)
    actor, inside, ratio, sent, own, part, stored, same = (row["median"] for row in rows)
    assert (actor, inside, ratio) == (5.0, 2.0, 0.5)
    assert (sent, own, part, stored, same) == (250.0, 0.0, 80.0, 250_000.0, 1.0)
    answers["inside"] = [answer(0, maps + 1)]
    assert dense_features.table("t", times, answers, {"actor": 250.0, "inside": 0.0}, 1)[-1]["median"] == 0  # fmt: skip


@pytest.mark.soak
def test_dense_features_are_the_same_bits_by_an_actor_and_inside(ray_cluster):
    rows = dense_features.dense(Sizes(samples=64, repeats=1))
    *_, sent, own, part, stored, same = (row["median"] for row in rows)
    assert (own, same) == (0.0, 1.0)
    assert sent > 2 * 32 * 16 * 16
    assert part > 50
    assert stored > sent
