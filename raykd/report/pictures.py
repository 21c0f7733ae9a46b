"""The pictures of a report: what draws each of them, in this process or side by side in others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from raykd.background import beside
from raykd.report.folder import RunData, read_run, task_of
from raykd.tasks import find_task, known_task

if TYPE_CHECKING:
    from raykd.report.style import Maker, Picture

Pictures = Mapping[str, "Picture"]
Result = TypeVar("Result")
DRAWING = ("raykd.report.figures", "raykd.report.kept_figures")
"""Modules of a process that draws; they bring matplotlib, which takes a second to import."""


class SideBySide(Protocol):
    """Several processes that see the run's folder."""

    @property
    def processes(self) -> int:
        """How many there are."""
        ...

    def __call__(
        self, work: Callable[..., Result], given: Sequence[tuple[Any, ...]]
    ) -> list[Result]:
        """What `work` gives for each of the given arguments, in their order."""
        ...


def pictures_of(run: RunData) -> Pictures:
    """All pictures of a run by their names, in the order in which a page shows them."""
    return _by_name(_drawn(run, slice(None)))


@contextmanager
def pictures_ahead(
    run: Path, data: RunData, others: SideBySide
) -> Iterator[Callable[[], Pictures]]:
    """The same, drawn by other processes while the block goes on.

    Args:
        run: the folder.
        data: what it holds.
        others: who draws.

    Yields:
        what waits for the pictures.
    """
    shares = others.processes
    given = [(str(run), task_of(data.summary), share, shares) for share in range(shares)]
    with beside(lambda: others(draw_share, given), "pictures") as coming:
        yield lambda: _by_name(_in_turns(coming.result()))


def draw_share(run: str, task: str, share: int, shares: int) -> list[Picture | None]:
    """Every `shares`-th picture of the run in a folder, from the `share`-th on; None where there is nothing to show."""
    find_task(task)  # one of the user's own may be unknown to this process
    return _drawn(read_run(Path(run)), slice(share, None, shares))


def _drawn(run: RunData, part: slice) -> list[Picture | None]:
    from raykd.report.style import drawn

    kind = _KINDS.get(str(run.summary.get("kind")), _of_run)
    return drawn(kind(run)[part])


def _in_turns(parts: Sequence[Sequence[Picture | None]]) -> list[Picture | None]:
    """What was dealt out in turns, in its order again."""
    found: list[Picture | None] = [None] * sum(map(len, parts))
    for share, part in enumerate(parts):
        found[share :: len(parts)] = part
    return found


def _by_name(pictures: Sequence[Picture | None]) -> Pictures:
    return {one.name: one for one in pictures if one is not None}


def _of_run(run: RunData) -> list[Maker]:
    # Imported here and below: matplotlib takes a second, and most commands draw nothing.
    from raykd.report import (
        figures,
        generation_figures,
        kept_figures,
        peer_figures,
        return_figures,
    )
    from raykd.report.kept import analyse

    chain = generation_figures.generations
    acting = (return_figures.returns, return_figures.frames, return_figures.learning_by_round)
    own = known_task(run.task, where="summary.json").figures.pictures
    first = (
        figures.gains,
        *acting,
        chain,
        figures.size,
        figures.learning,
        peer_figures.diversity,
        *own,
        figures.weights,
    )
    analysis = cache(partial(analyse, run))
    return [
        *(partial(make, run) for make in (*first, figures.timing)),
        *(partial(_of_analysis, make, analysis) for make in kept_figures.MAKERS),
    ]


def _of_analysis(make: Callable[[Any], Picture | None], find: Callable[[], Any]) -> Picture | None:
    analysis = find()
    return None if analysis is None else make(analysis)


def _of_comparison(run: RunData) -> list[Maker]:
    from raykd.report import comparison_figures

    return comparison_figures.comparison_makers(run)


def _of_sweep(run: RunData) -> list[Maker]:
    from raykd.report import sweep_figures

    return sweep_figures.sweep_makers(run)


def _of_ablation(run: RunData) -> list[Maker]:
    from raykd.report import ablation

    return [partial(ablation.worth_of_parts, run)]


def _of_folds(_run: RunData) -> list[Maker]:
    return []


_KINDS: Mapping[str, Callable[[RunData], list[Maker]]] = {
    "comparison": _of_comparison,
    "sweep": _of_sweep,
    "ablation": _of_ablation,
    "folds": _of_folds,
}
