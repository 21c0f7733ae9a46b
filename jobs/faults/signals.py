"""Drivers that are ended by a signal at any time of a whole run: what is left of them, and what a second start gives."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import yaml
from ray._private.state import actors
from ray.cluster_utils import Cluster

from jobs.faults.scenario import Found
from raykd.folders import RunFolder, read_json
from raykd.models.weights import fingerprint, load_weights

_TEACHER = {"epochs": 20, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 0.01}}
_RECIPE: dict[str, Any] = {
    "data": {"source": {"type": "digits"}, "splits": {"validation": 100, "test": 0.2},
             "labels": 200, "views": {"count": 2, "policy": [{"type": "shift", "pixels": 1}]}},
    "teachers": [{"name": name, "model": {"type": "mlp", "width": width, "depth": 1}, "fit": _TEACHER}
                 for name, width in (("wide", 1.0), ("narrow", 0.5))],
    "student": {"model": {"type": "mlp", "width": 0.25, "depth": 1}},
    "train": {**_TEACHER, "epochs": 40, "checkpoint_every_epochs": 5},
    "evaluate": {"controls": ["labels"]},
    "tracking": {"wandb": {"mode": "disabled"}},
}  # fmt: skip
_STAGES = ("teachers", "targets", "student", "evaluate", "report")
PHASES = ("start", *_STAGES, "export")
"""Of a run and the export after it, in order."""
_NUMBERS = ("student", "controls", "ensemble", "teachers", "fidelity", "gains")
_MEASURED = {"latency_ms", "overhead_ms"}
_RAY = {
    "RAY_worker_niceness": "0",  # else workers wait for whoever else is busy, and signals find them starting
    "RAY_gcs_server_port_wait_time_s": "120",
}
_LIMIT_S = 600.0
_POLL_S = 0.02
_ENOUGH = 20
_SHORTER = 0.8
"""A phase may take less time than in the undisturbed run."""
_SIDE_BY_SIDE = 3
"""Runs: each leaves cores idle while it starts and ends."""
_PROMPT_S, _GONE_S = 3.0, 15.0
_SIGNALLED = 128


@dataclass(frozen=True)
class Trial:
    """One run and its export, with a home and temporary files of its own.

    Attributes:
        folder: of all that it writes.
        address: of a cluster; None = its own.
    """

    folder: Path
    address: str | None = None

    @property
    def run(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.folder / "run")

    @property
    def temporary(self) -> Path:
        """Where its own cluster has its folder; short, since the names of sockets are."""
        return self.folder / "t"

    def start(self, *words: str, before: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Start a command in a session of its own, by which its processes are known."""
        self.temporary.mkdir(parents=True, exist_ok=True)
        own = {"RAYKD_HOME": str(self.folder / "home"), "TMPDIR": str(self.temporary), **_RAY}
        return subprocess.Popen(  # noqa: S603 (ourselves)
            [*before, sys.executable, "-m", "raykd", *words, "--quiet"],
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def begin(self, *before: str) -> subprocess.Popen[str]:
        """Start the run, or resume it where its folder exists."""
        recipe = self.folder / "recipe.yaml"
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(yaml.safe_dump(_RECIPE), encoding="utf-8")
        resumed = self.run.config.is_file()
        address = [] if self.address is None else ["--address", self.address]
        words = ["--resume"] if resumed else [str(recipe)]
        return self.start("run", *words, "--output", str(self.run.path), *address, before=before)

    def export(self) -> subprocess.Popen[str]:
        """Start the export."""
        return self.start("export", str(self.run.path), "--format", "safetensors")

    def finish(self, *, export: bool = True) -> dict[str, Any]:
        """Run and export to their ends; what they give: numbers, and the student's weights from both.

        Raises:
            RuntimeError: one of them fails.
        """
        for start in (self.begin, self.export) if export else (self.begin,):
            process = start()
            _, said = process.communicate(timeout=_LIMIT_S)
            if process.returncode:
                raise RuntimeError(f"exit {process.returncode}: {' '.join(said.split())[-300:]}")
        summary = read_json(self.run.summary)
        exported = sorted((self.run.path / "export").glob("*.safetensors")) if export else []
        weights = {
            fingerprint(load_weights(file, key="weights"))
            for file in (self.run.student / "model.safetensors", *exported)
        }
        return {"weights": weights, **{name: _numbers(summary[name]) for name in _NUMBERS}}

    def seconds(self) -> dict[str, float]:
        """How long each stage took."""
        ended = [one for one in self.stages() if one["state"] == "finished"]
        return {one["stage"]: float(one["seconds"]) for one in ended}

    def stages(self) -> list[dict[str, Any]]:
        """What the run has told of its stages so far."""
        path = self.run.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
        return [one for one in map(json.loads, lines) if one["kind"] == "stage"]


def _numbers(summary: Any) -> Any:
    """What a summary says, without what was measured with a clock."""
    if not isinstance(summary, Mapping):
        return summary
    return {name: _numbers(part) for name, part in summary.items() if name not in _MEASURED}


@dataclass(frozen=True)
class Ended:
    """What became of a driver that was sent a signal.

    Attributes:
        phase: that it was in.
        code: its exit status, as of `subprocess`.
        seconds: until it had ended.
        gone_s: until there was no process of its session, and no folder of its cluster.
        left: what there was then, where that took too long.
        said: its standard error.
    """

    phase: str
    code: int
    seconds: float
    gone_s: float
    left: tuple[str, ...]
    said: str

    @property
    def found(self) -> str:
        """Where it was and how it ended, in words."""
        text = f"{self.phase}: status {self.code} after {self.seconds:.1f} s, nothing left after {self.gone_s:.1f} s"
        return f"{text}; left {', '.join(self.left)}" if self.left else text


def _left(trial: Trial, session: int) -> tuple[str, ...]:
    """Commands of the processes that are left of a session, and the folders of its cluster."""
    command = ["ps", "-eo", "sid=,stat=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    lines = [line.split(None, 2) for line in listed.splitlines()]
    alive = [args for sid, state, args in lines if int(sid) == session and state[0] != "Z"]
    return (*alive, *(one.name for one in trial.temporary.glob("raykd-*")))


def hit(trial: Trial, phase: str, delay_s: float, number: int) -> Ended | None:
    """Start or resume a trial, and send its driver a signal some time after a phase began; None where it had ended before.

    Args:
        trial: whose run is there, where the phase is the export.
        phase: one of `PHASES`.
        delay_s: after its beginning.
        number: of the signal.

    Raises:
        RuntimeError: it failed before that.
    """
    told = len(trial.stages())
    process = trial.export() if phase == "export" else trial.begin()
    try:
        while phase in _STAGES and process.poll() is None:
            if any(one["stage"] == phase for one in trial.stages()[told:]):
                break
            time.sleep(_POLL_S)
        time.sleep(delay_s)
        if process.poll() is not None:
            _, said = process.communicate()
            if process.returncode:
                raise RuntimeError(
                    f"{phase}: exit {process.returncode}: {' '.join(said.split())[-300:]}"
                )
            return None
        sent = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=_LIMIT_S)
        seconds = time.monotonic() - sent
        while (left := _left(trial, process.pid)) and time.monotonic() < sent + _GONE_S:
            time.sleep(_POLL_S)
        return Ended(phase, process.returncode, seconds, time.monotonic() - sent, left, said)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(_LIMIT_S)


@contextmanager
def _trials(address: str | None = None) -> Iterator[Callable[[], Trial]]:
    """Makes trials, in a folder whose name is short."""
    numbers = count()
    with TemporaryDirectory(prefix="rk-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        yield lambda: Trial(Path(temporary) / str(next(numbers)), address)


@dataclass(frozen=True)
class AtRandom:
    """Runs that are ended in one phase after the other, export included, each time at random, and gone on with.

    Attributes:
        number: of the signal.
        runs: how many.
    """

    number: int
    runs: int = 3

    def __call__(self, folder: Path, quick: bool) -> Found:  # noqa: ARG002 (too long a name for sockets)
        """Each phase equally often; all runs must give what one gives that is left alone."""
        seed = secrets.randbelow(10**6)
        draw = random.Random(seed)
        phases = ("student", "export") if quick else PHASES
        plans = [
            {phase: draw.random() for phase in phases} for _ in range(1 if quick else self.runs)
        ]
        with _trials() as new, ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
            wanted, lasts = _undisturbed(new())
            print(f"seed {seed}; an undisturbed run takes {lasts}", flush=True)
            found = list(pool.map(lambda plan: self._disturbed(new(), plan, lasts), plans))
        ended = [one for several, _ in found for one in several]
        return self._judged(ended, [given == wanted for _, given in found], seed)

    def _disturbed(
        self, trial: Trial, plan: Mapping[str, float], lasts: Mapping[str, float]
    ) -> tuple[list[Ended], dict[str, Any]]:
        """What became of each signal, sent after a share of its phase's time, and what the run gives in the end."""
        ended: list[Ended] = []
        for phase, share in plan.items():
            if phase == "export":
                trial.finish(export=False)
            one = hit(trial, phase, share * _SHORTER * lasts[phase], self.number)
            if one is not None:
                ended.append(one)
                print(f"{one.found} {one.said.strip()!r}", flush=True)
        return ended, trial.finish()

    def _judged(self, ended: Sequence[Ended], same: Sequence[bool], seed: int) -> Found:
        phases = ", ".join(
            f"{phase} {times}" for phase, times in Counter(one.phase for one in ended).items()
        )
        slowest, gone = max(one.seconds for one in ended), max(one.gone_s for one in ended)
        text = f"seed {seed}: {len(ended)} times ({phases}); {sum(same)} of {len(same)} runs end with the weights and numbers of an "
        text += f"undisturbed one; nothing left after {gone:.1f} s at most"
        wrong = [one.found for one in ended if not self._right(one)]
        if self.number != signal.SIGKILL:
            text += f", ended after {slowest:.1f} s at most"
        enough = len(ended) >= (2 if len(same) == 1 else _ENOUGH)
        return Found("; ".join([text, *wrong]), passed=all(same) and enough and not wrong)

    def _right(self, one: Ended) -> bool:
        if self.number == signal.SIGKILL:
            return not one.left
        return not one.left and _ends_as_asked(one, self.number)


def _undisturbed(trial: Trial) -> tuple[dict[str, Any], dict[str, float]]:
    """What a trial gives, and how many seconds each phase takes."""
    begun = time.monotonic()
    wanted = trial.finish()
    stages = trial.seconds()
    rest = time.monotonic() - begun - sum(stages.values())
    return wanted, {"start": rest / 2, **stages, "export": rest / 3}


def _ends_as_asked(one: Ended, number: int) -> bool:
    """With the signal's exit code and a word on how to go on, in time.

    Before Python has read raykd, and when all is done, the system ends it: with the same code for a shell.
    """
    if one.code == -number and one.phase in ("start", "report", "export") and not one.said:
        return True
    return (
        one.code == _SIGNALLED + number
        and one.said.startswith("interrupted")
        and len(one.said.splitlines()) == 1
        and one.seconds < _PROMPT_S
    )


def each_stage(folder: Path, quick: bool) -> Found:  # noqa: ARG001
    """One run that is ended in every stage, and gone on with; then one for which SIGHUP is ignored, as under `nohup`."""
    numbers = (signal.SIGHUP, signal.SIGTERM)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # where all of this runs under `nohup`, too
    ended: list[Ended] = []
    wrong: list[str] = []
    with _trials() as new:
        trial = new()
        for index, stage in enumerate(_STAGES[:2] if quick else _STAGES):
            one = hit(trial, stage, 0.05, numbers[index % 2])
            if one is None or one.left or not _ends_as_asked(one, numbers[index % 2]):
                wrong.append(f"{stage}: ended before" if one is None else one.found)
            ended += [] if one is None else [one]
        trial.finish()
        ignored = new().begin("nohup")
        time.sleep(5)
        ignored.send_signal(signal.SIGHUP)
        ignored.communicate(timeout=_LIMIT_S)
    slowest = max((one.seconds for one in ended), default=0.0)
    text = f"SIGHUP and SIGTERM in {', '.join(one.phase for one in ended)}: ended after {slowest:.1f} s at most, with 129 and 143 "
    text += f"and how to resume; then resumed to the end; with SIGHUP ignored: exit {ignored.returncode}"
    return Found("; ".join([text, *wrong]), passed=not wrong and ignored.returncode == 0)


def ended_on_shared(folder: Path, quick: bool) -> Found:  # noqa: ARG001
    """Drivers ended on a cluster of others: none of their actors is left there, and the cluster goes on."""
    given = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 128 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=given, shutdown_at_exit=False)
    plan = dict.fromkeys(_STAGES[:2] if quick else _STAGES[:4], signal.SIGKILL)
    plan["targets"] = signal.SIGTERM
    took: list[float] = []
    wrong: list[str] = []
    try:
        ray.init(address=cluster.address, namespace="raykd", log_to_driver=False)
        with _trials(str(cluster.address)) as new:
            trial = new()
            for stage, number in plan.items():
                one = hit(trial, stage, 0.3, number)
                begun = time.monotonic()
                while _actors() and time.monotonic() < begun + 2 * _GONE_S:
                    time.sleep(_POLL_S)
                took.append(time.monotonic() - begun + (0.0 if one is None else one.gone_s))
                if one is None or (number == signal.SIGTERM and not _ends_as_asked(one, number)):
                    wrong.append(f"{stage}: ended before" if one is None else one.found)
            trial.finish()
        all_of_them = len(actors())
    finally:
        ray.shutdown()
        cluster.shutdown()
    text = f"SIGKILL and SIGTERM in {', '.join(plan)}: of {all_of_them} actors none left after {max(took):.1f} s at most; then resumed to the end"
    return Found(
        "; ".join([text, *wrong]), passed=max(took) < _GONE_S and all_of_them > 0 and not wrong
    )


def _actors() -> int:
    """Those that are alive, of anybody."""
    return sum(one["State"] != "DEAD" for one in actors().values())
