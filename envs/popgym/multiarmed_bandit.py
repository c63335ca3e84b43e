"""MultiarmedBandit: find the arm that pays best, then stay with it."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from mru_rl.envs.tensor_env import TensorEnv


class MultiarmedBandit(TensorEnv):
    """Pull one of K arms; each pays with its own probability, drawn anew for every episode.

    obs         int64 [B], 1 if the last pull paid, else 0; which arm that was stands in the previous action only
    action      int64 [B], the arm, 0..K-1
    reward      +1/T if it pays, -1/T if not, T the horizon; |return| <= 1
    horizon     T steps, then truncated; never terminated
    credit      a pull is paid at once, but what it tells is worth something to the episode's end
    reset       probabilities uniform in [0, 1) per env and arm
    variants    Easy (K = 10, T = 200), Medium (20, 400), Hard (30, 600)
    markov      float32 [B, K]: the probabilities
    baselines   at random 0; always the best arm (K - 1) / (K + 1): 0.818, 0.905, 0.935. No return is perfect
    source      popgym MultiarmedBandit 1.0.7. Departures: pulls are drawn with the 24 bits that upstream gives the
                probabilities, not 53: an arm pays exactly as often as its probability says
    """

    chances: Tensor
    paid: Tensor
    position: Tensor

    def __init__(self, *, num_bandits: int, episode_length: int, **common: Any) -> None:
        super().__init__(observation_space=Discrete(2), action_space=Discrete(num_bandits), **common)
        self.markov_space = Box(0, 1, (num_bandits,))
        self.horizon = episode_length
        self.credit_horizon = self.horizon - 1
        self.gain = torch.tensor(1 / self.horizon, device=self.device)
        self.loss = -self.gain
        self.register_state("chances", torch.zeros(self.num_envs, num_bandits, device=self.device))
        self.register_state("paid", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))
        self.register_state("position", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))

    def _reset(self, mask: Tensor) -> None:
        rows = mask.nonzero().squeeze(1)
        self.chances[rows] = torch.rand(len(rows), self.chances.shape[1], generator=self.generator, device=self.device)
        self.paid[rows] = 0
        self.position[rows] = 0

    def _step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pays = self._draw() < self.chances.gather(1, action.unsqueeze(1)).squeeze(1)
        self.paid.copy_(pays)
        self.position += 1
        truncated = self.position >= self.horizon
        return torch.where(pays, self.gain, self.loss), torch.zeros_like(truncated), truncated

    def _observe(self) -> Tensor:
        return self.paid.clone()

    def _markov(self) -> Tensor:
        return self.chances.clone()

    def _draw(self) -> Tensor:
        return torch.rand(self.num_envs, generator=self.generator, device=self.device)
