"""Jobs that share a home or a store: one prunes what another reads, two fit the same teacher."""

from __future__ import annotations

import io
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jobs.faults.scenario import Found
from jobs.faults.small_runs import RECIPE, Small, fitted, lines, outcome, reached
from raykd.cli import main
from raykd.folders import RunFolder, read_json

_LIMIT_S = 900.0
_EPOCHS = 60
"""Of the student, so that it still trains when its targets are pruned."""
_SEARCH = {
    "parameters": {"objective.soft_targets.temperature": {"space": "choice", "categories": [2.0, 4.0]}},
    "trials": 2,
    "scheduler": {"type": "none"},
    "finalists": {"top": 1, "seeds": 2},
}  # fmt: skip


@dataclass(frozen=True)
class _Store:
    """A target store, and how long pruning it takes everything.

    Attributes:
        small: what runs.
        home: of the run.
        pruner: home of who prunes, as on another node.
        options: of `raykd targets prune`.
        names: the entries that are there now.
    """

    small: Small
    home: Path
    pruner: Path
    options: tuple[str, ...]
    names: Callable[[], set[str]]

    def prune(self) -> str:
        """Delete all that a recipe does not read whose teachers were never fitted; what is said."""
        other = self.small.folder / "other.yaml"
        if not other.exists():
            other.write_text(yaml.safe_dump({**RECIPE, "seed": 1}), encoding="utf-8")
        said, before = io.StringIO(), os.environ.get("RAYKD_HOME", "")
        os.environ["RAYKD_HOME"] = str(self.pruner)
        try:
            with redirect_stdout(said), redirect_stderr(said):
                code = main(["targets", "prune", str(other), *self.options])
        finally:
            os.environ["RAYKD_HOME"] = before
        return said.getvalue() + (f"exit {code}" if code else "")


def prune_beside_runs(folder: Path, quick: bool) -> Found:
    """`raykd targets prune` while a run trains, after it was killed, and of a store in a bucket from another node."""
    recipe = {**RECIPE, "train": {**RECIPE["train"], "epochs": _EPOCHS}}
    small, home = Small(folder, recipe=recipe), folder / "home"
    targets = home / "targets"

    def names() -> set[str]:
        found = targets.iterdir() if targets.is_dir() else ()
        return {one.name for one in found if not one.name.startswith(".")}

    store = _Store(small, home, home, (), names)
    problems, figures = _pruned(folder / "run", store)
    problems += _gone_by_hand(folder / "run", store)
    if not quick:
        with _bucket() as (uri, variables, in_bucket):
            os.environ.update(variables)
            again = Small(folder, variables, recipe=recipe)
            other = _Store(
                again, folder / "node", folder / "other-node", ("--store", uri), in_bucket
            )
            found, more = _pruned(folder / "bucket-run", other, f"targets.store={uri}")
            problems += [f"bucket: {one}" for one in found]
            figures += more
    kept, deleted = sum(figures[::2]), sum(figures[1::2])
    said = f"{kept} entries of live runs kept, {deleted} deleted once they had been killed; entries deleted by hand: told, "
    said += "scored anew, weights and numbers as before"
    return Found("; ".join(problems) if problems else said, passed=not problems)


def _pruned(run: Path, store: _Store, *more: str) -> tuple[list[str], list[int]]:
    """Prune beside a run, then once it was killed; what went wrong, and how many entries were kept and deleted."""
    process, log, _ = store.small.start(
        "run", str(store.small.written()), "--output", str(run), "--quiet", *more, home=store.home
    )
    try:
        _until(lambda: reached(run, "targets"), process, log)
        before, said = store.names(), store.prune()
        lived, after = process.poll() is None, store.names()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    told = said.count("in use by")
    problems = [] if lived else ["the run had ended before it was pruned"]
    if after != before or told != len(before) or not before:
        problems.append(
            f"beside a run: {len(before)} entries before, {len(after)} after, {told} told: {said[-300:]}"
        )
    if (
        "--store" in store.options
    ):  # of another node nobody knows yet that it was killed: its mark has to run out
        return problems, [told, 0]
    said, left = store.prune(), store.names()
    problems += [f"a run that was killed is still in use: {said[-300:]}"] if left else []
    return problems, [told, len(after) - len(left)]


