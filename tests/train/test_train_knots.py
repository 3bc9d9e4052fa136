"""A schedule by knots is exponential between them."""

import pytest

from minicpm.train.nano.recipe import Recipe
from minicpm.train.schedule import WSD, Knots


def test_knots_are_met_and_joined_exponentially():
    schedule = Knots(((0, 0.01), (10, 1.0), (20, 1.0), (30, 0.25)))
    assert [schedule.factor(step) for step in (0, 10, 15, 20)] == pytest.approx([0.01, 1, 1, 1])
    assert schedule.factor(25) == pytest.approx(0.5)
    assert schedule.steps == 30


def test_a_plain_decay_equals_the_one_of_wsd():
    wsd = WSD(warmup=1, stable=10, decay=20, floor=0.1)
    knots = Knots(((0, 1.0), (9, 1.0), (29, 0.1)))
    assert [knots.factor(s) for s in range(9, 30)] == pytest.approx([wsd.factor(s) for s in range(9, 30)])


def test_stages_of_no_steps_leave_a_schedule_that_can_be_followed():
    schedule = Recipe(stable=5, recall=0, decay=1, long=0, chat=0, warmup=1).schedule
    assert schedule.steps == 6
    assert all(0 < schedule.factor(step) <= 1 for step in range(6))


def test_the_recipe_is_full_then_falls_and_pauses():
    recipe = Recipe()
    schedule, ends = recipe.schedule, [end for end, _ in recipe.stages()]
    assert schedule.factor(recipe.warmup) == schedule.factor(ends[0]) == 1.0
    assert schedule.factor(ends[2]) == pytest.approx(0.15)
    assert schedule.factor(ends[3] - 1) == pytest.approx(0.15)
    assert schedule.factor(ends[4]) == pytest.approx(0.01)
