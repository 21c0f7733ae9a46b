"""Reaching a cluster, and word from its workers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import ray

from raykd.errors import RaykdError
from raykd.runtime import Mailbox, connect, machine
from raykd.tracking import events


def test_this_machine():
    found = machine()
    assert found.local
    assert 1 <= found.cpus <= os.cpu_count()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_connection_that_is_there_already_is_used_and_kept():
    with connect(None) as resources:
        assert resources.cpus == 6
        assert resources.gpus == 0
    assert ray.is_initialized()


@pytest.mark.slow
@pytest.mark.ray
def test_a_local_cluster_leaves_no_token_behind(tmp_path):
    """Where no mode is set Ray turns token authentication on, and would write one into the home folder."""
    code = (
        "import ray\n"
        "from raykd.runtime import connect\n"
        "with connect(None) as resources:\n"
        "    assert ray.get(ray.remote(lambda: 3).remote(), timeout=60) == 3\n"
        "    print('answers', resources.local, resources.cpus >= 1)\n"
        "assert not ray.is_initialized()\n"
    )
    env = {n: v for n, v in os.environ.items() if not n.startswith("RAY_")}
    env |= {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "answers True True"
    assert not (tmp_path / ".ray" / "auth_token").exists()
    assert "token" not in done.stderr.lower()


def test_no_cluster_at_the_address():
    """In another process, which no connection of this one helps."""
    code = (
        "from raykd.errors import InputError\n"
        "from raykd.runtime import connect\n"
        "for address in ('127.0.0.1:1', 'ray://127.0.0.1:1', '[::1]:1', 'nowhere.invalid:6379'):\n"
        "    try:\n"
        "        with connect(address): pass\n"
        "    except InputError as error: print(error.problems[0].key, 'no Ray cluster answers' in str(error))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines() == ["--address True"] * 4, done.stderr[-2000:]


def message(number):
    return events.message("data", str(number))


def flush_until_it_fails(mailbox):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        mailbox.flush()
        time.sleep(0.05)


@ray.remote(num_cpus=0.1)
def send_and_end(sender, worker, count):
    for number in range(count):
        sender(message(worker * 1000 + number))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestMailbox:
    def test_everything_arrives_and_each_sender_s_events_in_order(self):
        heard = []
        mailbox = Mailbox(heard.append)
        ray.get([send_and_end.remote(mailbox.sender, w, 40) for w in range(3)], timeout=60)
        mailbox.flush()  # the tasks are done, so all of their events are there
        numbers = [int(event.values["text"]) for event in heard]
        assert sorted(numbers) == sorted(w * 1000 + n for w in range(3) for n in range(40))
        for worker in range(3):
            own = [n for n in numbers if n // 1000 == worker]
            assert own == sorted(own)
        mailbox.close()
        assert len(heard) == 120

    def test_events_are_delivered_while_the_driver_is_busy(self):
        heard = []
        mailbox = Mailbox(heard.append)
        mailbox.sender(message(1))
        deadline = time.monotonic() + 10
        while not heard and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [event.values["text"] for event in heard] == ["1"]
        mailbox.close()

    def test_one_event_at_a_time(self):
        inside, most = [0], [0]
        lock = threading.Lock()

        def slow(event):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.005)
            with lock:
                inside[0] -= 1

        mailbox = Mailbox(slow)
        for number in range(40):
            mailbox.sender(message(number))
            if number % 4 == 0:
                mailbox.flush()
        mailbox.close()
        assert most[0] == 1

    @pytest.mark.parametrize("error", [RaykdError("the disk is full"), ZeroDivisionError("odd")])
    def test_what_a_listener_raises_reaches_the_driver(self, error):
        def listener(event):
            raise error

        mailbox = Mailbox(listener)
        mailbox.sender(message(1))
        with pytest.raises(type(error), match=str(error)):
            flush_until_it_fails(mailbox)
        with suppress(
            type(error)
        ):  # said again, unless the driver's own flush was the one to meet it
            mailbox.close()

    def test_closing_delivers_the_rest(self):
        heard = []
        mailbox = Mailbox(heard.append)
        for number in range(50):
            mailbox.sender(message(number))
        mailbox.close()
        assert [int(event.values["text"]) for event in heard] == list(range(50))
