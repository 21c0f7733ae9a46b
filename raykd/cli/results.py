"""`raykd report` and `status`: what a run's folder holds; where it stands, or how it ended."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from raykd.cli.options import (
    Command,
    add_command,
    add_task,
    add_trust,
    print_json,
    print_text,
)
from raykd.config.stages import CHAIN_CONTROLS
from raykd.config.variants import WHOLE
from raykd.errors import InputError, RaykdError
from raykd.folders import RunFolder, is_worked_in, read_object, reading, refuse_links

_STAGES = ("teachers", "targets", "student", "evaluate", "report")
_LAST = 5
_MOST = 100_000
_SLACK_S = 1.0
Line = Mapping[str, Any]


def add(commands: Command) -> None:
    """The commands of this module."""
    report = add_command(commands, "report", _report, "write a run's report anew, from its folder")
    report.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    report.add_argument("--quiet", action="store_true", help="print only the report's path")
    report.add_argument(
        "--measure",
        action="store_true",
        help="first measure again what its models cost, as after a run beside other work; nothing is trained or scored",
    )
    add_task(report)
    add_trust(report)
    about = "where a run stands, from its folder alone; also while it runs"
    status = add_command(commands, "status", _status, about)
    status.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    status.add_argument("--json", action="store_true", help="as JSON")


def _report(args: argparse.Namespace) -> int:
    from raykd.cli.comparing import show_ablation, show_comparison
    from raykd.cli.jobs import show_folds, show_summary, show_sweep
    from raykd.report import write_report
    from raykd.tracking import Console

    if args.measure:
        from raykd.pipeline.measuring import measure_again

        measure_again(args.run, trust=args.trust)
    page = write_report(args.run)
    if args.quiet:
        print(page)
        return 0
    console = Console(quiet=False, stream=sys.stdout)
    summary = read_object(RunFolder(args.run).summary)
    kinds = {"comparison": show_comparison, "ablation": show_ablation, "sweep": show_sweep,
             "folds": show_folds}  # fmt: skip
    with reading(RunFolder(args.run).summary):
        kinds.get(str(summary.get("kind")), show_summary)(summary, console)
    console.print(f"\nreport: {page}")
    return 0


def _status(args: argparse.Namespace) -> int:
    status = read_status(args.run, now=time.time())
    if args.json:
        print_json(status.to_json())
    else:
        print_text("\n".join(status.lines()))
    return 0


@dataclass(frozen=True)
class FitStatus:
    """One fit.

    Attributes:
        state: `waiting`, `running`, `finished`, `reused`, or `stopped` before its end.
        epoch: epochs done.
        epochs: epochs in all, where known.
    """

    state: str
    epoch: int = 0
    epochs: int | None = None


@dataclass(frozen=True)
class RunStatus:
    """A run.

    Attributes:
        run: its folder.
        status: `complete`, `degraded` or `failed`; before its end `running`, or `unfinished` where nobody works in it.
        error: of a failed run.
        stages: stage -> `waiting`, `running`, `interrupted`, `done`, `reused`, or `skipped` where there was nothing to do.
        fits: fit id -> where it stands.
        failures: how many failures were logged.
        last: the last events, in words.
        silent_s: seconds since the last event; None before the first.
        command: what goes on with it.
        student: the one of the run's other students whose fits these are; None = all fits of the run.
    """

    run: str
    status: str
    error: str | None
    stages: Mapping[str, str]
    fits: Mapping[str, FitStatus]
    failures: int
    last: tuple[str, ...]
    silent_s: float | None
    command: str = "run"
    student: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """As text."""
        from raykd.tracking.progress import duration

        whose = "" if self.student is None else f", its student {self.student!r}"
        head = f"{self.run}{whose}: {self.status}"
        if self.status in ("running", "unfinished") and self.silent_s is not None:
            head += f"; last event {duration(self.silent_s)} ago"
        done = sum(fit.state in ("finished", "reused", "stopped") for fit in self.fits.values())
        stages = ", ".join(f"{name} {state}" for name, state in self.stages.items())
        what = "folds" if not self.stages else "fits"
        text = [head, *([f"stages    {stages}"] if stages else [])]
        text.append(f"{what:<10}{done} of {len(self.fits)} done")
        for fit_id, fit in self.fits.items():
            if fit.state in ("running", "interrupted") and fit_id.startswith("stages/"):
                text.append(f"          {fit_id}: {fit.state}; raykd status {self.run}/{fit_id}")
            elif fit.state in ("running", "interrupted"):
                text.append(f"          {fit_id}: epoch {fit.epoch} of {fit.epochs or '?'}")
        if self.failures:
            text.append(f"failures  {self.failures} logged in events.jsonl")
        if self.error:
            text.append(f"error     {self.error}")
        text += [f"{'last' if i == 0 else '':<10}{event}" for i, event in enumerate(self.last)]
        if self.status in ("failed", "unfinished"):
            text.append(f"resume    raykd {self.command} --resume --output {self.run}")
        return text


def read_status(run: Path, *, now: float) -> RunStatus:
    """Read a run's folder.

    Args:
        run: the folder; its process need not be alive. Of the folder of another student of a run: where that run stands
            with it, since checkpoints and events are the run's.
        now: seconds since 1970.

    Raises:
        InputError: it is no run's folder, or one of its files is damaged.
    """
    folder = RunFolder(run)
    refuse_links(run)
    if not folder.config.is_file():
        raise InputError.at("RUN", f"{run} is no run's folder: it has no config.json")
    if (whole := folder.run_of_student) is not None:
        return _of_student(read_status(whole.path, now=now), run.absolute().name)
    config, lines = read_object(folder.config), _lines(run / "metrics.jsonl")
    summary = read_object(folder.summary) if folder.summary.is_file() else {}
    chain = read_object(folder.stages) if folder.stages.is_file() else {}
    with reading(folder.recipe):
        found = _status_of(folder, config, lines, summary, now)
        return found if not chain else _of_chain(found, folder, chain, config)


def _status_of(
    folder: RunFolder,
    config: Mapping[str, Any],
    lines: Sequence[Line],
    summary: Mapping[str, Any],
    now: float,
) -> RunStatus:
    """Where a run stands, from what its files hold."""
    if max(int(config.get("folds") or 0), int(config.get("seeds", 1))) > _MOST:
        raise ValueError(f"more than {_MOST:,} folds or seeds")
    stages = {} if config.get("folds") else _stages(lines)
    failed = sum(line["kind"] == "failure" for line in lines)
    status = _state(folder, summary, lines)
    stopped = status in ("failed", "unfinished")
    return RunStatus(
        run=str(folder.path),
        status=status,
        error=summary.get("error") if status == "failed" else None,
        stages={name: _told(state, stopped=stopped) for name, state in stages.items()},
        fits={
            fit_id: replace(fit, state=_told(fit.state, stopped=stopped))
            for fit_id, fit in _fits(folder, config, lines).items()
        },
        failures=failed,
        last=tuple(_words(line) for line in lines[-_LAST:]),
        silent_s=max(0.0, now - lines[-1]["time"]) if lines else None,
        command=_command(folder, config),
    )


def _of_student(whole: RunStatus, name: str) -> RunStatus:
    """Where a run stands with one of its other students."""
    own = {fit_id: fit for fit_id, fit in whole.fits.items() if fit_id.startswith(f"{name}/")}
    return replace(whole, fits=own, student=name)


def _of_chain(
    found: RunStatus, folder: RunFolder, chain: Mapping[str, Any], config: Mapping[str, Any]
) -> RunStatus:
    """Where a run with stages stands: those before the last one, then what the last one says of itself."""
    asked = () if _is_sweep(folder, config) else chain["evaluate"]["controls"]
    controls = [name for name in asked if name in CHAIN_CONTROLS]
    names = [*(one["name"] for one in chain["stages"][:-1]), *controls]
    stopped = found.status in ("failed", "unfinished")
    before = {f"stages/{name}": _fold(folder.stage(name).path) for name in names}
    for name, one in before.items():
        if one.state == "waiting" and (folder.path / name / "config.json").is_file():
            before[name] = replace(one, state=_told("running", stopped=stopped))
    failures = [_failed_stage(folder.stage(name)) for name in names]
    error = next((why for why in failures if why is not None), found.error)
    failed = error is not None and found.status == "unfinished"
    return replace(
        found,
        fits={**before, **found.fits},
        error=error,
        status="failed" if failed else found.status,
    )


def _failed_stage(stage: RunFolder) -> str | None:
    """Why a stage's job failed; None where it did not."""
    summary = read_object(stage.summary) if stage.summary.is_file() else {}
    return str(summary.get("error")) if summary.get("status") == "failed" else None


