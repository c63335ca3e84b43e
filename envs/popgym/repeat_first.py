"""RepeatFirst: keep the first card in mind for the whole episode."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Box, Discrete, Tuple
from torch import Tensor

from mru_rl.envs.popgym import PERFECT, deck
from mru_rl.envs.popgym.quiz import Quiz


class RepeatFirst(Quiz):
    """Name the suit of the first card of the episode, at every step.

    obs         int64 [B], suit on show, 0..3
    action      int64 [B], suit, 0..3
    reward      +r right, -r wrong at every step; r = 1 / (52 * num_decks - 1), so |return| <= 1
    horizon     52 * num_decks - 1 steps, then terminated; never truncated
    reset       fresh shuffle per env; `final_obs` is the last card of the deck
    variants    Easy (1 deck, 51 steps), Medium (8, 415), Hard (16, 831)
    markov      float32 [B, 1 + 4]: suit of the first card; share of each suit not dealt yet
    baselines   perfect 1; at random or without memory -1/2
    source      popgym RepeatFirst 1.0.7. Departures: none
    """

    success_return = PERFECT

    def __init__(self, *, num_decks: int, **common: Any) -> None:
        self.num_cards = deck.DECK_SIZE * num_decks
        steps, suits = self.num_cards - 1, deck.NUM_SUITS
        super().__init__(num_steps=steps, num_paid=steps, frame=Discrete(suits), num_actions=suits, **common)
        self.markov_space = Tuple([Discrete(suits), Box(0, 1, (suits,))])

    def _deal(self, rows: int) -> tuple[Tensor, Tensor]:
        suits = deck.SUITS.deal(rows, self.num_cards, generator=self.generator)
        return suits, suits[:, :1].expand(rows, self.horizon)

    def _markov(self) -> Tensor:
        left = 1 - self._num_seen(self.shown, deck.NUM_SUITS) / (self.num_cards / deck.NUM_SUITS)
        return torch.cat((self.shown[:, :1], left.float()), dim=1)
