from __future__ import annotations

import io

import pytest

from raykd.tracking import Console, events
from raykd.tracking.progress import LineLimiter, StageProgress, duration

WIDE = "teacher/wide"
STUDENT = "student/replica0"


def _epoch(fit, epoch, epochs=40, **values):
    stage = "teachers" if fit.startswith("teacher") else "student"
    values = {
        "train_loss": 0.4123,
        "validation": {"accuracy": 0.9531, "nll": 0.184},
        "samples_per_s": 3100.4,
        "teacher_wait_fraction": 0.021,
        **values,
    }
    return events.epoch(stage, fit, epoch=epoch, epochs=epochs, **values)


def _plain(clock, quiet=False):
    stream = io.StringIO()
    return Console(quiet=quiet, stream=stream, clock=clock), stream


def test_plain_output_of_a_run(clock) -> None:
    console, stream = _plain(clock)
    console.on(events.stage("teachers", state="started", fits=[WIDE, "teacher/deep"]))
    console.on(events.fit("teachers", "teacher/deep", state="reused", metrics={"accuracy": 0.97}))
    console.on(events.fit("teachers", WIDE, state="started"))
    console.on(_epoch(WIDE, 1, 2, teacher_wait_fraction=None))
    console.on(_epoch(WIDE, 2, 2, teacher_wait_fraction=None, train_loss=0.3))
    console.on(events.fit("teachers", WIDE, state="finished", metrics={"accuracy": 0.953}))
    console.on(events.stage("teachers", state="finished", seconds=12.34))
    console.on(events.stage("targets", state="started", fits=5000))
    clock.sleep(10)
    console.on(
        events.progress("targets", done=1250, total=5000, unit="views", rate_per_s=125, fit="a")
    )
    clock.sleep(1)
    console.on(events.progress("targets", done=1300, total=5000, unit="views", fit="a"))
    console.on(events.progress("targets", done=5000, total=5000, unit="views", fit="a"))
    console.on(events.stage("targets", state="finished", seconds=250))
    console.on(events.stage("student", state="started", fits=[STUDENT]))
    console.on(events.fit("student", STUDENT, state="resumed", epoch=11))
    console.on(_epoch(STUDENT, 12))
    console.on(events.failure("student", "worker died", fit=STUDENT, decision="restarted"))
    console.on(events.message("student", "one worker left"))
    console.on(events.stage("student", state="finished"))
    console.close(None)
    assert stream.getvalue().splitlines() == [
        "--- teachers: 2 fits ---",
        "teacher/deep  reused  val acc 0.970",
        "teacher/wide  epoch 1/2  loss 0.412  val acc 0.953  nll 0.18  3,100 samples/s",
        "teacher/wide  epoch 2/2  loss 0.300  val acc 0.953  nll 0.18  3,100 samples/s",
        "--- teachers done in 12.3 s ---",
        "--- targets: 5,000 units ---",
        "targets  1,250/5,000 views  125 views/s  30.0 s left",
        "targets  5,000/5,000 views",
        "--- targets done in 4 min 10 s ---",
        "--- student: 1 fit ---",
        "student/replica0  resumed after epoch 11",
        "student/replica0  epoch 12/40  loss 0.412  val acc 0.953  nll 0.18  "
        "3,100 samples/s  wait 2 %",
        "failure  student/replica0  worker died  (restarted)",
        "one worker left",
        "--- student done ---",
    ]


@pytest.mark.parametrize(
    ("seconds_per_epoch", "printed"),
    [
        (0.01, [1, 40]),  # too quick for more
        (0.5, [1, 9, 17, 25, 33, 40]),
        (1.0, [1, 9, 17, 25, 33, 40]),
        (30.0, [*range(1, 40, 2), 40]),  # slow: a line a minute shows that it lives
    ],
)
def test_lines_of_a_fit_are_few(clock, seconds_per_epoch: float, printed: list[int]) -> None:
    console, stream = _plain(clock)
    for epoch in range(1, 41):
        clock.sleep(seconds_per_epoch)
        console.on(_epoch(STUDENT, epoch))
    lines = stream.getvalue().splitlines()
    assert [int(line.split("epoch ")[1].split("/")[0]) for line in lines] == printed


def test_many_small_fits_stay_readable(clock) -> None:
    console, stream = _plain(clock)
    for replica in range(20):
        for epoch in range(1, 41):
            clock.sleep(0.3)
            console.on(_epoch(f"student/replica{replica}", epoch))
    assert len(stream.getvalue().splitlines()) == 20 * 6


