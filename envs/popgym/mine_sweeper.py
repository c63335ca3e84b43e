"""MineSweeper: clear a board that shows one number at a time."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Discrete, MultiDiscrete
from torch import Tensor

from mru_rl.envs.popgym import PERFECT
from mru_rl.envs.tensor_env import TensorEnv

CLEAR, MINE, VIEWED = 0, 1, 2


class MineSweeper(TensorEnv):
    """View every square of an n x n board that holds no mine, each once.

    obs         int64 [B], mines on the square last viewed and its eight neighbors; 0 at the start. Which square that
                was stands in the previous action only
    action      int64 [B, 2], row and column, 0..n-1
    reward      +1/L for a clear square, -0.5/(L - 2) for one viewed before, -0.5 - 1/L for a mine;
                L = n * n - num_mines
    horizon     L steps: terminated on a mine or when no clear square is left, else truncated at step L. One square
                viewed twice makes a win impossible, so winning is returning 1
    credit      a view shows where mines are, and the square is worth nothing twice: it matters to the episode's end
    reset       mines uniform without replacement
    variants    Easy (n = 4, 2 mines, L = 14), Medium (6, 6, 30), Hard (8, 10, 54)
    markov      int64 [B, n * n]: 0 clear, 1 mine, 2 viewed; squares row by row
    baselines   at random, best simple rule: `mru_rl.envs.scores`; 1 takes luck at the first square
    source      popgym MineSweeper 1.0.7 (releases before it allowed one step more). Departures: none
    """

    success_return = PERFECT
    squares: Tensor
    mines_near: Tensor
    number: Tensor
    clear_left: Tensor
    position: Tensor

    def __init__(self, *, board_size: int, num_mines: int, **common: Any) -> None:
        super().__init__(
            observation_space=Discrete(min(num_mines + 1, 10)),
            action_space=MultiDiscrete([board_size, board_size]),
            **common,
        )
        self.markov_space = MultiDiscrete([3] * board_size**2)
        self.board_size, self.num_squares, self.num_mines = board_size, board_size**2, num_mines
        self.horizon = self.num_squares - num_mines
        self.credit_horizon = self.horizon - 1
        by_square = {CLEAR: 1 / self.horizon, MINE: -0.5 - 1 / self.horizon, VIEWED: -0.5 / (self.horizon - 2)}
        self.reward_of = torch.tensor([by_square[square] for square in sorted(by_square)], device=self.device)
        self.near = neighbors(board_size).to(self.device)
        shape = (self.num_envs, self.num_squares)
        self.register_state("squares", torch.zeros(shape, dtype=torch.uint8, device=self.device))
        self.register_state("mines_near", torch.zeros(shape, dtype=torch.uint8, device=self.device))
        self.register_state("number", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))
        self.register_state("clear_left", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))
        self.register_state("position", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))

    def _reset(self, mask: Tensor) -> None:
        rows = mask.nonzero().squeeze(1)
        keys = torch.rand(len(rows), self.num_squares, generator=self.generator, device=self.device)
        mines = torch.zeros_like(keys).scatter_(1, keys.topk(self.num_mines, dim=1).indices, MINE)
        self.squares[rows] = mines.to(torch.uint8)
        self.mines_near[rows] = (mines @ self.near).to(torch.uint8)
        self.number[rows] = 0
        self.clear_left[rows] = self.horizon
        self.position[rows] = 0

    def _step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cell = action[:, :1] * self.board_size + action[:, 1:]
        square = self.squares.gather(1, cell)
        is_clear, is_mine = square == CLEAR, square.squeeze(1) == MINE
        self.squares.scatter_(1, cell, square.masked_fill(is_clear, VIEWED))
        self.number.copy_(self.mines_near.gather(1, cell).squeeze(1))
        self.clear_left -= is_clear.squeeze(1).long()
        self.position += 1
        reward = self.reward_of.take(square.squeeze(1).long())
        terminated = is_mine | (self.clear_left == 0)
        return reward, terminated, (self.position == self.horizon) & ~terminated

    def _observe(self) -> Tensor:
        return self.number.clone()

    def _markov(self) -> Tensor:
        return self.squares.long()


def neighbors(board_size: int) -> Tensor:
    """Return 1 where two squares touch or are the same, float32 [board_size ** 2, board_size ** 2]."""
    place = torch.arange(board_size)
    close = (place[:, None] - place).abs() <= 1
    return torch.kron(close.float(), close.float())