def _gone_by_hand(run: Path, store: _Store) -> list[str]:
    """The run whose targets were deleted is resumed, deleted from again while it trains, and resumed."""
    small, home, targets = store.small, store.home, store.home / "targets"

    def delete() -> None:
        if not deleted and reached_again(run, targets):
            deleted.extend(sorted(store.names()))
            for name in deleted:
                shutil.rmtree(targets / name)

    deleted: list[str] = []
    first = small.run(run, "--quiet", "--resume", home=home, during=delete)
    texts = [str(one.get("text")) for one in lines(run) if one["kind"] == "message"]
    problems = (
        []
        if any("are gone from" in text for text in texts)
        else ["pruned entries were not told of"]
    )
    if not deleted:
        problems.append("nothing was deleted beside the run")
    if first.code not in (0, 1) or (
        first.code == 1 and not (first.clear and "is gone" in first.errors[0])
    ):
        problems.append(f"deleted by hand: exit {first.code}: {first.said[-2:]}")
    last = small.run(run, "--quiet", "--resume", home=home)
    undisturbed = run.with_name("undisturbed")
    other = small.run(undisturbed, "--quiet", home=home)
    if last.code or other.code:
        problems.append(
            f"resumed: exit {last.code}: {last.said[-2:]}; undisturbed: exit {other.code}"
        )
    elif outcome(run) != outcome(undisturbed):
        problems.append("resumed: other numbers than undisturbed")
    return problems


def reached_again(run: Path, targets: Path) -> bool:
    """Whether a resumed run has filled its targets and trains."""
    filled = any(targets.glob("*/*.safetensors"))
    begun = [
        n for n, one in enumerate(lines(run)) if (one["kind"], one["stage"]) == ("stage", "targets")
    ]
    return filled and bool(begun) and lines(run)[begun[-1]].get("state") == "finished"


def _until(there: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _LIMIT_S
    while not there():
        if process.poll() is not None or time.monotonic() > until:
            said = log.read_text(encoding="utf-8", errors="replace")[-300:]
            raise RuntimeError(
                f"the run ended, or took too long, before its targets were there: {said}"
            )
        time.sleep(0.1)


@contextmanager
def _bucket() -> Iterator[tuple[str, dict[str, str], Callable[[], set[str]]]]:
    """A bucket, the variables that give access to it, and the names of the entries in it."""
    from moto.server import ThreadedMotoServer

    from raykd.targets.buckets import Bucket

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        variables = {
            "AWS_ACCESS_KEY_ID": "chaos", "AWS_SECRET_ACCESS_KEY": "chaos",
            "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }  # fmt: skip
        os.environ.update(variables)
        _make_bucket(f"{host}:{port}")
        uri = "s3://raykd-shared/store"

        def names() -> set[str]:
            every = {name.partition("/")[0] for name in Bucket(uri).names()}
            return {name for name in every if not name.startswith(".")}

        yield uri, variables, names
    finally:
        server.stop()


def _make_bucket(endpoint: str) -> None:
    from pyarrow import fs

    system: Any = fs.S3FileSystem(
        endpoint_override=endpoint, scheme="http", region="us-east-1", allow_bucket_creation=True
    )
    system.create_dir("raykd-shared")


def sweeps_at_once(folder: Path, quick: bool) -> Found:  # noqa: ARG001 (it is done once)
    """Two sweeps with one home begin together; both want the same two teachers, which nobody has fitted."""
    student = {**RECIPE["student"], "limits": {"parameters": 100_000}}
    recipe = folder / "sweep.yaml"
    tree = {**RECIPE, "student": student, "search": _SEARCH}
    recipe.write_text(yaml.safe_dump(tree), encoding="utf-8")
    small, home = Small(folder), folder / "home"
    runs = [folder / name for name in ("one", "other")]
    jobs = [
        small.start("sweep", str(recipe), "--output", str(run), "--quiet", home=home)
        for run in runs
    ]
    codes, said = [], []
    for process, log, _ in jobs:
        try:
            codes.append(process.wait(_LIMIT_S))
        except subprocess.TimeoutExpired:
            process.kill()
            codes.append(process.wait())
        said.append(log.read_text(encoding="utf-8", errors="replace")[-200:])
    if any(codes):
        return Found(f"exit codes {codes}: {said}", passed=False)
    fits = sum(fitted(run) for run in runs)
    one, other = (_found(run) for run in runs)
    same = "the same numbers of every trial" if one == other else f"OTHER numbers: {one}, {other}"
    text = f"both ended well, {fits} fits of 2 teachers in all, {same}"
    return Found(text, fits == 2 and one == other)


def _found(sweep: Path) -> list[Any]:
    """The best trial of a sweep, and what each has on validation."""
    summary = read_json(RunFolder(sweep).summary)
    trials = [(one["trial"], one["values"], one["validation"]) for one in summary["trials"]]
    return [summary["best"]["trial"], trials]
