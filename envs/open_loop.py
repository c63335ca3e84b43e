"""What open-loop envs share: as no action is ever seen, many steps can be taken at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from mru_rl.envs.base import Stretch, check_count
from mru_rl.envs.tensor_env import TensorEnv


class OpenLoopEnv(TensorEnv):
    """Base of envs in which neither the observations nor the ends of episodes depend on actions; all are equally long.

    An env keeps `position`, the step [B] or [B, 1] at which every row stands, and gives `_unroll`.
    """

    credit_horizon = 0
    open_loop = True
    can_unroll = True
    position: Tensor

    def unroll(self, steps: int) -> Stretch:
        check_count(steps, name="steps to unroll", least=1)
        if not self.can_unroll:
            return super().unroll(steps)
        if not self._started:
            raise RuntimeError(f"{self.id} unrolls only after a reset; call env.reset() once")
        start = int(self.position[0])
        if not (self.position == start).all():
            raise RuntimeError(
                f"{self.id} unrolls only while all rows stand at the same step of their episodes, but some were "
                "restarted singly; call env.step(), or env.reset() to restart all of them"
            )
        stop = min(start + steps, self.horizon)
        obs, asked, pay = self._unroll(start, stop - start)
        ended = stop == self.horizon
        if ended:
            self._reset(torch.ones(self.num_envs, dtype=torch.bool, device=self.device))
        return Stretch(obs, asked, pay, start == 0, ended)

    @abstractmethod
    def _unroll(self, start: int, steps: int) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Advance all rows, which stand at `start`, by so many steps; return obs, asked and pay of a Stretch.

        They must not look at the state later on: where the episode ends, a new one follows at once.
        """
