"""What a board keeps, whom it waits for, and what is gone for ever; without Ray."""

from __future__ import annotations

import asyncio

import pytest

from raykd.runtime import board as boards


@pytest.fixture
def board(monkeypatch):
    monkeypatch.setattr(boards.ray, "put", lambda payload: payload)
    return boards._Board()


def test_what_all_have_left_is_taken(board):
    async def use():
        await board.put("a", 3, b"a3")
        await board.put("b", 3, b"b3")
        return await board.take(["b", "a"], 3, 0.0)

    assert asyncio.run(use()) == ([b"b3", b"a3"], None)


def test_only_who_is_at_work_is_waited_for(board):
    async def use():
        absent = await board.take(["a"], 3, 60.0)
        await board.enter("a")
        waiting = asyncio.ensure_future(board.take(["a"], 3, 60.0))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await board.put("a", 3, b"a3")
        found = await waiting
        left = asyncio.ensure_future(board.take(["a"], 6, 60.0))
        await asyncio.sleep(0.05)
        await board.leave("a")
        return absent, found, await left

    assert asyncio.run(use()) == ((None, None), ([b"a3"], None), (None, None))


def test_nobody_is_waited_for_longer_than_asked(board):
    async def use():
        await board.enter("a")
        return await board.take(["a"], 3, 0.0)

    assert asyncio.run(use()) == (None, None)


def test_the_last_two_are_kept_and_older_ones_are_gone(board):
    async def use():
        for step in (3, 6, 9):
            await board.put("a", step, b"%d" % step)
        return [await board.take(["a"], step, 0.0) for step in (3, 6, 9, 12)]

    assert asyncio.run(use()) == [(None, "a"), ([b"6"], None), ([b"9"], None), (None, None)]


def test_what_is_left_again_stays_as_it_was(board):
    async def use():
        await board.put("a", 3, b"first")
        await board.put("a", 3, b"second")
        return await board.take(["a"], 3, 0.0)

    assert asyncio.run(use()) == ([b"first"], None)
