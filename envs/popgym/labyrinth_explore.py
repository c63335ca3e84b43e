"""LabyrinthExplore: set foot on every square of a maze."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mru_rl.envs.popgym.hunt_and_kill import FREE
from mru_rl.envs.popgym.labyrinth import EPISODE_LENGTH, Labyrinth


class LabyrinthExplore(Labyrinth):
    """Walk over every free square of an unknown maze, from an opening in its outer wall.

    obs         int64 [B, 10]: the 3 x 3 squares around by rows (0 free, 1 wall, 2 start), then the last action (4 at
                the start). In the first row and column the view is shifted by one: upstream does, so it is kept
    action      int64 [B], 0 left, 1 right, 2 up, 3 down; into a wall: nothing moves
    reward      1/F on a new square, F the number of free ones beside the start, -1/1024 at every other step: visiting
                all in k steps returns 1 - (k - F) / 1024
    horizon     1023 steps: terminated when every free square was visited, truncated at the last step (both can be true)
    reset       a fresh maze (mazelib's hunt and kill) and a random opening; in about one of 10,000 a room has no door,
                as in mazelib's, so that F is less
    variants    mazes of 11 x 11 squares (Easy, F = 49), 15 x 15 (Medium, 97), 19 x 19 (Hard, 161), outer walls included
    baselines   at random -0.37, -0.65, -0.71; below 1 for anybody, for dead ends are walked twice. Success: all visited
    markov      int64 [B, squares]: the squares visited so far as in obs, 4 for all others. It is upstream's, so it
                does not say where one stands
    source      popgym LabyrinthExplore 1.0.7, mazelib 0.9.16 (which need not be installed). Departures: none
    """

    left: Tensor
    prize: Tensor

    def __init__(self, *, maze_size: int, **common: Any) -> None:
        super().__init__(maze_size=maze_size, **common)
        most_free = 2 * self.cells**2 - 1
        self.success_return = (most_free + 0.5) / EPISODE_LENGTH  # all visited pays at least 0.5 / 1024 more, else less
        self.price = torch.tensor(-1 / EPISODE_LENGTH, device=self.device)
        self.register_state("left", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))
        self.register_state("prize", torch.zeros(self.num_envs, device=self.device))

    def _set_goal(self, rows: Tensor, end: Tensor) -> None:
        free = self.maze[rows].eq(FREE).sum(1)
        self.left[rows] = free
        self.prize[rows] = (1 / free.double()).float()

    def _judge(self, new: Tensor) -> tuple[Tensor, Tensor]:
        self.left -= new.long()
        return torch.where(new, self.prize, self.price), self.left == 0
