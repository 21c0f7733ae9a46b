"""Relational losses on two workers: the mean of the workers' values is that of one big batch."""

from __future__ import annotations

from threading import Barrier, Thread

import pytest
import torch

from raykd.losses import LOSSES
from raykd.methods import LOSS_ROWS

SCOPED = [name for name, info in LOSS_ROWS.items() if info.scope]


class TwoWorkers:
    """An autograd-aware all-gather between threads, in order of rank."""

    def __init__(self):
        self.slots = [None, None]
        self.barrier = Barrier(2, timeout=20)
        self.calls = [0, 0]

    def of(self, rank):
        def gather(rows):
            self.slots[rank] = rows
            self.calls[rank] += 1
            self.barrier.wait()
            everything = torch.cat(self.slots)
            self.barrier.wait()
            return everything

        return gather

    def run(self, function):
        results = [None, None]

        def work(rank):
            results[rank] = function(rank, self.of(rank))

        threads = [Thread(target=work, args=(rank,)) for rank in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert self.calls[0] == self.calls[1], "a collective was called by one worker only"
        return results


@pytest.mark.parametrize("name", SCOPED)
@pytest.mark.parametrize("split", [4, 3])
def test_two_workers_equal_one_big_batch(name, split):
    torch.manual_seed(0)
    student = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(8, 5, dtype=torch.float64)
    teacher[6] = teacher[1]
    parts = [slice(0, split), slice(split, 8)]
    big_N = LOSSES[name](student, teacher)
    (big_gradient,) = torch.autograd.grad(big_N.mean(), student)

    local_N = TwoWorkers().run(
        lambda rank, gather: LOSSES[name](student[parts[rank]], teacher[parts[rank]], gather=gather)
    )
    both_N = torch.cat(local_N)
    (gradient,) = torch.autograd.grad(both_N.mean(), student)
    torch.testing.assert_close(both_N, big_N, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, big_gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCOPED)
def test_without_gather_the_parts_differ_from_the_whole(name):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 8, 5, dtype=torch.float64)
    parts = torch.cat([LOSSES[name](student[p], teacher[p]) for p in (slice(0, 4), slice(4, 8))])
    assert abs(parts.mean() - LOSSES[name](student, teacher).mean()) > 1e-6
