"""What the card games share in which nothing an action does is ever seen: an episode is a list of questions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from gymnasium.spaces import Discrete, MultiDiscrete, Tuple
from torch import Tensor

from mru_rl.envs.open_loop import OpenLoopEnv

NOT_ASKED = 255


class Quiz(OpenLoopEnv):
    """A game drawn whole when it starts: T + 1 frames, and the right answer to each of the first T.

    A game says in `_deal` what its frames and answers are; an answer of NOT_ASKED earns nothing, any other one earns
    +1/num_paid if it is given and -1/num_paid if not. Every step shows the next frame, the last one ends the episode.
    State: `shown` uint8 [B, T + 1], or [B, T + 1, 2] where a frame has two numbers; `answers` uint8 [B, T];
    `position` int64 [B, 1], the frame on show.
    """

    shown: Tensor
    answers: Tensor

    def __init__(
        self, *, num_steps: int, num_paid: int, frame: Discrete | MultiDiscrete | Tuple, num_actions: int, **common: Any
    ) -> None:
        super().__init__(observation_space=frame, action_space=Discrete(num_actions), **common)
        self.horizon = num_steps
        self.right = torch.tensor(1 / num_paid, device=self.device)
        self.wrong, self.unpaid = -self.right, torch.zeros_like(self.right)
        self.frame_shape = () if isinstance(frame, Discrete) else (2,)
        self.register_state("shown", self._timeline(num_steps + 1, *self.frame_shape))
        self.register_state("answers", self._timeline(num_steps))
        self.register_state("position", torch.zeros(self.num_envs, 1, dtype=torch.int64, device=self.device))
        # one number per frame, two bytes of it where a frame has two: a view, so that one look finds a frame
        self._frames = self.shown.view(torch.int16).squeeze(2) if self.frame_shape else self.shown
        self._together: int | None = None
        """The position of all rows where they share one, as they do until somebody restarts a part of them."""
        self._num_asked: list[int] = []
        """To how many rows each step of theirs puts a question."""

    def _timeline(self, steps: int, *frame: int) -> Tensor:
        """Return zeros [B, steps, *frame], laid out so that a column is one piece of memory."""
        return torch.zeros(steps, self.num_envs, *frame, dtype=torch.uint8, device=self.device).transpose(0, 1)

    def _now(self, timeline: Tensor) -> Tensor:
        """Return the entry [B] at every row's position."""
        if self._together is not None:
            return timeline[:, self._together]
        return timeline.gather(1, self.position).squeeze(1)

    @abstractmethod
    def _deal(self, rows: int) -> tuple[Tensor, Tensor]:
        """Draw frames [rows, T + 1] or [rows, T + 1, 2] and answers [rows, T]; numbers up to 255 of any dtype."""

    def _reset(self, mask: Tensor) -> None:
        rows = mask.nonzero().squeeze(1)
        shown, answers = self._deal(len(rows))
        if len(rows) == self.num_envs:
            self.shown.copy_(shown)
            self.answers.copy_(answers)
            self.position.zero_()
        else:
            self.shown[rows] = shown.to(torch.uint8)
            self.answers[rows] = answers.to(torch.uint8)
            self.position[rows] = 0
        self._keep_step(shared=len(rows) == self.num_envs)

    def _keep_step(self, *, shared: bool) -> None:
        self._together = int(self.position[0]) if shared else None
        self._num_asked = (self.answers != NOT_ASKED).sum(0).tolist() if shared else []

    def _step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        reward = self._reward(action)
        self.position += 1
        if self._together is None:
            terminated = self.position.squeeze(1) == self.horizon
        else:
            self._together += 1
            terminated = torch.full((self.num_envs,), self._together == self.horizon, device=self.device)
        return reward, terminated, torch.zeros_like(terminated)

    def _reward(self, action: Tensor) -> Tensor:
        asked = None if self._together is None else self._num_asked[self._together]
        if asked == 0:
            return torch.zeros(self.num_envs, device=self.device)
        answer = self._now(self.answers)
        reward = torch.where(action == answer, self.right, self.wrong)
        return reward if asked == self.num_envs else torch.where(answer == NOT_ASKED, self.unpaid, reward)

    def show_state(self, shown: str) -> None:
        super().show_state(shown)
        self.can_unroll = shown == "none"  # Markov states are counted step by step

    def _unroll(self, start: int, steps: int) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        stop = start + steps
        obs, answers = self.shown[:, start:stop].long(), self.answers[:, start:stop].clone()
        asked = answers != NOT_ASKED

        def pay(action: Tensor) -> Tensor:
            return torch.where(asked, torch.where(action == answers, self.right, self.wrong), self.unpaid)

        self.position.fill_(stop)
        self._together = stop
        return obs, asked, pay

    def _observe(self) -> Tensor:
        frames = self._now(self._frames).view(torch.uint8).long()
        return frames.view(self.num_envs, *self.frame_shape)

    def _num_seen(self, faces: Tensor, count: int) -> Tensor:
        """Return how often each of `count` faces stood in `faces` [B, >= T + 1] so far, float64 [B, count]."""
        so_far = torch.arange(self.horizon + 1, device=self.device) <= self.position
        faces = faces[:, : self.horizon + 1]
        return torch.stack([((faces == face) & so_far).sum(1) for face in range(count)], dim=1).double()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._keep_step(shared=bool((self.position == self.position[0]).all()))
