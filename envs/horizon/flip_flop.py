"""FlipFlop: bits that are set and reset now and then, and have to be known all the time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, MultiDiscrete
from torch import Tensor

from mru_rl.envs.base import check_count
from mru_rl.envs.horizon.options import check_gap, check_noise
from mru_rl.envs.horizon.scripted import Lead, Scene, ScriptedEnv, spread


class FlipFlop(ScriptedEnv):
    """Report the last pulse of each of n bits, at every step.

    obs         float32 [B, n + 1]: per bit +1 where it is set, -1 where it is reset, 0 where it is left alone, which
                is most of the time; then noise, uniform in [-noise, noise], drawn anew at every step
    action      int64 [B, n], every bit as it was left by its last pulse, one at this step included: 1 set, 0 reset
    reward      +1 / (n * length) for each bit that is right, -1 / (n * length) for each that is wrong; |return| <= 1
    horizon     length steps, then terminated; never truncated
    reset       every bit is pulsed at step 0, so that the right answer is always known. A pulse is set or reset with
                equal chances; from step 1 on each bit is pulsed with probability 1 / hold, independently
    options     bits (n >= 1, default 3), hold (mean steps between two pulses of a bit, >= 2, default 10), length
                (>= 2, default 100), noise (>= 0, default 1.0; 0 switches the channel off)
    markov      int64 [B, n]: the bits
    baselines   perfect 1. Without memory (1 + (length - 1) / hold) / length: the bits pulsed right now are known, the
                others a coin. At random 0. Success is a return of at least 0.9
    source      the n-bit flip-flop of Sussillo & Barak 2013, doi:10.1162/NECO_a_00409, as a task with actions; known
                from others' accounts. State per env is O(1) in length
    """

    success_return = 0.9
    pulse: Tensor
    bit: Tensor
    noise: Tensor

    def __init__(
        self, *, bits: int = 3, hold: float = 10.0, length: int = 100, noise: float = 1.0, **common: Any
    ) -> None:
        self.bits = check_count(bits, name="FlipFlop's option bits", least=1)
        self.hold = check_gap(hold, name="FlipFlop's option hold", least=2)
        self.length = check_count(length, name="FlipFlop's option length", least=2)
        self.noise_width = check_noise(noise, task="FlipFlop")
        high = np.array([1] * self.bits + [self.noise_width], dtype=np.float32)
        options = {"bits": self.bits, "hold": self.hold, "length": self.length, "noise": self.noise_width}
        actions = MultiDiscrete([2] * self.bits)
        super().__init__(observation_space=Box(-high, high), action_space=actions, options=options, **common)
        self.markov_space = actions
        self.horizon = self.length
        self.share = torch.tensor(1 / (self.bits * self.length), device=self.device)
        self.perfect_return = 1.0
        self.memoryless_return = (1 + (self.length - 1) / self.hold) / self.length
        self.register_moving("pulse", torch.zeros(self.num_envs, self.bits, device=self.device))
        self.register_moving("bit", torch.zeros(self.num_envs, self.bits, dtype=torch.int64, device=self.device))
        self.register_moving("noise", torch.zeros(self.num_envs, device=self.device))

    def _reset(self, mask: Tensor) -> None:
        rows = mask.nonzero().squeeze(1)
        unit = self._uniform_rows(len(rows), self.bits + 1)
        self.pulse[rows] = self._pulses(unit, chance=1.0)
        self.bit[rows] = (self.pulse[rows] > 0).long()
        self.noise[rows] = spread(unit[..., self.bits], self.noise_width)
        self.position[rows] = 0

    def _ahead(self, lead: Lead) -> Scene:
        unit = self._uniform(lead, self.bits + 1)
        pulse = self._pulses(unit, chance=1 / self.hold)
        noise = spread(unit[..., self.bits], self.noise_width)
        return {"position": self._positions(lead), "pulse": pulse, "bit": self._held(pulse), "noise": noise}

    def _held(self, pulse: Tensor) -> Tensor:
        """Return the bits [..., B, n] after these pulses."""
        value = (pulse > 0).long()
        if pulse.ndim == 2:
            return torch.where(pulse != 0, value, self.bit)
        count = torch.arange(1, len(pulse) + 1, device=self.device).view(-1, 1, 1)
        last = torch.where(pulse != 0, count, 0).cummax(dim=0).values  # the last step with a pulse, 0: none so far
        return torch.cat((self.bit.unsqueeze(0), value)).gather(0, last)

    def _pulses(self, unit: Tensor, *, chance: float) -> Tensor:
        """Return +1, -1 or 0 per bit from a number in [0, 1): a pulse where it lies below the chance."""
        unit = unit[..., : self.bits]
        return (unit < chance).float() - 2.0 * (unit < chance / 2)

    def _frames(self, scene: Scene) -> Tensor:
        return torch.cat((scene["pulse"], scene["noise"].unsqueeze(-1)), dim=-1)

    def _hidden(self, scene: Scene) -> Tensor:
        return scene["bit"]

    def _answers(self, scene: Scene) -> Tensor:
        return scene["bit"]

    def _asked(self, scene: Scene) -> Tensor:
        return torch.ones_like(scene["position"], dtype=torch.bool)

    def _paid(self, scene: Scene, answers: Tensor, action: Tensor) -> Tensor:
        right = (action == answers).sum(dim=-1)
        return (2 * right - self.bits) * self.share
