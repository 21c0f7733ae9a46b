"""Teachers that are for some domains, and the weighting that routes by them."""

from __future__ import annotations

from collections.abc import Iterator

from raykd.config.check_returns import NOMINAL
from raykd.config.explanations import nearest
from raykd.config.root import Config
from raykd.config.sources import GymnasiumSource
from raykd.errors import Problem
from raykd.tasks import find_task

_WEIGHTING = "objective.weighting.type"


def domain_problems(config: Config) -> Iterator[Problem]:
    """Domains that there are not, or that several teachers claim, and a weighting that has none to route by."""
    settings = find_task(config.task).settings
    routed = config.objective.weighting.type == "routed"
    if not (settings.chunks or settings.acts):
        for teacher in config.teachers:
            if teacher.domains is not None:
                yield Problem(
                    f"teachers.{teacher.name}.domains",
                    f"means nothing with `task: {config.task}`, whose samples are of no domain; leave it out",
                )
        if routed:
            yield Problem(
                _WEIGHTING,
                f"found routed with `task: {config.task}`, whose samples are of no domain: it is for texts (language) and "
                "for states of several simulators (control, control_continuous); leave it out",
            )
        return
    if isinstance(config.data.source, GymnasiumSource):
        yield from _simulators(config, config.data.source)
    if routed:
        yield from _routes(config)


def _simulators(config: Config, source: GymnasiumSource) -> Iterator[Problem]:
    """A teacher's domains are simulators of the source."""
    known = (NOMINAL, *source.simulators)
    for teacher in config.teachers:
        for name in teacher.domains or ():
            if name not in known:
                yield Problem(
                    f"teachers.{teacher.name}.domains",
                    f"found {name!r}; the simulators of data.source are {', '.join(known)}{nearest(name, known)}",
                )


def _routes(config: Config) -> Iterator[Problem]:
    """Each domain has one teacher that its units are routed to."""
    owner: dict[str, str] = {}
    for teacher in config.teachers:
        for domain in teacher.domains or ():
            if domain in owner:
                yield Problem(
                    f"teachers.{teacher.name}.domains",
                    f"found {domain!r}, which teacher {owner[domain]} is for too; with the weighting routed each domain has one "
                    "teacher",
                )
            owner[domain] = teacher.name
    if not owner:
        yield Problem(
            _WEIGHTING,
            "found routed, but no teacher says which domains it is for; give teachers[].domains",
        )
    soft = config.objective.soft_targets
    if soft is not None and soft.combine == "routed":
        yield Problem(
            "objective.soft_targets.combine",
            "found routed beside the weighting routed, which has chosen one teacher for each state already; set it to sampled",
        )
