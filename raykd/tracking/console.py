"""The console: a live bar on a terminal, a few plain lines in a log, only failures when quiet."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, cast

import rich.console
from rich import box
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from raykd.shown import for_terminal
from raykd.tracking.events import Event
from raykd.tracking.progress import (
    SEPARATOR,
    LineLimiter,
    StageProgress,
    counted,
    duration,
    epoch_line,
    failure_line,
    fit_line,
    number,
    progress_line,
    stage_line,
)

_PROGRESS_PAUSE_S = 10.0
_REFRESHES_PER_S = 2
_WIDEST = 400


class Console:
    """A listener that shows a person the progress of the run, and the notifier for everything else.

    On a terminal the current stages have a bar with rate and time left, and each fit leaves its last
    epoch. Elsewhere a fit leaves its first and last epoch, about five between them if it is quick and
    one a minute if it is slow; no control codes are written. A stream that breaks (a closed pipe)
    mutes the console; a character that it cannot encode is written as "?".

    `close` must be called, also after an error: it restores the terminal.

    Args:
        quiet: print only failures and warnings.
        stream: where to print.
        is_terminal: whether control codes may be used; None = depends on the stream.
        clock: monotonic seconds; for rates and pauses.
    """

    def __init__(
        self,
        *,
        quiet: bool,
        stream: IO[str],
        is_terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quiet = quiet
        self._clock = clock
        self._terminal = _is_terminal(stream) if is_terminal is None else is_terminal
        self._rich = self._make_rich(_Out(stream), self._terminal)
        if is_terminal is None and self._rich.is_dumb_terminal:
            self._terminal = False
        self._bars = _Bars(self._rich, clock) if self._terminal and not quiet else None
        self._stages: dict[str, StageProgress] = {}
        self._limiter = LineLimiter()
        self._unprinted: dict[str, Event] = {}
        self._with_epochs: set[str] = set()
        self._progress_at: dict[str, float] = {}

    def on(self, event: Event) -> None:
        """Show the event."""
        if event.kind == "failure":
            self._write(failure_line(event), "bold red")
        elif not self._quiet:
            self._show(event)

    def close(self, summary: Mapping[str, Any] | None) -> None:  # noqa: ARG002 - shown by `table`
        """Remove the bars and restore the terminal."""
        self._flush(None)
        if self._bars is not None:
            self._bars.stop()
        self._stages.clear()

    def print(self, text: str) -> None:
        """Print a text, unless quiet."""
        if not self._quiet:
            self._write(text)

    def warn(self, text: str) -> None:
        """Print a warning, also when quiet."""
        self._write(f"warning  {text}", "yellow")

    def table(self, rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> None:
        """Print rows as a table, unless quiet; in a log it is a Markdown table.

        Args:
            rows: cells by column; the columns are those of all rows, in order of appearance.
            title: a line above it.
        """
        if self._quiet or not rows:
            return
        table = _table(rows, box.SIMPLE_HEAD if self._terminal else box.MARKDOWN)
        if title:
            self._write(title, "bold")
        if self._terminal:
            self._rich.print(table)
            return
        buffer = io.StringIO()
        self._make_rich(buffer, False).print(table)
        self._write(
            "\n".join(line.strip() for line in buffer.getvalue().splitlines() if line.strip())
        )

    def _show(self, event: Event) -> None:
        now = self._clock()
        stage = self._stage(event, now)
        stage.update(event, now)
        if event.kind == "stage":
            self._show_stage(event, stage)
        elif event.kind == "epoch":
            self._show_epoch(event, stage, now)
        elif event.kind == "fit":
            self._show_fit(event)
        elif event.kind == "progress":
            self._show_progress(stage, now)
        else:
            self._write(str(event.values.get("text", "")))
        if self._bars is not None and event.stage in self._stages:
            self._bars.update(stage, now)

    def _stage(self, event: Event, now: float) -> StageProgress:
        if event.kind == "stage" and event.values.get("state") == "started":
            self._stages[event.stage] = StageProgress.start(event, now)
        if event.kind == "stage":
            return self._stages.get(event.stage) or StageProgress(event.stage, now)
        return self._stages.setdefault(event.stage, StageProgress(event.stage, now))

    def _show_stage(self, event: Event, stage: StageProgress) -> None:
        total = stage.whole
        listed = "" if total is None else counted(total, "fits" if stage.fits else "units")
        if event.values.get("state") != "started":
            self._flush(event.stage)
            self._stages.pop(event.stage, None)
            if self._bars is not None:
                self._bars.remove(event.stage)
        self._rule(stage_line(event, listed))

    def _show_epoch(self, event: Event, stage: StageProgress, now: float) -> None:
        fit, done = event.fit or event.stage, event.epoch or 0
        epochs = int(number(event.values, "epochs") or 0)
        self._with_epochs.add(fit)
        due = self._limiter.due(fit, done, epochs, now) if epochs else True
        if self._bars is not None:
            due = 0 < epochs <= done
        if due:
            self._unprinted.pop(fit, None)
            left = "" if self._bars is not None else stage.left(now)
            self._write(SEPARATOR.join([epoch_line(event), *([left] if left else [])]))
        else:
            self._unprinted[fit] = event

    def _show_fit(self, event: Event) -> None:
        fit, state = event.fit or event.stage, event.values.get("state")
        if state == "started":
            return
        last = self._unprinted.pop(fit, None)
        if last is not None:
            self._write(epoch_line(last))
        if state != "finished" or fit not in self._with_epochs:
            self._write(fit_line(event))

    def _show_progress(self, stage: StageProgress, now: float) -> None:
        if self._bars is not None or not stage.by_units:
            return
        last = self._progress_at.setdefault(stage.name, stage.started)
        complete = stage.whole is not None and stage.done >= stage.whole
        if complete or now - last >= _PROGRESS_PAUSE_S:
            self._progress_at[stage.name] = now
            self._write(progress_line(stage, now))

    def _flush(self, stage: str | None) -> None:
        for fit, event in tuple(self._unprinted.items()):
            if stage in {None, event.stage}:
                del self._unprinted[fit]
                self._write(epoch_line(event))

    def _rule(self, text: str) -> None:
        if self._terminal:
            self._rich.print(Rule(_text(text), align="left", style="dim"))
        else:
            self._write(f"--- {text} ---")

    def _write(self, text: str, style: str = "") -> None:
        self._rich.print(_text(text, style), soft_wrap=True)

    @staticmethod
    def _make_rich(stream: io.TextIOBase, terminal: bool) -> rich.console.Console:
        return rich.console.Console(
            file=cast("IO[str]", stream),
            force_terminal=terminal,
            force_jupyter=False,
            force_interactive=terminal,
            width=None if terminal else _WIDEST,
            no_color=None if terminal else True,
            markup=False,
            highlight=False,
            emoji=False,
        )


class _Out(io.TextIOBase):
    """A stream that cannot fail: a broken one is mute, an unknown character becomes "?"."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._broken = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream beneath."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """Whether the stream beneath is a terminal."""
        return _is_terminal(self._stream)

    def write(self, text: str) -> int:
        """Write what can be written."""
        if not self._broken:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(text.encode(self.encoding, "replace").decode(self.encoding))
            except (OSError, ValueError):
                self._broken = True
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        if not self._broken:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._broken = True


