"""The active T-maze: the cue lies behind the start, and only those who step back to it know where to turn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from mru_rl.envs.base import check_count
from mru_rl.envs.horizon.options import check_choice, check_noise
from mru_rl.envs.horizon.scripted import spread
from mru_rl.envs.horizon.tmaze_rewards import BACK, DOWN, FORWARD, VARIANTS, rewards_of
from mru_rl.envs.tensor_env import TensorEnv


class ActiveTMaze(TensorEnv):
    """Step back to look at the cue, walk the corridor, turn the way it pointed.

    obs         float32 [B, 4]: cue up, cue down, junction, noise. One of the cues is 1 in the first obs from the last
                square behind the start, never again; junction is 1 at the junction; noise is uniform in
                [-noise, noise], drawn anew at every step
    action      int64 [B], 0 up, 1 down, 2 forward, 3 back; a move into a wall leaves the agent where it is
    reward      rewards="turn": +1 for the turn to the side of the cue, -1 for the other, 0 elsewhere. "bakker": 4 and
                -0.1, and -0.1 for standing still. "memory-rl": 1 and 0, and -1 / length for a step that ends behind
                where the shortest way would be. Time that runs out pays like the wrong turn
    horizon     terminated by a turn at the junction or when time runs out, never truncated. The shortest way takes
                length + 2 * back + 1 steps; time is twice that, with "memory-rl" just that. `final_obs` after a turn
                shows nothing but noise
    credit      stepping back is paid at the end
    reset       the side of the cue is a fair coin per env; the agent stands `back` squares before the cue and `length`
                squares before the junction
    options     length (>= 1, default 100), back (>= 0, default 1; 0: the cue is in the first obs), noise (>= 0, default
                1.0; 0 switches the channel off), rewards ("turn", "bakker" or "memory-rl", default "turn")
    markov      float32 [B, 4]: side of the cue, share of the way from the cue to the junction, 1 once the cue was seen,
                share of the time
    baselines   perfect 1, 4, 1. Without memory 0, 1.95, 0.5, half of right plus wrong, since who arrives without
                knowing turns right half of the times. Success is a return of at least 0.5, 1.95, 0.5
    source      Ni et al. 2023, arXiv:2307.03864, twni2016/Memory-RL@fe89009, envs/tmaze.py (TMazeClassicActive with
                "memory-rl" and back=1, TMazeClassicPassive with back=0), and Bakker 2001. Departures: a turn ends the
                episode, theirs waits in the arm till time is up; a noise channel; other numbers for actions; time
                limits with "turn" and "bakker" are ours. State per env is O(1) in length
    """

    cue: Tensor
    square: Tensor
    seen: Tensor
    time: Tensor
    noise: Tensor

    def __init__(
        self, *, length: int = 100, back: int = 1, noise: float = 1.0, rewards: str = "turn", **common: Any
    ) -> None:
        self.length = check_count(length, name="ActiveTMaze's option length", least=1)
        self.back = check_count(back, name="ActiveTMaze's option back", least=0)
        self.noise_width = check_noise(noise, task="ActiveTMaze")
        self.variant = check_choice(rewards, name="ActiveTMaze's option rewards", choices=VARIANTS)
        high = np.array([1, 1, 1, self.noise_width], dtype=np.float32)
        low = np.array([0, 0, 0, -self.noise_width], dtype=np.float32)
        options = {"length": self.length, "back": self.back, "noise": self.noise_width, "rewards": self.variant}
        super().__init__(observation_space=Box(low, high), action_space=Discrete(4), options=options, **common)
        self.markov_space = Box(0, 1, (4,))
        self.junction = self.back + self.length
        shortest = self.length + 2 * self.back + 1
        self.horizon = shortest if self.variant == "memory-rl" else 2 * shortest
        self.credit_horizon = self.horizon - 1
        pay = rewards_of(self.variant, self.length)
        self.right, self.wrong, self.astray, self.nothing = torch.tensor([*pay, 0.0], device=self.device)
        self.perfect_return, self.memoryless_return = pay.right, pay.guessing
        self.success_return = 0.5 if self.variant == "turn" else pay.guessing
        for name in ("cue", "square", "time"):
            self.register_state(name, torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))
        self.register_state("seen", torch.zeros(self.num_envs, dtype=torch.bool, device=self.device))
        self.register_state("noise", torch.zeros(self.num_envs, device=self.device))

    def _reset(self, mask: Tensor) -> None:
        rows = mask.nonzero().squeeze(1)
        self.cue[rows] = torch.randint(2, (len(rows),), generator=self.generator, device=self.device)
        self.noise[rows] = self._draw(len(rows))
        self.square[rows] = self.back
        self.seen[rows] = False
        self.time[rows] = 0

    def _step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        turned = (self.square == self.junction) & (action <= DOWN)
        move = (action == FORWARD).long() - (action == BACK).long()
        square = (self.square + move).clamp(0, self.junction)
        self.time += 1
        astray = square == self.square if self.variant == "bakker" else square < self.time - self.back
        ended = turned | (self.time == self.horizon)
        at_end = torch.where(turned & (action == self.cue), self.right, self.wrong)
        reward = torch.where(ended, at_end, torch.where(astray, self.astray, self.nothing))
        self.seen |= self.square == 0
        self.square.copy_(torch.where(turned, self.junction + 1, square))  # a square of its own for the arms
        self.noise.copy_(self._draw(self.num_envs))
        return reward, ended, torch.zeros_like(ended)

    def _observe(self) -> Tensor:
        cue = (self.square == 0) & ~self.seen
        return torch.stack(
            (cue & (self.cue == 0), cue & (self.cue == 1), self.square == self.junction, self.noise), dim=1
        )

    def _markov(self) -> Tensor:
        way, time = self.square.clamp(max=self.junction) / self.junction, self.time / self.horizon
        return torch.stack((self.cue, way, self.seen | (self.square == 0), time), dim=1)

    def right_action(self) -> Tensor:
        """Return the action that leads to the perfect return: back until the cue was seen, on to the junction, the turn."""
        known = self.seen | (self.square == 0)
        walk = torch.where(known, FORWARD, BACK)
        return torch.where(known & (self.square == self.junction), self.cue, walk)

    def _draw(self, rows: int) -> Tensor:
        return spread(torch.rand(rows, generator=self.generator, device=self.device), self.noise_width)
