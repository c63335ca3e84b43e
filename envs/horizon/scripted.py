"""An env whose single steps and long stretches come from one description: its moving state, what it shows, what it asks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mru_rl.envs.encoding import Encoding
from mru_rl.envs.horizon.pixels import IMAGE, Draw, enlarged
from mru_rl.envs.open_loop import OpenLoopEnv

Scene = dict[str, Tensor]
"""The moving state of every row: {name: [B, ...]} at one step, {name: [n, B, ...]} over n steps, time first."""
Lead = tuple[int, ...]
"""What stands before B in the shapes of a scene: () or (n,)."""


class ScriptedEnv(OpenLoopEnv):
    """Base of the long tasks in which an action changes nothing but its own reward. State is O(1) in their length.

    A row has constants of its episode, drawn in `_reset`, and a moving state: its position and whatever else is named
    with `register_moving`. An env says how the moving state goes on, by one step or by any number at once (`_ahead`),
    and what is shown, asked and paid in a scene of it. With time first, what is written for one step, B rows against
    the B constants, holds for n steps as it stands.

    Draws: `_ahead` makes exactly one call to `_uniform`. A CPU generator hands out its numbers one by one, so n calls
    for one step and one call for n steps draw the same.
    """

    _draw_frames: Draw | None = None

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._now: Scene = {}
        self._nothing = torch.zeros((), device=self.device)
        self.register_moving("position", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))

    def register_moving(self, name: str, tensor: Tensor) -> None:
        """Register as `register_state` does what changes from step to step."""
        self._now[name] = tensor
        self.register_state(name, tensor)

    def show_pictures(self, draw: Draw) -> None:
        """Show pictures of what `_frames` returns from now on. Call in the constructor."""
        self._draw_frames, self.can_render = draw, True
        self.options = {**self.options, "pixels": True}
        self.observation_space = IMAGE
        self._encoding = Encoding(IMAGE, device=self.device)

    def set_pay(self, right: float, wrong: float) -> None:
        """Set what a right and a wrong answer earn."""
        self.right, self.wrong = torch.tensor(right, device=self.device), torch.tensor(wrong, device=self.device)

    @abstractmethod
    def _ahead(self, lead: Lead) -> Scene:
        """Return the next moving state, lead (), or the next n of them, lead (n,). It draws random numbers and changes nothing else."""

    @abstractmethod
    def _frames(self, scene: Scene) -> Tensor:
        """Return what is shown, [..., B, columns], as a new tensor; where there are pictures, what those are of."""

    @abstractmethod
    def _answers(self, scene: Scene) -> Tensor:
        """Return the right actions, [..., B] and what else an action has."""

    @abstractmethod
    def _asked(self, scene: Scene) -> Tensor:
        """Return where an action counts, bool [..., B]; from the scene alone, since its episode may be over."""

    def _hidden(self, scene: Scene) -> Tensor:
        """Return the hidden Markov state, [..., B, columns]."""
        raise NotImplementedError

    def _paid(self, scene: Scene, answers: Tensor, action: Tensor) -> Tensor:
        """Return the rewards [..., B] of actions; the episode the scene is from may be over."""
        reward = torch.where(action == answers, self.right, self.wrong)
        return torch.where(self._asked(scene), reward, self._nothing)

    def right_action(self) -> Tensor:
        """Return what perfect memory would answer now, an action per row."""
        return self._answers(self._now).clone()

    def shown_numbers(self) -> Tensor:
        """Return what every row shows now as numbers, [B, columns], also where it shows a picture of them."""
        return self._frames(self._now)

    def render(self) -> np.ndarray:
        if self._draw_frames is None:
            return super().render()
        return enlarged(self._draw_frames(self.shown_numbers()[0]))

    def _step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        reward = self._paid(self._now, self._answers(self._now), action)
        for name, value in self._ahead(()).items():
            self._now[name].copy_(value)
        terminated = self.position == self.horizon
        if self.can_render:
            self.final_frame = self.render() if terminated[0] else None
        return reward, terminated, torch.zeros_like(terminated)

    def _unroll(self, start: int, steps: int) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        ahead = self._ahead((steps,))
        scene = {name: torch.cat((self._now[name].unsqueeze(0), value[:-1])) for name, value in ahead.items()}
        shown, asked, answers = self._shown(scene), self._asked(scene), self._answers(scene).clone()
        for name, value in ahead.items():
            self._now[name].copy_(value[-1])
        self.final_frame = None

        def pay(action: Tensor) -> Tensor:
            return self._paid(scene, answers, action.transpose(0, 1)).transpose(0, 1)

        return shown.transpose(0, 1), asked.transpose(0, 1), pay

    def _shown(self, scene: Scene) -> Tensor:
        if self._shown_state == "none":
            return self._seen(scene)
        if self._shown_state == "only":
            return self._hidden(scene).clone()
        return self._append(self._seen(scene), self._hidden(scene))

    def _seen(self, scene: Scene) -> Tensor:
        frames = self._frames(scene)
        return frames if self._draw_frames is None else self._draw_frames(frames)

    def _observe(self) -> Tensor:
        return self._seen(self._now)

    def _markov(self) -> Tensor:
        return self._hidden(self._now).clone()

    def _positions(self, lead: Lead) -> Tensor:
        """Return the next positions [..., B]."""
        if not lead:
            return self.position + 1
        return self.position + torch.arange(1, lead[0] + 1, device=self.device).unsqueeze(1)

    def _uniform(self, lead: Lead, *shape: int) -> Tensor:
        """Draw numbers in [0, 1) for the next steps of all rows, [..., B, *shape]."""
        return self._draw(lead, self.num_envs, shape)

    def _uniform_rows(self, rows: int, *shape: int) -> Tensor:
        """Draw numbers in [0, 1) for the first step of so many rows, [rows, *shape]."""
        return self._draw((), rows, shape)

    def _draw(self, lead: Lead, rows: int, shape: tuple[int, ...]) -> Tensor:
        unit = torch.rand(*lead, *shape, rows, generator=self.generator, device=self.device)
        return unit.movedim(-1, len(lead)) if shape else unit


def spread(unit: Tensor, width: float) -> Tensor:
    """Return uniform noise in [-width, width] made from numbers in [0, 1)."""
    return (2 * unit - 1) * width