class _Bars:
    """One bar for each stage that runs, as long as one does."""

    def __init__(self, console: rich.console.Console, clock: Callable[[], float]) -> None:
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            *_columns(),
            console=console,
            get_time=clock,
            refresh_per_second=_REFRESHES_PER_S,
            transient=True,
            # what another program reads must not be moved to this stream
            redirect_stdout=_is_terminal(sys.stdout),
            redirect_stderr=_is_terminal(sys.stderr),
        )

    def update(self, stage: StageProgress, now: float) -> None:
        """Show how far the stage is."""
        if stage.name not in self._tasks:
            self._progress.start()
            self._tasks[stage.name] = self._progress.add_task(
                for_terminal(stage.name), total=None, count="", eta="", detail=""
            )
        eta = stage.eta_s(now)
        self._progress.update(
            self._tasks[stage.name],
            total=stage.whole,
            completed=stage.done,
            count=stage.count(),
            eta="" if eta is None else f"{duration(eta)} left",
            detail=for_terminal(stage.detail()),
        )

    def remove(self, name: str) -> None:
        """The stage is over."""
        if name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))
        if not self._tasks:
            self._progress.stop()

    def stop(self) -> None:
        """Remove all bars."""
        for name in tuple(self._tasks):
            self.remove(name)


def _columns() -> list[ProgressColumn]:
    description, count, eta, detail = (
        TextColumn("{task." + key + "}", markup=False)
        for key in ("description", "fields[count]", "fields[eta]", "fields[detail]")
    )
    return [description, BarColumn(bar_width=24), count, eta, TimeElapsedColumn(), detail]


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, OSError, ValueError):
        return False


def _table(rows: Sequence[Mapping[str, Any]], style: box.Box) -> Table:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(box=style, header_style="bold")
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows)
        table.add_column(_text(column), justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_text(_cell(row.get(column))) for column in columns))
    return table


def _text(text: str, style: str = "") -> Text:
    """Neither markup of rich nor an escape sequence in it means anything."""
    return Text(for_terminal(text), style=style)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
