"""Work beside what goes on: its result, its error, and an end that waits for nobody."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from raykd.background import beside


def test_the_result_and_the_error_of_the_work():
    begun = threading.Event()

    def work():
        assert begun.wait(60)
        return 3

    with beside(work, "test") as going:
        begun.set()
        assert going.result() == going.result() == 3
    with pytest.raises(ZeroDivisionError), beside(lambda: 1 / 0, "test"):
        pass


def test_an_error_of_the_block_does_not_wait_for_the_work():
    """A thread of `concurrent.futures` would be waited for, at the block's end and at the process's."""
    code = (
        "import time\nfrom raykd.background import beside\n"
        "with beside(lambda: time.sleep(600), 'test'):\n    raise KeyboardInterrupt\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=60, capture_output=True, check=False
    )
    assert b"KeyboardInterrupt" in done.stderr
