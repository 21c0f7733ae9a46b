"""Full disks: small ones of their own, which only this process and its children see."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from jobs.faults.scenario import Found
from jobs.faults.small_runs import (
    Ended,
    Small,
    finished_fits,
    lines,
    outcome,
    reached,
    unfinished_files,
)
from raykd.folders import read_json

_START = "import sys; from jobs.faults.disks import main; main(sys.argv[1:])"
_PAGE = 4096
_ROOM = 256 << 20
_POINTS = (
    ("home", "teachers"),
    ("output", "teachers"),
    ("home", "targets"),
    ("output", "student"),
    ("output", "evaluate"),
    ("output", "report"),
)
"""Whose disk is full, and in which stage."""
_FAILED = (1, 2)
"""A full disk is found at run time, or before the run has begun."""
_TMP_BYTES, _LITTLE_BYTES = 40 << 20, 1 << 20
_WANDB_BYTES = 16 * _PAGE


@dataclass(frozen=True)
class InNamespace:
    """Runs one of the scenarios below where it may mount disks of its own, which go with it.

    Attributes:
        name: of the scenario.
    """

    name: str

    def __call__(self, folder: Path, quick: bool) -> Found:
        """What it finds."""
        unshare = ["unshare", "--mount", "--propagation", "private"]
        unshare += [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        answer = folder / "disks.json"
        command = [sys.executable, "-c", _START, self.name, str(folder), str(answer)]
        done = subprocess.run(  # noqa: S603 (ourselves)
            [*unshare, *command, *(["--quick"] if quick else [])],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not answer.is_file():
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            return Found(f"needs unshare and mount of a tmpfs: {last}", passed=False)
        return Found(**json.loads(answer.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Disk:
    """A small disk at a folder."""

    folder: Path

    def resize(self, size: int) -> None:
        """Give it so many bytes, in whole pages."""
        _mount("-o", f"remount,size={_pages(size)}", str(self.folder))

    def shrink(self) -> None:
        """Take away all room that is free; more than that is refused while somebody writes."""
        size = max(_PAGE, _pages(self.used))  # 0 would be no limit, for ever
        command = ["mount", "-o", f"remount,size={size}", str(self.folder)]
        subprocess.run(command, capture_output=True, check=False)  # noqa: S603 (ours)

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        return shutil.disk_usage(self.folder).used


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Disk]:
    """A new disk of so many bytes at a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={_pages(size)}", "tmpfs", str(folder))
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S603, S607


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)  # noqa: S603, S607


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def whole_runs(folder: Path, quick: bool) -> Found:
    """A run whose output folder, or whose home, is full when a stage begins; with room it goes on to the next one."""
    small, run, home = Small(folder), folder / "run", folder / "home"
    if (first := small.run(run, "--quiet", home=home)).code != 0:
        return Found(f"undisturbed: exit {first.code}: {first.said[-1:]}", passed=False)
    wanted, stopped, problems = outcome(run), [], []
    points = _POINTS[-2:] if quick else _POINTS
    with disk(folder / "small-output", _ROOM) as output, disk(folder / "small-home", _ROOM) as kept:
        run, home = output.folder / "run", kept.folder
        for place, stage in points:
            own = output if place == "output" else kept
            fill = partial(_fill_up, own, run, stage, len(lines(run)))
            ended, repeated = _go_on(small, run, home, fill)
            own.resize(_ROOM)
            if ended.code == 0:
                problems.append(f"{place}, {stage}: was not full")
                break
            stopped.append(f"{place} in {stage}")
            found = [
                *_wrong(ended, own.folder, (run, home)),
                *(f"fitted again: {one}" for one in repeated),
            ]
            problems += [f"{place}, {stage}: {one}" for one in found]
        ended, repeated = _go_on(small, run, home)
        if ended.code != 0:
            problems.append(f"resumed: exit {ended.code}: {ended.said[-1:]}")
        elif outcome(run) != wanted:
            problems.append("resumed: other numbers")
        problems += [f"resumed: fitted again: {one}" for one in repeated]
    said = f"full {len(stopped)} times ({', '.join(stopped)}): one line each with place and bytes; resumed: weights and "
    said += "numbers as undisturbed, no finished fit repeated"
    return Found("; ".join(problems) if problems else said, passed=not problems)


def _fill_up(own: Disk, run: Path, stage: str, before: int) -> None:
    """Leave no room from when a stage begins, in a run that has so many lines from before."""
    new = lines(run)[before:]
    if any(
        (one["kind"], one["stage"], one.get("state")) == ("stage", stage, "started") for one in new
    ):
        own.shrink()


def _go_on(
    small: Small, run: Path, home: Path, during: Callable[[], None] | None = None
) -> tuple[Ended, list[str]]:
    """Run, or resume where there is something to resume; and the fits that were done again though they were finished."""
    before = {**finished_fits(run), **finished_fits(home)}
    more = ["--resume"] if (run / "config.json").is_file() else []
    ended = small.run(run, "--quiet", *more, home=home, during=during)
    after = {**finished_fits(run), **finished_fits(home)}
    return ended, [name for name, when in before.items() if after.get(name) != when]


