"""`raykd plan`: teacher passes, bytes and hours, before anything runs."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from raykd.cli.options import (
    Command,
    add_address,
    add_command,
    add_recipe,
    address_of,
    print_json,
    read_config,
)
from raykd.config.variants import first_fold
from raykd.errors import InputError

if TYPE_CHECKING:
    from raykd.cli.durations import Durations
    from raykd.cli.forecasts import Forecast, Share
    from raykd.cli.pace import Pace
    from raykd.pipeline.placement import Placement
    from raykd.pipeline.preparation import Prepared
    from raykd.runtime import Resources
    from raykd.tracking import Console

_MINUTE_S, _HOUR_S = 60.0, 3600.0


def add(commands: Command) -> None:
    """The command of this module."""
    about = "predict teacher passes, bytes of the target store and hours; trains nothing"
    plan = add_command(commands, "plan", _plan, about)
    add_recipe(plan)
    add_address(plan)
    plan.add_argument("--json", action="store_true", help="as JSON")
    plan.add_argument(
        "--no-timing", action="store_true", help="only count: measure no model, estimate no hours"
    )


def _plan(args: argparse.Namespace) -> int:
    whole = read_config(args)
    config = first_fold(whole)
    from raykd.cli.forecasts import forecast
    from raykd.pipeline.preparation import prepare
    from raykd.tracking import Console

    listen = Console(quiet=False, stream=sys.stderr).on
    prepared = prepare(config, address=address_of(args), listen=listen)
    found = forecast(prepared)
    time = None if args.no_timing else _time(prepared, found, address_of(args))
    if args.json:
        print_json({**found.to_json(), "time": time, "folds": whole.folds})
        return 0
    console = Console(quiet=False, stream=sys.stdout)
    if whole.folds is not None:
        console.print(f"of the first of {whole.folds} folds; the others take about as much each")
    _say_counts(found, console)
    if time is not None:
        _say_time(time, console)
    return 0


def _time(prepared: Prepared, found: Forecast, address: str | None) -> dict[str, Any]:
    """Estimates in seconds with what they were made from; only `why_not` where the machines lack something."""
    from raykd.cli.durations import durations
    from raykd.cli.pace import measure

    try:
        resources, placement = _placed(prepared, address)
    except InputError as error:
        return {"why_not": " ".join(str(error).split())}
    pace = measure(prepared, placement, found.unfitted)
    live = found.stored is None or placement.mode == "live"
    shares = found.live if live else found.stored
    assert shares is not None, "without stored targets they are live"
    estimate = durations(prepared.config, placement, resources, pace, shares)
    return _told(estimate, pace, placement, resources)


def _placed(prepared: Prepared, address: str | None) -> tuple[Resources, Placement]:
    from raykd.pipeline.placement import place
    from raykd.runtime import connect, machine

    if address is None:
        return machine(), place(prepared.config, machine())
    with connect(address) as resources:
        return resources, place(prepared.config, resources)


def _told(
    estimate: Durations, pace: Pace, placement: Placement, resources: Resources
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        **estimate.to_json(),
        "measured": asdict(pace),
        "cpus": resources.cpus,
        "gpus": resources.gpus,
        "lanes": placement.lanes,
        "replicas": {name: place.replicas for name, place in placement.teachers.items()},
    }


def _say_counts(found: Forecast, console: Console) -> None:
    from raykd.cli.forecasts import total

    stored = None if found.stored is None else total(found.stored)
    live = total(found.live)
    rows = [
        ("teacher passes, in all", lambda share: share.passes),
        ("teacher passes, to come", lambda share: share.passes_to_come),
        ("bytes of targets, in all", lambda share: share.bytes),
        ("bytes of targets, to come", lambda share: share.bytes_to_come),
        ("bytes of manifests", lambda share: share.manifests_bytes),
    ]
    table = [
        {"": name, "stored": _number(stored, of), "live": _number(live, of)} for name, of in rows
    ]
    none = "-" if stored is None else "0"
    table += [
        {"": "bytes kept on each node", "stored": f"{found.node_bytes:,}", "live": "0"},
        {"": "bytes sent in each step", "stored": none, "live": f"{found.step_bytes:,}"},
    ]
    console.table(table)
    if stored is None:
        console.print(
            "stored is not possible: data.views.count is null, each epoch shows new views"
        )
    console.print(f"mode: {found.mode}; {found.reason}")
    console.print(f"better: {found.better}; fewer teacher passes to come")
    if found.node_bytes:
        console.print(
            "the store is a bucket: to come is what this node's mirror lacks; a run brings what is there first"
        )
    if found.unfitted:
        console.print(
            f"to be fitted first: {', '.join(found.unfitted)}; the store has nothing of them"
        )


def _number(share: Share | None, of: Any) -> str:
    return "-" if share is None else f"{of(share):,}"


def _say_time(time: dict[str, Any], console: Console) -> None:
    if "why_not" in time:
        console.print(f"time: not estimated; {time['why_not']}")
        return
    stages = ", ".join(
        f"{stage} {_span(time[f'{stage}_s'])}" for stage in ("teachers", "targets", "student")
    )
    console.print(f"time: about {_span(time['total_s'])} ({stages}), without evaluation and report")
    measured = time["measured"]
    scores = ", ".join(f"{n} {1e3 * s:.3g}" for n, s in measured["score_s"].items())
    fits = measured["teacher_fit_s"] | measured["student_fit_s"]
    console.print(f"  from a few batches on this machine: ms a sample: {scores}; seconds a fit: "
                f"{', '.join(f'{name} {seconds:.3g}' for name, seconds in fits.items())}; seconds to start a process: "
                f"{measured['start_s']:.3g}; {time['cpus']:g} CPUs, {time['gpus']:g} GPUs, {time['lanes']} fits "
                "side by side")  # fmt: skip


def _span(seconds: float) -> str:
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    return f"{seconds / _HOUR_S:.1f} h"
