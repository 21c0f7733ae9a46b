from __future__ import annotations

import pickle
import threading
from dataclasses import replace

import pytest

from raykd.errors import RaykdError
from raykd.tracking import Broadcast, Event, events


class Recorder:
    def __init__(self) -> None:
        self.received: list[Event] = []
        self.closed: list[object] = []

    def on(self, event: Event) -> None:
        self.received.append(event)

    def close(self, summary: object) -> None:
        self.closed.append(summary)


class Broken(Recorder):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def on(self, event: Event) -> None:
        super().on(event)
        raise self.error

    def close(self, summary: object) -> None:
        super().close(summary)
        raise self.error


def test_line_is_flat_with_the_fixed_keys_first() -> None:
    event = events.epoch("student", "student/replica0", epoch=2, step=40, train_loss=0.5, epochs=3)
    event = replace(event, time=5.0)
    assert event.to_line() == {
        "time": 5.0,
        "stage": "student",
        "fit": "student/replica0",
        "step": 40,
        "epoch": 2,
        "kind": "epoch",
        "train_loss": 0.5,
        "epochs": 3,
    }
    assert list(event.to_line())[:6] == ["time", "stage", "fit", "step", "epoch", "kind"]
    assert pickle.loads(pickle.dumps(event)) == event  # noqa: S301 - made here


def test_each_factory_makes_its_kind() -> None:
    made = {
        "stage": events.stage("data", state="started", fits=3),
        "fit": events.fit("teachers", "teacher/a", state="reused", metrics={"accuracy": 0.9}),
        "progress": events.progress("targets", done=1, total=None, unit="views"),
        "failure": events.failure("fleet", "died", fit="teacher/a", decision="restarted"),
        "message": events.message("report", "written"),
    }
    assert {kind: event.kind for kind, event in made.items()} == {kind: kind for kind in made}
    assert made["fit"].values == {"state": "reused", "metrics": {"accuracy": 0.9}}
    assert made["failure"].values == {"message": "died", "decision": "restarted"}
    assert abs(made["stage"].time - made["message"].time) < 10


def test_values_may_not_hide_a_field() -> None:
    with pytest.raises(AssertionError, match="may not be called kind, time"):
        Event(0.0, "message", "data", values={"time": 1, "kind": "x"})


def test_a_failing_listener_is_reported_once_and_dropped(notifier) -> None:
    first, sick, last = Recorder(), Broken(KeyError("no such thing")), Recorder()
    broadcast = Broadcast([first, sick, last], notifier=notifier)
    for text in ("a", "b", "c"):
        broadcast.on(events.message("data", text))
    broadcast.close({"status": "complete"})
    broadcast.close(None)

    assert len(first.received) == len(last.received) == 3
    assert len(sick.received) == 1
    assert sick.closed == []
    assert first.closed == last.closed == [{"status": "complete"}]
    assert notifier.warned == [
        "Broken failed and is left out from here on; the run goes on (KeyError: 'no such thing')"
    ]


def test_an_error_of_raykd_reaches_the_caller_after_everybody_has_received(notifier) -> None:
    full, other = Broken(RaykdError("disk full")), Recorder()
    broadcast = Broadcast([full, other], notifier=notifier)
    with pytest.raises(RaykdError, match="disk full"):
        broadcast.on(events.message("data", "a"))
    with pytest.raises(RaykdError, match="disk full"):
        broadcast.close(None)
    assert len(other.received) == len(other.closed) == 1
    assert notifier.warned == []


def test_without_a_notifier_the_log_gets_the_warning(caplog) -> None:
    Broadcast([Broken(ValueError("x"))]).on(events.message("data", "a"))
    assert "Broken failed" in caplog.text


def test_listeners_hear_one_event_at_a_time() -> None:
    class Alone:
        def __init__(self) -> None:
            self.busy = threading.Lock()
            self.count = 0

        def on(self, event: Event) -> None:
            assert self.busy.acquire(blocking=False), "two events at once"
            self.count += 1
            self.busy.release()

        def close(self, summary: object) -> None: ...

    alone = Alone()
    broadcast = Broadcast([alone])
    event = events.message("data", "a")
    threads = [
        threading.Thread(target=lambda: [broadcast.on(event) for _ in range(200)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alone.count == 800
