from __future__ import annotations

import numpy as np
import pytest

from mru_rl.agents.report.statistics import Estimate, improvement_probability, iqm, iqm_interval


def test_the_iqm_leaves_out_a_quarter_at_either_end():
    assert iqm([100.0, 2, 3, -50]) == 2.5
    assert iqm([0.0, 1, 2, 3, 4, 5, 6, 700]) == 3.5  # of 2, 3, 4, 5
    assert iqm([0.0, 1, 5]) == 2.0, "a quarter of three is less than one value: their mean"
    assert iqm([[0.0, 1], [5, 100]]) == 3.0, "over all tasks together, not the mean of means"
    assert iqm([[1.0, 3], [5, 7]], axis=0).tolist() == [3.0, 5.0]


def test_two_seeds_have_the_interval_that_can_be_worked_out_by_hand():
    # resamples of (0, 1): both 0, mixed, both 1 with probabilities 1/4, 1/2, 1/4
    assert iqm_interval([[0.0, 1.0]]) == Estimate(0.5, 0.0, 1.0, 2)
    assert iqm_interval([[0.0, 1.0]], level=0.4) == Estimate(0.5, 0.5, 0.5, 2)  # 0.3 and 0.7 lie in the middle half


def test_strata_are_resampled_within_and_never_across():
    # within a task all seeds agree: no resample can differ, though the tasks do
    assert iqm_interval([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]) == Estimate(0.5, 0.5, 0.5, 3)
    pooled = iqm_interval([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])
    assert pooled.low < 0.5 < pooled.high


def test_one_seed_has_no_interval_and_says_so():
    estimate = iqm_interval([[0.25]])
    assert estimate == Estimate(0.25, 0.25, 0.25, 1)
    assert estimate.text() == "0.25 (n = 1)"
    assert iqm_interval([[0.0, 1.0]]).text() == "0.50 [0.00, 1.00]"
    assert iqm_interval([[0.0, 1.0, 2.0], [4.0]]).n == 1, "n is that of the task with fewest seeds"


def test_the_same_arguments_give_the_same_interval_and_another_seed_another():
    scores = [np.random.default_rng(0).normal(size=7).tolist()]
    assert iqm_interval(scores, seed=3) == iqm_interval(scores, seed=3)
    assert iqm_interval(scores, seed=3) != iqm_interval(scores, seed=4)


@pytest.mark.parametrize(
    ("seeds", "least", "most"), [(3, 0.71, 0.79), (5, 0.88, 0.94), (10, 0.91, 0.965), (20, 0.93, 0.97)]
)
def test_intervals_of_one_task_hold_the_truth_as_often_as_the_docstring_says(seeds, least, most):
    rng = np.random.default_rng(1)
    trials = [iqm_interval([rng.normal(size=seeds)], resamples=500) for _ in range(1000)]
    assert least < np.mean([t.low <= 0 <= t.high for t in trials]) < most


def test_intervals_of_several_tasks_hold_the_truth_and_are_narrower_than_without_strata():
    rng, means = np.random.default_rng(2), np.array([[0.0], [1.0], [4.0], [9.0]])
    truth = iqm(rng.normal(size=(4, 100_000)) + means)
    scores = [rng.normal(size=(4, 12)) + means for _ in range(500)]
    trials = [iqm_interval(s, resamples=500) for s in scores]
    assert np.mean([t.low <= truth <= t.high for t in trials]) > 0.9
    pooled = [iqm_interval([s.ravel()], resamples=500) for s in scores]
    assert np.mean([t.high - t.low for t in trials]) < 0.5 * np.mean([t.high - t.low for t in pooled])


def test_the_probability_of_improvement_counts_pairs_and_half_of_ties():
    assert improvement_probability([[2.0, 3.0]], [[1.0, 2.0]]) == (1 + 0.5 + 1 + 1) / 4
    assert improvement_probability([[1.0], [0.0]], [[0.0], [1.0]]) == 0.5, "tasks count alike"
    with pytest.raises(ValueError, match="same tasks, got 1 and 2"):
        improvement_probability([[1.0]], [[1.0], [2.0]])


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "none of them empty"),
        ([[]], "none of them empty"),
        ([1.0, 2.0], "one list per task"),
        ([[float("nan")]], "NaN"),
    ],
)
def test_scores_that_say_nothing_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        iqm_interval(scores)
