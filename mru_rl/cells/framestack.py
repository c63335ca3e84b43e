"""A window over the last inputs, the memory that needs no recurrence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mru_rl.cells.base import Cell, CellOutput, state_before


class FrameStack(Cell):
    """The last `frames` inputs, newest first, each through the same linear map.

        h[t] = [W x[t] + c, W x[t-1] + c, ..., W x[t-frames+1] + c],   zeros where the episode had not begun

    x: [B, T, D] -> h: [B, T, S] with S / frames numbers per input. For comparisons: memory of bounded reach, as the
    frame stacking of Mnih et al. 2015, doi:10.1038/nature14236. Departures: the linear map, which lets a state of any
    size hold inputs of any size.
    """

    name = "framestack"

    def __init__(self, input_size: int, state_size: int, *, read_before_write: bool = True, frames: int = 4) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        if frames < 1 or state_size % frames:
            raise ValueError(
                f"framestack keeps {frames} inputs of equal size: state_size must be a multiple of {frames}, "
                f"got {state_size}; change it or the option frames"
            )
        self.frames = frames
        self.input = nn.Linear(input_size, state_size // frames)

    @property
    def feature_size(self) -> int:
        return self.state_size

    def forward(self, x: Tensor, state: Tensor, is_init: Tensor, restart: Tensor | None = None) -> CellOutput:
        self.check(x, state, is_init, restart)
        found = state.chunk(self.frames, dim=-1)
        fresh = [None] * self.frames if restart is None else restart.chunk(self.frames, dim=-1)
        frames = [self.input(x).to(state.dtype)]
        for h0, start in zip(found[:-1], fresh[:-1], strict=True):
            frames.append(state_before(frames[-1], h0, is_init, start))
        states = torch.cat(frames, dim=-1)
        return CellOutput(states.to(x.dtype), states, states[:, -1])

    def step(self, x: Tensor, state: Tensor, is_init: Tensor) -> tuple[Tensor, Tensor]:
        self.check_step(x, state, is_init)
        out = self(x.unsqueeze(1), state, is_init.unsqueeze(1))
        return out.features[:, 0], out.last