def test_a_fit_that_stops_early_shows_its_last_epoch(clock) -> None:
    console, stream = _plain(clock)
    for epoch in (1, 2, 3):
        console.on(_epoch(STUDENT, epoch))
    console.on(events.fit("student", STUDENT, state="finished"))
    console.on(_epoch(WIDE, 1))
    console.on(_epoch(WIDE, 2))
    console.close(None)
    shown = [line.split("  ")[:2] for line in stream.getvalue().splitlines()]
    assert shown == [
        [STUDENT, "epoch 1/40"],
        [STUDENT, "epoch 3/40"],
        [WIDE, "epoch 1/40"],
        [WIDE, "epoch 2/40"],
    ]


def test_metrics_of_other_tasks_and_missing_ones(clock) -> None:
    console, stream = _plain(clock)
    console.on(_epoch(STUDENT, 1, validation={"rmse": 1.23456, "r2": None}, samples_per_s=None))
    console.on(events.epoch("student", "student/replica1", epoch=1, validation=None))
    console.on(events.fit("targets", "labels/replica3", state="finished", metrics={"n": 3}))
    assert stream.getvalue().splitlines() == [
        "student/replica0  epoch 1/40  loss 0.412  val rmse 1.235  wait 2 %",
        "student/replica1  epoch 1",
        "labels/replica3  finished  val n 3",
    ]


def test_quiet_prints_failures_and_warnings_only(clock) -> None:
    console, stream = _plain(clock, quiet=True)
    console.on(events.stage("student", state="started", fits=[STUDENT]))
    console.on(_epoch(STUDENT, 1))
    console.on(events.message("student", "hello"))
    console.print("hello")
    console.table([{"a": 1}])
    console.on(events.failure("fleet", "teacher died"))
    console.warn("no W&B")
    console.close(None)
    assert stream.getvalue() == "failure  fleet  teacher died\nwarning  no W&B\n"


def test_table_in_a_log_is_markdown(clock) -> None:
    console, stream = _plain(clock)
    console.table(
        [
            {"model": "student [b]", "accuracy": 0.95312, "parameters": 12345},
            {"model": "teacher/wide", "accuracy": None, "parameters": 1234567, "chosen": True},
        ],
        title="Result",
    )
    console.table([])
    assert stream.getvalue().splitlines() == [
        "Result",
        "| model        | accuracy | parameters | chosen |",
        "|--------------|----------|------------|--------|",
        "| student [b]  |   0.9531 |     12,345 |      - |",
        "| teacher/wide |        - |  1,234,567 |    yes |",
    ]


