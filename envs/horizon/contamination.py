"""Contamination: RecallFirst with a burst of nonsense in the middle, for agents that have never met one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from mru_rl.envs.base import check_count
from mru_rl.envs.horizon.options import check_number
from mru_rl.envs.horizon.pixels import Burst, Draw
from mru_rl.envs.horizon.recall_first import RecallFirst
from mru_rl.envs.horizon.scripted import Scene


class Contamination(RecallFirst):
    """Name the first symbol although what was seen on the way was, for a while, unlike anything in training.

    obs         float32 [B, symbols + 2], as in RecallFirst; during the burst every channel, cue and question included,
                is drawn anew from a normal distribution of mean 0 and standard deviation `scale`. With pixels uint8
                [B, 1728], RecallFirst's pictures, and during the burst static that shows every channel in 256 levels
    action      int64 [B], the symbol shown at step 0
    reward      at the last step +1 right, -1 wrong, 0 before; |return| <= 1
    horizon     length + 1 steps, then terminated; never truncated. `final_obs` shows one more symbol
    reset       fresh symbols per env; the burst lies in the middle of what comes between the cue and the question
    options     length (>= 1, default 100), symbols (>= 2, default 4), burst (steps, 0 to length - 1, default 0: none),
                scale (>= 0, default 10.0), pixels (True or False, default False; at most
                64 symbols). Made to train with burst=0 and to evaluate with more:
                mru-rl eval RUN --env-kwargs burst=20
    markov      int64 [B, 2]: the first symbol; 1 at the question
    baselines   perfect 1, without memory 2 / symbols - 1, whatever the burst. Success is a return of at least 0.5
    source      this project: does a memory survive inputs that its gates were not trained on? With burst=0 the episodes
                are RecallFirst's. State per env is O(1) in length
    """

    unit: Tensor

    def __init__(
        self,
        *,
        length: int = 100,
        symbols: int = 4,
        burst: int = 0,
        scale: float = 10.0,
        pixels: bool = False,
        **common: Any,
    ) -> None:
        self.burst = check_count(burst, name="Contamination's option burst", least=0)
        self.scale = check_number(
            scale, name="Contamination's option scale", least=0, hint="it is a standard deviation; 0 blanks the burst"
        )
        super().__init__(length=length, symbols=symbols, pixels=pixels, **common)
        if self.burst >= self.length:
            raise ValueError(
                f"Contamination's option burst must leave the cue and the question alone: at most length - 1 = "
                f"{self.length - 1} steps, got {self.burst}; make the burst shorter or the episode longer"
            )
        self.options = {"length": self.length, "symbols": self.symbols, "burst": self.burst, "scale": self.scale}
        if pixels:
            self.options["pixels"] = True
        self.first_step = 1 + (self.length - 1 - self.burst) // 2
        if self.burst:
            width = self.symbols + 2
            self.draws = (1 + width,)  # the symbol, then every channel
            if not pixels:
                self.observation_space = Box(-np.inf, np.inf, (width,))
            self.register_moving("unit", torch.zeros(self.num_envs, width, device=self.device))

    def _pictures(self) -> Draw:
        draw = super()._pictures()
        return Burst(draw, self.scale) if self.burst else draw

    def _next(self, unit: Tensor) -> Scene:
        if not self.burst:
            return super()._next(unit)
        return super()._next(unit[..., 0]) | {"unit": unit[..., 1:]}

    def _frames(self, scene: Scene) -> Tensor:
        frames = super()._frames(scene)
        since = scene["position"] - self.first_step
        inside = (since >= 0) & (since < self.burst)
        if inside.any():
            frames[inside] = normal(scene["unit"][inside]) * self.scale
        return frames


def normal(unit: Tensor) -> Tensor:
    """Return finite standard normal numbers made from float32 numbers in [0, 1), which are multiples of 2^-24."""
    middle = unit.double() + 2**-25  # wide, so that rounding back hides which instructions computed it
    return (math.sqrt(2) * torch.erfinv(2 * middle - 1)).float()
