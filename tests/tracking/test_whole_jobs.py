"""W&B around whole jobs on Ray: what a run and a sweep leave there, a sick service, and where no key may be."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from raykd import pipeline
from raykd.config import load_config
from raykd.pipeline import Options
from raykd.search import sweep

pytestmark = [
    pytest.mark.ray,
    pytest.mark.figures,
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb.*"),
]
KEY = "5e471e1" * 5 + "abcde"
WIDTH = "student.model.width"


def with_wandb(recipe, mode: str, **more):
    return load_config({**recipe, "tracking": {"wandb": {"mode": mode}}, **more})


def stored_in(read_wandb, folder: Path):
    """All W&B runs below a folder, by shown name."""
    found = [read_wandb(path) for path in sorted(folder.rglob("offline-run-*/*.wandb"))]
    return {one.run.display_name: one for one in found}


def holding_the_key(*folders: Path) -> list[Path]:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    return [path for path in files if KEY.encode() in path.read_bytes()]


def known_to_ray() -> str:
    """Jobs, their metadata and environments, as the cluster keeps them, and its processes' logs."""
    import ray
    from ray._private.state import state
    from ray._private.worker import _global_node

    logs = Path(_global_node.get_session_dir_path()) / "logs"
    texts = [p.read_bytes().decode(errors="replace") for p in logs.rglob("*") if p.is_file()]
    environment = ray.get_runtime_context().get_runtime_env_string()
    return "".join([json.dumps(state.job_table(), default=str), environment, *texts])


def untimed(summary):
    """What clocks do not decide, nor whether the store was filled before."""
    if not isinstance(summary, dict):
        return summary
    left_out = {"timing", "cost", "targets", "latency", "latency_ms", "overhead_ms"}
    return {key: untimed(value) for key, value in summary.items() if key not in left_out}


def artefact(one) -> SimpleNamespace:
    metadata = json.loads(one.metadata)
    entries = {entry.path: entry for entry in one.manifest.contents}
    return SimpleNamespace(
        kind=one.type, made_from=metadata["made_from"], entries=entries, metadata=metadata
    )


@pytest.fixture
def canary(tmp_path, monkeypatch, fresh_wandb):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def recipe(tiny_recipe):
    """With one teacher, and no controls."""
    return {**tiny_recipe, "teachers": tiny_recipe["teachers"][:1], "evaluate": {"controls": []}}


