"""Advantages and targets: pure functions of rollouts and sequences."""

from __future__ import annotations

import torch
from torch import Tensor

from mru_rl.scan.dispatch import linear_scan


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    gamma: float,
    lam: float,
) -> Tensor:
    """Generalised advantage estimation per step, Schulman et al. 2016, arXiv:1506.02438.

    All inputs [B, T]; next_value[:, t] values the obs that action t led to, before any reset. terminated stops the
    bootstrap; done (terminated or truncated) stops the sum. With delta[t] = reward[t] + gamma next_value[t] - value[t]
    the advantage is delta[t] + gamma lam advantage[t+1]: the same scan as the memory's, run backwards.
    """
    delta = reward + gamma * next_value * ~terminated - value
    decay = gamma * lam * (~done).to(delta.dtype)
    start = delta.new_zeros(delta.shape[0], 1)
    never = done.new_zeros(done.shape)
    backwards, _ = linear_scan(decay.flip(1).unsqueeze(-1), delta.flip(1).unsqueeze(-1), start, never)
    return backwards.squeeze(-1).flip(1)


def n_step_return(reward: Tensor, next_value: Tensor, terminated: Tensor, *, gamma: float, n: int) -> Tensor:
    """sum_{k < m} gamma^k reward[t+k] + gamma^m next_value[t+m-1], m = min(n, T - t), for windows within one episode.

    reward, next_value: [N, T]; next_value[:, t] values what the action of step t led to. terminated: bool [N], the
    episode ended with the last step, which then is worth its reward alone. The last steps look ahead less than n.
    """
    steps = reward.shape[1]
    next_value = next_value.clone()
    next_value[:, -1] *= ~terminated
    total = torch.zeros_like(reward)
    for k in reversed(range(n)):  # Horner's rule over the rewards, those past the end counted as none
        ahead = torch.zeros_like(reward)
        ahead[:, : max(steps - k, 0)] = reward[:, k:]
        total = ahead + gamma * total
    looked = (steps - torch.arange(steps, device=reward.device)).clamp(max=n)
    return total + gamma**looked * next_value[:, torch.arange(steps, device=reward.device) + looked - 1]