def _wrong(ended: Ended, place: Path, folders: Sequence[Path]) -> list[str]:
    """What is not as it should be after a disk was full."""
    found = [] if ended.code in _FAILED else [f"exit {ended.code}"]
    if not ended.clear:
        found.append(f"no clear line: {' | '.join(ended.said[-3:])}")
    elif str(place) not in ended.errors[0] or "free" not in ended.errors[0]:
        found.append(f"without place or bytes: {ended.errors[0]}")
    found += [f"left {one}" for one in unfinished_files(folders)]
    for folder in folders:
        found += [f"damaged {one}" for one in folder.rglob("*.json") if not _readable(one)]
    return found


def _readable(path: Path) -> bool:
    try:
        read_json(path)
    except ValueError:
        return False
    return True


def others(folder: Path, quick: bool) -> Found:
    """Full: the folder of temporary files, before and during a run; W&B's folder; the disk of a report and an export."""
    home, run = folder / "home", folder / "run"
    with disk(folder / "tmp", _LITTLE_BYTES) as own:
        small = Small(folder, {"TMPDIR": str(own.folder)})
        refused = small.run(run, "--quiet", home=home)
        own.resize(_TMP_BYTES)

        def fill() -> None:
            ballast = own.folder / "ballast"
            if not ballast.exists() and reached(run, "teachers"):
                _fill(ballast)

        ended = small.run(run, "--quiet", home=home, during=fill)
    problems = (
        []
        if refused.code == 2 and refused.clear and "TMPDIR" in refused.errors[0]
        else [f"TMPDIR: {refused}"]
    )
    if ended.code != 0:
        problems += (
            []
            if ended.clear and ended.code == 1
            else [f"TMPDIR full meanwhile: {ended.code} {ended.said[-2:]}"]
        )
        ended = Small(folder).run(run, "--quiet", "--resume", home=home)
        problems += [] if ended.code == 0 else [f"resumed: {ended.code} {ended.said[-2:]}"]
    said = "temporary folder: refused before the run, and full within it the run goes on"
    if problems:
        return Found("; ".join(problems), passed=False)
    wanted = outcome(run)
    problems += _commands(folder, run, home)
    if not quick:
        problems += _of_wandb(folder, home, wanted)
        said += "; W&B's folder: told once, numbers as without"
    said += "; report and export: one line, the old ones whole; made once there is room"
    return Found("; ".join(problems) if problems else said, passed=not problems)


def _fill(path: Path) -> None:
    """Take all room that is left."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(_PAGE))


def _commands(folder: Path, run: Path, home: Path) -> list[str]:
    """`report` and `export` on a disk that is full at several points; what was there before stays."""
    problems, small = [], Small(folder)
    with disk(folder / "small", _ROOM) as own:
        copy = own.folder / "run"
        shutil.copytree(run, copy)
        full = own.used
        for words, made in (
            (["report", str(copy)], copy / "report"),
            (["export", str(copy)], copy / "export"),
        ):
            before = _content(made)
            for room in (0, 64 << 10, 512 << 10):
                own.resize(full + room)
                ended = small.command(*words, home=home)
                if ended.code == 0:
                    break
                problems += [f"{words[0]}: {one}" for one in _wrong(ended, own.folder, (copy,))]
                if _content(made) not in (before, {}) and words[0] == "export":
                    problems.append(f"{words[0]}: changed, though it failed")
            own.resize(_ROOM)
            ended = small.command(*words, home=home)
            problems += (
                [] if ended.code == 0 else [f"{words[0]} with room: {ended.code} {ended.said[-2:]}"]
            )
            full = own.used
    return problems


def _content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _of_wandb(folder: Path, home: Path, wanted: object) -> list[str]:
    """W&B keeps a run offline on a disk that is soon full."""
    small, run = Small(folder), folder / "wandb-run"
    begun = small.command(
        "teachers", str(small.written()), "--output", str(run), "--quiet", home=home
    )
    with disk(run / "wandb", _WANDB_BYTES):
        ended = small.run(run, "--resume", "tracking.wandb.mode=offline", home=home)
    if begun.code or ended.code:
        return [f"W&B: exit {begun.code}, {ended.code}: {ended.said[-2:]}"]
    return [] if outcome(run) == wanted else ["W&B: other numbers"]


SCENARIOS = {"whole_runs": whole_runs, "others": others}


def main(arguments: Sequence[str]) -> None:
    """One of them, in this process."""
    name, folder, answer, *more = arguments
    found = SCENARIOS[name](Path(folder), "--quick" in more)
    Path(answer).write_text(json.dumps(asdict(found)), encoding="utf-8")
