"""`raykd.sweep`: one set of targets, many trials, the best of them trained again and tested once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raykd.config import Config, check_search, load_config
from raykd.config.check_search import overrides, values_of
from raykd.config.choosing import with_target
from raykd.config.objective import Candidate
from raykd.config.search import OptunaSearcher, Search
from raykd.errors import InputError, Problem, TrainingError
from raykd.folders import RunFolder, read_json
from raykd.importing import load_package
from raykd.pipeline.at_home import transfer_numbers
from raykd.pipeline.chain import Chain, check_stages, searched_chain, trained_before
from raykd.pipeline.choosing import choose
from raykd.pipeline.fits import shown_views
from raykd.pipeline.given import Recipe, given_recipe
from raykd.pipeline.job import Job
from raykd.pipeline.placement import Placement, make_placement, target_mode
from raykd.pipeline.preparation import Prepared, prepare, with_cpus_of
from raykd.pipeline.session import (
    Options,
    as_begun,
    opened,
    options_of,
    own_folder,
    run_folder,
)
from raykd.pipeline.target_stage import TargetStage
from raykd.runtime import Resources, connect, is_connected, machine
from raykd.search import results
from raykd.search.builder import TrialBuilder, varied_within_limits
from raykd.search.finals import DEFAULT, FinalResult, run_finals
from raykd.search.ledger import FixedSampler, Ledger, Record, Sampler
from raykd.search.space import (
    TRIAL_FIT,
    TRIALS,
    Proposal,
    all_proposals,
    plain_recipe,
    trial_name,
)
from raykd.search.tune import TrialResources, run_trials
from raykd.search.wandb_runs import SweepRuns
from raykd.tracking import Console, events
from raykd.train.work import Work


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep.

    Attributes:
        path: its folder.
        summary: the numbers, as in `summary.json`.
        best: the recipe that is best on validation and keeps to all limits; it has no search.
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
class SweepPlan:
    """A sweep before it starts.

    Attributes:
        config: the recipe with its search, and the W&B group of all trials.
        search: its search.
        folder: of the sweep.
        prepared: the recipe with data and teachers.
        proposals: every trial; None if later ones depend on earlier ones.
        views: how many of each training sample the trials need; None = a new one in each epoch.
        chain: of a recipe with stages those before the one that is searched, which all trials share.
    """

    config: Config
    search: Search
    folder: RunFolder
    prepared: Prepared
    proposals: Sequence[Proposal] | None
    views: int | None
    chain: Chain | None = None

    def settled(self, target: Candidate) -> SweepPlan:
        """The same with the target that was chosen from the recipe's menu, in every trial."""
        proposals = self.proposals and [
            replace(one, config=with_target(one.config, target)) for one in self.proposals
        ]
        return replace(self, config=with_target(self.config, target), proposals=proposals)

    @property
    def total(self) -> int:
        """How many trials there will be."""
        return self.search.count if self.proposals is None else len(self.proposals)


def plan_sweep(config: Config, options: Options) -> SweepPlan:
    """Check everything that can be known beforehand: every trial's recipe, model and taps.

    Of a recipe with stages it is the plan before any of them is trained: what they are to make counts as to be fitted.

    Raises:
        InputError: with every problem found.
    """
    if config.search is None:
        raise InputError(
            Problem("search", "is null, so there is nothing to search; write e.g. search: {parameters: "
                    "{student.model.width: {space: choice, categories: [0.25, 0.5]}}}, or take `raykd sweep digits`")
        )  # fmt: skip
    check_search(config)
    folder = run_folder(config, options)
    if not config.stages:
        return _planned(config, folder, options)
    chain = searched_chain(config, folder)
    check_stages(chain.stages, options)
    return _planned(chain.last.plan, folder, options, chain)


def _planned(
    config: Config, folder: RunFolder, options: Options, chain: Chain | None = None
) -> SweepPlan:
    """The plan of a recipe without stages, or of the last stage of a chain."""
    search = config.search
    assert search is not None, "only for recipes with a search"
    wandb = config.tracking.wandb
    tracking = config.tracking.model_copy(
        update={"wandb": wandb.model_copy(update={"group": wandb.group or folder.path.name})}
    )
    config = config.model_copy(update={"tracking": tracking})
    config = as_begun(config, folder)
    proposals = all_proposals(config)
    tried = [p.config for p in proposals] if proposals is not None else _corners(config, search)
    plain = plain_recipe(config)
    # Each trial decides with its own values what the recipe leaves to the data.
    prepared = prepare(config, tried, address=options.address)
    config = with_cpus_of(config, prepared.config)
    prepared = replace(prepared, config=config)
    for recipe in {repr(one): one for one in tried}.values() if proposals else ():
        varied_within_limits(prepared, recipe)
    counts = [shown_views(recipe) for recipe in (plain, *tried)]
    known = [count for count in counts if count is not None]
    views = None if len(known) < len(counts) else max(known)
    return SweepPlan(config, search, folder, prepared, proposals, views, chain)


