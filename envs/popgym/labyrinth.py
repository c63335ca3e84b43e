"""What the two labyrinths share: a hidden maze, a view of the 3 x 3 squares around, four ways to go."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete, MultiDiscrete
from torch import Tensor

from mru_rl.envs.popgym import hunt_and_kill
from mru_rl.envs.popgym.hunt_and_kill import WALL
from mru_rl.envs.tensor_env import TensorEnv

START, GOAL, HIDDEN = 2, 3, 4
NUM_SQUARES = 5
NO_ACTION = 4
NUM_ACTIONS = 4
EPISODE_LENGTH = 1024
SPARES = 64
"""At least so many mazes are carved at once; they wait in shared state until a row needs one."""


class Labyrinth(TensorEnv):
    """Base of the labyrinths. A task writes its goal into fresh mazes and says what a step earns and ends.

    State per row: `maze` uint8 [B, cells of the board], squares by rows with one more row and column of walls, `seen`
    bool of the same layout, `position` int64 [B, 1] in it, `last_action` and `steps` int64 [B].
    The view of upstream is kept: in the first row (column) it shows that row, the next and a row of walls below them.
    """

    maze: Tensor
    seen: Tensor
    position: Tensor
    last_action: Tensor
    steps: Tensor
    spare_maze: Tensor
    spare_ends: Tensor
    spares_used: Tensor

    def __init__(self, *, maze_size: int, **common: Any) -> None:
        super().__init__(
            observation_space=MultiDiscrete([NUM_SQUARES] * 9 + [NO_ACTION + 1]),
            action_space=Discrete(NUM_ACTIONS),
            **common,
        )
        self.cells, self.size = maze_size // 2, maze_size + 1
        self.markov_space = MultiDiscrete(np.full((self.size, self.size), NUM_SQUARES))
        self.horizon = EPISODE_LENGTH - 1
        self.credit_horizon = self.horizon - 1
        self.stride = self.size + 1
        self._lay_out_board()
        rows, squares = self.num_envs, self.stride**2
        self.register_state("maze", torch.full((rows, squares), WALL, dtype=torch.uint8, device=self.device))
        self.register_state("seen", torch.zeros(rows, squares, dtype=torch.bool, device=self.device))
        self.register_state("position", torch.zeros(rows, 1, dtype=torch.int64, device=self.device))
        self.register_state("last_action", torch.zeros(rows, dtype=torch.int64, device=self.device))
        self.register_state("steps", torch.zeros(rows, dtype=torch.int64, device=self.device))
        spares = max(rows, SPARES)
        self.register_shared("spare_maze", torch.zeros(spares, squares, dtype=torch.uint8, device=self.device))
        self.register_shared("spare_ends", torch.zeros(spares, 2, dtype=torch.int64, device=self.device))
        self.register_shared("spares_used", torch.tensor(spares, device=self.device))

    def _lay_out_board(self) -> None:
        """Make the tables from a square to those it shows and to those that the four actions lead to."""
        pad = last = self.size
        line = torch.arange(self.stride)
        around = torch.stack((line - 1, line, line + 1), dim=1)
        around[0] = torch.tensor([0, 1, pad])
        around = around.clamp(max=pad)
        view = around[:, None, :, None] * self.stride + around[None, :, None, :]  # [row, column, 3, 3]
        self.view = view.reshape(-1, 9).to(self.device)
        row, column = torch.meshgrid(line, line, indexing="ij")
        less, more = (lambda x: (x - 1).clamp(min=0)), (lambda x: (x + 1).clamp(max=last - 1))
        ways = [(row, less(column)), (row, more(column)), (less(row), column), (more(row), column)]
        self.next_square = torch.stack([r * self.stride + c for r, c in ways], dim=2).flatten().to(self.device)

    @abstractmethod
    def _set_goal(self, rows: Tensor, end: Tensor) -> None:
        """Finish the fresh mazes of `rows`, int64 [n]; `end` int64 [n, 1] is the square opposite to the start."""

    @abstractmethod
    def _judge(self, new: Tensor) -> tuple[Tensor, Tensor]:
        """Return reward and terminated after a move; new (bool [B]): onto a square not seen before."""

    def _reset(self, mask: Tensor) -> None:
        rows = mask.nonzero().squeeze(1)
        maze, ends = self._take_mazes(len(rows))
        start = ends[:, :1]
        self.maze[rows] = maze.scatter(1, start, START)
        self.position[rows] = start
        self.seen[rows] = torch.zeros_like(maze, dtype=torch.bool).scatter_(1, start, True)
        self.last_action[rows] = NO_ACTION
        self.steps[rows] = 0
        self._set_goal(rows, ends[:, 1:])

    def _take_mazes(self, count: int) -> tuple[Tensor, Tensor]:
        """Return fresh mazes [count, squares] and their start and end squares [count, 2]; carves more when needed."""
        used = int(self.spares_used)
        end = min(used + count, len(self.spare_maze))
        mazes, ends = self.spare_maze[used:end], self.spare_ends[used:end]
        self.spares_used.fill_(end)
        if len(mazes) == count:
            return mazes, ends
        mazes, ends = mazes.clone(), ends.clone()  # the spares are about to be carved anew, in place
        self._carve_spares()
        more_mazes, more_ends = self._take_mazes(count - len(mazes))
        return torch.cat((mazes, more_mazes)), torch.cat((ends, more_ends))

    def _carve_spares(self) -> None:
        count = len(self.spare_maze)
        maze = hunt_and_kill.carve(count, self.cells, generator=self.generator)
        self.spare_maze.copy_(torch.nn.functional.pad(maze, (0, 1, 0, 1), value=WALL).flatten(1))
        for i, square in enumerate(hunt_and_kill.entrances(count, self.cells, generator=self.generator)):
            self.spare_ends[:, i] = square[:, 0] * self.stride + square[:, 1]
        self.spares_used.zero_()

    def _forget_draws(self) -> None:
        self.spares_used.fill_(len(self.spare_maze))

    def _step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        target = self.next_square[self.position * NUM_ACTIONS + action[:, None]]
        blocked = self.maze.gather(1, target) == WALL
        torch.where(blocked, self.position, target, out=self.position)
        new = ~self.seen.gather(1, self.position).squeeze(1)
        self.seen.scatter_(1, self.position, True)
        self.last_action.copy_(action)
        self.steps += 1
        reward, terminated = self._judge(new)
        return reward, terminated, self.steps == self.horizon

    def _observe(self) -> Tensor:
        around = self.maze.gather(1, self.view[self.position.squeeze(1)])
        return torch.cat((around, self.last_action[:, None]), dim=1)

    def _markov(self) -> Tensor:
        board = torch.where(self.seen, self.maze, HIDDEN).view(-1, self.stride, self.stride)
        return board[:, : self.size, : self.size].flatten(1).long()
