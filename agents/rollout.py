"""The acting loop: step the policy and the envs side by side, keep what learning needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from mru_rl.agents.actions import ActionHead
from mru_rl.agents.networks import ActorCritic, Policy
from mru_rl.envs.base import NonFiniteError


class Rollout(NamedTuple):
    """data: TensorDict [B, T] with torchrl's keys; start_state: [B, layers, S], the memory at the first step."""

    data: TensorDict
    start_state: Tensor


class ActingLoop(ABC):
    """Acts in a batched env, one segment at a time, carrying memory and observations over from one to the next.

    Written here, not taken from torchrl: an episode that was cut is valued at its true last observation while the memory
    that led to it is still at hand, and the state goes on to the bit from a checkpoint.
    """

    def __init__(self, env: Any, policy: Policy, head: ActionHead, generator: torch.Generator) -> None:
        self.env, self.policy, self.head, self.generator = env, policy, head, generator
        device = generator.device
        self.state = policy.core.initial_state(env.num_envs)
        self.is_init = torch.ones(env.num_envs, dtype=torch.bool, device=device)
        self.obs = env.reset()
        self._require_finite(self.obs.unsqueeze(1), "observation")
        self.episode_return = torch.zeros(env.num_envs, device=device)
        self.episode_length = torch.zeros(env.num_envs, dtype=torch.int64, device=device)
        self.recent: deque[tuple[float, int, float]] = deque(maxlen=100)  # return, length, success of finished episodes
        self.episodes = 0

    @abstractmethod
    def collect(self, segment: int) -> Rollout:
        """One segment of all envs.

        Raises NonFiniteError naming row and step where the env returned NaN or infinity.
        """

    def _count(self, reward: Tensor, done: Tensor) -> None:
        self.episode_return += reward
        self.episode_length += 1
        if not done.any():
            return
        threshold = self.env.success_return
        for value, length in zip(self.episode_return[done].tolist(), self.episode_length[done].tolist(), strict=True):
            success = float("nan") if threshold is None else float(value >= threshold)
            self.recent.append((value, length, success))
            self.episodes += 1
        self.episode_return[done] = 0
        self.episode_length[done] = 0

    def _require_finite(self, values: Tensor, what: str) -> None:
        if values.isfinite().all():
            return
        row, step = (~values.isfinite()).flatten(2).any(-1).nonzero()[0].tolist()
        raise NonFiniteError(
            f"env {self.env.id} returned {what} values that are NaN or infinite in row {row}, step {step} of the segment; "
            "mend the env or clip what it returns: an agent cannot learn from it"
        )

    def change_env(self, env: Any) -> None:
        """Go on in another env of the same spaces, with fresh episodes; what was counted of the old one is forgotten."""
        self.env = env
        self.recent.clear()
        self.restart()

    def restart(self) -> None:
        """Begin fresh episodes in every row, for an env that could not be restored."""
        self.obs = self.env.reset()
        self.is_init = torch.ones_like(self.is_init)
        self.episode_return.zero_()
        self.episode_length.zero_()

    def state_dict(self) -> dict[str, Any]:
        """All that acting on needs: memory, observations, env and generator states, running counts."""
        return {
            "state": self.state,
            "is_init": self.is_init,
            "obs": self.obs,
            "episode_return": self.episode_return,
            "episode_length": self.episode_length,
            "recent": [list(episode) for episode in self.recent],
            "episodes": self.episodes,
            "generator": self.generator.get_state(),
            "env": self.env.state_dict() if self.env.saves_state else None,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> bool:
        """Go on from a state_dict. Returns whether the envs were restored; if not, they start fresh episodes."""
        device = self.obs.device
        self.state, self.is_init, self.obs, self.episode_return, self.episode_length = (
            saved[k].to(device).clone() for k in ("state", "is_init", "obs", "episode_return", "episode_length")
        )
        self.recent.clear()
        self.recent.extend(tuple(episode) for episode in saved["recent"])
        self.episodes = saved["episodes"]
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
        reward, terminated, truncated, done and state_value, the value of what the action led to before any reset.
        Raises NonFiniteError naming row and step where the env returned NaN or infinity.
        """
        start_state = self.state.clone()
        with torch.inference_mode():
            steps, last_value = self._act(segment)
        columns = [torch.stack(column, dim=1) for column in zip(*steps, strict=True)]
        obs, is_init, action, log_prob, value, reward, terminated, truncated, final_value = columns
        self._require_finite(obs, "observation")
        self._require_finite(reward.unsqueeze(-1), "reward")
        next_value = torch.cat([value[:, 1:], last_value.unsqueeze(1)], dim=1)
        data = TensorDict(
            {
                "observation": obs,
                "is_init": is_init,
                "action": action,
                "action_log_prob": log_prob,
                "state_value": value,
                "next": {
                    "reward": reward,
                    "terminated": terminated,
                    "truncated": truncated,
                    "done": terminated | truncated,
                    "state_value": torch.where(truncated, final_value, next_value),
                },
            },
            batch_size=obs.shape[:2],
        )
        return Rollout(data, start_state)

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
            self._count(after.reward, done)
            self.obs, self.is_init, self.state = after.obs, done, state
        return steps, self.policy.step(self.obs, self.state, self.is_init).value
