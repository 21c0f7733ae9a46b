"""The benchmark job: what it prints and writes, not how long anything takes."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.usefixtures("one_thread")

JOB = Path(__file__).parents[2] / "jobs" / "benchmark.py"
SMALLEST = (
    "--units", "16", "--classes", "2", "--teachers", "2", "--samples", "64", "--repeats", "5",
)  # fmt: skip
ALWAYS = {"name", "unit", "median", "min", "spread"}


def run(*arguments):
    """The job in this process, as `python jobs/benchmark.py` would end."""
    specification = importlib.util.spec_from_file_location("raykd_benchmark_job", JOB)
    job = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(job)
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            job.main(arguments)
        except SystemExit as end:
            code = end.code
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def test_a_row_for_every_loss_of_logits_and_every_weighting(tmp_path):
    from raykd.methods import WEIGHTING_ROWS

    done = run(*SMALLEST, "--only", "objective", "--output", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["sizes"] == {
        "units": 16, "classes": 2, "teachers": 2, "samples": 64, "repeats": 5,
        "images": 10000, "epochs": 20, "fits": 5, "vocabulary": 128256, "tokens": 4096,
        "peer_images": 60000, "peer_epochs": 6, "peer_repeats": 1, "rows": 20_000_000,
    }  # fmt: skip
    assert set(found["benchmarks"]) == {"objective"}
    assert {*found} == {"date", "device", "cores", "versions", "sizes", "benchmarks"}
    assert found["cores"] >= 1
    assert found["versions"]["torch"]
    first, *rows = found["benchmarks"]["objective"]
    losses = (
        "kl", "reverse_kl", "js", "skew_kl", "mse", "dkd", "dist", "ttm", "wttm", "nkd", "mlkd_class", "mlkd_batch", "uld",
    )  # fmt: skip
    weightings = [name for name, row in WEIGHTING_ROWS.items() if row.for_all_tasks]
    cases = {f"{loss}, uniform" for loss in losses} | {f"kl, {name}" for name in weightings}
    assert {row["name"] for row in rows} == cases
    assert len(rows) == len(cases)
    for row in (first, *rows):
        assert set(row) == {*ALWAYS, "ratio", "percent_of_step"}
        assert 0 < row["min"] <= row["median"]
        assert row["spread"] >= 0
        assert row["percent_of_step"] == 2 * row["median"]
        assert row["name"] in done.stdout
    assert first["ratio"] == 1


@pytest.mark.soak
def test_scale_measures_every_part_in_a_process_of_its_own(tmp_path):
    arguments = (*SMALLEST, "--only", "scale", "--rows", "5000")
    done = run(*arguments, "--output", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "found.json").read_text())["benchmarks"]["scale"]
    assert all(row["median"] > 0 and row["samples"] == "5,000" for row in table)
    bars = {row["name"]: row["bar"] for row in table if "bar" in row}
    assert bars.pop("start, all together") == "<= 30"
    assert bars.pop("Plan.batch") == "< 1"
    assert set(bars.values()) == {"<= 1"}
    assert len(bars) == 4


@pytest.mark.soak
def test_reading_targets_is_held_against_a_memory_map_and_a_hand_written_cache(tmp_path):
    done = run(*SMALLEST, "--only", "store,stored", "--output", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())["benchmarks"]
    raw, gather, *_, size = found["store"]
    assert raw["ratio"] == 1
    assert "0.8" in gather["bar"]
    assert size["median"] > 1, "ids, hashes and offsets come on top of two bytes for each logit"
    assert size["spread"] == 0
    ratios = [row for row in found["stored"] if row["unit"] == "ratio"]
    assert len(ratios) == 4
    for row in (*found["store"], *found["stored"]):
        assert set(row) >= ALWAYS
        assert row["min"] <= row["median"]
    assert all("1.05" in row["bar"] for row in ratios)


@pytest.mark.soak
def test_answers_over_a_vocabulary_are_held_against_all_their_logits(tmp_path):
    sizes = ("--vocabulary", "300", "--tokens", "32")
    done = run(*SMALLEST, *sizes, "--only", "few", "--output", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "found.json").read_text())["benchmarks"]["few"]
    assert [row["unit"] for row in rows] == ["ms", "ms", "ms", "ratio", "MB", "MB"]
    assert [row.get("bar") for row in rows[1:4]] == ["<= 5 ms", "<= 400 ms", "<= 1.4"]
    assert all(0 <= row["min"] <= row["median"] for row in rows)


@pytest.mark.soak
def test_a_fit_over_a_vocabulary_is_measured_in_chunks_and_as_a_whole(tmp_path):
    sizes = ("--vocabulary", "300", "--tokens", "128")
    done = run(*SMALLEST, *sizes, "--only", "tokens", "--output", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "found.json").read_text())["benchmarks"]["tokens"]
    assert [row["unit"] for row in rows] == ["ratio", "MB", "MB"]
    assert all(0 <= row["min"] <= row["median"] for row in rows)


@pytest.mark.soak
def test_latencies_are_measured_in_processes_of_their_own(tmp_path):
    done = run(*SMALLEST, "--only", "latency", "--output", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    *models, others, took = json.loads((tmp_path / "found.json").read_text())["benchmarks"][
        "latency"
    ]
    assert len(models) == 4 * 2
    assert all(0 < row["min"] <= row["median"] and row["ratio"] >= 1 for row in models)
    assert (others["unit"], took["unit"]) == ("CPUs", "s")


def test_wrong_arguments_are_explained():
    assert "known: objective, small, short" in run("--only", "objective,nonsense").stderr
    assert "at least 5" in run("--repeats", "2").stderr


def test_training_on_a_file_is_held_against_memory(tmp_path):
    done = run(*SMALLEST, "--only", "stream", "--output", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "found.json").read_text())["benchmarks"]["stream"]
    assert [(row["unit"], row["bar"]) for row in rows] == [("ratio", ">= 0.7")] * 2
    assert all(row["median"] > 0 for row in rows)


def test_both_sides_of_it_train_on_the_same_samples(tmp_path):
    import numpy as np

    from jobs.bench.mapped_data import mapped_recipe, write
    from jobs.bench.synthetic import dataset, recipe
    from raykd.data import build_samples

    teacher = {"name": "t", "outputs": "none.npz"}
    memory = recipe(64, 2, [teacher], {"type": "mlp"}, 8)
    write(tmp_path / "source", dataset(64, 2))
    one, other = (
        build_samples(config.data, seed=0) for config in (memory, mapped_recipe(memory, tmp_path))
    )
    rows = np.arange(64)
    assert np.array_equal(one.content_hash(rows), other.content_hash(rows))
    assert all(np.array_equal(one.splits[part], other.splits[part]) for part in one.splits)
    assert np.array_equal(one.labels, other.labels)
    assert one.ids.tolist() == other.ids.tolist()
