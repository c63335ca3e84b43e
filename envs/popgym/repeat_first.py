"""RepeatFirst: keep the first card in mind for the whole episode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mru_rl.envs.popgym.dealt_cards import DealtCards
from mru_rl.envs.popgym.deck import NUM_SUITS


class RepeatFirst(DealtCards):
    """Name the suit of the first card of the episode, at every step.

    obs         int64 [B], suit on show, 0..3
    action      int64 [B], suit, 0..3
    reward      +r right, -r wrong at every step; r = 1 / (52 * num_decks - 1), so |return| <= 1
    horizon     52 * num_decks - 1 steps, then terminated; never truncated
    reset       fresh shuffle per env; `final_obs` is the last card of the deck
    variants    Easy (1 deck, 51 steps), Medium (8, 415), Hard (16, 831)
    baselines   perfect 1; at random or without memory -1/2
    source      popgym RepeatFirst 1.0.7. Departures: none
    """

    credit_horizon = 0
    open_loop = True

    def __init__(self, *, num_decks: int, **common: Any) -> None:
        super().__init__(num_decks=num_decks, num_faces=NUM_SUITS, num_actions=NUM_SUITS, **common)
        self.right = torch.tensor(1 / (self.num_cards - 1), device=self.device)
        self.wrong = -self.right

    def _reward(self, action: Tensor) -> Tensor:
        return torch.where(action == self.shown[:, 0], self.right, self.wrong)
