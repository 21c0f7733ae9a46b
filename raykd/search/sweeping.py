"""`raykd.sweep`: one set of targets, many trials, the best of them trained again and tested once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raykd.config import Config, check_search, load_config
from raykd.config.check_search import overrides, values_of
from raykd.config.search import Finalists, OptunaSearcher, Search
from raykd.errors import InputError, Problem, TrainingError
from raykd.folders import RunFolder
from raykd.importing import load_package
from raykd.pipeline.fits import shown_views
from raykd.pipeline.job import Job
from raykd.pipeline.placement import Placement, place, target_mode
from raykd.pipeline.preparation import Prepared, prepare
from raykd.pipeline.session import Options, new_run_folder, opened, run_folder
from raykd.pipeline.target_stage import TargetStage
from raykd.runtime import Resources, connect, is_connected, machine
from raykd.search import results
from raykd.search.finals import FinalResult, run_finals
from raykd.search.ledger import Asking, Ledger, Listed, Record
from raykd.search.single_worker import TrialWork
from raykd.search.space import Proposal, listed, plain_recipe, trial_name
from raykd.search.tracked import PREFIX, TRIALS, SweepRuns
from raykd.search.trial_builder import TrialBuilder, varied_within_limits
from raykd.search.tune import TrialPlace, run_trials
from raykd.tracking import Console, events


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep.

    Attributes:
        path: its folder.
        summary: the numbers, as in `summary.json`.
        best: the recipe that is best on validation and keeps to all limits, without a search.
    """

    path: Path
    summary: Mapping[str, Any]
    best: Config

    @property
    def dataframe(self) -> Any:
        """`results.csv` as a pandas DataFrame; a list of dicts where there is no pandas."""
        rows = results.rows_of(self.summary)
        with suppress(ImportError):
            import pandas as pd

            return pd.DataFrame(rows)
        return rows

    @property
    def pareto(self) -> dict[str, list[Record]]:
        """For each cost the trials on its front, cheapest first."""
        records = {record["trial"]: record for record in self.summary["trials"]}
        return {axis: [records[n] for n in names] for axis, names in self.summary["pareto"].items()}


@dataclass(frozen=True)
class Planned:
    """A sweep before it starts.

    Attributes:
        config: the recipe with its search, and the W&B group of all trials.
        search: its search.
        folder: where it goes.
        prepared: the recipe with data and teachers.
        proposals: every trial; None where later ones depend on earlier ones.
        views: how many of each training sample are wanted; None = a new one in each epoch.
    """

    config: Config
    search: Search
    folder: RunFolder
    prepared: Prepared
    proposals: Sequence[Proposal] | None
    views: int | None

    @property
    def total(self) -> int:
        """How many trials there will be."""
        return self.search.count if self.proposals is None else len(self.proposals)


def plan_sweep(config: Config, options: Options) -> Planned:
    """Check everything that can be known beforehand: every trial's recipe, model and taps.

    Raises:
        InputError: with what is wrong.
    """
    search = config.search
    if search is None:
        raise InputError(
            Problem("search", "is null, so there is nothing to search; write e.g. search: {parameters: "
                    "{student.model.width: {space: choice, categories: [0.25, 0.5]}}}, or take `raykd sweep digits`")
        )  # fmt: skip
    check_search(config)
    options = replace(options, output=options.output or new_run_folder(options.name))
    assert options.output is not None, "made just now"
    wandb = config.tracking.wandb
    tracking = config.tracking.model_copy(
        update={"wandb": wandb.model_copy(update={"group": wandb.group or options.output.name})}
    )
    config = config.model_copy(update={"tracking": tracking})
    folder = run_folder(config, options)
    proposals = listed(config)
    tried = [p.config for p in proposals] if proposals is not None else _corners(config, search)
    plain = plain_recipe(config)
    prepared = prepare(config, tried, address=options.address)
    for recipe in {repr(one): one for one in tried}.values() if proposals else ():
        varied_within_limits(prepared, recipe)
    counts = [shown_views(recipe) for recipe in (plain, *tried)]
    known = [count for count in counts if count is not None]
    views = None if len(known) < len(counts) else max(known)
    return Planned(config, search, folder, prepared, proposals, views)


