"""RepeatPrevious: keep the last k cards in mind, all the time."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Tuple
from torch import Tensor
from torch.nn.functional import pad

from mru_rl.envs.popgym import PERFECT, deck
from mru_rl.envs.popgym.quiz import NOT_ASKED, Quiz


class RepeatPrevious(Quiz):
    """Name the suit of the card shown k - 1 steps before the one on show.

    obs         int64 [B], suit on show, 0..3
    action      int64 [B], suit, 0..3
    reward      +r right, -r wrong, 0 until k cards were seen; r = 1 / (52 * num_decks - k), so |return| <= 1
    horizon     52 * num_decks - 1 steps, then terminated; never truncated
    reset       fresh shuffle per env; `final_obs` is the last card of the deck
    variants    Easy (1 deck, k = 4), Medium (2, 32), Hard (3, 64)
    markov      float32 [B, k + 4]: the last k suits, 0 where there were none yet; share of each suit not dealt yet
    baselines   perfect 1; at random -1/2
    source      popgym RepeatPrevious 1.0.7. Departures: none
    """

    success_return = PERFECT

    def __init__(self, *, num_decks: int, k: int, **common: Any) -> None:
        self.num_cards, self.k = deck.DECK_SIZE * num_decks, k
        steps, suits = self.num_cards - 1, deck.NUM_SUITS
        super().__init__(
            num_steps=steps, num_paid=self.num_cards - k, frame=Discrete(suits), num_actions=suits, **common
        )
        self.markov_space = Tuple([MultiDiscrete([suits] * k), Box(0, 1, (suits,))])

    def _deal(self, rows: int) -> tuple[Tensor, Tensor]:
        suits = deck.SUITS.deal(rows, self.num_cards, generator=self.generator)
        return suits, pad(suits[:, : -self.k], (self.k - 1, 0), value=NOT_ASKED)

    def _markov(self) -> Tensor:
        last = self.position + torch.arange(1 - self.k, 1, device=self.device)
        suits = self.shown.gather(1, last.clamp(min=0)) * (last >= 0)
        left = 1 - self._num_seen(self.shown, deck.NUM_SUITS) / (self.num_cards / deck.NUM_SUITS)
        return torch.cat((suits, left.float()), dim=1)
