"""Battleship: sink four ships on a board that shows nothing but hit or miss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete, MultiDiscrete, Tuple
from torch import Tensor

from mru_rl.envs.tensor_env import TensorEnv

SHIP_SIZES = (2, 3, 3, 4)
WATER, SHIP, GUESSED = 0, 1, 2  # bits: a square is WATER or SHIP, and GUESSED besides once it was shot at


class Battleship(TensorEnv):
    """Shoot at squares of an n x n board until ships of 2, 3, 3 and 4 squares are sunk.

    obs         int64 [B], 1 if the last shot hit, else 0; which square that was stands in the previous action only
    action      int64 [B, 2], row and column, 0..n-1
    reward      +1/12 for a hit, -1/(n * n - 12) otherwise, also for a square that was hit before. All hits: 1; every
                square once: 0 or more; all misses: -n * n / (n * n - 12), below -1
    horizon     n * n steps: terminated when all ships are sunk, truncated at the last step (both can be true)
    credit      a shot shows where ships are and is worth nothing twice: it matters to the episode's end
    reset       ships in the order 2, 3, 3, 4, each uniform over all placements that touch no ship square yet
    variants    Easy (n = 8, at most 64 steps), Medium (10, 100), Hard (12, 144)
    markov      int64 [B, 2 * n * n + 1]: squares with a ship, squares shot at, the obs; squares row by row
    baselines   at random, each square once, hunt and target: `mru_rl.envs.scores`. 1 takes luck, so no success is named
    source      popgym Battleship 1.0.7. Departures: none
    """

    squares: Tensor
    hit: Tensor
    hits: Tensor
    position: Tensor

    def __init__(self, *, board_size: int, **common: Any) -> None:
        super().__init__(observation_space=Discrete(2), action_space=MultiDiscrete([board_size, board_size]), **common)
        board = MultiDiscrete(np.full((board_size, board_size), 2))
        self.markov_space = Tuple([board, board, self.observation_space])
        self.board_size, self.num_squares = board_size, board_size**2
        self.horizon, self.needed_hits = self.num_squares, sum(SHIP_SIZES)
        self.credit_horizon = self.horizon - 1
        self.success = torch.tensor(1 / self.needed_hits, device=self.device)
        self.failure = torch.tensor(-1 / (self.num_squares - self.needed_hits), device=self.device)
        self.placements = [placements(board_size, size).to(self.device) for size in SHIP_SIZES]
        shape = (self.num_envs, self.num_squares)
        self.register_state("squares", torch.zeros(shape, dtype=torch.uint8, device=self.device))
        self.register_state("hit", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))
        self.register_state("hits", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))
        self.register_state("position", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))

    def _reset(self, mask: Tensor) -> None:
        rows = mask.nonzero().squeeze(1)
        board = torch.zeros(len(rows), self.num_squares, dtype=torch.uint8, device=self.device)
        for ships in self.placements:
            self._place(ships, board)
        self.squares[rows] = board
        for tensor in (self.hit, self.hits, self.position):
            tensor[rows] = 0

    def _place(self, ships: Tensor, board: Tensor) -> None:
        """Put one more ship on every board [R, n * n]: draw a placement, and draw again where it does not fit."""
        rows = torch.arange(len(board), device=self.device)
        while len(rows):
            drawn = torch.randint(len(ships), (len(rows),), generator=self.generator, device=self.device)
            ship, row = ships[drawn], rows.unsqueeze(1)
            fits = board[row, ship].sum(1) == WATER
            board[row[fits], ship[fits]] = SHIP
            rows = rows[~fits]

    def _step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cell = action[:, :1] * self.board_size + action[:, 1:]
        square = self.squares.gather(1, cell)
        self.squares.scatter_(1, cell, square | GUESSED)
        hit = square.squeeze(1) == SHIP
        self.hit.copy_(hit)
        self.hits += hit
        self.position += 1
        reward = torch.where(hit, self.success, self.failure)
        return reward, self.hits == self.needed_hits, self.position >= self.horizon

    def _observe(self) -> Tensor:
        return self.hit.clone()

    def _markov(self) -> Tensor:
        return torch.cat((self.squares & SHIP, self.squares >> 1, self.hit.unsqueeze(1)), dim=1)


def placements(board_size: int, ship_size: int) -> Tensor:
    """Return the squares of every way a ship lies on an empty board, once each, int64 [ways, ship_size]."""
    square = torch.arange(board_size**2).view(board_size, board_size)
    lines = torch.stack((square, square.T)).unfold(2, ship_size, 1)  # along rows, then along columns
    return lines.reshape(-1, ship_size)