def _corners(config: Config, search: Search) -> list[Config]:
    """One recipe for each bound and category alone: what a searcher that learns may ask for."""
    plain = plain_recipe(config).model_dump(mode="json")
    corners = []
    for key, space in search.parameters.items():
        values = values_of(space) or [space.lower, space.upper]  # type: ignore[union-attr]
        corners += [load_config(plain, overrides({key: value})) for value in values[:50]]
    return corners


def sweep(
    config: Config, options: Options | None = None, *, console: Console | None = None
) -> SweepResult:
    """Search as the recipe's `search` says; the teachers answer once for all trials and finalists.

    Args:
        config: the recipe.
        options: folder, cluster, resume.
        console: who tells a person; None is quiet.

    Raises:
        InputError: before anything starts.
        RaykdError: a stage failed; what was finished is kept, and `resume` continues.
    """
    options = options or Options(name="sweep")
    planned = plan_sweep(config, options)
    plan_place(planned.config, options)
    runs = SweepRuns(planned.config, planned.folder, console)
    with opened(
        planned.prepared, planned.folder, options, console, kind=None, listeners=[runs]
    ) as job:
        best = _stages(job, planned, runs, options)
    return SweepResult(planned.folder.path, job.summary, best)


def _stages(job: Job, planned: Planned, runs: SweepRuns, options: Options) -> Config:
    specs = job.teachers()
    with job.targets(specs, planned.views, ahead=True) as served:
        readying = TrialBuilder(job.prepared, served)
        ledger = search_trials(job, planned, readying, runs, options)
        final = None
        if planned.search.finalists is not None:
            final = run_finals(job, served, readying, ledger, _best_recipes(planned, ledger))
    finished = {} if final is None else final.numbers
    records = [ledger.records[name] for name in sorted(ledger.records)]
    numbers = {
        "metric": ledger.metric,
        "metrics": list(ledger.metrics),
        "search": planned.search.model_dump(mode="json"),
        "trials": records,
        "ranking": ledger.ranking,
        "default": {"cost": dict(readying.cost(job.prepared))},
        "best": _best(ledger, final),
        "pareto": results.pareto(records, ledger),
        "front": ledger.front if len(ledger.metrics) > 1 else None,
        "finalists": finished or None,
    }
    targets = {**job.target_numbers(served), **_saved(job, served, ledger)}
    job.summarise("sweep", numbers, targets, tested=final is not None)
    recipe = results.write(job.folder.path, job.config, job.summary)
    job.report()
    return recipe


def search_trials(
    job: Job, planned: Planned, readying: TrialBuilder, runs: SweepRuns, options: Options
) -> Ledger:
    """Run every trial that has not ended before.

    Args:
        job: the sweep in progress.
        planned: what it is to do.
        readying: makes its trials.
        runs: their trackers.
        options: how it is run.

    Raises:
        TrainingError: no trial has numbers and keeps to the limits.
    """
    folder = job.folder.path / TRIALS

    def told(name: str, record: Record, proposal: Proposal | None) -> None:
        if proposal is not None:
            runs.begin(name, proposal.config, proposal.values)
            return
        job.mailbox.flush()
        if record["state"] != "finished":  # the trial itself has told of its end
            why = f"{record['state']}: {record['why']}"
            metrics = record["validation"] or {}
            fit_id = f"{PREFIX}{name}"
            job.emit(events.fit("search", fit_id, state="stopped", metrics=metrics, why=why))
        runs.end(name, record)

    asking = _asking(planned)
    ledger = Ledger(job.config, folder, planned.total, asking, readying, told)
    names = [f"{PREFIX}{trial_name(index)}" for index in range(planned.total)]
    student = job.config.cluster.student
    work = TrialWork(
        samples=job.samples,
        make_source=readying.served.source(),
        folder=folder,
        emit=job.mailbox.sender,
        depth=job.config.targets.depth,
        threads=max(1, int(student.cpus)),
    )
    with job.stage("search", fits=names):
        for name, record in ledger.records.items():
            if record["state"] != "running":
                numbers = record["validation"] or {}
                job.emit(events.fit("search", f"{PREFIX}{name}", state="reused", metrics=numbers))
        if ledger.left:
            with connect(options.address) as resources:
                where = trial_place(job.config, job.placement, resources)
            with readying.served.counting():
                run_trials(ledger, ledger.left, work, where, job.folder.path / ".ray" / "tune")
        ledger.settle()
    if not ledger.ranking:
        why = "; ".join(sorted({str(r["why"]) for r in ledger.records.values() if r["why"]}))
        raise TrainingError(f"no trial has numbers and keeps to the limits: {why}")
    return ledger


