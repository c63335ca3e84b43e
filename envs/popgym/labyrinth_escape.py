"""LabyrinthEscape: find the way out of a maze."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mru_rl.envs.popgym.labyrinth import EPISODE_LENGTH, GOAL, Labyrinth


class LabyrinthEscape(Labyrinth):
    """Walk from an opening in the outer wall of an unknown maze to the goal in the opposite wall.

    obs         int64 [B, 10]: the 3 x 3 squares around by rows (0 free, 1 wall, 2 start, 3 goal), then the last action
                (4 at the start). In the first row and column the view is shifted by one: upstream does, so it is kept
    action      int64 [B], 0 left, 1 right, 2 up, 3 down; into a wall: nothing moves
    reward      -1 / 1024 at every step, the one that reaches the goal +1 more
    horizon     1023 steps: terminated at the goal, truncated at the last step (both can be true)
    reset       a fresh maze (mazelib's hunt and kill), start and goal on random opposite sides. In about one of 10,000
                a room has no door, as in mazelib's; where it is the room at the goal, that is out of reach
    variants    mazes of 11 x 11 squares (Easy), 15 x 15 (Medium), 19 x 19 (Hard), outer walls included
    baselines   at random -0.43, -0.84, -0.96. Success: the goal was reached, a return above 0
    markov      int64 [B, squares]: the squares visited so far as in obs, 4 for all others. It is upstream's, so it
                says neither where one stands nor where the goal is
    source      popgym LabyrinthEscape 1.0.7, mazelib 0.9.16 (which need not be installed). Departures: none
    """

    success_return = 0.0

    def __init__(self, *, maze_size: int, **common: Any) -> None:
        super().__init__(maze_size=maze_size, **common)
        self.price = torch.tensor(-1 / EPISODE_LENGTH, device=self.device)
        self.prize = self.price + 1

    def _set_goal(self, rows: Tensor, end: Tensor) -> None:
        self.maze[rows] = self.maze[rows].scatter_(1, end, GOAL)

    def _judge(self, new: Tensor) -> tuple[Tensor, Tensor]:
        terminated = self.maze.gather(1, self.position).squeeze(1) == GOAL
        return torch.where(terminated, self.prize, self.price), terminated
