from __future__ import annotations

import torch

from mru_rl.agents.ppo.trainer import clipped_policy_loss
from mru_rl.agents.returns import gae


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values])


def flags(*values: int) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.bool)


def test_gae_bootstraps_through_truncation_but_not_termination():
    advantage = gae(
        row(3, 0, 2), row(0, 0, 0), row(0, 4, 8), flags(0, 0, 1), flags(0, 1, 1), gamma=0.5, lam=1.0
    )  # fmt: skip
    assert advantage.tolist() == [[4.0, 2.0, 2.0]]  # [3, 0, 2] or [4.5, 3, 2] would be the two classic slips


def test_gae_with_lambda_zero_is_the_one_step_error_and_with_one_the_discounted_return():
    reward, value, next_value = row(1, 1, 1), row(2, 3, 4), row(3, 4, 5)
    never = flags(0, 0, 0)
    one_step = gae(reward, value, next_value, never, never, gamma=0.5, lam=0.0)
    assert one_step.tolist() == [[0.5, 0.0, -0.5]]
    whole = gae(reward, value, next_value, never, never, gamma=0.5, lam=1.0)
    returns = [1 + 0.5 * (1 + 0.5 * (1 + 0.5 * 5)), 1 + 0.5 * (1 + 0.5 * 5), 1 + 0.5 * 5]
    torch.testing.assert_close(whole, row(*returns) - value)


def test_gae_equals_the_definition_written_as_a_loop():
    shape = (3, 17)
    reward, value, next_value = torch.randn(3, *shape)
    terminated = torch.rand(shape) < 0.1
    done = terminated | (torch.rand(shape) < 0.1)
    want, later = torch.zeros(shape), torch.zeros(3)
    for t in reversed(range(17)):
        delta = reward[:, t] + 0.9 * next_value[:, t] * (~terminated[:, t]) - value[:, t]
        later = delta + 0.9 * 0.8 * (~done[:, t]) * later
        want[:, t] = later
    torch.testing.assert_close(gae(reward, value, next_value, terminated, done, gamma=0.9, lam=0.8), want)


def test_the_clipped_loss_stops_the_gradient_where_the_ratio_has_moved_far_enough():
    log_ratio = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5, 1.0])).requires_grad_()
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    loss = clipped_policy_loss(log_ratio, advantage, clip=0.2)
    torch.testing.assert_close(loss, -torch.tensor([1.2, -1.5, 0.5, -0.8, 2.0]).mean())
    loss.backward()
    assert (log_ratio.grad != 0).tolist() == [False, True, True, False, True]