def _told(state: str, *, stopped: bool) -> str:
    """What runs in a job that has stopped was interrupted."""
    return "interrupted" if stopped and state == "running" else state


def _is_sweep(folder: RunFolder, config: Mapping[str, Any]) -> bool:
    """Whether a search works in a folder; of a chain also while its earlier stages are trained: a run has no `search` then."""
    of_chain = folder.stages.is_file() and config.get("search") is not None
    return of_chain or (folder.path / "trials").is_dir()


def _command(folder: RunFolder, config: Mapping[str, Any]) -> str:
    """The command that made a folder, as far as it can be gone on with."""
    if _is_sweep(folder, config):
        return "sweep"
    if not folder.variants.is_file():
        return "run"
    return "ablate" if WHOLE in read_object(folder.variants) else "compare"


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of events.

    Raises:
        InputError: one of them is damaged, or no event.
    """
    from raykd.tracking import read_lines

    if not path.is_file():
        return []
    try:
        lines = read_lines(path)
    except RaykdError as error:
        raise InputError.at(str(path), str(error)) from error
    for number, line in enumerate(lines, start=1):
        if not _is_event(line):
            raise InputError.at(str(path), f"line {number} is no event of a run; delete it")
    return lines


def _is_event(line: Line) -> bool:
    """Whether it has what every event has, and what one of its kind has."""
    kinds = {"epoch": "epoch", "fit": "state", "stage": "state"}
    wanted = {"time": int | float, "stage": str, "kind": str, "fit": str | None}
    wanted |= {name: (int if name == "epoch" else str) for kind, name in kinds.items() if kind == line.get("kind")}  # fmt: skip
    right = all(name in line and isinstance(line[name], kind) for name, kind in wanted.items())
    fits = line.get("fits", [])
    return right and (not isinstance(fits, list) or all(isinstance(name, str) for name in fits))


def _state(folder: RunFolder, summary: Mapping[str, Any], lines: Sequence[Line]) -> str:
    """A summary that lies before the last event is of an earlier try."""
    if is_worked_in(folder.path):
        return "running"
    status = str(summary.get("status", "unfinished"))
    written = folder.summary.stat().st_mtime if summary else 0.0
    if status == "failed" and lines and lines[-1]["time"] > written + _SLACK_S:
        return "unfinished"
    return status


def _stages(lines: Sequence[Line]) -> dict[str, str]:
    names = [name for name in (*_STAGES[:2], "search", *_STAGES[2:])
             if name != "search" or any(line["stage"] == "search" for line in lines)]  # fmt: skip
    states = dict.fromkeys(names, "waiting")
    for line in lines:
        name = line["stage"]
        if line["kind"] == "stage" and name in states:
            states[name] = "running" if line["state"] == "started" else "done"
        elif line["kind"] == "fit" and line["state"] == "reused" and states[name] == "waiting":
            states[name] = "reused"
    begun = max((i for i, name in enumerate(names) if states[name] != "waiting"), default=0)
    for name in names[:begun]:
        if states[name] == "waiting":
            states[name] = "skipped"
    return states


def _fits(
    folder: RunFolder, config: Mapping[str, Any], lines: Sequence[Line]
) -> dict[str, FitStatus]:
    """Every fit that the recipe asks for, in order; of a cross-validation every fold."""
    if config.get("folds"):
        return {f"folds/{i}": _fold(folder.path / "folds" / str(i)) for i in range(config["folds"])}
    listed = [one for one in lines if one["kind"] == "stage" and isinstance(one.get("fits"), list)]
    announces = any(line["stage"] == "search" for line in listed) or folder.variants.is_file()
    announced = dict.fromkeys(name for line in listed for name in line["fits"])
    if announces:  # a sweep, a comparison and an ablation have the fits that they announced
        return {fit_id: _fit(folder, fit_id, lines) for fit_id in announced}
    teachers = [f"teacher/{one['name']}" for one in config["teachers"] if one["fit"] is not None]
    roles = ("student", *config["evaluate"]["controls"], *config.get("students", {}))
    if _is_sweep(folder, config):
        roles = ()  # it has trials, once they are announced
    students = [f"{role}/replica{i}" for i in range(config["seeds"]) for role in roles]
    every = dict.fromkeys([*teachers, *announced, *students])  # also those of a menu of targets
    return {fit_id: _fit(folder, fit_id, lines) for fit_id in every}


def _fold(path: Path) -> FitStatus:
    summary = RunFolder(path).summary
    if is_worked_in(path):
        return FitStatus("running")
    done = summary.is_file() and read_object(summary)["status"] != "failed"
    return FitStatus("finished" if done else "waiting")


def _fit(folder: RunFolder, fit_id: str, lines: Sequence[Line]) -> FitStatus:
    own = [line for line in lines if line["fit"] == fit_id]
    epochs = [line for line in own if line["kind"] == "epoch"]
    done, total = (epochs[-1]["epoch"], epochs[-1].get("epochs")) if epochs else (0, None)
    if (folder.checkpoints(fit_id) / "result.json").is_file():
        return FitStatus("finished", done, total)
    states = [line["state"] for line in own if line["kind"] == "fit"]
    if states and states[-1] in ("finished", "reused", "stopped"):
        return FitStatus(states[-1], done, total)
    return FitStatus("running" if own else "waiting", done, total)


def _words(line: Line) -> str:
    """An event in a few words."""
    where = line["fit"] or line["stage"]
    if line["kind"] == "epoch":
        return f"{where}: epoch {line['epoch']} of {line.get('epochs') or '?'}"
    if line["kind"] in ("message", "failure"):
        return f"{where}: {line.get('text') or line.get('message')}"
    return f"{where}: {line.get('state', line['kind'])}"
