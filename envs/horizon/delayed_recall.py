"""DelayedRecall: so many bits to be kept, each of them asked for after a delay of any length."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor

from mru_rl.envs.base import check_count
from mru_rl.envs.horizon.options import check_flag, check_noise
from mru_rl.envs.horizon.scripted import Lead, Scene, ScriptedEnv, spread


class DelayedRecall(ScriptedEnv):
    """Watch k symbols, wait, then name them in order: k = bits / log2(symbols), so that `bits` have to be remembered.

    obs         float32 [B, symbols + 2 + k + 1], k columns less where numbered=False: the symbol on show, one-hot, 0
                where there is none; cue, 1 where there is one; question; the number of the slot that is shown or asked
                for, one-hot; noise, uniform in [-noise, noise], drawn anew at every step
    action      int64 [B], the symbol of the slot asked for; counts at the questions only
    reward      +1/k right, -1/k wrong at the k questions, 0 elsewhere; |return| <= 1
    horizon     k * window + delay + k steps, then terminated; never truncated. `final_obs` shows nothing but noise
    reset       symbols uniform, with replacement; symbol i is shown for one step, at a random one of the `window` steps
                from i * window on. After the last window come `delay` steps of noise, then one question a step
    options     bits (default 4), symbols (a power of two, default 4), delay (>= 0, default 100), numbered (default
                True; False: only the order tells the slots apart), window (>= 1, default 4), noise (>= 0, default 1.0;
                0 switches the channel off)
    markov      int64 [B, k + 1]: the symbols; the slot asked for, k where there is no question
    baselines   perfect 1. Without memory 2 / symbols - 1. Success is every question right
    source      this project: memory measured in bits. State per env is O(1) in delay
    """

    symbol: Tensor
    shown_at: Tensor
    noise: Tensor

    def __init__(
        self,
        *,
        bits: int = 4,
        symbols: int = 4,
        delay: int = 100,
        numbered: bool = True,
        window: int = 4,
        noise: float = 1.0,
        **common: Any,
    ) -> None:
        bits = check_count(bits, name="DelayedRecall's option bits", least=1)
        self.symbols = check_count(symbols, name="DelayedRecall's option symbols", least=2)
        self.delay = check_count(delay, name="DelayedRecall's option delay", least=0)
        self.numbered = check_flag(numbered, name="DelayedRecall's option numbered")
        self.window = check_count(window, name="DelayedRecall's option window", least=1)
        self.noise_width = check_noise(noise, task="DelayedRecall")
        self.slots = count_slots(bits, self.symbols)
        channels = self.symbols + 2 + (self.slots if self.numbered else 0)
        high = np.array([1] * channels + [self.noise_width], dtype=np.float32)
        low = np.array([0] * channels + [-self.noise_width], dtype=np.float32)
        options = {
            "bits": bits,
            "symbols": self.symbols,
            "delay": self.delay,
            "numbered": self.numbered,
            "window": self.window,
            "noise": self.noise_width,
        }
        actions = Discrete(self.symbols)
        super().__init__(observation_space=Box(low, high), action_space=actions, options=options, **common)
        self.markov_space = MultiDiscrete([self.symbols] * self.slots + [self.slots + 1])
        self.first_question = self.slots * self.window + self.delay
        self.horizon = self.first_question + self.slots
        self.set_pay(1 / self.slots, -1 / self.slots)
        self.perfect_return, self.memoryless_return = 1.0, 2 / self.symbols - 1
        self.success_return = 1 - 1 / self.slots  # a single mistake costs 2 / k
        self.alphabet = torch.arange(self.symbols, device=self.device)
        self.numbers = torch.arange(self.slots, device=self.device)
        self.rows = torch.arange(self.num_envs, device=self.device)
        slots = torch.zeros(self.num_envs, self.slots, dtype=torch.int64, device=self.device)
        self.register_state("symbol", slots)
        self.register_state("shown_at", slots.clone())
        self.register_moving("noise", torch.zeros(self.num_envs, device=self.device))

    def _reset(self, mask: Tensor) -> None:
        rows = mask.nonzero().squeeze(1)
        for name, count in (("symbol", self.symbols), ("shown_at", self.window)):
            drawn = torch.randint(count, (len(rows), self.slots), generator=self.generator, device=self.device)
            self._state[name][rows] = drawn
        self.shown_at[rows] += self.window * self.numbers
        self.noise[rows] = spread(self._uniform_rows(len(rows)), self.noise_width)
        self.position[rows] = 0

    def _ahead(self, lead: Lead) -> Scene:
        return {"position": self._positions(lead), "noise": spread(self._uniform(lead), self.noise_width)}

    def _slot(self, scene: Scene) -> Tensor:
        """Return the slot whose window it is or that is asked for, any slot where neither is the case."""
        position = scene["position"]
        slot = torch.where(self._asked(scene), position - self.first_question, position // self.window)
        return slot.clamp(max=self.slots - 1)

    def _asked(self, scene: Scene) -> Tensor:
        return (scene["position"] >= self.first_question) & (scene["position"] < self.horizon)

    def _answers(self, scene: Scene) -> Tensor:
        return self.symbol[self.rows, self._slot(scene)]

    def _frames(self, scene: Scene) -> Tensor:
        slot, asked = self._slot(scene), self._asked(scene).unsqueeze(-1)
        cue = (self.shown_at[self.rows, slot] == scene["position"]).unsqueeze(-1)
        parts = [cue & (self._answers(scene).unsqueeze(-1) == self.alphabet), cue, asked]
        if self.numbered:
            parts.append((cue | asked) & (slot.unsqueeze(-1) == self.numbers))
        return torch.cat([*parts, scene["noise"].unsqueeze(-1)], dim=-1)

    def _hidden(self, scene: Scene) -> Tensor:
        asked_for = torch.where(self._asked(scene), self._slot(scene), self.slots).unsqueeze(-1)
        symbols = self.symbol.expand(*asked_for.shape[:-1], -1)
        return torch.cat((symbols, asked_for), dim=-1)


def count_slots(bits: int, symbols: int) -> int:
    """Return how many symbols hold so many bits. Raises ValueError if that is not a whole number."""
    per_symbol = symbols.bit_length() - 1
    if symbols != 2**per_symbol or bits % per_symbol:
        raise ValueError(
            f"DelayedRecall remembers whole symbols of log2(symbols) bits: symbols must be a power of two and bits a "
            f"multiple of its logarithm, got bits={bits} and symbols={symbols}; try bits=4 and symbols=4"
        )
    return bits // per_symbol
