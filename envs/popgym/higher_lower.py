"""HigherLower: will the next card be higher or lower?"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from mru_rl.envs.popgym import deck
from mru_rl.envs.popgym.quiz import NOT_ASKED, Quiz

HIGHER, LOWER = 0, 1


class HigherLower(Quiz):
    """Guess whether the next card ranks higher or lower than the one on show.

    obs         int64 [B], rank on show, 0..12
    action      int64 [B], 0 higher, 1 lower
    reward      +1/N right, -1/N wrong, 0 where the ranks are equal, N = 52 * num_decks; |return| < 1
    horizon     N - 1 steps, then terminated; never truncated
    reset       fresh shuffle per env; `final_obs` is the last card of the deck
    variants    Easy (1 deck, 51 steps), Medium (2, 103), Hard (3, 155)
    markov      float32 [B, 13]: share of each rank dealt so far
    baselines   at random 0; guessing by the rank on show alone about 0.5, counting cards adds 0.01 to 0.03: memory
                is worth little here (`mru_rl.envs.scores`)
    source      popgym HigherLower 1.0.7. Departures: none
    """

    def __init__(self, *, num_decks: int, **common: Any) -> None:
        self.num_cards = deck.DECK_SIZE * num_decks
        super().__init__(
            num_steps=self.num_cards - 1,
            num_paid=self.num_cards,
            frame=Discrete(deck.NUM_RANKS),
            num_actions=2,
            **common,
        )
        self.markov_space = Box(0, 1, (deck.NUM_RANKS,))

    def _deal(self, rows: int) -> tuple[Tensor, Tensor]:
        ranks = deck.RANKS.deal(rows, self.num_cards, generator=self.generator)
        now, following = ranks[:, :-1], ranks[:, 1:]
        answers = torch.where(following > now, HIGHER, LOWER).masked_fill(following == now, NOT_ASKED)
        return ranks, answers

    def _markov(self) -> Tensor:
        return (self._num_seen(self.shown, deck.NUM_RANKS) / (self.num_cards // deck.NUM_RANKS)).float()