def _corners(config: Config, search: Search) -> list[Config]:
    """One recipe for each bound and category alone, as a sampler that learns may propose them."""
    plain = plain_recipe(config).model_dump(mode="json")
    corners = []
    for key, space in search.parameters.items():
        values = values_of(space) or [space.lower, space.upper]  # type: ignore[union-attr]
        corners += [load_config(plain, overrides({key: value})) for value in values[:50]]
    return corners


def sweep(
    config: Recipe,
    options: Options | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    resume: bool | None = None,
    console: Console | None = None,
) -> SweepResult:
    """Search as the recipe's `search` says; the teachers are run once for all trials and finalists.

    Of a recipe with stages the last one is searched: those before it are trained once, as `run` does, and teach all trials.

    Args:
        config: the recipe; its data and teachers may be objects of this process, and no parameter can be one.
        options: folder, cluster, resume.
        output: the folder; None = as the options say.
        resume: continue in a folder that exists, with the same objects; None = as the options say.
        console: shows the progress; None is quiet.

    Raises:
        InputError: before anything starts.
        RaykdError: a stage failed; what was finished is kept, and `resume` continues.
    """
    options = options_of(options or Options(name="sweep"), output, resume)
    with given_recipe(config) as recipe, own_folder(options) as own:
        return _sweep(recipe, own, console)


def _sweep(config: Config, options: Options, console: Console | None) -> SweepResult:
    plan = plan_sweep(config, options)
    plan_resources(plan.config, options)
    if plan.chain is None:
        return _search(plan, options, console)
    with trained_before(plan.chain, config, options, console):
        last = _planned(plan.chain.last.config, plan.folder, options, plan.chain)
        return _search(last, options, console)


def _search(plan: SweepPlan, options: Options, console: Console | None) -> SweepResult:
    runs = SweepRuns(plan.config, plan.folder, console)
    with opened(plan.prepared, plan.folder, options, console, kind=None, listeners=[runs]) as job:
        best = _stages(job, plan, runs, options)
    return SweepResult(plan.folder.path, job.summary, best)


def _stages(job: Job, plan: SweepPlan, runs: SweepRuns, options: Options) -> Config:
    with job.targets(job.teachers(), plan.views, ahead=True) as targets:
        if (target := choose(job, targets)) is not None:
            plan = plan.settled(target)
            job.settle(plan.config)
        builder = TrialBuilder(job.prepared, targets)
        ledger = search_trials(job, plan, builder, runs, options)
        recipes = {
            name: results.recipe_of(plan.config, ledger.records[name]) for name in ledger.ranking
        }
        latency = _measure_again(job, builder, ledger, recipes)
        final = None
        if plan.search.finalists is not None:
            best_trials = ledger.ranking[: plan.search.finalists.top]
            final = run_finals(job, targets, builder, ledger, {n: recipes[n] for n in best_trials})
    records = [ledger.records[name] for name in sorted(ledger.records)]
    numbers = {
        "metric": ledger.metric,
        "metrics": list(ledger.metrics),
        "search": plan.search.model_dump(mode="json"),
        "trials": records,
        "ranking": ledger.ranking,
        "default": {"cost": dict(builder.cost(job.prepared))},
        "best": _best(ledger, final),
        "pareto": results.pareto(records, ledger),
        "front": ledger.front if len(ledger.metrics) > 1 else None,
        "finalists": None if final is None else final.numbers,
        "latency": latency,
        **transfer_numbers(job.prepared, targets.store),
    }
    counts = {**job.target_numbers(targets), **_saved(job, targets, ledger)}
    job.summarise("sweep", numbers, counts, tested=final is not None)
    if plan.chain is not None:  # what the last stage reaches is what its trials reach
        own = {**job.summary, "student": numbers["default"]["cost"], "ensemble": {}}
        job.keep({**job.summary, "generations": plan.chain.generations(own)})
    recipe = results.write(job.folder.path, job.config, job.summary)
    job.report()
    return recipe


