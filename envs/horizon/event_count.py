"""EventCount: count rare pulses, round and round."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor

from mru_rl.envs.base import check_count
from mru_rl.envs.horizon.options import check_gap, check_noise
from mru_rl.envs.horizon.scripted import Lead, Scene, ScriptedEnv, spread


class EventCount(ScriptedEnv):
    """Report the number of pulses so far modulo m, at every step.

    obs         float32 [B, 2]: 1 where there is a pulse, else 0; noise, uniform in [-noise, noise], drawn anew at every
                step
    action      int64 [B], the number of pulses in this episode, one at this step included, modulo m
    reward      +1/length right, -1/length wrong, at every step; |return| <= 1
    horizon     length steps, then terminated; never truncated
    reset       the count starts at 0; at every step, the first included, there is a pulse with probability 1 / gap
    options     modulus (m >= 2, default 4), gap (mean steps between two pulses, >= 1, default 10), length (>= 2,
                default 100), noise (>= 0, default 1.0; 0 switches the channel off)
    markov      int64 [B, 1]: the count
    baselines   perfect 1. Without memory 2 max_a S(a) / length - 1, S(a) the mean number of steps at which the pulses
                before the step count up to a (modulo m): the best answer is that a, plus one at a pulse. With
                p = 1 / gap and w = exp(2 pi i / m)

                    S(a) = 1/m sum_j w^(-ja) sum_{t < length} (1 - p + p w^j)^t

                which tends to 2 / m - 1 in long episodes. Success is a return of at least 0.9
    source      this project. State per env is O(1) in length
    """

    success_return = 0.9
    pulse: Tensor
    count: Tensor
    noise: Tensor

    def __init__(
        self, *, modulus: int = 4, gap: float = 10.0, length: int = 100, noise: float = 1.0, **common: Any
    ) -> None:
        self.modulus = check_count(modulus, name="EventCount's option modulus", least=2)
        self.gap = check_gap(gap, name="EventCount's option gap", least=1)
        self.length = check_count(length, name="EventCount's option length", least=2)
        self.noise_width = check_noise(noise, task="EventCount")
        high = np.array([1, self.noise_width], dtype=np.float32)
        low = np.array([0, -self.noise_width], dtype=np.float32)
        options = {"modulus": self.modulus, "gap": self.gap, "length": self.length, "noise": self.noise_width}
        actions = Discrete(self.modulus)
        super().__init__(observation_space=Box(low, high), action_space=actions, options=options, **common)
        self.markov_space = MultiDiscrete([self.modulus])
        self.horizon = self.length
        self.set_pay(1 / self.length, -1 / self.length)
        stay = steps_at(1 / self.gap, self.modulus, self.length)
        self.best_guess = int(stay.argmax())
        """What to answer without memory where there is no pulse."""
        self.perfect_return, self.memoryless_return = 1.0, 2 * float(stay.max()) / self.length - 1
        self.register_moving("pulse", torch.zeros(self.num_envs, dtype=torch.bool, device=self.device))
        self.register_moving("count", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))
        self.register_moving("noise", torch.zeros(self.num_envs, device=self.device))

    def _reset(self, mask: Tensor) -> None:
        rows = mask.nonzero().squeeze(1)
        unit = self._uniform_rows(len(rows), 2)
        self.pulse[rows] = unit[:, 0] < 1 / self.gap
        self.count[rows] = self.pulse[rows].long()
        self.noise[rows] = spread(unit[:, 1], self.noise_width)
        self.position[rows] = 0

    def _ahead(self, lead: Lead) -> Scene:
        unit = self._uniform(lead, 2)
        pulse = unit[..., 0] < 1 / self.gap
        count = (self.count + (pulse.cumsum(0) if lead else pulse)) % self.modulus
        noise = spread(unit[..., 1], self.noise_width)
        return {"position": self._positions(lead), "pulse": pulse, "count": count, "noise": noise}

    def _frames(self, scene: Scene) -> Tensor:
        return torch.stack((scene["pulse"], scene["noise"]), dim=-1)

    def _hidden(self, scene: Scene) -> Tensor:
        return scene["count"].unsqueeze(-1)

    def _answers(self, scene: Scene) -> Tensor:
        return scene["count"]

    def _asked(self, scene: Scene) -> Tensor:
        return torch.ones_like(scene["position"], dtype=torch.bool)


def steps_at(chance: float, modulus: int, length: int) -> np.ndarray:
    """Return S(a) for every a: the mean number of steps t < length at which t coins of that chance count up to a."""
    j = np.arange(1, modulus)
    root = np.exp(2j * np.pi * j / modulus)
    step = 1 - chance + chance * root
    total = (1 - step**length) / (1 - step)  # the geometric series; j = 0 gives length
    back = root[:, None] ** -np.arange(modulus)
    return (length + (total[:, None] * back).sum(0).real) / modulus
