"""How scenarios are run and judged; those that take seconds, and that each row of the table has one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.faults import SCENARIOS, Found, Scenario, isolated
from jobs.faults.proofs import _read, proved_by
from jobs.faults.trust import named_code, paths_and_sizes, pickled_code

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("scenario", [pickled_code, named_code, paths_and_sizes])
def test_hostile_files(tmp_path, scenario):
    found = scenario(tmp_path, True)
    assert found.passed, found.measured


def test_a_sick_bucket_loses_nothing(tmp_path):
    pytest.importorskip("moto.server")
    pytest.importorskip("pyarrow")
    found = SCENARIOS["R13"].run(tmp_path, True)
    assert found.passed, found.measured
    assert "0 of 6 shards lost" in found.measured


def test_every_row_of_the_table_is_there():
    rows = {f"R{number}" for number in (*range(1, 17), *range(18, 28))} | {
        f"S{number}" for number in range(1, 6)
    }
    assert rows <= set(SCENARIOS)


@pytest.fixture
def played(monkeypatch):
    """Runs a scenario whose process is another program."""

    def played(program, limit_s=30.0):
        start = subprocess.Popen

        def other(command, **given):
            answer = command[4]
            return start([sys.executable, "-c", program, answer], **given)

        monkeypatch.setattr("jobs.faults.scenario.subprocess.Popen", other)
        scenario = Scenario("a fault", "a bar", lambda folder, quick: Found("", True), limit_s)
        return isolated("R0", scenario, quick=True)

    return played


def test_a_scenario_s_figures_are_its_process_s(played):
    told = {"measured": "7 of 7", "passed": True}
    record = played(f"import sys; open(sys.argv[1], 'w').write({json.dumps(told)!r})")
    assert (record.measured, record.passed, record.bar) == ("7 of 7", True, "a bar")


def test_a_scenario_that_breaks_is_one_that_failed(played):
    record = played("raise SystemExit('no such thing')")
    assert (record.passed, record.measured) == (False, "exit 1: no such thing")


def test_one_that_takes_too_long_is_ended_with_all_that_it_started(played, tmp_path):
    pid = tmp_path / "pid"
    program = (
        "import subprocess, sys, time; child = subprocess.Popen(['sleep', '600']);"
        f"open({str(pid)!r}, 'w').write(str(child.pid)); time.sleep(600)"
    )
    record = played(program, limit_s=2.0)
    assert (record.passed, record.measured) == (False, "over 2 s: no word")
    status = Path(f"/proc/{pid.read_text()}/status")
    for _ in range(100):  # a kill takes effect when the process is next scheduled
        if not status.exists() or "\nState:\tZ" in status.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(status.read_text())


def test_figures_of_tests_are_added_up_and_a_failure_is_one(tmp_path, monkeypatch):
    (tmp_path / "test_one.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('n', [1, 2, pytest.param(9, marks=pytest.mark.soak)])\n"
        "def test_one(n, record_property):\n"
        "    record_property('kills', n)\n"
        "    record_property('noticed after (s)', n)\n"
        "    assert n < 9\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = soak\n")
    monkeypatch.setattr("jobs.faults.proofs.ROOT", tmp_path)
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    quick = proved_by("test_one.py")(tmp_path / "1", True)
    assert quick == Found("kills 3, noticed after (s) 2, 2 of 2 tests", True)
    assert proved_by("test_one.py")(tmp_path / "2", False) == Found(
        "kills 12, noticed after (s) 9, 2 of 3 tests, failed: test_one[9]", False
    )
    assert not proved_by("test_gone.py")(tmp_path, True).passed


@pytest.mark.parametrize(("least", "enough"), [(3, True), (4, False)])
def test_fewer_faults_than_asked_for_are_no_pass(tmp_path, least, enough):
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite tests="1" failures="0" errors="0" skipped="0"><testcase name="a">'
        '<properties><property name="kills" value="3"/></properties></testcase></testsuite></testsuites>'
    )
    assert _read(report, {"kills": least}).passed is enough


def test_what_proves_a_row_is_there():
    names = [name for one in SCENARIOS.values() for name in getattr(one.run, "tests", ())]
    assert len(names) > 10
    for name in names:
        file, _, test = name.partition("::")
        text = (ROOT / file).read_text()
        assert f"def {test.partition('[')[0]}(" in text if test else "def test_" in text, name


def test_the_job_refuses_rows_that_it_does_not_know(capsys):
    from jobs.chaos import main

    with pytest.raises(SystemExit) as ended:
        main(["--only", "R1,R99"])
    assert ended.value.code == 2
    assert "found R99; known: R1, R2" in capsys.readouterr().err


def test_the_job_goes_on_after_a_failure_and_writes_all_down(monkeypatch, tmp_path, capsys):
    from jobs import chaos
    from jobs.faults import Record

    def done(row, scenario, *, quick):
        return Record(row, scenario.what, scenario.bar, f"{quick=}", row != "S1", 1.0)

    monkeypatch.setattr(chaos, "isolated", done)
    output = tmp_path / "chaos.json"
    assert chaos.main(["--only", "S1,S2", "--output", str(output), "--quick", "--markdown"]) == 1
    told = json.loads(output.read_text())
    assert [(one["row"], one["passed"]) for one in told["rows"]] == [("S1", False), ("S2", True)]
    said = capsys.readouterr().out
    assert "1 of 2 rows passed" in said
    assert "**failed**: quick=True" in said
    assert chaos.main(["--only", "S2"]) == 0


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("row", ["R3", "R4", "R4a", "R4b", "R5", "R7", "R16"])
def test_faults_that_need_processes_or_nodes_of_their_own(row):
    record = isolated(row, SCENARIOS[row], quick=True)
    assert record.passed, record.measured


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("row", ["R18", "R19"])
def test_a_driver_that_is_ended_by_a_signal_leaves_nothing_and_is_gone_on_with(row):
    record = isolated(row, SCENARIOS[row], quick=True)
    assert record.passed, record.measured
