"""Bits per byte, token accuracy and perplexity from sums."""

from __future__ import annotations

import math

import pytest
import torch

from raykd.evaluate.likelihood import likelihood_metrics, likelihood_sums

LOGS = torch.tensor([0.5, 0.25, 0.125, 0.5]).log()
HITS = torch.tensor([True, False, False, True])
BYTES = torch.tensor([1, 2, 0, 4])
DOMAINS = torch.tensor([0, 1, 1, 0])


def test_known_numbers():
    sums = likelihood_sums(LOGS, HITS, BYTES, DOMAINS, domains=2)
    found = likelihood_metrics(sums, ["jokes", "terms"])
    assert found == pytest.approx(
        {
            "bits_per_byte.jokes": 2 / 5,
            "bits_per_byte.terms": 5 / 2,
            "bits_per_byte": (2 / 5 + 5 / 2) / 2,
            "token_accuracy": 0.5,
            "perplexity": 2 ** (7 / 4),
        }
    )
    assert likelihood_metrics(likelihood_sums(LOGS, HITS, BYTES)) == pytest.approx(
        {"bits_per_byte": 1.0, "token_accuracy": 0.5, "perplexity": 2 ** (7 / 4)}
    )


def test_batches_add_up():
    whole = likelihood_sums(LOGS, HITS, BYTES, DOMAINS, domains=2)
    parts = [
        likelihood_sums(LOGS[some], HITS[some], BYTES[some], DOMAINS[some], domains=2)
        for some in ([2, 0], [3], [], [1])
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_a_domain_without_bytes_has_no_number_and_none_at_all_is_refused():
    sums = likelihood_sums(LOGS, HITS, BYTES, DOMAINS, domains=3)
    found = likelihood_metrics(sums, ["a", "b", "c"])
    assert "bits_per_byte.c" not in found
    assert found["bits_per_byte"] == pytest.approx(1.45)
    with pytest.raises(ValueError, match="nothing to measure"):
        likelihood_metrics(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="2 names of 3 domains"):
        likelihood_metrics(sums, ["a", "b"])
    with pytest.raises(ValueError, match="bytes have shape"):
        likelihood_sums(LOGS, HITS, BYTES[:2])


def test_a_token_of_probability_zero_is_a_number_too():
    found = likelihood_metrics(likelihood_sums(torch.tensor([-torch.inf]), HITS[:1], BYTES[:1]))
    assert found["bits_per_byte"] == math.inf
    assert found["perplexity"] == pytest.approx(torch.finfo(torch.float64).max)
