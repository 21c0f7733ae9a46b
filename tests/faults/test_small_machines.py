"""Rows of the table of faults about full disks, shared homes and small machines, in short."""

from __future__ import annotations

import pytest

from jobs.faults import SCENARIOS, isolated


@pytest.mark.soak
@pytest.mark.parametrize("row", ["R22", "R23", "R24", "R25", "R26", "R27"])
def test_in_short(row):
    record = isolated(row, SCENARIOS[row], quick=True)
    assert record.passed, record.measured
