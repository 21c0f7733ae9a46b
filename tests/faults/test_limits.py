"""What a shell allows is held against what a job needs, before anything starts."""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from raykd import limits
from raykd.cli import main
from raykd.errors import InputError
from raykd.limits import check_process_limits, object_store_bytes

FREE = resource.RLIM_INFINITY
TEMPORARY = Path(tempfile.gettempdir())
FILES, MEMORY = resource.RLIMIT_NOFILE, resource.RLIMIT_AS


@pytest.fixture
def shell(monkeypatch):
    """Sets (soft, hard) of open files and of address space, and the free bytes for temporary files; what was raised."""
    raised = []

    def shell(files=(20_000, 20_000), memory=FREE, free=1 << 40):
        given = {FILES: files, MEMORY: (memory, FREE)}
        monkeypatch.setattr(limits.resource, "getrlimit", given.__getitem__)
        monkeypatch.setattr(
            limits.resource, "setrlimit", lambda which, pair: raised.append((which, pair))
        )
        monkeypatch.setattr(limits.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        monkeypatch.setattr(limits, "_available_bytes", lambda: 16_000_000_000)
        return raised

    return shell


def test_few_open_files_are_refused_with_what_is_needed(shell):
    shell(files=(64, 64))
    with pytest.raises(
        InputError,
        match=r"^ulimit -n: allows 64 open files, .* needs 116 on this machine; raise it",
    ):
        check_process_limits(2, TEMPORARY)
    shell(files=(128, 128))
    check_process_limits(2, TEMPORARY)
    with pytest.raises(InputError, match="needs 612"):
        check_process_limits(64, TEMPORARY)


@pytest.mark.parametrize(("hard", "wanted"), [(FREE, 4096), (200, 200), (20_000, 4096)])
def test_a_low_soft_limit_is_raised(shell, hard, wanted):
    raised = shell(files=(64, hard))
    check_process_limits(2, TEMPORARY)
    assert raised == [(FILES, (wanted, hard))]


def test_little_address_space_is_refused_and_some_makes_the_object_store_smaller(
    shell, monkeypatch
):
    shell(memory=3_072_000_000)
    with pytest.raises(
        InputError, match=r"^ulimit -v: allows 3,072,000,000 bytes .* needs 4,100,000,000"
    ):
        check_process_limits(2, TEMPORARY)
    shell(memory=4_272_000_000)
    check_process_limits(2, TEMPORARY)
    assert object_store_bytes() == 272_000_000
    shell(memory=9_000_000_000)
    assert object_store_bytes() is None, "Ray takes less by itself"
    monkeypatch.setenv("RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES", "100000000")
    shell(memory=4_272_000_000)
    assert object_store_bytes() is None, "it was told to"
    shell()
    assert object_store_bytes() is None


def test_no_room_for_temporary_files_is_refused_by_its_name(shell, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    shell(free=1000)
    with pytest.raises(
        InputError,
        match=rf"^\$RAY_TMPDIR: {tmp_path} has 1,000 bytes free, .* take up to 32,000,000",
    ):
        check_process_limits(2, TEMPORARY)


def test_all_that_is_too_small_is_told_at_once(shell, monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    shell(files=(64, 64), memory=1_000_000_000, free=0)
    with pytest.raises(InputError) as caught:
        check_process_limits(2, TEMPORARY)
    assert [problem.key for problem in caught.value.problems] == [
        "ulimit -n",
        "ulimit -v",
        "$TMPDIR",
    ]


def test_a_library_that_has_no_room_is_the_limit_s_fault(shell, monkeypatch, capsys):
    def act(args):
        raise ImportError("libtorch_cpu.so: failed to map segment from shared object")

    monkeypatch.setattr("raykd.cli.entry.parse", lambda argv: SimpleNamespace(act=act))
    shell(memory=1_000_000_000)
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("error  ulimit -v: allows 1,000,000,000 bytes")
    shell()
    assert main([]) == 1
    assert "failed to map segment" in capsys.readouterr().err