@pytest.mark.soak
@pytest.mark.parametrize("sick", ["silent"], indirect=True)
def test_a_run_is_one_run_with_its_lineage_and_a_sick_service_changes_nothing(
    ray_cluster, raykd_home, tmp_path, recipe, read_wandb, canary, monkeypatch, sick
):
    config = with_wandb(recipe, "offline")
    result = pipeline.run(config, Options(output=tmp_path / "first"))
    ((name, stored),) = stored_in(read_wandb, tmp_path / "first").items()
    assert (name, stored.run.job_type, stored.exit_code) == ("first", "run", 0)
    assert stored.config["student"]["model"] == config.student.model.model_dump(mode="json")
    fits = {key.removesuffix("/epoch") for row in stored.history for key in row if key.endswith("/epoch")}  # fmt: skip
    assert fits == {"teacher/wide", "student/replica0"}
    accuracy = result.summary["student"]["test"]["accuracy"]["mean"]
    assert stored.summary["student/test/accuracy/mean"] == accuracy

    found = {one.type: artefact(one) for one in stored.artifacts.values()}
    names = {one.type: name for name, one in stored.artifacts.items()}
    assert set(found) == {"teacher", "targets", "student"}
    assert set(found["teacher"].entries) == {"card.json", "weights.safetensors"}
    assert found["targets"].made_from == [names["teacher"]]
    assert found["student"].made_from == [names["targets"]]
    assert set(found["student"].entries) == {"model.json", "model.safetensors"}
    store = Path(found["targets"].metadata["store"])
    assert len(found["targets"].entries) == 2  # views, and untransformed samples
    for path, entry in found["targets"].entries.items():
        assert entry.ref == (store / path).as_uri()  # no shard is uploaded
        assert path.endswith("/manifest.json")

    monkeypatch.setenv("WANDB_BASE_URL", sick)
    again = pipeline.run(with_wandb(recipe, "online"), Options(output=tmp_path / "again"))
    ((_, kept),) = stored_in(read_wandb, tmp_path / "again").items()
    assert {one.type for one in kept.artifacts.values()} == {"student"}  # the rest was there
    assert kept.config["uses/teacher"] == [names["teacher"]]
    assert kept.config["uses/targets"] == [names["targets"]]
    assert untimed(again.summary) == untimed(result.summary)
    assert untimed(again.summary)["student"]["test"]["accuracy"]["mean"] == accuracy
    weights = [tmp_path / name / "student" / "model.safetensors" for name in ("first", "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert holding_the_key(tmp_path) == []
    assert KEY not in known_to_ray()


@pytest.mark.soak
def test_a_sweep_is_a_group_of_runs(ray_cluster, raykd_home, tmp_path, recipe, read_wandb, canary):
    search = {
        "parameters": {WIDTH: {"space": "choice", "categories": [0.25, 0.5]}},
        "searcher": {"type": "grid"},
        "scheduler": {"type": "none"},
        "max_concurrent": 2,
        "finalists": {"top": 1, "seeds": 2},
    }
    config = with_wandb(recipe, "offline", search=search)
    result = sweep(config, Options(output=tmp_path / "sw"))
    stored = stored_in(read_wandb, tmp_path / "sw")
    (top,) = (n for n in result.summary["finalists"]["methods"] if n != "default")
    assert {name: one.run.job_type for name, one in stored.items()} == {
        "sw": "sweep",
        "sw-teacher-wide": "teacher",
        "sw-targets": "targets",
        "sw-000": "trial",
        "sw-001": "trial",
        "sw-finalist-default": "finalist",
        f"sw-finalist-{top}": "finalist",
    }
    assert {one.run.run_group for one in stored.values()} == {"sw"}
    assert {one.exit_code for one in stored.values()} == {0}
    assert len({one.run.run_id for one in stored.values()}) == len(stored)

    (teacher,) = stored["sw-teacher-wide"].artifacts
    assert [row["teacher/epoch"] for row in stored["sw-teacher-wide"].history] == [1, 2, 3, 4, 5, 6]
    assert stored["sw-teacher-wide"].config["model"]["type"] == "mlp"
    filled = stored["sw-targets"]
    assert teacher in filled.config["uses/teacher"]
    ((targets, made),) = filled.artifacts.items()
    assert teacher in artefact(made).made_from
    scored = result.summary["targets"]["teacher_samples_scored"]
    assert filled.summary["teacher_samples_scored"] == scored

    for record in result.summary["trials"]:
        trial = stored[f"sw-{record['trial']}"]
        assert trial.config["searched"] == record["values"]
        assert trial.config["uses/targets"] == [targets]
        assert trial.summary["value"] == record["value"]
        assert len(trial.history) == record["epochs"]
    finalist = stored[f"sw-finalist-{top}"]
    assert finalist.config["student"]["model"]["width"] == result.summary["best"]["values"].get(WIDTH, 0.25)  # fmt: skip
    assert finalist.config["uses/targets"] == [targets]
    (student,) = (artefact(one) for one in finalist.artifacts.values())
    assert student.made_from == [targets]
    assert list(student.entries) == ["model.safetensors"]
    numbers = result.summary["finalists"]["methods"][top]["test"]["accuracy"]
    assert finalist.summary["test/accuracy/mean"] == numbers["mean"]

    (table,) = (tmp_path / "sw" / "wandb").rglob("*.table.json")
    told = json.loads(table.read_text())
    rows = [dict(zip(told["columns"], row, strict=True)) for row in told["data"]]
    assert [row["trial"] for row in rows] == ["000", "001"]
    assert {"state", "value", "epochs", "cost.parameters", WIDTH} <= set(told["columns"])
    assert [row["value"] for row in rows] == [r["value"] for r in result.summary["trials"]]
    figures = {path.stem for path in (tmp_path / "sw" / "report" / "figures").glob("*.png")}
    rows = stored["sw"].history  # of each picture: report/<name>/path, .../sha256, ...
    shown = {key.split("/")[1] for row in rows for key in row if key.startswith("report/")}
    assert shown == figures != set()
    assert stored["sw"].summary["best/value"] == result.summary["best"]["value"]
    assert holding_the_key(tmp_path) == []
    assert KEY not in known_to_ray()
