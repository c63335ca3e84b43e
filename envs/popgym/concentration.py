"""Concentration: find pairs among cards that lie face down."""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete, Tuple
from torch import Tensor

from mru_rl.envs.popgym import deck
from mru_rl.envs.tensor_env import TensorEnv


class Concentration(TensorEnv):
    """Flip two cards; a pair stays face up, anything else is turned down again.

    obs         int64 [B, N]: what each card of the table shows, 0..K-1, or K where it lies face down. Cards in play are
                shown in the obs that follows their flip, the second one of a pair that fails too, and then no more
    action      int64 [B], position of the card to flip, 0..N-1
    reward      0 for the first card of a pair, +2/N for a match, -2/L for two that do not match or are the same card;
                a card already up ends the turn: -1/L as the first, -2/L as the second. L is the horizon
    horizon     L = 2 * N steps: terminated when all cards are up, truncated at the last step (both can be true)
    credit      a flip shows a card that is worth knowing to the episode's end
    reset       fresh shuffle per env, nothing up
    variants    Easy (1 deck, colors, N = 52, K = 2), Medium (2 decks, colors, 104, 2), Hard (1 deck, ranks, 52, 13)
    markov      int64 [B, 2 * N + 2]: face of each card, 1 where it is up for good, and the positions of the first and the
                second card of the turn that the last step was part of, K for none, as upstream has it
    baselines   at random, perfect memory: `mru_rl.envs.scores`. 1 takes luck, so no success is named
    source      popgym Concentration 1.0.7. Departures: none
    """

    faces: Tensor
    shown: Tensor
    first: Tensor
    flipped: Tensor
    failed: Tensor
    pairs: Tensor
    position: Tensor

    def __init__(self, *, num_decks: int, face: str, **common: Any) -> None:
        self.face = deck.FACES[face]
        self.num_cards = deck.DECK_SIZE * num_decks
        super().__init__(
            observation_space=MultiDiscrete([self.face.count + 1] * self.num_cards),
            action_space=Discrete(self.num_cards),
            **common,
        )
        position = Discrete(self.num_cards)
        faces = MultiDiscrete([self.face.count] * self.num_cards)
        self.markov_space = Tuple([faces, MultiBinary(self.num_cards), position, position])
        self.horizon = math.ceil(2 * self.num_cards - self.num_cards / (2 * self.num_cards - 1))
        self.credit_horizon = self.horizon - 1
        self.none = self.num_cards  # the position that stands for no card: one more than the table has
        self.face_down = self.face.count
        self.matched = torch.tensor(1 / (self.num_cards // 2), device=self.device)
        self.failed_one = torch.tensor(-1 / self.horizon, device=self.device)
        self.failed_two, self.unpaid = 2 * self.failed_one, torch.zeros_like(self.failed_one)
        table = torch.full((self.num_envs, self.num_cards + 1), self.face_down, dtype=torch.uint8, device=self.device)
        count = torch.zeros(self.num_envs, 1, dtype=torch.int64, device=self.device)
        self.two_down = table[:, :2].clone()
        self.no_card = torch.tensor(self.none, device=self.device)
        self.register_state("faces", table.clone())
        self.register_state("shown", table)
        self.register_state("first", count.clone())  # the card that waits for a second one
        self.register_state("flipped", count.repeat(1, 2))  # what the last step had in play
        self.register_state("failed", count.repeat(1, 2))  # the part of it that the next step turns down
        self.register_state("pairs", count.clone())
        self.register_state("position", count)

    def _reset(self, mask: Tensor) -> None:
        rows = mask.nonzero().squeeze(1)
        self.faces[rows, : self.num_cards] = self.face.deal(len(rows), self.num_cards, generator=self.generator)
        self.shown[rows] = self.face_down
        for in_play in (self.first, self.flipped, self.failed):
            in_play[rows] = self.none
        self.pairs[rows] = 0
        self.position[rows] = 0

    def _step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.shown.scatter_(1, self.failed, self.two_down)
        card, first, second = action.unsqueeze(1), self.first, self.first != self.none  # [B, 1]
        face = self.faces.gather(1, card)
        visible = self.shown.gather(1, card) != self.face_down  # up already, or the first card once more
        match = (face == self.faces.gather(1, first)) & ~visible
        paid_second = torch.where(match, self.matched, self.failed_two)
        paid_first = torch.where(visible, self.failed_one, self.unpaid)
        reward = torch.where(second, paid_second, paid_first).squeeze(1)

        self.shown.scatter_(1, card, face)
        torch.cat((first, card), dim=1, out=self.flipped)
        stays_up = torch.cat((match, match | visible | ~second), dim=1)
        torch.where(stays_up, self.no_card, self.flipped, out=self.failed)
        torch.where(second | visible, self.no_card, card, out=self.first)
        self.pairs += match
        self.position += 1
        terminated, truncated = self.pairs == self.num_cards // 2, self.position >= self.horizon
        return reward, terminated.squeeze(1), truncated.squeeze(1)

    def _observe(self) -> Tensor:
        return self.shown[:, : self.num_cards].long()

    def _markov(self) -> Tensor:
        shown = self.shown.scatter(1, self.failed, self.face_down).scatter(1, self.first, self.face_down)
        up = (shown != self.face_down)[:, : self.num_cards]
        one, two = self.flipped[:, :1], self.flipped[:, 1:]  # one is none where the turn has a single card, two
        first, second = torch.where(one == self.none, two, one), torch.where(one == self.none, one, two)
        turn = torch.cat((first, second), dim=1)
        faces = self.faces[:, : self.num_cards]
        return torch.cat((faces, up, turn.masked_fill(turn == self.none, self.face_down)), dim=1)
