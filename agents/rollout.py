"""The acting loop: step the policy and the envs side by side, keep what learning needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from mru_rl.agents.actions import ActionHead
from mru_rl.agents.episodes import EpisodeLog
from mru_rl.agents.networks import ActorCritic, Policy
from mru_rl.envs.base import NonFiniteError


class Rollout(NamedTuple):
    """data: TensorDict [B, T] with torchrl's keys; start_state: [B, layers, S], the memory at the first step."""

    data: TensorDict
    start_state: Tensor

    def require_finite(self, env_id: str) -> None:
        """Raises NonFiniteError naming row and step where the env returned NaN or infinity."""
        require_finite(self.data["observation"], "observation", env_id)
        require_finite(self.data["next", "reward"].unsqueeze(-1), "reward", env_id)


def make_rollout(
    start_state: Tensor, *, observation: Tensor, is_init: Tensor, action: Tensor, log_prob: Tensor, value: Tensor,
    last_value: Tensor, final_value: Tensor, reward: Tensor, terminated: Tensor, truncated: Tensor,
) -> Rollout:  # fmt: skip
    """A rollout from its columns, [B, T, ...] each.

    last_value: [B], the value of what the envs show after the segment. final_value: [B, T], read where an episode was
    cut: the value of what it would have gone on from. Under "next", state_value is the value of what the action led to,
    before any reset: 0 where the episode terminated.
    """
    next_value = torch.where(truncated, final_value, torch.cat([value[:, 1:], last_value.unsqueeze(1)], dim=1))
    data = TensorDict(
        {
            "observation": observation,
            "is_init": is_init,
            "action": action,
            "action_log_prob": log_prob,
            "state_value": value,
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


class RolloutSource(ABC):
    """What a trainer collects from: segments of its policy's acting, and a count of the episodes that ended in them."""

    log: EpisodeLog
    name: str
    """What runs the envs, for a message."""

    @property
    def recent(self) -> deque[tuple[float, int, float]]:
        """Return, length and success (NaN where the env names none) of the last hundred finished episodes."""
        return self.log.recent

    @property
    def episodes(self) -> int:
        """How many have finished."""
        return self.log.episodes

    @abstractmethod
    def collect(self, segment: int) -> Rollout:
        """One segment of all envs, going on where the last one ended.

        Raises NonFiniteError naming row and step where the env returned NaN or infinity.
        """

    @abstractmethod
    def change_env(self, env: Any) -> None:
        """Go on in another env of the same spaces, with fresh episodes; what was counted of the old one is forgotten."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that acting on needs, as far as it can be saved."""

    @abstractmethod
    def load_state_dict(self, saved: dict[str, Any]) -> bool:
        """Go on from a state_dict. Returns whether the envs were restored; if not, they start fresh episodes."""

    @abstractmethod
    def close(self) -> None:
        """Close the envs and end what runs them."""


class ActingLoop(RolloutSource):
    """Acts in a batched env, one segment at a time, carrying memory and observations over from one to the next.

    Written here, not taken from torchrl: an episode that was cut is valued at its true last observation while the memory
    that led to it is still at hand, and the state goes on to the bit from a checkpoint.
    """

    def __init__(self, env: Any, policy: Policy, head: ActionHead, generator: torch.Generator) -> None:
        self.env, self.policy, self.head, self.generator = env, policy, head, generator
        device = generator.device
        self.state = policy.core.initial_state(env.num_envs)
        self.is_init = torch.ones(env.num_envs, dtype=torch.bool, device=device)
        self.name = env.id
        self.obs = env.reset()
        require_finite(self.obs.unsqueeze(1), "observation", env.id)
        self.log = EpisodeLog(env.num_envs, env.success_return, device)

    def change_env(self, env: Any) -> None:
        self.env, self.name = env, env.id
        self.log.change_env(env.success_return)
        self.restart()

    def restart(self) -> None:
        """Begin fresh episodes in every row, for an env that could not be restored."""
        self.obs = self.env.reset()
        self.is_init = torch.ones_like(self.is_init)
        self.state = torch.zeros_like(self.state)
        self.log.restart()

    def close(self) -> None:
        self.env.close()

    def state_dict(self) -> dict[str, Any]:
        """All that acting on needs: memory, observations, env and generator states, running counts."""
        return {
            "state": self.state,
            "is_init": self.is_init,
            "obs": self.obs,
            **self.log.state_dict(),
            "generator": self.generator.get_state(),
            "env": self.env.state_dict() if self.env.saves_state else None,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> bool:
        device = self.obs.device
        self.state, self.is_init, self.obs = (saved[k].to(device).clone() for k in ("state", "is_init", "obs"))
        self.log.load_state_dict(saved)
        self.generator.set_state(saved["generator"])
        if saved["env"] is None:
            self.restart()
            return False
        self.env.load_state_dict(saved["env"])
        return True


class Collector(ActingLoop):
    """The acting loop of an actor and critic: actions are drawn from the policy, and every step is valued."""

    policy: ActorCritic

    def collect(self, segment: int) -> Rollout:
        """One segment of all envs.

        The TensorDict [B, T] holds observation, action, action_log_prob, state_value, is_init and, under "next",
        reward, terminated, truncated, done and state_value, as make_rollout says.
        Raises NonFiniteError naming row and step where the env returned NaN or infinity.
        """
        start_state = self.state.clone()
        with torch.inference_mode():
            steps, last_value = self._act(segment)
        columns = [torch.stack(column, dim=1) for column in zip(*steps, strict=True)]
        obs, is_init, action, log_prob, value, reward, terminated, truncated, final_value = columns
        rollout = make_rollout(
            start_state, observation=obs, is_init=is_init, action=action, log_prob=log_prob, value=value,
            last_value=last_value, final_value=final_value, reward=reward, terminated=terminated, truncated=truncated,
        )  # fmt: skip
        rollout.require_finite(self.env.id)
        return rollout

    def _act(self, segment: int) -> tuple[list[tuple[Tensor, ...]], Tensor]:
        steps: list[tuple[Tensor, ...]] = []
        for _ in range(segment):
            obs, is_init = self.obs, self.is_init
            params, value, state = self.policy.step(obs, self.state, is_init)
            action = self.head.sample(params, self.generator)
            log_prob, _ = self.head.log_prob_and_entropy(params, action)
            after = self.env.step(self.head.to_env(action))
            done = after.terminated | after.truncated
            final_value = value
            if after.truncated.any():  # the episode was cut, not over: value what it would have gone on from
                final_value = self.policy.step(after.final_obs, state, torch.zeros_like(is_init)).value
            steps.append(
                (obs, is_init, action, log_prob, value, after.reward, after.terminated, after.truncated, final_value)
            )
            self.log.count(after.reward, done)
            self.obs, self.is_init, self.state = after.obs, done, state
        return steps, self.policy.step(self.obs, self.state, self.is_init).value
