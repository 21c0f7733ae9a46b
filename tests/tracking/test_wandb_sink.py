from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raykd.config.root import Wandb
from raykd.tracking import Limits, WandbSink, events
from raykd.tracking.wandb_service import (
    Artefact,
    flat_numbers,
    has_key,
    shallow,
    unanswered,
)

FIT = "student/replica0"


class FakeRun:
    def __init__(self, options: dict[str, Any]) -> None:
        self.dir = str(Path(options["dir"]) / "wandb" / f"offline-run-1-{options['id']}" / "files")
        self.summary: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.defined: list[str] = []
        self.exit_code: int | None = None
        self.logged: list[Any] = []
        self.used: list[Any] = []
        self.config = SimpleNamespace(update=self._configure, values={})

    def _configure(self, values: dict[str, Any], allow_val_change: bool) -> None:
        self.config.values |= values

    def log_artifact(self, artifact: Any) -> None:
        self.logged.append(artifact)

    def use_artifact(self, artifact: Any) -> None:
        self.used.append(artifact)

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def define_metric(self, name: str, **options: Any) -> None:
        self.defined.append(name)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


class FakeArtifact:
    def __init__(self, name: str, type: str, metadata: dict[str, Any]) -> None:
        self.name, self.type, self.metadata = name, type, metadata


class FakeWandb(SimpleNamespace):
    """The part of wandb that is used; `trouble` maps a call to what happens in it."""

    def __init__(self, **trouble: Any) -> None:
        super().__init__(Settings=dict, options=[], run=None, trouble=trouble, url="")
        self.Artifact = FakeArtifact

    def setup(self, settings: Any) -> SimpleNamespace:
        return SimpleNamespace(settings=SimpleNamespace(base_url=self.url))

    def login(self, verify: bool, timeout: int) -> None:
        self.trouble.get("login", lambda: None)()

    def init(self, **options: Any) -> FakeRun:
        self.options.append(options)
        self.trouble.get("init", lambda: None)()
        self.run = FakeRun(options)
        for name in ("log", "finish"):
            if name in self.trouble:
                setattr(self.run, name, lambda *a, _do=self.trouble[name], **k: _do())
        return self.run


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    def put(**trouble: Any) -> FakeWandb:
        fake = FakeWandb(**trouble)
        monkeypatch.setitem(sys.modules, "wandb", fake)
        return fake

    return put


def _fail(error: Exception):
    def call() -> None:
        raise error

    return call


def _sink(tmp_path: Path, notifier, mode="offline", **more: Any) -> WandbSink:
    if (run_id := more.pop("run_id", "id1")) is not None:
        (tmp_path / "wandb").mkdir(parents=True, exist_ok=True)
        (tmp_path / "wandb" / "raykd_run_id").write_text(run_id)
    return WandbSink(
        Wandb(mode=mode), run_dir=tmp_path, run_name="n", config={"a": 1}, notifier=notifier, **more
    )


def _epoch(epoch: int = 1):
    return events.epoch("student", FIT, epoch=epoch, train_loss=0.5, epochs=3)


def test_rows_and_summary_reach_the_run(tmp_path: Path, notifier, install) -> None:
    fake = install()
    sink = _sink(tmp_path, notifier)
    sink.on(events.stage("student", state="started"))
    sink.on(events.progress("student", done=1, total=2, unit="x", fit=FIT))
    sink.on(_epoch(1))
    sink.on(_epoch(2))
    sink.on(events.failure("fleet", "died", fit="teacher/a"))
    sink.close({"status": "degraded", "student": {"parameters": 5}})
    sink.close(None)
    assert [row[f"{FIT}/epoch"] for row in fake.run.rows] == [1, 2]
    assert fake.run.defined == [f"{FIT}/epoch", f"{FIT}/*"]
    assert fake.run.summary == {"student/parameters": 5, "failures": 1}
    assert fake.run.exit_code == 0
    (options,) = fake.options
    assert {key: options[key] for key in ("id", "resume", "mode", "dir")} == {
        "id": "id1",
        "resume": "allow",
        "mode": "offline",
        "dir": str(tmp_path.resolve()),
    }
    assert options["settings"]["init_timeout"] == 20
    assert options["settings"]["silent"] is True
    assert notifier.printed == [], (
        "at 7d0af11 every run ended with advice that nobody had asked for"
    )
    assert notifier.warned == []


@pytest.mark.parametrize("summary", [None, {"status": "failed"}])
def test_a_failed_run_is_marked(tmp_path: Path, notifier, install, summary) -> None:
    fake = install()
    _sink(tmp_path, notifier).close(summary)
    assert fake.run.exit_code == 1


