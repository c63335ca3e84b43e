"""Mazes carved as mazelib's HuntAndKill carves them, many at a time."""

from __future__ import annotations

import torch
from torch import Tensor

FREE, WALL = 0, 1


def carve(count: int, cells: int, *, generator: torch.Generator) -> Tensor:
    """Return `count` mazes of cells x cells rooms, uint8 [count, 2 * cells + 1, 2 * cells + 1]: 0 free, 1 wall.

    mazelib walks from a random room to random unvisited neighbors until it is stuck, then hunts: it picks rooms at
    random, as often as the maze has squares, and walks on from every visited one that has an unvisited neighbor. Most
    picks do nothing; how many is geometric, so that number is drawn instead, and every round of the loop opens one room
    in every maze. The mazes have mazelib's distribution, the rare ones with a room never reached included.
    """
    device = generator.device
    size, rooms, stride = 2 * cells + 1, cells * cells, cells + 2  # rooms lie in a grid with a border of visited ones
    inside = torch.nn.functional.pad(torch.ones(cells, cells, dtype=torch.bool, device=device), (1, 1, 1, 1)).flatten()
    line = torch.arange(stride, device=device)
    center = ((2 * line - 1)[:, None] * size + (2 * line - 1)).flatten()  # where a room stands in the maze
    steps = torch.tensor([-stride, stride, -1, 1], device=device)
    maze = torch.full((count, size * size), WALL, dtype=torch.uint8, device=device)
    visited = (~inside).repeat(count, 1)
    room = inside.nonzero().squeeze(1)[_below(torch.tensor(rooms, device=device).expand(count), generator)]
    visited.scatter_(1, room[:, None], True)
    maze.scatter_(1, center[room][:, None], FREE)
    hunts = torch.full((count,), size * size, dtype=torch.float64, device=device)

    for _ in range(rooms - 1):
        ways = ~visited.gather(1, room[:, None] + steps)
        stuck = (~ways.any(1)).nonzero().squeeze(1)
        if len(stuck):
            found = _hunt(visited[stuck], inside, rooms, stride, hunts, stuck, generator)
            stuck, found = stuck[found >= 0], found[found >= 0]
            room[stuck] = found
            ways[stuck] = ~visited[stuck].gather(1, found[:, None] + steps)
        going = ways.any(1)
        if not going.any():
            break
        draw = torch.rand(count, 4, generator=generator, device=device) + 1
        there = room + steps[(draw * ways).argmax(1)]
        there = torch.where(going, there, room)
        visited.scatter_(1, there[:, None], True)
        opened = torch.stack((center[there], (center[there] + center[room]) // 2), dim=1)
        maze.scatter_(1, opened, FREE)
        room = there
    return maze.view(count, size, size)


def _hunt(
    visited: Tensor, inside: Tensor, rooms: int, stride: int, hunts: Tensor, rows: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the room where each stuck maze walks on, -1 where the hunts are used up; counts `hunts` down."""
    new = ~visited
    near = torch.zeros_like(new)
    middle = slice(stride, -stride)
    near[:, middle] = new[:, : -2 * stride] | new[:, 2 * stride :]
    near[:, middle] |= new[:, stride - 1 : -stride - 1] | new[:, stride + 1 : new.shape[1] - stride + 1]
    useful = visited & inside & near
    number = useful.sum(1)
    chance = number.double() / rooms
    draw = torch.rand(len(rows), dtype=torch.float64, generator=generator, device=visited.device)
    misses = (torch.log1p(-draw) / torch.log1p(-chance)).floor()  # not a number or infinite where no room is left
    hunts[rows] -= 1 + misses.nan_to_num(posinf=1e9)
    picked = _below(number.clamp(min=1), generator)
    room = torch.searchsorted(useful.cumsum(1), picked[:, None] + 1).squeeze(1)
    return torch.where((number > 0) & (hunts[rows] >= 0), room, -1)


def entrances(count: int, cells: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return start and end, int64 [count, 2] (row, column): openings in the outer walls of opposite random sides."""
    device = generator.device
    far = 2 * cells
    side = torch.randint(4, (count,), generator=generator, device=device)
    along = 2 * torch.randint(cells, (count, 2), generator=generator, device=device) + 1
    first = side % 2 * far
    across = torch.stack((first, far - first), dim=1)
    top_down = (side < 2)[:, None]
    row, column = torch.where(top_down, across, along), torch.where(top_down, along, across)
    ends = torch.stack((row, column), dim=2)
    return ends[:, 0], ends[:, 1]


def _below(bound: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a whole number from 0 to bound - 1 for every entry of bound (int64)."""
    unit = torch.rand(bound.shape, dtype=torch.float64, generator=generator, device=bound.device)
    return torch.minimum((unit * bound).long(), bound - 1)
