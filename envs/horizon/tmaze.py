"""The passive T-maze: one bit seen once, asked for at the end of a corridor of any length."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from mru_rl.envs.base import check_count
from mru_rl.envs.horizon.options import check_choice, check_flag, check_noise
from mru_rl.envs.horizon.pixels import tmaze_pictures
from mru_rl.envs.horizon.scripted import Lead, Scene, ScriptedEnv, spread
from mru_rl.envs.horizon.tmaze_rewards import FORWARD, VARIANTS, rewards_of


class TMaze(ScriptedEnv):
    """Walk a corridor whatever you do, then turn the way the cue pointed at the very start.

    obs         float32 [B, 4]: cue up, cue down, junction, noise. One of the cues is 1 at step 0 only; junction is 1
                at step `length` only; noise is uniform in [-noise, noise], drawn anew at every step. With pixels uint8
                [B, 1728], a picture 3 x 24 x 24 of the same: a corridor with an arrow on its wall, or the junction, and
                the noise as a strip of static, in 256 levels
    action      int64 [B], 0 up, 1 down; counts at the junction only. With rewards other than "turn" also 2 forward,
                and every action counts
    reward      0 in the corridor; at the junction +1 for the side of the cue, -1 for the other. rewards="bakker": 4
                and -0.1, and -0.1 for a turn in the corridor, where Bakker's agent bumps into the wall and stands
                still. rewards="memory-rl": 1 and 0, and -1 / length for a turn in the corridor. At the junction,
                forward is as good as the wrong turn
    horizon     length + 1 steps, then terminated; never truncated. `final_obs` shows nothing but noise
    reset       the side of the cue is a fair coin per env
    options     length (>= 1, default 100), noise (>= 0, default 1.0; 0 switches the channel off), rewards ("turn",
                "bakker" or "memory-rl", default "turn"), pixels (True or False, default False)
    baselines   perfect: 1, 4, 1. Without memory: 0, 1.95, 0.5, half of right plus wrong. Success is a return of at
                least 0.5, that is: the right turn; with the other rewards the same half, 1.95 and 0.5: the right turn
                after few others
    source      after Ni et al., arXiv:2307.03864 (passive T-maze), and Bakker 2001. Departures: no reward for moving
                unless asked for, and then a turn costs but does not hold up (ActiveTMaze with back=0 does); a noise
                channel. State per env is O(1) in length
    """

    cue: Tensor
    noise: Tensor

    def __init__(
        self, *, length: int = 100, noise: float = 1.0, rewards: str = "turn", pixels: bool = False, **common: Any
    ) -> None:
        self.length = check_count(length, name="TMaze's option length", least=1)
        self.noise_width = check_noise(noise, task="TMaze")
        self.variant = check_choice(rewards, name="TMaze's option rewards", choices=VARIANTS)
        self.walks = self.variant != "turn"
        high = np.array([1, 1, 1, self.noise_width], dtype=np.float32)
        low = np.array([0, 0, 0, -self.noise_width], dtype=np.float32)
        options = {"length": self.length, "noise": self.noise_width} | ({"rewards": rewards} if self.walks else {})
        actions = Discrete(3 if self.walks else 2)
        super().__init__(observation_space=Box(low, high), action_space=actions, options=options, **common)
        self.horizon = self.length + 1
        self.rewards = rewards_of(self.variant, self.length)
        self.set_pay(self.rewards.right, self.rewards.wrong)
        self.astray = torch.tensor(self.rewards.astray, device=self.device)
        self.perfect_return, self.memoryless_return = self.rewards.right, self.rewards.guessing
        self.success_return = 0.5 if self.variant == "turn" else self.rewards.guessing
        self.register_state("cue", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))
        self.register_moving("noise", torch.zeros(self.num_envs, device=self.device))
        if check_flag(pixels, name="TMaze's option pixels"):
            self.show_pictures(tmaze_pictures(self.noise_width, self.device))

    def _reset(self, mask: Tensor) -> None:
        rows = mask.nonzero().squeeze(1)
        self.cue[rows] = torch.randint(2, (len(rows),), generator=self.generator, device=self.device)
        self.noise[rows] = spread(self._uniform_rows(len(rows)), self.noise_width)
        self.position[rows] = 0

    def _ahead(self, lead: Lead) -> Scene:
        return {"position": self._positions(lead), "noise": spread(self._uniform(lead), self.noise_width)}

    def _frames(self, scene: Scene) -> Tensor:
        start = scene["position"] == 0
        up, down = start & (self.cue == 0), start & (self.cue == 1)
        return torch.stack((up, down, self._at_junction(scene), scene["noise"]), dim=-1)

    def _at_junction(self, scene: Scene) -> Tensor:
        return scene["position"] == self.length

    def _answers(self, scene: Scene) -> Tensor:
        if not self.walks:
            return self.cue.expand_as(scene["position"])
        return torch.where(self._at_junction(scene), self.cue, FORWARD)

    def _asked(self, scene: Scene) -> Tensor:
        return torch.ones_like(scene["position"], dtype=torch.bool) if self.walks else self._at_junction(scene)

    def _paid(self, scene: Scene, answers: Tensor, action: Tensor) -> Tensor:
        turn = torch.where(action == answers, self.right, self.wrong)
        walk = torch.where(action == FORWARD, self._nothing, self.astray) if self.walks else self._nothing
        return torch.where(self._at_junction(scene), turn, walk)