def test_the_id_is_kept_in_the_folder(tmp_path: Path, notifier, install) -> None:
    fake = install()
    for folder in ("a", "a", "b"):
        _sink(tmp_path / folder, notifier, run_id=None).close({})
    first, again, other = (options["id"] for options in fake.options)
    assert first == again != other


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_failing_wandb_warns_once_and_never_raises(
    tmp_path: Path, notifier, install, monkeypatch, where: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "sentinel-key")
    install(**{where: _fail(RuntimeError("401 for sentinel-key"))})
    sink = _sink(tmp_path, notifier)
    for epoch in range(1, 4):
        sink.on(_epoch(epoch))
        time.sleep(0.02)
    sink.close({"status": "complete"})
    assert notifier.warned == [
        "W&B is incomplete: RuntimeError: 401 for ***; "
        "the run goes on, metrics.jsonl has every number"
    ]


def test_without_wandb_the_run_goes_on(tmp_path: Path, notifier, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    sink = _sink(tmp_path, notifier)
    sink.on(_epoch())
    sink.close({})
    (warned,) = notifier.warned
    assert "pip install wandb, or set tracking.wandb.mode=disabled" in warned
    assert sink.sync_command is None


@pytest.mark.parametrize(("where", "doing"), [("init", "open"), ("finish", "end")])
def test_a_hanging_wandb_is_given_up(
    tmp_path: Path, notifier, install, where: str, doing: str
) -> None:
    release = threading.Event()
    install(**{where: lambda: release.wait(30)})
    start = time.monotonic()
    sink = _sink(tmp_path, notifier, limits=Limits(init_timeout_s=0.2, finish_timeout_s=0.2))
    for epoch in range(1, 1000):
        sink.on(_epoch(epoch))
    assert time.monotonic() - start < 2
    sink.close({"status": "complete"})
    assert time.monotonic() - start < 5
    release.set()
    assert len(notifier.warned) == 1
    assert f"did not {doing} within" in notifier.warned[0]


def test_a_slow_wandb_costs_rows_not_time(tmp_path: Path, notifier, install) -> None:
    release = threading.Event()
    install(init=lambda: release.wait(30))
    sink = _sink(tmp_path, notifier, limits=Limits(waiting_rows=10))
    start = time.monotonic()
    for epoch in range(1, 101):
        sink.on(_epoch(epoch))
    assert time.monotonic() - start < 1
    release.set()
    sink.close({"status": "complete"})
    assert notifier.warned == [
        "W&B is incomplete: it was too slow for 91 rows; "
        "the run goes on, metrics.jsonl has every number"
    ]


@pytest.mark.parametrize(
    ("mode", "key", "opened", "warnings"),
    [
        ("offline", True, "offline", 0),
        ("auto", False, "offline", 0),
        ("auto", True, "online", 0),
        ("online", True, "online", 0),
        ("online", False, "offline", 1),
    ],
)
def test_mode_follows_the_key(
    tmp_path: Path,
    notifier,
    install,
    monkeypatch,
    healthy: str,
    mode: str,
    key: bool,
    opened: str,
    warnings: int,
) -> None:
    fake = install()
    fake.url = healthy
    if key:
        monkeypatch.setenv("WANDB_API_KEY", "k")
    sink = _sink(tmp_path, notifier, mode=mode)
    sink.close({})
    assert fake.options[0]["mode"] == opened
    assert len(notifier.warned) == warnings
    assert (sink.sync_command is None) == (opened == "online")
    assert len(notifier.printed) == warnings, "advice where it was to be online and is not"


def test_keys_are_found_where_wandb_looks(tmp_path: Path, monkeypatch) -> None:
    assert not has_key()
    path = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(path))
    path.write_text("machine example.org login user password p\n")
    assert not has_key()
    path.write_text("machine api.wandb.ai login user password p\n")
    assert has_key()
    path.write_text("machine wandb.local:8080 login user password p\n")
    assert not has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.local:8080")
    assert has_key()
    path.write_text("machine machine machine\nfoo")
    assert not has_key()


def test_disabled_is_refused(tmp_path: Path, notifier, install) -> None:
    fake = install()
    given = {"run_dir": tmp_path, "run_name": "n", "config": {}, "notifier": notifier}
    with pytest.raises(AssertionError, match="disabled"):
        WandbSink(Wandb(mode="disabled"), **given)
    WandbSink(Wandb(), **given).close({})
    assert len(fake.options) == 1


def test_config_is_shallow_and_named() -> None:
    config = {
        "a": {"b": {"c": {"d": {"e": 1}, "f": {}}}},
        "teachers": ({"name": "x", "t": 1}, {"name": "y", "t": 2}),
        "policy": [{"type": "shift"}, {"type": "flip"}],
        "tags": ["k3y", 1],
        "k3y": None,
    }
    assert shallow(config, secrets=("k3y", "")) == {
        "a": {"b": {"c": {"d/e": 1, "f": {}}}},
        "teachers": {"x": {"name": "x", "t": 1}, "y": {"name": "y", "t": 2}},
        "policy": {"0": {"type": "shift"}, "1": {"type": "flip"}},
        "tags": ["***", 1],
        "***": None,
    }


