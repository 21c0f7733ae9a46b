"""SIGTERM and SIGHUP: a word, a prompt end, an exit code that names the signal; what is ignored stays so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raykd.cli import ending, submitting

_ROOT = Path(__file__).parents[2]
_PROGRAM = """
import hashlib, sys, time
from raykd.cli import ending
from raykd.cli.ending import ends_at_signals
ending._GRACE_S = SECONDS
with ends_at_signals(lambda: print("how to go on", flush=True)):
    try:
        print("begun", flush=True)
        BODY
    END
print("after it")
"""
_WAITS = "time.sleep(60)"
_WORKS_IN_C = 'hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)'
_CLEARS = 'finally: print("cleared away")'
_IS_SLOW = "finally: time.sleep(60)"
_FAILS = "except KeyboardInterrupt: raise RuntimeError('the cluster is gone') from None"


def _sent(
    body: str, end: str, number: int, *before: str, grace_s: float = 60.0
) -> tuple[int, str, str]:
    """Exit status and output of a program that is sent a signal."""
    program = _PROGRAM.replace("BODY", body).replace("END", end).replace("SECONDS", str(grace_s))
    process = subprocess.Popen(
        [*before, sys.executable, "-c", program],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.5)  # until it is in its body
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("body", "end", "grace_s", "out"),
    [
        (_WAITS, _CLEARS, 60.0, "cleared away\nhow to go on\n"),
        (_WORKS_IN_C, _CLEARS, 0.3, "how to go on\n"),
        (_WAITS, _IS_SLOW, 0.3, "how to go on\n"),
        (_WAITS, _FAILS, 60.0, "how to go on\n"),
    ],
    ids=["in Python", "in C", "slow to end", "raises something else"],
)
def test_sigterm_ends_the_process_wherever_it_is(body, end, grace_s, out):
    assert _sent(body, end, signal.SIGTERM, grace_s=grace_s) == (143, out, "")


def test_sighup_ends_it_unless_it_is_ignored():
    assert _sent(_WAITS, _CLEARS, signal.SIGHUP)[0] == 129
    code, out, _ = _sent("time.sleep(1)", _CLEARS, signal.SIGHUP, "nohup")
    assert (code, out) == (0, "cleared away\nafter it\n")


def test_it_ends_though_nobody_reads_what_it_says():
    body = 'print("x" * 10**6)'  # more than a pipe holds
    program = _PROGRAM.replace("BODY", body).replace("END", _CLEARS).replace("SECONDS", "0.3")
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143


def test_handlers_are_as_before_after_a_command(call):
    names = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(name) for name in names]
    assert call("recipes").code == 0
    assert [signal.getsignal(name) for name in names] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_leaves_a_submitted_job_alone(monkeypatch, capsys):
    """Ctrl-C stops it; a closed terminal is no reason to."""

    class Follower:
        def follow(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(submitting, "signalled", lambda: True)
    with pytest.raises(KeyboardInterrupt):
        submitting._follow(None, "job-1", Follower())
    assert "job job-1 goes on" in capsys.readouterr().err
    assert not ending.signalled()
