"""What the card games share that deal one card a step and show it until the deck is empty."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from mru_rl.envs.popgym import deck
from mru_rl.envs.tensor_env import TensorEnv


class DealtCards(TensorEnv):
    """One card is on show from the start, every step deals the next, the last one ends the episode.

    A game names its spaces and says in `_reward` what an action earns before the next card is dealt.
    State: `shown` uint8 [B, N], what each card of the deck shows in the order they are dealt; `position` int64 [B, 1],
    the card on show. Subclasses whose cards show something else than their suit override `face`.
    """

    face = staticmethod(deck.suit)
    shown: Tensor
    position: Tensor

    def __init__(self, *, num_decks: int, num_faces: int, num_actions: int, **common: Any) -> None:
        super().__init__(observation_space=Discrete(num_faces), action_space=Discrete(num_actions), **common)
        self.num_cards = deck.DECK_SIZE * num_decks
        self.horizon = self.num_cards - 1
        shape = (self.num_envs, self.num_cards)
        self.register_state("shown", torch.zeros(shape, dtype=torch.uint8, device=self.device))
        self.register_state("position", torch.zeros(self.num_envs, 1, dtype=torch.int64, device=self.device))

    @abstractmethod
    def _reward(self, action: Tensor) -> Tensor:
        """Return what the action earns, float32 [B], while the card at `position` is on show."""

    def _reset(self, mask: Tensor) -> None:
        rows = mask.nonzero().squeeze(1)
        cards = deck.shuffled(len(rows), self.num_cards, generator=self.generator)
        self.shown[rows] = self.face(cards).to(torch.uint8)
        self.position[rows] = 0

    def _step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        reward = self._reward(action)
        self.position += 1
        terminated = self.position.squeeze(1).eq(self.num_cards - 1)
        return reward, terminated, torch.zeros_like(terminated)

    def _observe(self) -> Tensor:
        return self.shown.gather(1, self.position).squeeze(1).long()