def test_flat_numbers() -> None:
    nested = {"a": {"b": 1, "c": None, "d": True, "e": "x"}, "f": [1.5, 2], "g": list(range(99))}
    assert flat_numbers(nested) == {"a/b": 1, "f/0": 1.5, "f/1": 2}


def _online(tmp_path: Path, notifier, monkeypatch, **limits: float) -> WandbSink:
    monkeypatch.setenv("WANDB_API_KEY", "sentinel-key")
    given = {"answer_timeout_s": 0.2, **limits}
    return _sink(tmp_path, notifier, mode="online", run_id=None, limits=Limits(**given))


def _teacher(found: list[str]):
    def find() -> list[Artefact]:
        found.append(threading.current_thread().name)
        return [Artefact("teacher-a", "teacher", metadata={"m": 1}, made_from=("x",))]

    return find


@pytest.mark.parametrize("where", ["login", "init"])
def test_a_service_that_refuses_leaves_an_offline_run(
    tmp_path: Path, notifier, install, monkeypatch, healthy: str, where: str
) -> None:
    def refuse_once() -> None:
        fake.trouble.pop(where)
        raise RuntimeError("401 for sentinel-key")

    fake = install(**{where: refuse_once})
    fake.url = healthy
    sink = _online(tmp_path, notifier, monkeypatch)
    sink.on(_epoch())
    sink.close({"status": "complete"})
    assert [options["mode"] for options in fake.options][-1] == "offline"
    assert len(fake.run.rows) == 1
    assert fake.run.exit_code == 0
    assert notifier.warned == [
        "W&B cannot be used (RuntimeError: 401 for ***); this run is kept offline"
    ]
    assert sink.sync_command is not None
    ids = [options["id"] for options in fake.options]
    assert len(set(ids)) == len(ids)  # its client would hold on to one that it was refused with
    assert (tmp_path / "wandb" / "raykd_run_id").read_text() == ids[-1]


def test_a_service_that_is_gone_at_the_end_is_not_waited_for(
    tmp_path: Path, notifier, install, monkeypatch
) -> None:
    called = []
    fake = install(finish=lambda: called.append(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raykd.tracking.wandb_sink.unanswered", lambda url, timeout_s: None)
        sink = _online(tmp_path, notifier, monkeypatch)
        sink.on(_epoch())
        while fake.run is None or not fake.run.rows:
            time.sleep(0.01)
    fake.url = sink._url = "http://127.0.0.1:1"
    sink.close({"status": "complete"})
    assert not called  # its client would wait for the service
    assert len(notifier.warned) == 1
    assert "upload this run with wandb sync" in notifier.warned[0]


def test_a_service_that_is_late_is_given_up_at_the_end(
    tmp_path: Path, notifier, install, monkeypatch, healthy: str
) -> None:
    release = threading.Event()
    install(login=lambda: release.wait(30)).url = healthy
    start = time.monotonic()
    sink = _online(tmp_path, notifier, monkeypatch, patience_s=0.2)
    sink.close({"status": "complete"})
    assert time.monotonic() - start < 5
    release.set()
    assert "did not open within" in notifier.warned[0]


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_what_is_used_is_noted_and_online_an_input(
    tmp_path: Path, notifier, install, monkeypatch, healthy: str, mode: str
) -> None:
    fake, found = install(), []
    fake.url = healthy
    monkeypatch.setenv("WANDB_API_KEY", "k")
    sink = _sink(tmp_path, notifier, mode=mode)
    sink.use_artefacts(_teacher(found))
    sink.log_artefacts(_teacher(found))
    sink.close({})
    assert notifier.warned == []
    assert found == ["raykd-wandb"] * 2  # reading files is none of the caller's time
    assert fake.run.config.values == {"uses/teacher": ["teacher-a"]}
    assert [a.name for a in fake.run.used] == (["teacher-a"] if mode == "online" else [])
    (logged,) = fake.run.logged
    assert (logged.type, logged.metadata) == ("teacher", {"m": 1, "made_from": ["x"]})


@pytest.mark.parametrize(
    ("sick", "why"),
    [("refused", "refused"), ("silent", "timed out"), ("500", "answers 500"), ("401", None)],
    indirect=["sick"],
)
def test_a_service_answers_or_does_not(sick: str, why: str | None) -> None:
    found = unanswered(sick, 0.2)
    assert found is None if why is None else why in found


def test_what_cannot_be_kept_costs_no_number(tmp_path: Path, notifier, install) -> None:
    fake = install()
    sink = _sink(tmp_path, notifier)
    sink.log_artefacts(_fail(OSError("the card is gone")))
    sink.on(_epoch())
    sink.close({"status": "complete"})
    assert len(fake.run.rows) == 1
    assert fake.run.exit_code == 0
    assert [text.split(";")[0] for text in notifier.warned] == [
        "W&B is incomplete: OSError: the card is gone"
    ]
