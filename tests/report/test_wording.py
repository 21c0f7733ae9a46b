import pytest

from raykd.report.wording import (
    compact,
    count,
    duration,
    milliseconds,
    number,
    percent,
    points,
    sure,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (950, "950"),
        (999.6, "1.00 k"),
        (23_400, "23.4 k"),
        (999_600, "1.00 M"),
        (4.1e9, "4.10 G"),
        (2e12, "2.00 T"),
    ],
)
def test_count(value, text):
    assert count(value) == text


def test_signs():
    assert points(0.0213) == "+2.13"
    assert points(-0.004) == "−0.40"
    assert points(-0.00001) == "0.00"
    assert points(-0.02, signed=False) == "2.00"
    assert points(-0.00001, signed=False) == "0.00"
    assert percent(-0.5) == "−50.0 %"
    assert percent(None) == "–"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (59.6, "1 min 00 s"), (192, "3 min 12 s"), (7500, "2 h 05 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_milliseconds():
    assert [milliseconds(value) for value in (0.0051, 0.2149, 12.34, 123.4, 12_300)] == [
        "5.10 µs",
        "0.21 ms",
        "12.3 ms",
        "123 ms",
        "12.3 s",
    ]


def test_few_replicas_are_never_sure():
    assert sure("better", 5) == "surely better"
    assert sure("better", 2) == "probably better (by 2 replicas only)"


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (percent(-0.0001), "0.0 %"),
        (number(-1e-5), "0.000"),
        (number(-0.0), "0.000"),
        (count(-0.2), "0"),
        (compact(-0.0), "0"),
        (milliseconds(-0.0), "0.00 µs"),
    ],
)
def test_zero_has_no_sign(shown, text):
    """At 7d0af11: "−0.0 %" and "−0.000"."""
    assert shown == text