def trial_place(config: Config, placement: Placement, resources: Resources) -> TrialPlace:
    """How many trials train side by side: as many as there is room for beside live teachers.

    Raises:
        InputError: there is no room for one, or not for as many as the recipe asks for.
    """
    student, search = config.cluster.student, config.search
    assert search is not None, "only for recipes with a search"
    free, gpus = resources.cpus, resources.gpus
    if target_mode(config)[0] == "live":
        free -= sum(teacher.replicas * teacher.cpus for teacher in placement.teachers.values())
        gpus -= sum(teacher.replicas * teacher.gpus for teacher in placement.teachers.values())
    left = Resources(free, gpus, resources.local)
    workers = min(
        left.fitting(student.cpus, student.gpus), resources.fitting(student.cpus, student.gpus)
    )
    room = max(workers // student.most, int(workers >= student.fewest))
    each = f"{student.cpus:g} CPUs and {student.gpus:g} GPUs"
    if student.most > 1:
        each = f"{student.most} workers of {each}, each on one node"
    if room < 1:
        raise InputError(
            Problem("cluster.student.cpus", f"a trial asks for {each}, of which "
                    f"{free:g} and {gpus:g} are free; lower them, or those of the teachers")
        )  # fmt: skip
    if search.max_concurrent is not None and search.max_concurrent > room:
        raise InputError(
            Problem("search.max_concurrent", f"found {search.max_concurrent}, but there is room for {room} at the same "
                    f"time: a trial asks for {each}, of which {free:g} and {gpus:g} are free; lower it to {room} or "
                    "leave it out")
        )  # fmt: skip
    return TrialPlace(search.max_concurrent or room, student)


def plan_place(config: Config, options: Options) -> tuple[Placement, TrialPlace]:
    """What would run where, asked of the cluster that the options name; starts none.

    Raises:
        InputError: it lacks what the recipe asks for.
    """
    if options.address is None and not is_connected():
        resources = machine()
    else:
        with connect(options.address) as resources:
            pass
    placement = place(config, resources)
    return placement, trial_place(config, placement, resources)


def _asking(planned: Planned) -> Asking:
    searcher = planned.search.searcher
    if planned.proposals is not None:
        return Listed([proposal.values for proposal in planned.proposals])
    assert isinstance(searcher, OptunaSearcher), "all others are listed"
    load_package("optuna", install="raykd[optuna]", key="search.searcher.type")
    from raykd.search.optuna import Optuna

    return Optuna(planned.search, searcher, planned.config.seed)


def _best_recipes(planned: Planned, ledger: Ledger) -> dict[str, Config]:
    """Trial -> recipe of the finalists."""
    finalists = planned.search.finalists
    assert isinstance(finalists, Finalists), "asked for"
    return {name: results.recipe_of(planned.config, ledger.records[name])
            for name in ledger.ranking[: finalists.top]}  # fmt: skip


def _best(ledger: Ledger, final: FinalResult | None) -> Record:
    """The recipe that is best on validation: of the finalists and the recipe itself, or of the trials."""
    name = ledger.ranking[0] if final is None else final.best
    if name is None:
        return {"trial": None, "values": {}, "value": None, "chosen_by": "finalists"}
    record = ledger.records[name]
    chosen = "trials" if final is None else "finalists"
    return {
        **{key: record[key] for key in ("trial", "values", "value", "validation", "cost")},
        "chosen_by": chosen,
    }


def _saved(job: Job, targets: TargetStage, ledger: Ledger) -> dict[str, int]:
    """What runs of their own would have scored, every trial and the recipe itself each once.

    Nothing where targets are live: the trials share the fleet, which answers each of them anew.
    """
    if job.placement.mode == "live":
        return {}
    started = [record for record in ledger.records.values() if record["epochs"]]
    teachers = len(job.prepared.teachers)
    counts = [shown_views(results.recipe_of(job.config, record)) for record in started]
    if job.config.search is not None and job.config.search.finalists is not None:
        counts.append(shown_views(job.config))
    alone = sum(teachers * targets.stored.required(count or 0) for count in counts)
    saved = max(0, alone - targets.scored)
    return {"teacher_samples_alone": alone, "teacher_samples_saved": saved}
