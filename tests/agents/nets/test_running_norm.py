import copy

import pytest
import torch

from mru_rl.agents.nets.running_norm import RunningNorm, is_usual


def normal(rows, columns=3, seed=0):
    return 50 + 7 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_nothing_changes_until_a_column_is_switched_on():
    norm, x = RunningNorm(3), normal(20)
    norm.observe(x)
    assert norm(x) is x
    norm.switch_on(torch.tensor([False, True, False]))
    assert torch.equal(norm(x)[:, [0, 2]], x[:, [0, 2]])
    assert not torch.equal(norm(x)[:, 1], x[:, 1])


def test_numbers_come_out_with_mean_zero_and_deviation_one():
    norm, x = RunningNorm(3), normal(5000)
    norm.observe(x)
    norm.switch_on(torch.ones(3, dtype=torch.bool))
    y = norm(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    assert norm(1e9 * x).max() == 10


@pytest.mark.parametrize("cuts", [[1, 99], [50, 50], [7, 13, 80]])
def test_parts_seen_one_after_the_other_count_as_all_seen_at_once(cuts):
    whole, parts, x = RunningNorm(3), RunningNorm(3), normal(100)
    whole.observe(x)
    for part in x.split(cuts):
        parts.observe(part.reshape(1, -1, 3))
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.deviation(), whole.deviation(), rtol=1e-12, atol=0)
    torch.testing.assert_close(whole.deviation(), x.double().std(0, correction=0))


def test_a_column_that_never_moves_becomes_zero_also_when_it_is_large():
    norm, x = RunningNorm(3), normal(100)
    x[:, 1] = 1e6
    norm.observe(x)
    norm.switch_on(torch.ones(3, dtype=torch.bool))
    assert (norm(x)[:, 1] == 0).all()


def test_a_copy_and_a_loaded_state_give_the_same_numbers():
    norm, x = RunningNorm(3), normal(100)
    norm.observe(x)
    norm.switch_on(torch.tensor([True, False, True]))
    loaded = RunningNorm(3)
    loaded.load_state_dict(norm.state_dict())
    assert torch.equal(loaded(x), norm(x))
    assert torch.equal(copy.deepcopy(norm)(x), norm(x))


def test_usual_sizes_are_those_a_network_takes_as_they_are():
    assert [is_usual(size) for size in (0.0, 0.01, 0.2, 1.0, 5.0, 8.0, 255.0, float("inf"))] == [
        True,
        False,
        True,
        True,
        True,
        False,
        False,
        False,
    ]
