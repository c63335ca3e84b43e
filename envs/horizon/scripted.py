"""An env whose steps and long stretches come from one description: its moving state, and what is shown of it and asked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mru_rl.envs.open_loop import OpenLoopEnv

Scene = dict[str, Tensor]
"""The moving state of every row over some steps, {name: [B, n, ...]}."""


class ScriptedEnv(OpenLoopEnv):
    """Base of the long tasks in which an action changes nothing but its own reward. State is O(1) in their length.

    A row has constants of its episode, drawn in `_reset`, and a moving state: its position and whatever else is named
    with `register_moving`. An env says how the moving state goes on, for any number of steps at once (`_ahead`), and
    what is shown, asked and paid in a scene of it; a single step is a stretch of one.

    Draws: `_ahead(n)` makes exactly one call to `_uniform(n, ...)`. A CPU generator hands out its numbers one by one,
    so n calls for one step and one call for n steps draw the same.
    """

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._moving: list[str] = []
        self._nothing = torch.zeros((), device=self.device)
        self.register_moving("position", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))

    def register_moving(self, name: str, tensor: Tensor) -> None:
        """Like `register_state`, for what changes from step to step."""
        self._moving.append(name)
        self.register_state(name, tensor)

    def set_pay(self, right: float, wrong: float) -> None:
        """What a right and a wrong answer earn."""
        self.right, self.wrong = torch.tensor(right, device=self.device), torch.tensor(wrong, device=self.device)

    @abstractmethod
    def _ahead(self, steps: int) -> Scene:
        """Return the moving state of the next steps, the first of them one step from now. Changes nothing but draws."""

    @abstractmethod
    def _frames(self, scene: Scene) -> Tensor:
        """Return what is shown, [B, n, ...]."""

    @abstractmethod
    def _answers(self, scene: Scene) -> Tensor:
        """Return the right actions, [B, n, ...]."""

    @abstractmethod
    def _asked(self, scene: Scene) -> Tensor:
        """Return where an action counts, bool [B, n]; from the scene alone, since its episode may be over."""

    def _hidden(self, scene: Scene) -> Tensor:
        """Return the hidden Markov state, [B, n, ...]."""
        raise NotImplementedError

    def _paid(self, scene: Scene, answers: Tensor, action: Tensor) -> Tensor:
        """Return the rewards [B, n] of actions [B, n, ...]; the episode the scene is from may be over."""
        reward = torch.where(action == answers, self.right, self.wrong)
        return torch.where(self._asked(scene), reward, self._nothing)

    def right_action(self) -> Tensor:
        """What perfect memory would answer now, an action per row."""
        return self._answers(self._now()).squeeze(1).clone()

    def _unroll(self, start: int, steps: int) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        now, ahead = self._now(), self._ahead(steps)
        scene = {name: torch.cat((now[name], ahead[name][:, :-1]), dim=1) for name in self._moving}
        shown, asked, answers = self._shown(scene), self._asked(scene), self._answers(scene).clone()
        self._move_to(ahead)
        return shown, asked, lambda action: self._paid(scene, answers, action)

    def _shown(self, scene: Scene) -> Tensor:
        if self._shown_state == "none":
            return self._frames(scene)
        if self._shown_state == "only":
            return self._hidden(scene)
        return self._append(self._frames(scene), self._hidden(scene))

    def _now(self) -> Scene:
        return {name: self._state[name].unsqueeze(1) for name in self._moving}

    def _move_to(self, scene: Scene) -> None:
        for name in self._moving:
            self._state[name].copy_(scene[name][:, -1])

    def _step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        now = self._now()
        reward = self._paid(now, self._answers(now), action.unsqueeze(1)).squeeze(1)
        self._move_to(self._ahead(1))
        terminated = self.position == self.horizon
        return reward, terminated, torch.zeros_like(terminated)

    def _observe(self) -> Tensor:
        return self._frames(self._now()).squeeze(1)

    def _markov(self) -> Tensor:
        return self._hidden(self._now()).squeeze(1)

    def _positions(self, steps: int) -> Tensor:
        """The positions [B, steps] of the next steps."""
        return self.position.unsqueeze(1) + torch.arange(1, steps + 1, device=self.device)

    def _uniform(self, steps: int, *shape: int) -> Tensor:
        """Draw numbers in [0, 1) for the next steps of all rows, [B, steps, *shape]."""
        unit = torch.rand(steps, *shape, self.num_envs, generator=self.generator, device=self.device)
        return unit.movedim(-1, 0)

    def _uniform_rows(self, rows: int, *shape: int) -> Tensor:
        """Draw numbers in [0, 1) for the first step of so many rows, [rows, *shape]."""
        return torch.rand(*shape, rows, generator=self.generator, device=self.device).movedim(-1, 0)
