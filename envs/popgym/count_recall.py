"""CountRecall: how often was this face dealt so far?"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Box, MultiDiscrete, Tuple
from torch import Tensor

from mru_rl.envs.popgym import PERFECT, deck
from mru_rl.envs.popgym.quiz import Quiz


class CountRecall(Quiz):
    """Say how many cards of the queried face were dealt so far, the one on show included.

    obs         int64 [B, 2]: face dealt now, face queried now, 0..K-1; two decks of N = 52 * num_decks, shuffled apart
    action      int64 [B], the count, 0..N / K
    reward      +1/(N - 1) for the exact count, -1/(N - 1) otherwise, at every step; |return| <= 1
    horizon     N - 1 steps, then terminated; never truncated
    reset       two fresh shuffles per env; `final_obs` is the last card of both decks
    variants    Easy (1 deck, colors, K = 2, 51 steps), Medium (2, suits, 4, 103), Hard (4, ranks, 13, 207)
    markov      float32 [B, 2 * K + 2]: share of each face dealt so far, of each face queried so far; the obs
    baselines   perfect 1; at random and best constant answer: `mru_rl.envs.scores`
    source      popgym CountRecall 1.0.7 (releases before it had one action less). Departures: none
    """

    success_return = PERFECT

    def __init__(self, *, num_decks: int, face: str, **common: Any) -> None:
        self.num_cards, self.face = deck.DECK_SIZE * num_decks, deck.FACES[face]
        super().__init__(
            num_steps=self.num_cards - 1,
            num_paid=self.num_cards - 1,
            frame=MultiDiscrete([self.face.count] * 2),
            num_actions=self.num_cards // self.face.count + 1,
            **common,
        )
        share = Box(0, 1, (self.face.count,))
        self.markov_space = Tuple([share, share, self.observation_space])

    def _deal(self, rows: int) -> tuple[Tensor, Tensor]:
        dealt, queried = (self.face.deal(rows, self.num_cards, generator=self.generator) for _ in range(2))
        answers = torch.zeros_like(dealt)
        for face in range(self.face.count):
            is_dealt, is_queried = dealt.clone().eq_(face), queried.clone().eq_(face)  # in place: 10 times faster
            answers += is_dealt.cumsum(dim=1, dtype=torch.uint8) * is_queried
        return torch.stack((dealt, queried), dim=2), answers[:, :-1]

    def _markov(self) -> Tensor:
        dealt, queried = (self._num_seen(faces, self.face.count) for faces in self.shown.unbind(2))
        counts = torch.cat((dealt, queried), dim=1) / (self.num_cards // self.face.count)
        return torch.cat((counts.float(), self._observe()), dim=1)
