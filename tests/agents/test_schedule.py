"""The learning rate of a run, and of one that goes on further than it was meant to."""

from __future__ import annotations

import itertools

import pytest

from mru_rl.agents.schedule import BLEND, Schedule


def test_a_linear_schedule_falls_to_zero_and_a_constant_one_stays():
    linear = Schedule("linear", 1e-3, 1000)
    assert [linear.at(steps) for steps in (0, 250, 1000, 2000)] == pytest.approx([1e-3, 7.5e-4, 0, 0])
    assert Schedule("constant", 1e-3, 1000).at(5000) == 1e-3


def test_a_schedule_that_is_not_changed_goes_on_as_it_was():
    schedule = Schedule("linear", 1e-3, 1000)
    assert Schedule("linear", 1e-3, 1000).taken_up(schedule.state_dict(), 400) == schedule


@pytest.mark.parametrize("done", [400, 1000])
@pytest.mark.parametrize("changed", [Schedule("linear", 1e-3, 5000), Schedule("constant", 5e-4, 5000)])
def test_a_changed_schedule_begins_where_the_old_one_was_and_makes_no_jump(changed, done):
    old = Schedule("linear", 1e-3, 1000)
    new = changed.taken_up(old.state_dict(), done)
    assert new.at(done) == pytest.approx(old.at(done), abs=1e-12)
    rates = [new.at(steps) for steps in range(done, 5001)]
    blend = BLEND * (5000 - done)
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) <= 1.1e-3 / blend + 1e-6
    after = int(done + blend) + 1
    assert [new.at(s) for s in (after, 4000)] == pytest.approx([changed.at(s) for s in (after, 4000)])


def test_taking_up_twice_keeps_the_place_where_the_change_began():
    old = Schedule("linear", 1e-3, 1000)
    once = Schedule("linear", 1e-3, 3000).taken_up(old.state_dict(), 1000)
    again = Schedule("linear", 1e-3, 3000).taken_up(once.state_dict(), 1100)
    assert again == once
