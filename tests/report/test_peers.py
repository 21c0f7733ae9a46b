"""Peers as a table, in words, and in a picture of how alike they became."""

from __future__ import annotations

import pytest

from raykd.report.folder import RunData
from raykd.report.peer_figures import diversity
from raykd.report.peers import peer_cells, peers
from raykd.report.style import styled

pytestmark = pytest.mark.figures


def spread(*values):
    mean = sum(values) / len(values)
    return {
        "mean": mean,
        "std": 0.01 if len(values) > 1 else None,
        "n": len(values),
        "values": list(values),
    }


def numbers(*values):
    return {"accuracy": spread(*values), "nll": spread(*values)}


@pytest.fixture
def run():
    each = {"peer0": numbers(0.8, 0.9), "peer1": numbers(0.7, 0.9)}
    split = {
        "each": each,
        "ensemble": numbers(0.9, 0.92),
        "agreement": spread(0.75, 0.85),
        "jsd_nats": spread(0.1, 0.3),
    }
    summary = {"task": "classification",
               "peers": {"type": "dml", "count": 2, "validation": split, "test": split}}  # fmt: skip
    epochs = {
        f"student/replica{r}": [
            {
                "epoch": e,
                "train_loss": 1.0,
                "peers": {"agreement": 0.5 + 0.1 * e, "jsd_nats": 0.3 - 0.1 * e},
            }
            for e in (1, 2, 3)
        ]
        for r in range(2)
    }
    return RunData(name="run", summary=summary, config={}, epochs=epochs, events=(), cards={}, evaluation=None)  # fmt: skip


def test_every_peer_and_their_ensemble_have_a_row(run):
    table = peers(run)
    assert [row[0] for row in table.rows] == ["student (peer0)", "peer1", "their ensemble"]
    assert table.rows[1][1:] == ("80.0 % ± 1.0", "80.0 % ± 1.0")
    assert "Deep mutual learning of 2 networks" in table.note
    assert "answer alike on 80.0 % of the samples" in table.note
    assert "0.200 nats" in table.note
    assert [cells["network"] for cells in peer_cells(run.summary)][-1] == "their ensemble"


def test_without_labels_the_cells_are_empty(run):
    for split in ("validation", "test"):
        run.summary["peers"][split] = {**run.summary["peers"][split], "ensemble": None}
    assert peers(run).rows[-1] == ("their ensemble", "–", "–")


def test_a_run_without_peers_has_none(run):
    run.summary.pop("peers")
    assert peers(run) is None
    assert peer_cells(run.summary) == []
    for records in run.epochs.values():
        for record in records:
            record.pop("peers")
    with styled():
        assert diversity(run) is None


def test_the_picture_shows_agreement_and_divergence(run):
    with styled():
        found = diversity(run)
    assert found.png.startswith(b"\x89PNG")
    assert "two peers answer alike" in found.svg
    assert "divergence of all peers" in found.svg
