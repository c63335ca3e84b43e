"""Advantages and targets: pure functions of a rollout."""

from __future__ import annotations

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
