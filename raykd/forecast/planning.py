"""`raykd.plan`: teacher passes, bytes and hours of a recipe, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from raykd.config import Config
from raykd.config.places import check_places
from raykd.config.variants import first_fold
from raykd.errors import InputError
from raykd.forecast.counts import Counts, Share, count, not_before, total
from raykd.forecast.durations import Durations, durations
from raykd.forecast.timing import Pace, measure
from raykd.pipeline.chain import planned, prepare_stages
from raykd.pipeline.choosing import extra_fits_of, typical
from raykd.pipeline.given import Recipe, given_recipe
from raykd.pipeline.loading import Listen
from raykd.pipeline.placement import Placement, make_placement
from raykd.pipeline.preparation import Prepared, prepare
from raykd.runtime import Resources, connect, machine

_HOUR_S = 3600.0


@dataclass(frozen=True)
class Estimate:
    """How long a run will take, and what that was made from.

    Attributes:
        durations: seconds of each stage.
        measured: seconds that one worker takes on this machine.
        cpus: that there are.
        gpus: that there are.
        lanes: student fits trained side by side.
        replicas: teacher -> how many actors it has.
    """

    durations: Durations
    measured: Pace
    cpus: float
    gpus: float
    lanes: int
    replicas: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        found = asdict(self)
        del found["durations"]
        return {**self.durations.to_json(), **found}


@dataclass(frozen=True)
class Plan:
    """What a recipe will ask of its teachers and machines; of a cross-validation, its first fold.

    Attributes:
        counts: teacher passes and bytes, stored and live.
        estimate: of the time; None where none was asked for, or the machines lack something.
        why_not: what they lack.
        folds: of a cross-validation; the others take about as much as the first one each.
        stages: of a chain: the stages before the last one, and its controls, which run before that. `counts` and
            `estimate` are then of the last one, each without what those before it have done; the sums are of all.
    """

    counts: Counts
    estimate: Estimate | None = None
    why_not: str | None = None
    folds: int | None = None
    stages: Mapping[str, Plan] = field(default_factory=dict)

    @property
    def mode(self) -> str:
        """How students will get the teachers' answers as the run begins: `stored`, `write_through` or `live`."""
        return self.counts.mode

    @property
    def share(self) -> Share:
        """Passes and bytes of all teachers in that mode."""
        stored = None if self.mode == "live" else self.counts.stored
        return total(self.counts.live if stored is None else stored)

    @property
    def teacher_passes(self) -> int:
        """Samples that teachers are still to score, over samples and views."""
        return self.share.passes_to_come + sum(one.teacher_passes for one in self.stages.values())

    @property
    def bytes(self) -> int:
        """Of the target store's shards, once the run has ended."""
        return self.share.bytes + sum(one.bytes for one in self.stages.values())

    @property
    def hours(self) -> float | None:
        """Until the students are trained; None where that was not estimated."""
        before = [one.hours for one in self.stages.values()]
        known = [hours for hours in before if hours is not None]
        if self.estimate is None or len(known) < len(before):
            return None
        return self.estimate.durations.total_s / _HOUR_S + sum(known)

    def to_json(self) -> dict[str, Any]:
        """As plain values, which `raykd plan --json` prints."""
        time: dict[str, Any] | None = None if self.estimate is None else self.estimate.to_json()
        if self.why_not is not None:
            time = {"why_not": self.why_not}
        stages = {name: one.to_json() for name, one in self.stages.items()}
        whole = {"teacher_passes": self.teacher_passes, "bytes": self.bytes, "hours": self.hours}
        more = {"stages": stages, "in_all": whole} if stages else {}
        return {**self.counts.to_json(), "time": time, "folds": self.folds, **more}


def plan(
    config: Recipe,
    *,
    address: str | None = None,
    timing: bool = True,
    listen: Listen | None = None,
) -> Plan:
    """Predict teacher passes, bytes of the target store and hours; trains nothing and stores nothing.

    Args:
        config: the recipe; its data and teachers may be objects of this process.
        address: of a Ray cluster, which is only asked what it has; None = this machine.
        timing: estimate the time too, from a few batches of each model on this machine.
        listen: is told how far decoding is.

    Raises:
        InputError: the recipe does not fit its data and models, or a place that it writes into cannot be written.
        DataError: samples cannot be read.
        TargetError: the target store is damaged.
    """
    with given_recipe(config) as recipe:
        check_places(recipe)
        if recipe.stages:
            return _plan_stages(recipe, address, listen, timing=timing)
        prepared = prepare(first_fold(recipe), address=address, listen=listen)
        found = _plan_of(prepared, count(prepared), address, timing=timing)
        return replace(found, folds=recipe.folds)


def _plan_stages(
    recipe: Config, address: str | None, listen: Listen | None, *, timing: bool
) -> Plan:
    """Stage by stage, each without what those before it have done."""
    stages = planned(recipe)
    before: dict[str, Share] = {}
    plans: dict[str, Plan] = {}
    every = prepare_stages(stages, address=address, listen=listen)
    for stage, prepared in zip(stages, every, strict=True):
        splits = prepared.samples.splits
        made = {teacher.name for teacher in stage.config.teachers if teacher.stage is not None}
        counts, before = not_before(
            count(prepared), before, len(splits["validation"]) + len(splits["test"])
        )
        left = tuple(name for name in counts.unfitted if name not in made)
        plans[stage.name] = _plan_of(
            prepared, replace(counts, unfitted=left), address, timing=timing
        )
    _, last = plans.popitem()
    return replace(last, stages=plans)


def _plan_of(prepared: Prepared, counts: Counts, address: str | None, *, timing: bool) -> Plan:
    if not timing:
        return Plan(counts)
    try:
        resources, placement = _placed(prepared, address)
    except InputError as error:
        return Plan(counts, why_not=" ".join(str(error).split()))
    return Plan(counts, _estimate(prepared, counts, placement, resources))


def _placed(prepared: Prepared, address: str | None) -> tuple[Resources, Placement]:
    if address is None:
        return machine(), make_placement(prepared.config, machine())
    with connect(address) as resources:
        return resources, make_placement(prepared.config, resources)


def _estimate(
    prepared: Prepared, counts: Counts, placement: Placement, resources: Resources
) -> Estimate:
    pace = measure(typical(prepared), placement, counts.unfitted)
    stored = None if placement.mode == "live" else counts.stored
    shares = counts.live if stored is None else stored
    replicas = {name: resources.replicas for name, resources in placement.teachers.items()}
    return Estimate(
        durations(
            prepared.config,
            placement,
            resources,
            pace,
            shares,
            for_menu=extra_fits_of(prepared),
        ),
        pace,
        resources.cpus,
        resources.gpus,
        placement.lanes,
        replicas,
    )
