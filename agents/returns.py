"""Advantages and targets: pure functions of rollouts and sequences."""

from __future__ import annotations

from typing import Any

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


class ReturnSize:
    """Size of returns, as seen so far.

    size        root mean square of the discounted sums of rewards so far in an episode, sum_k gamma^k reward[t-k], over the
                steps where that is not 0: the scale of rewards of Engstrom et al. 2020, arXiv:2005.12729, section 2, but about
                0. The last hundred rollouts count, older ones less and less. 0 before anything was earned
    is_usual    whether the returns of episodes, as their env counts them, are of a size that a critic learns well as it is
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self._running: Tensor | None = None
        """Discounted and plain sums of the running episodes, [B, 1] each."""
        self._square, self._rollouts = 0.0, 0
        self._largest = 0.0

    @property
    def size(self) -> float:
        return self._square**0.5

    @property
    def is_usual(self) -> bool:
        return _LEAST_USUAL <= self._largest <= _MOST_USUAL

    def observe(self, reward: Tensor, done: Tensor) -> None:
        """Count in a rollout's rewards and ends of episodes, [B, T] each; the same rows as the last time go on."""
        if self._running is None or self._running.shape[1] != len(reward):
            self._running = reward.new_zeros(2, len(reward), 1)
        discounted, plain = (
            self._sums(reward, done, self._running[i], gamma) for i, gamma in enumerate((self.gamma, 1.0))
        )
        self._running = torch.stack((discounted, plain))[:, :, -1:] * ~done[:, -1:]
        earned = discounted[discounted != 0].double()
        if len(earned):
            self._rollouts = min(self._rollouts + 1, _REMEMBERED)
            self._square += (earned.square().mean().item() - self._square) / self._rollouts
            ends = plain[done] if done.any() else plain[:, -1]
            self._largest = max(self._largest, ends.double().square().mean().sqrt().item())

    def _sums(self, reward: Tensor, done: Tensor, running: Tensor, gamma: float) -> Tensor:
        begins = torch.cat((torch.zeros_like(done[:, :1]), done[:, :-1]), dim=1)
        decay = gamma * (~begins).to(reward.dtype).unsqueeze(-1)
        sums, _ = linear_scan(decay, reward.unsqueeze(-1), running, torch.zeros_like(done))
        return sums.squeeze(-1)

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, f"_{name}") for name in ("running", "square", "rollouts", "largest")}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        for name in ("running", "square", "rollouts", "largest"):
            setattr(self, f"_{name}", saved[name])


_LEAST_USUAL, _MOST_USUAL = 0.05, 2.0
_REMEMBERED = 100


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
