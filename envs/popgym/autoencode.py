"""Autoencode: watch a whole deck, then recite it backwards."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Tuple
from torch import Tensor
from torch.nn.functional import pad

from mru_rl.envs.popgym import PERFECT, deck
from mru_rl.envs.popgym.quiz import NOT_ASKED, Quiz


class Autoencode(Quiz):
    """Watch all N cards one by one, then name their suits from the last back to the first.

    obs         int64 [B, 2]: mode, 1 while watching and 0 while reciting; suit on show, 0..3. The last card is shown
                with mode 0: the action on it is the first that counts. From then on the suit is 0
    action      int64 [B], suit, 0..3; without effect while watching
    reward      0 while watching, then +1/N right, -1/N wrong, N times, N = 52 * num_decks; |return| <= 1
    horizon     2 * N - 1 steps, then terminated; never truncated
    reset       fresh shuffle per env; `final_obs` is (0, 0)
    variants    Easy (1 deck, 103 steps), Medium (2, 207), Hard (3, 311)
    markov      float32 [B, N + 2]: suits of the deck, the first to be watched last; mode; share of the cards on the pile
    baselines   perfect 1; at random or without memory -1/2
    source      popgym Autoencode 1.0.7. Departures: none
    """

    success_return = PERFECT

    def __init__(self, *, num_decks: int, **common: Any) -> None:
        self.num_cards = deck.DECK_SIZE * num_decks
        super().__init__(
            num_steps=2 * self.num_cards - 1,
            num_paid=self.num_cards,
            frame=Tuple([Discrete(2), Discrete(deck.NUM_SUITS)]),
            num_actions=deck.NUM_SUITS,
            **common,
        )
        self.markov_space = Tuple([MultiDiscrete([deck.NUM_SUITS] * self.num_cards), Discrete(2), Box(0, 1, (1,))])

    def _deal(self, rows: int) -> tuple[Tensor, Tensor]:
        suits = deck.SUITS.deal(rows, self.num_cards, generator=self.generator)
        watching = (torch.arange(2 * self.num_cards, device=self.device) < self.num_cards - 1).expand(rows, -1)
        shown = torch.stack((watching, pad(suits, (0, self.num_cards))), dim=2)
        return shown, pad(suits.flip(1), (self.num_cards - 1, 0), value=NOT_ASKED)

    def _markov(self) -> Tensor:
        suits = self.answers[:, self.num_cards - 1 :]
        pile = torch.minimum(self.position + 1, 2 * self.num_cards - 1 - self.position)
        return torch.cat((suits, self._observe()[:, :1], (pile.double() / self.num_cards).float()), dim=1)
