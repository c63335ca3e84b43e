"""RepeatPrevious: keep the last k cards in mind, all the time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mru_rl.envs.popgym.dealt_cards import DealtCards
from mru_rl.envs.popgym.deck import NUM_SUITS


class RepeatPrevious(DealtCards):
    """Name the suit of the card shown k - 1 steps before the one on show.

    obs         int64 [B], suit on show, 0..3
    action      int64 [B], suit, 0..3
    reward      +r right, -r wrong, 0 until k cards were seen; r = 1 / (52 * num_decks - k), so |return| <= 1
    horizon     52 * num_decks - 1 steps, then terminated; never truncated
    reset       fresh shuffle per env; `final_obs` is the last card of the deck
    variants    Easy (1 deck, k = 4), Medium (2, 32), Hard (3, 64)
    baselines   perfect 1; at random -1/2
    source      popgym RepeatPrevious 1.0.7. Departures: none
    """

    credit_horizon = 0
    open_loop = True

    def __init__(self, *, num_decks: int, k: int, **common: Any) -> None:
        super().__init__(num_decks=num_decks, num_faces=NUM_SUITS, num_actions=NUM_SUITS, **common)
        self.k = k
        self.right = torch.tensor(1 / (self.num_cards - k), device=self.device)
        self.wrong, self.unpaid = -self.right, torch.zeros_like(self.right)

    def _reward(self, action: Tensor) -> Tensor:
        asked = self.position - (self.k - 1)
        answer = self.shown.gather(1, asked.clamp(min=0)).squeeze(1)
        reward = torch.where(action == answer, self.right, self.wrong)
        return torch.where(asked.squeeze(1) >= 0, reward, self.unpaid)