def search_trials(
    job: Job, plan: SweepPlan, builder: TrialBuilder, runs: SweepRuns, options: Options
) -> Ledger:
    """Run every trial that has not ended before.

    Args:
        job: the sweep in progress.
        plan: what it is to do.
        builder: makes its trials.
        runs: their W&B runs.
        options: how it is run.

    Raises:
        TrainingError: no trial has numbers and keeps to the limits.
    """

    def notify(name: str, record: Record, proposal: Proposal | None) -> None:
        if proposal is not None:
            runs.begin(name, proposal.config, proposal.values)
            return
        job.mailbox.flush()
        if record["state"] != "finished":  # the trial itself reports that it has finished
            why = f"{record['state']}: {record['why']}"
            metrics = record["validation"] or {}
            fit_id = f"{TRIAL_FIT}{name}"
            job.emit(events.fit("search", fit_id, state="stopped", metrics=metrics, why=why))
        runs.end(name, record)

    ledger = Ledger(
        job.config, job.folder.path / TRIALS, plan.total, _sampler(plan), builder, notify
    )
    work = Work(
        samples=job.samples,
        fits=None,  # each trial has its own
        make_source=builder.targets.source(),
        run=job.folder,
        emit=job.mailbox.sender,
        depth=job.config.targets.depth,
        threads=job.config.cluster.student.threads,
    )
    job.crew.dismiss()
    with job.stage("search", fits=[f"{TRIAL_FIT}{trial_name(i)}" for i in range(plan.total)]):
        for name, record in ledger.records.items():
            if record["state"] != "running":
                metrics, fit_id = record["validation"] or {}, f"{TRIAL_FIT}{name}"
                job.emit(events.fit("search", fit_id, state="reused", metrics=metrics))
        if ledger.left:
            with connect(options.address) as cluster:
                resources = trial_resources(job.config, job.placement, cluster)
            with builder.targets.counting():
                run_trials(ledger, work, resources, job.folder.path / ".ray" / "tune")
        ledger.close()
    if not ledger.ranking:
        why = "; ".join(sorted({str(r["why"]) for r in ledger.records.values() if r["why"]}))
        raise TrainingError(f"no trial has numbers and keeps to the limits: {why}")
    return ledger


def _measure_again(
    job: Job, builder: TrialBuilder, ledger: Ledger, recipes: Mapping[str, Config]
) -> Mapping[str, Any] | None:
    """Latencies of the trials' students, now that none trains; what else went on meanwhile.

    Where no trial was started now, those of an earlier start stay.
    """
    if not ledger.started:
        before = read_json(job.folder.summary) if job.folder.summary.is_file() else {}
        return before.get("latency")
    own = {DEFAULT: plain_recipe(job.config)}
    latency_ms, conditions = builder.measure_again({**own, **recipes})
    ledger.measured({name: latency_ms[name] for name in recipes})
    return conditions.to_json()


def trial_resources(config: Config, placement: Placement, cluster: Resources) -> TrialResources:
    """How many trials train side by side: as many as there is room for beside live teachers.

    Raises:
        InputError: there is no room for one, or not for as many as the recipe asks for.
    """
    student, search = config.cluster.student, config.search
    assert search is not None, "only for recipes with a search"
    if student.node_labels and student.most == 1:
        raise InputError.at("cluster.student.node_labels", f"found {student.node_labels}, but Ray Tune places a trial of one worker by "
                            "its CPUs and GPUs alone; leave it out, or take several workers")  # fmt: skip
    free, gpus = cluster.cpus, cluster.gpus
    if (target_mode(config)[0] == "live" and not placement.with_student) or placement.beside:
        free -= sum(teacher.replicas * teacher.cpus for teacher in placement.teachers.values())
        gpus -= sum(teacher.replicas * teacher.gpus for teacher in placement.teachers.values())
    beside_teachers = Resources(free, gpus, cluster.local)
    workers = min(
        one.fitting(student.cpus_each, student.gpus) for one in (beside_teachers, cluster)
    )
    room = max(workers // student.most, int(workers >= student.fewest))
    each = f"{student.cpus_each:g} CPUs and {student.gpus:g} GPUs"
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
    return TrialResources(search.max_concurrent or room, student)


def plan_resources(config: Config, options: Options) -> tuple[Placement, TrialResources]:
    """What would run where, on the cluster that the options name; starts none.

    Raises:
        InputError: the cluster lacks what the recipe asks for.
    """
    if options.address is None and not is_connected():
        cluster = machine()
    else:
        with connect(options.address) as cluster:
            pass
    placement = make_placement(config, cluster)
    return placement, trial_resources(config, placement, cluster)


def _sampler(plan: SweepPlan) -> Sampler:
    searcher = plan.search.searcher
    if plan.proposals is not None:
        return FixedSampler([proposal.values for proposal in plan.proposals])
    assert isinstance(searcher, OptunaSearcher), "the trials of all others are known beforehand"
    load_package("optuna", install="raykd[optuna]", key="search.searcher.type")
    from raykd.search.optuna import OptunaSampler

    return OptunaSampler(plan.search, searcher, plan.config.seed)


def _best(ledger: Ledger, final: FinalResult | None) -> Record:
    """The best on validation: of the finalists and the recipe itself, or of the trials if there are no finalists."""
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
    """How many samples separate runs would have scored: of every trial, and of the recipe itself.

    Nothing where targets are live: the trials share the fleet, which scores the samples of each trial anew.
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
