"""The learning rate rises, stays, and falls to its floor."""

import pytest

from minicpm.train.schedule import WSD


def test_factor_rises_linearly_through_the_warm_up():
    schedule = WSD(warmup=4, stable=10, decay=5)
    assert [schedule.factor(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_factor_stays_until_the_decay_and_ends_at_the_floor():
    schedule = WSD(warmup=4, stable=10, decay=5, floor=0.03)
    assert schedule.factor(9) == 1.0
    assert schedule.factor(10) < 1.0
    assert schedule.factor(schedule.steps - 1) == pytest.approx(0.03)


def test_decay_is_exponential():
    schedule = WSD(warmup=1, stable=1, decay=4, floor=0.0625)
    falls = [schedule.factor(step) / schedule.factor(step - 1) for step in range(1, 5)]
    assert falls == pytest.approx([0.5] * 4)


def test_without_a_decay_the_last_step_is_still_stable():
    schedule = WSD(warmup=2, stable=6, decay=0)
    assert schedule.factor(schedule.steps - 1) == 1.0
