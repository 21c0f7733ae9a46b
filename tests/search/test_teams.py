"""Trials of several workers: the same loop, no CPU for the trial itself, nothing left when one is stopped."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import yaml
from ray.util.placement_group import placement_group, remove_placement_group

from raykd.config import load_config
from raykd.errors import InputError
from raykd.folders import read_json
from raykd.pipeline import Options
from raykd.pipeline.placement import make_placement
from raykd.runtime import Resources
from raykd.search import sweep
from raykd.search.sweeping import trial_resources
from raykd.search.trials import _Relay, remove_orphaned_groups

LR = "train.optimizer.lr"
SCRIPT = Path(__file__).parent / "raykd_sweep_on_cluster.py"


def team(tree, workers, **search):
    """Trials that get better go on to their end, those that do not are stopped."""
    given = {"parameters": {LR: {"space": "choice", "categories": [1e-9, 1e-2]}}, "trials": None, "searcher": {"type": "grid"},
             "scheduler": {"type": "none"}, "stop": {"patience_epochs": 1}, "finalists": None}  # fmt: skip
    made = tree(**{**given, **search})
    made["cluster"] = {"student": {"workers": workers}}
    made["train"] = {**made["train"], "epochs": 4, "schedule": {"type": "constant"}}
    return made


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster")
def test_trials_of_two_workers_finish_and_stop_and_leave_nothing(sweep_tree, left_behind, tmp_path):
    config = load_config(team(sweep_tree, 2))
    summary = sweep(config, Options(output=tmp_path / "sweep")).summary
    worse, better = summary["trials"]
    assert (worse["state"], worse["why"], worse["epochs"]) == ("stopped", "patience", 2)
    assert (better["state"], better["epochs"]) == ("finished", 4)
    assert left_behind() == ([], 0)
    lines = [json.loads(x) for x in (tmp_path / "sweep/trials/000/metrics.jsonl").open()]
    assert [x["epoch"] for x in lines if x["kind"] == "epoch"] == [1, 2], "none after its stop"
    kept = read_json(tmp_path / "sweep" / "trials" / "001" / "checkpoint" / "result.json")
    assert kept["best"] == better["validation"]
    alone = load_config(team(sweep_tree, 1))
    for one, other in zip(sweep(alone, Options(output=tmp_path / "alone")).summary["trials"], summary["trials"], strict=True):  # fmt: skip
        assert other["validation"] == pytest.approx(one["validation"], rel=1e-3)
        assert other["epochs"] == one["epochs"]


def test_the_sender_waits_until_the_next_message_is_received():
    async def talk():
        relay = _Relay()
        sent = asyncio.create_task(relay.send("one", {"epoch": 1}))
        other = asyncio.create_task(relay.send("other", {"epoch": 7}))
        assert await relay.receive("one") == {"epoch": 1}
        await asyncio.sleep(0)
        assert not sent.done(), "the driver may still stop the trial"
        receiving = asyncio.create_task(relay.receive("one"))
        await asyncio.wait_for(sent, timeout=60)
        assert not other.done(), "channels are separate"
        assert not receiving.done()
        again = asyncio.create_task(relay.send("one", {"epoch": 2}))
        assert await receiving == {"epoch": 2}
        for task in (other, again):
            task.cancel()

    asyncio.run(talk())


@pytest.mark.ray
@pytest.mark.own_processes
@pytest.mark.usefixtures("ray_cluster")
def test_only_groups_of_dead_actors_are_removed(left_behind):
    @ray.remote(num_cpus=0)
    class Maker:
        def make(self):
            group = placement_group([{"CPU": 0.1}])
            ray.get(group.ready(), timeout=60)
            return group.id.hex()

    from ray.util import placement_group_table

    def states():
        return {k: g["state"] for k, g in placement_group_table().items() if k in (*theirs, mine.id.hex())}  # fmt: skip

    living, dying = Maker.remote(), Maker.remote()
    theirs = ray.get([living.make.remote(), dying.make.remote()], timeout=120)
    mine = placement_group([{"CPU": 0.1}])
    ray.get(mine.ready(), timeout=60)
    assert remove_orphaned_groups() == 0
    ray.kill(dying)
    removed = 0
    for _ in range(100):
        removed = removed or remove_orphaned_groups()
        if states()[theirs[1]] == "REMOVED":
            break
    assert removed == 1
    assert states() == {theirs[0]: "CREATED", theirs[1]: "REMOVED", mine.id.hex(): "CREATED"}
    remove_placement_group(mine)
    ray.kill(living)
    for _ in range(100):
        remove_orphaned_groups()
        if set(states().values()) == {"REMOVED"}:
            break
    assert left_behind() == ([], 0)


def room(tree, resources, workers=1, **given):
    student = {"workers": workers, "cpus": given.pop("cpus", 1)}
    made = {**tree(**given), "cluster": {"student": student}}
    config = load_config(made, given.pop("overrides", ()))
    return trial_resources(config, make_placement(config, resources), resources)


@pytest.mark.parametrize(
    ("workers", "cpus", "nodes", "concurrent"),
    [
        (1, 1, (8,), 8),
        (2, 1, (8,), 4),
        (3, 1, (8,), 2),
        (2, 3, (4, 4), 1),
        (2, 1.5, (4, 4, 4), 3),
        (2, 0.5, (2,), 2),
    ],
)
def test_as_many_trials_as_the_nodes_have_room_for(sweep_tree, workers, cpus, nodes, concurrent):
    resources = Resources(sum(nodes), 0, True, tuple((float(n), 0.0) for n in nodes))
    where = room(sweep_tree, resources, workers, cpus=cpus, max_concurrent=None)
    assert where.concurrent == concurrent
    assert where.multi_worker == (workers > 1)
    fewer = room(sweep_tree, resources, workers, cpus=cpus, max_concurrent=1)
    assert fewer.concurrent == 1
    told = rf"search\.max_concurrent: found {concurrent + 1}, but there is room for {concurrent} "
    with pytest.raises(InputError, match=told):
        room(sweep_tree, resources, workers, cpus=cpus, max_concurrent=concurrent + 1)


def test_workers_that_no_node_holds_are_refused(sweep_tree):
    resources = Resources(4, 0, True, ((2.0, 0.0), (2.0, 0.0)))
    with pytest.raises(
        InputError, match=r"student\.cpus: a trial asks for 1 CPUs|a trial asks for 3 CPUs"
    ):
        room(sweep_tree, resources, 1, cpus=3, max_concurrent=None)


def test_too_many_at_once_is_refused_before_anything_starts(sweep_tree, tmp_path, capsys):
    from raykd.cli import main

    path, output = tmp_path / "sweep.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(sweep_tree(max_concurrent=4000)))
    assert main(["sweep", str(path), "--output", str(output)]) == 2
    assert "search.max_concurrent: found 4000, but there is room for" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.soak
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("dashboard", ["off", "on"])
@pytest.mark.parametrize("workers", [1, 2])
def test_thirty_stopped_trials_leave_nothing(sweep_tree, tmp_path, workers, dashboard):
    spaces = {LR: {"space": "loguniform", "lower": 1e-10, "upper": 1e-9}}
    path, output = tmp_path / "sweep.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(team(sweep_tree, workers, parameters=spaces, trials=30, searcher={"type": "random"}, max_concurrent=None)))  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(path), str(output), "4", dashboard],
        env=environment, capture_output=True, text=True, timeout=5000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {"states": ["stopped"] * 30, "actors": [], "groups": 0}
