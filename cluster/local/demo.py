"""A node of teachers dies while a student trains, and the result is the same: `make cluster-demo`.

    python cluster/local/demo.py [--keep DIR] [key.sub=value ...]

Starts three Ray nodes on this machine with token authentication (one for driver and student, two for
teachers), submits the `digits` job twice through `raykd submit`, and ends one node of teachers by signal 9
in the middle of the second. Teachers are asked live, so that the student needs them to its end. Exit code 0
when both runs have the same numbers: student, controls, teachers and ensemble, on validation and test.

Cost: under four minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nodes import Node, Nodes

NODES = (Node(cpus=2), Node(cpus=1, gpus=6), Node(cpus=1, gpus=6))
RECIPE = (
    "digits",
    "seeds=1",
    "targets.mode=live",
    "evaluate.controls=[labels]",
    "tracking.wandb.mode=disabled",
    "cluster.teachers.replicas=2",
    "cluster.teachers.cpus=0",
    "cluster.teachers.gpus=1",  # only nodes 1 and 2 have any
    "cluster.teachers.request_timeout_s=10",
    "cluster.teachers.start_timeout_s=600",  # also where the machine is busy with other things
    "cluster.student.start_timeout_s=600",
    "cluster.student.trainer=train",  # as every fit of several workers
    "cluster.student.cpus=1.5",  # only node 0 has so many
)
JOB_TIMEOUT_S = 1800.0
MIDDLE_EPOCH = 20
EPOCH = re.compile(r'"fit": "student/replica0".*"kind": "epoch"')
NUMBERS = ("student", "controls", "teachers", "ensemble")
SPLITS = ("validation", "test")


def submit(cluster: Nodes, words: Sequence[str], here: Path) -> subprocess.Popen[bytes]:
    """A job under way; its log goes to this terminal."""
    environment = here / "runtime_env.yaml"
    environment.write_text('env_vars: {CUDA_VISIBLE_DEVICES: ""}\n')  # all on CPU: the same bits
    command = [sys.executable, "-m", "raykd", "submit", "--runtime-env", str(environment)]
    return subprocess.Popen([*command, "run", *words], env=cluster.env, cwd=here)


def finish(job: subprocess.Popen[bytes]) -> None:
    """Wait for the job. Raises SystemExit with its own exit code if that is not 0."""
    try:
        code = job.wait(JOB_TIMEOUT_S)
    finally:
        if job.poll() is None:
            job.terminate()
    if code:
        sys.exit(code)


def kill_in_the_middle(cluster: Nodes, job: subprocess.Popen[bytes], run: Path) -> int:
    """End the node with most teachers once the student is in its epoch 20; how many teachers it had."""
    metrics = run / "metrics.jsonl"
    while not metrics.is_file() or len(EPOCH.findall(metrics.read_text())) < MIDDLE_EPOCH:
        if job.poll() is not None:
            raise SystemExit(f"the job ended with {job.returncode} before a node could be killed")
        time.sleep(0.2)
    actors = Counter(
        row["node_id"]
        for row in cluster.rows("actors")
        if row["state"] == "ALIVE" and row["class_name"] == "TeacherActor"
    )
    nodes = {cluster.node_id(index): index for index in (1, 2)}
    victim, teachers = max(
        ((nodes[node], count) for node, count in actors.items() if node in nodes),
        key=lambda found: found[1],
    )
    cluster.kill(victim)
    print(
        f"\n*** node {victim} killed, with {teachers} of {actors.total()} teachers ***\n",
        flush=True,
    )
    return teachers


def numbers(summary: dict[str, Any]) -> dict[str, Any]:
    """What both runs must agree in: every metric of every model, without cost and time."""
    models = {"student": summary["student"], "ensemble": summary["ensemble"]}
    models |= {f"control {name}": model for name, model in summary["controls"].items()}
    models |= {f"teacher {name}": model for name, model in summary["teachers"].items()}
    return {f"{name}, {split}": model[split] for name, model in models.items() for split in SPLITS}


def compare(undisturbed: Path, disturbed: Path) -> bool:
    """Say in what the two runs agree; whether in all."""
    first, second = (
        json.loads((run / "summary.json").read_text()) for run in (undisturbed, disturbed)
    )
    before, after = numbers(first), numbers(second)
    differing = sorted(
        key for key in before.keys() | after.keys() if before.get(key) != after.get(key)
    )
    accuracy = [summary["student"]["test"]["accuracy"]["values"][0] for summary in (first, second)]
    print(f"{'':14} {'status':10} {'student, test':>14} {'retries':>8}")
    for name, summary, value in zip(
        ("undisturbed", "disturbed"), (first, second), accuracy, strict=True
    ):
        retries = summary["targets"]["retries"]
        print(f"{name:14} {summary['status']:10} {100 * value:12.2f} % {retries:8}")
    print(f"different numbers: {', '.join(differing) or 'none'}")
    return not differing and second["status"] == "complete"


def main(argv: Sequence[str]) -> int:
    """Both runs; 0 when they agree."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where the two runs are kept")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value")
    chosen = parser.parse_args(argv)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="raykd-demo-") as temporary:
        here = (chosen.keep or Path(temporary)).absolute()
        here.mkdir(parents=True, exist_ok=True)
        undisturbed, disturbed = here / "undisturbed", here / "disturbed"
        words = [*RECIPE, *chosen.overrides]
        with Nodes(NODES) as cluster:
            print(f"three nodes after {time.monotonic() - begun:.0f} s", flush=True)
            finish(submit(cluster, [*words, "--output", str(undisturbed)], here))
            job = submit(cluster, [*words, "--output", str(disturbed)], here)
            try:
                teachers = kill_in_the_middle(cluster, job, disturbed)
            except BaseException:
                job.terminate()
                raise
            finish(job)
        same = compare(undisturbed, disturbed)
    print(f"{teachers} teachers lost; the numbers are {'the same' if same else 'NOT the same'}; "
          f"{time.monotonic() - begun:.0f} s in all")  # fmt: skip
    return 0 if same and teachers else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
