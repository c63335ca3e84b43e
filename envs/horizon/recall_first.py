"""RecallFirst: one symbol counts, the first; all that follow look alike."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor

from mru_rl.envs.base import check_count
from mru_rl.envs.horizon.options import check_choice, check_flag
from mru_rl.envs.horizon.pixels import Draw, recall_first_pictures
from mru_rl.envs.horizon.scripted import Lead, Scene, ScriptedEnv

ASK = ("end", "always")


class RecallFirst(ScriptedEnv):
    """Name the first symbol of the episode after many others of the same alphabet.

    obs         float32 [B, symbols + 2]: the symbol on show, one-hot; cue, 1 at step 0 only; question, 1 where the
                action counts. A symbol is shown at every step, uniform and independent of all others. With pixels uint8
                [B, 1728], a picture 3 x 24 x 24 of the same: a card, framed at the cue, and a mark at the question
    action      int64 [B], the symbol shown at step 0
    reward      ask="end": at the last step +1 right, -1 wrong, 0 before; ask="always": +1/T right, -1/T wrong at each
                of the T steps; |return| <= 1
    horizon     T = length + 1 steps, then terminated; never truncated. `final_obs` shows one more symbol
    reset       fresh symbols per env
    options     length (distractors after the first symbol, >= 1, default 100), symbols (>= 2, default 4), ask ("end"
                or "always", default "end"), pixels (True or False, default False; at most 64 symbols)
    markov      int64 [B, 2]: the first symbol; 1 at the question
    baselines   perfect 1. Without memory 2 / symbols - 1 with ask="end"; (1 + length * (2 / symbols - 1)) / T with
                ask="always", where the first answer is on show. Success is a return of at least 0.5 (the question
                right), 0.9 with ask="always"
    source      this project, after popgym's RepeatFirst. State per env is O(1) in length
    """

    draws: tuple[int, ...] = ()
    """Shape of the numbers a row draws for a step."""
    first: Tensor
    symbol: Tensor

    def __init__(
        self, *, length: int = 100, symbols: int = 4, ask: str = "end", pixels: bool = False, **common: Any
    ) -> None:
        task = type(self).__name__
        self.length = check_count(length, name=f"{task}'s option length", least=1)
        self.symbols = check_count(symbols, name=f"{task}'s option symbols", least=2)
        self.ask = check_choice(ask, name=f"{task}'s option ask", choices=ASK)
        super().__init__(
            observation_space=Box(0, 1, (self.symbols + 2,)),
            action_space=Discrete(self.symbols),
            options={"length": self.length, "symbols": self.symbols, "ask": self.ask},
            **common,
        )
        self.markov_space = MultiDiscrete([self.symbols, 2])
        self.horizon = self.length + 1
        self.alphabet = torch.arange(self.symbols, device=self.device)
        guess = 2 / self.symbols - 1
        self.perfect_return = 1.0
        if self.ask == "end":
            self.set_pay(1.0, -1.0)
            self.memoryless_return, self.success_return = guess, 0.5
        else:
            self.set_pay(1 / self.horizon, -1 / self.horizon)
            self.memoryless_return, self.success_return = (1 + self.length * guess) / self.horizon, 0.9
        self.register_state("first", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))
        self.register_moving("symbol", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))
        if check_flag(pixels, name=f"{task}'s option pixels"):
            self.show_pictures(self._pictures())

    def _pictures(self) -> Draw:
        return recall_first_pictures(self.symbols, self.device, type(self).__name__)

    def _reset(self, mask: Tensor) -> None:
        rows = mask.nonzero().squeeze(1)
        for name, value in self._next(self._uniform_rows(len(rows), *self.draws)).items():
            self._state[name][rows] = value
        self.first[rows] = self.symbol[rows]
        self.position[rows] = 0

    def _ahead(self, lead: Lead) -> Scene:
        return {"position": self._positions(lead)} | self._next(self._uniform(lead, *self.draws))

    def _next(self, unit: Tensor) -> Scene:
        """Return the moving state, without the position, that numbers in [0, 1) make."""
        return {"symbol": (unit * self.symbols).long()}

    def _frames(self, scene: Scene) -> Tensor:
        marks = torch.stack((scene["position"] == 0, self._asked(scene)), dim=-1)
        return torch.cat((scene["symbol"].unsqueeze(-1) == self.alphabet, marks), dim=-1).float()

    def _hidden(self, scene: Scene) -> Tensor:
        return torch.stack((self._answers(scene), self._asked(scene)), dim=-1)

    def _answers(self, scene: Scene) -> Tensor:
        return self.first.expand_as(scene["position"])

    def _asked(self, scene: Scene) -> Tensor:
        if self.ask == "always":
            return torch.ones_like(scene["position"], dtype=torch.bool)
        return scene["position"] == self.length
