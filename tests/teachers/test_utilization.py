"""How busy teachers are, and the advice that follows from it: arithmetic, no Ray."""

from __future__ import annotations

import pytest

from raykd.teachers.utilization import (
    WIDTH,
    TeacherLoad,
    Utilization,
    advise_replicas,
    describe,
    utilization_of,
)

EPOCH = {"teacher_wait_fraction": 0.5, "student_s_per_step": 0.01}


def test_a_load_is_counted_anew_once_it_is_taken():
    load = TeacherLoad(requests=2, samples=64, asked=3)
    assert load.take() == [2, 64, 0, 0, 3, 0, 1, 0, 0, 0]
    assert load.take() == [0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert WIDTH == 10


def test_what_an_epoch_tells_of_two_teachers():
    wide = TeacherLoad(
        requests=10,
        samples=320,
        size_bytes=6400,
        busy_s=4.0,
        asked=10,
        queued=15,
        places=640,
        wait_s=3.0,
    )
    conv = TeacherLoad(
        requests=10,
        samples=320,
        size_bytes=640,
        busy_s=1.0,
        asked=12,
        queued=0,
        places=320,
        failures=2,
    )
    values = describe([*wide.take(), *conv.take()], {"wide": 2, "conv": 1}, seconds=5.0)
    assert values == {
        "teacher_busy_fraction": {"wide": 0.4, "conv": 0.2},
        "teacher_queue": {"wide": 1.5, "conv": 0.0},
        "teacher_samples_per_s": {"wide": 64.0, "conv": 64.0},
        "teacher_bytes_per_sample": {"wide": 20.0, "conv": 2.0},
        "teacher_work_s_per_step": {"wide": 0.4, "conv": 0.1},
        "teacher_batch_fill": {"wide": 0.5, "conv": 1.0},
        "teacher_wait_s_per_step": {"wide": 0.3, "conv": 0.0},
        "teacher_failures": {"wide": 0.0, "conv": 2.0},
    }


def test_the_loads_of_two_workers_add_up():
    one = TeacherLoad(requests=10, samples=160, busy_s=1.0, asked=10, queued=10).take()
    other = TeacherLoad(requests=10, samples=150, busy_s=2.0, asked=10, queued=30).take()
    values = describe([a + b for a, b in zip(one, other, strict=True)], {"wide": 1}, seconds=4.0)
    assert values["teacher_busy_fraction"]["wide"] == 0.75
    assert values["teacher_queue"]["wide"] == 4.0, "1 of one worker and 3 of the other"
    assert values["teacher_work_s_per_step"]["wide"] == pytest.approx(0.3), "10 steps of both"


def test_nothing_asked_is_nothing_done():
    assert set(describe(TeacherLoad().take(), {"wide": 1}, 0.0)["teacher_queue"].values()) == {0.0}


@pytest.mark.parametrize(
    ("work", "replicas", "student", "wanted"),
    [(0.017, 1, 0.010, 2), (0.100, 1, 0.010, 10), (0.100, 4, 0.010, 10), (0.0106, 1, 0.008, 2)],
)
def test_the_advice_keeps_its_promise(work, replicas, student, wanted):
    wait = 1 - student / (work / replicas)
    said = advise_replicas(
        Utilization({"wide": work, "conv": 0.001}, student, wait), {"wide": replicas, "conv": 1}
    )
    assert said is not None
    assert "teacher `wide` is the bottleneck" in said
    assert f": {wanted} replicas would bring the wait from {100 * wait:.0f} % to under 5 %" in said
    assert 1 - student / max(student, work / wanted) < 0.05
    assert wanted - 1 == replicas or 1 - student / (work / (wanted - 1)) >= 0.05, (
        "no more than needed"
    )


def test_a_second_teacher_that_would_be_the_next_bottleneck_is_named():
    said = advise_replicas(
        Utilization({"wide": 0.04, "conv": 0.018}, 0.01, 0.75), {"wide": 1, "conv": 1}
    )
    assert said is not None
    assert "4 replicas, and 2 of `conv`, would bring" in said


def test_no_advice_where_the_wait_is_short():
    assert advise_replicas(Utilization({"wide": 0.01}, 0.01, 0.09), {"wide": 1}) is None
    assert advise_replicas(Utilization({}, 0.01, 0.5), {}) is None


def test_replicas_are_not_promised_to_help_where_teachers_are_idle():
    said = advise_replicas(Utilization({"wide": 0.002}, 0.01, 0.5), {"wide": 1})
    assert said is not None
    assert "more replicas would not help" in said
    assert "targets.depth" in said


def test_the_pace_leaves_out_first_epochs_and_fits_that_ask_fewer_teachers():
    def line(epoch, **work):
        return {**EPOCH, "epoch": epoch, "teacher_work_s_per_step": work}

    lines = [
        line(1, wide=9.0, conv=9.0),
        line(2, wide=0.02, conv=0.04),
        line(3, wide=0.04, conv=0.04),
        line(2, wide=7.0),
        {"epoch": 2, "teacher_wait_fraction": 0.0},
    ]
    pace = utilization_of(lines)
    assert pace is not None
    assert pace.work_s == {"wide": pytest.approx(0.03), "conv": pytest.approx(0.04)}
    assert (pace.student_s, pace.wait) == (0.01, 0.5)
    assert utilization_of(lines[:1]).work_s == {"wide": 9.0, "conv": 9.0}
    assert utilization_of([]) is None