def test_a_log_has_no_control_codes_even_if_colours_are_asked_for(clock, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    console, stream = _plain(clock)
    console.on(events.stage("student", state="started", fits=[STUDENT]))
    console.on(_epoch(STUDENT, 1))
    console.on(events.failure("fleet", "x"))
    console.table([{"a": 1.0}], title="t")
    console.print("verdict")
    console.close(None)
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def _drive(console: Console, clock) -> None:
    console.on(events.stage("teachers", state="started", fits=[WIDE, "teacher/deep"]))
    console.on(events.fit("teachers", "teacher/deep", state="reused"))
    for epoch in range(1, 5):
        clock.sleep(2)
        console.on(_epoch(WIDE, epoch, 4))
    console.on(events.stage("targets", state="started"))  # overlaps
    console.on(events.progress("targets", done=1, total=None, unit="views"))
    console.on(events.stage("teachers", state="finished", seconds=8))
    console.on(events.progress("targets", done=5, total=10, unit="views", rate_per_s=5))
    console.on(events.failure("targets", "[red]died"))
    console.on(events.stage("targets", state="finished", seconds=1))
    console.table([{"model": "student", "accuracy": 0.9}], title="Result")
    console.print("better by 2 points")
    console.close(None)


def test_terminal_shows_bars_and_gives_the_cursor_back(clock) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    console = Console(quiet=False, stream=stream, is_terminal=True, clock=clock)
    console.on(events.stage("student", state="started", fits=[STUDENT, "student/replica1"]))
    clock.sleep(10)
    console.on(_epoch(STUDENT, 10, 40))
    console.close(None)
    bars = stream.getvalue()
    assert bars.rindex("\x1b[?25h") > bars.rindex("\x1b[?25l")  # cursor shown again

    _drive(Console(quiet=False, stream=stream, is_terminal=True, clock=clock), clock)
    text = stream.getvalue()
    for shown in ("teacher/wide  epoch 4/4", "[red]died", "better by 2 points", "0.9", "done in"):
        assert shown in text
    assert "epoch 2/4" not in text  # the bar has it


def test_two_consoles_at_once(clock) -> None:
    one = Console(quiet=False, stream=io.StringIO(), is_terminal=True, clock=clock)
    one.on(events.stage("data", state="started"))
    stream = io.StringIO()
    _drive(Console(quiet=False, stream=stream, is_terminal=True, clock=clock), clock)
    one.close(None)
    assert "better by 2 points" in stream.getvalue()


def test_odd_streams_do_not_hurt(clock, monkeypatch) -> None:
    class Ascii(io.TextIOWrapper):
        def __init__(self) -> None:
            super().__init__(io.BytesIO(), encoding="ascii", write_through=True)

    class Pipe(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    class Dumb(io.StringIO):
        def isatty(self) -> bool:
            return True

    for terminal in (None, False, True):
        ascii_stream, closed = Ascii(), io.StringIO()
        closed.close()
        for stream in (ascii_stream, Pipe(), closed):
            console = Console(quiet=False, stream=stream, is_terminal=terminal, clock=clock)
            console.print("Łódź")
            _drive(console, clock)
        assert b"??d?" in ascii_stream.buffer.getvalue()

    monkeypatch.setenv("TERM", "dumb")
    dumb = Dumb()
    _drive(Console(quiet=False, stream=dumb, clock=clock), clock)
    assert "\x1b" not in dumb.getvalue()


def test_time_left_comes_from_the_measured_rate(clock) -> None:
    start = events.stage("student", state="started", fits=["a", "b", "c", "d"])
    stage = StageProgress.start(start, clock())
    stage.update(events.fit("student", "a", state="reused"), clock())
    assert stage.eta_s(clock()) is None  # what was there before says nothing of the pace
    stage.update(events.fit("student", "b", state="resumed", epoch=5), clock())
    clock.sleep(10)
    stage.update(_epoch("b", 10, 10), clock())
    stage.update(events.fit("student", "b", state="finished"), clock())
    assert stage.done == 2
    assert stage.eta_s(clock()) == pytest.approx(40)  # half a fit in 10 s, two are left
    assert stage.count() == "2/4 fits"
    assert stage.detail() == "b 10/10  val acc 0.953  wait 2 %"


def test_units_of_several_replicas_add_up(clock) -> None:
    stage = StageProgress.start(events.stage("targets", state="started"), clock())
    for fit in ("r0", "r1"):
        stage.update(
            events.progress("targets", done=50, total=100, unit="views", rate_per_s=5, fit=fit),
            clock(),
        )
    assert (stage.done, stage.whole, stage.eta_s(clock())) == (100, 200, 10)


def test_limiter_goes_on_after_a_restart_at_an_earlier_epoch() -> None:
    limiter = LineLimiter()
    assert [limiter.due("a", epoch, 10, now=3.0 * epoch) for epoch in (1, 2, 3)] == [
        True,
        False,
        True,
    ]
    assert not limiter.due("a", 2, 10, now=12.0)
    assert limiter.due("a", 10, 10, now=12.1)


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.04, 59.4, 250, 7500)] == [
        "0.0 s",
        "59.4 s",
        "4 min 10 s",
        "2 h 05 min",
    ]


def test_epochs_of_long_stages_tell_when_all_will_be_done(clock) -> None:
    """At 7d0af11 only bars did; starting processes is no part of the pace."""
    console, stream = _plain(clock)
    fits = [f"student/replica{replica}" for replica in range(2)]
    console.on(events.stage("student", state="started", fits=fits))
    clock.sleep(100)
    for fit in fits:
        for epoch in range(1, 41):
            clock.sleep(30)
            console.on(_epoch(fit, epoch))
    lines = stream.getvalue().splitlines()[1:]
    assert "left" not in lines[0]
    assert lines[1].endswith("student 38 min 30 s left")
    assert lines[-2].endswith("student 30.0 s left")
    assert "left" not in lines[-1]


def test_short_stages_and_those_of_unknown_size_tell_no_end(clock) -> None:
    console, stream = _plain(clock)
    for epoch in range(1, 41):
        clock.sleep(30)
        console.on(_epoch(STUDENT, epoch))
    assert "left" not in stream.getvalue()
    console.on(events.stage("student", state="started", fits=[STUDENT]))
    for epoch in range(1, 41):
        clock.sleep(0.1)
        console.on(_epoch(STUDENT, epoch))
    assert "left" not in stream.getvalue()
