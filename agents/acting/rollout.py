"""A rollout: one segment of every env, with torchrl's keys."""

from __future__ import annotations

from typing import NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from mru_rl.envs.base import BatchedEnv, NonFiniteError


class Rollout(NamedTuple):
    """data: TensorDict [B, T] with torchrl's keys; start_state: [B, layers, S], the memory at the first step.

    Where rows are to be left out of learning, data holds "finite_rows", bool [B, T], False in all of such a row.
    """

    data: TensorDict
    start_state: Tensor

    @property
    def finite_rows(self) -> Tensor | None:
        """bool [B], the rows to learn from; None for all."""
        return self.data["finite_rows"].all(1) if "finite_rows" in self.data.keys() else None  # noqa: SIM118 (a TensorDict)

    def kept(self) -> Rollout:
        """The rows to learn from."""
        rows = self.finite_rows
        return self if rows is None else Rollout(self.data[rows], self.start_state[rows])

    def require_finite(self, env: BatchedEnv) -> None:
        """Raises NonFiniteError naming row and step where the env returned NaN or infinity."""
        require_finite(env.floats(self.data["observation"]), "observation", env.id)
        require_finite(self.data["next", "reward"].unsqueeze(-1), "reward", env.id)


def make_rollout(
    start_state: Tensor,
    *,
    observation: Tensor,
    is_init: Tensor,
    action: Tensor,
    action_log_prob: Tensor,
    state_value: Tensor,
    last_value: Tensor,
    final_value: Tensor,
    reward: Tensor,
    terminated: Tensor,
    truncated: Tensor,
) -> Rollout:
    """A rollout of an actor-critic from its columns, [B, T, ...] each.

    last_value: [B], the value of what the envs show after the segment. final_value: [B, T], read where an episode was
    cut: the value of what it would have gone on from. Under "next", state_value is the value of what the action led to,
    before any reset: 0 where the episode terminated.
    """
    ahead = torch.cat([state_value[:, 1:], last_value.unsqueeze(1)], dim=1)
    next_value = torch.where(truncated, final_value, ahead)
    data = TensorDict(
        {
            "observation": observation,
            "is_init": is_init,
            "action": action,
            "action_log_prob": action_log_prob,
            "state_value": state_value,
            "next": {
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated,
                "done": terminated | truncated,
                "state_value": next_value.masked_fill(terminated, 0.0),
            },
        },
        batch_size=observation.shape[:2],
    )
    return Rollout(data, start_state)


def require_finite(values: Tensor, what: str, env_id: str) -> None:
    """Raises NonFiniteError naming row and step where values [B, T, ...] are NaN or infinite."""
    if values.isfinite().all():
        return
    row, step = (~values.isfinite()).flatten(2).any(-1).nonzero()[0].tolist()
    raise NonFiniteError(
        f"env {env_id} returned {what} values that are NaN or infinite in row {row}, step {step} of the segment; "
        "mend the env or clip what it returns: an agent cannot learn from it"
    )
