"""The acting loop of torchrl: its Collector steps policy and envs, and its data become rollouts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import Unbounded
from torchrl.envs import Compose, InitTracker, TensorDictPrimer, TransformedEnv

from mru_rl.agents.acting.collector import Collector as OurCollector
from mru_rl.agents.acting.episodes import EpisodeLog
from mru_rl.agents.acting.rollout import Rollout, make_rollout
from mru_rl.agents.nets.heads import ActionHead
from mru_rl.agents.nets.networks import ActorCritic
from mru_rl.envs.base import BatchedEnv
from mru_rl.envs.to_torchrl import TorchRLEnv

with warnings.catch_warnings():  # torchrl 0.14 warns of its own classes while it is imported
    warnings.simplefilter("ignore", DeprecationWarning)
    from torchrl.collectors import Collector


class RecurrentPolicy(TensorDictModuleBase):
    """An ActorCritic and its action head as torchrl calls a policy; actions are drawn with `generator`.

    Reads observation [B, D], is_init [B, 1] and recurrent_state [B, layers, S], the memory before the step. Writes action,
    as the env takes it; sample, what the head drew; action_log_prob and state_value [B]; and ("next", "recurrent_state").
    """

    def __init__(self, policy: ActorCritic, head: ActionHead, generator: torch.Generator) -> None:
        super().__init__()
        self.policy, self.head, self.generator = policy, head, generator
        self.in_keys = ["observation", "is_init", "recurrent_state"]
        self.out_keys = ["action", "sample", "action_log_prob", "state_value", ("next", "recurrent_state")]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        obs, is_init, state = (tensordict.get(key) for key in self.in_keys)
        params, value, state = self.policy.step(obs, state, is_init.squeeze(-1))
        sample = self.head.sample(params, self.generator)
        log_prob, _ = self.head.log_prob_and_entropy(params, sample)
        written = (self.head.to_env(sample), sample, log_prob, value, state)
        for key, tensor in zip(self.out_keys, written, strict=True):
            tensordict.set(key, tensor)
        return tensordict


def recurrent_env(env: BatchedEnv, state: Tensor) -> TransformedEnv:
    """A batched env as torchrl's, which marks where episodes begin and starts them with a memory of zeros.

    state: one row's memory [layers, S], for its shape and type.
    """
    spec = Unbounded(shape=state.shape, dtype=state.dtype, device=state.device)
    primer = TensorDictPrimer({"recurrent_state": spec}, expand_specs=True)
    return TransformedEnv(TorchRLEnv(env, metrics=env.metrics), Compose(InitTracker(), primer))


class SegmentCollector(Collector):
    """torchrl's Collector with a RecurrentPolicy in a recurrent_env, whose batches are segments and become rollouts.

    seed: that of the policy's generator, where the policy does not bring its own as it should be. Other arguments are
    torchrl's.
    """

    def __init__(
        self,
        create_env_fn: TransformedEnv | Callable[[], TransformedEnv],
        policy: RecurrentPolicy,
        *,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        ours = {
            "total_frames": -1,
            "use_buffers": False,
            "trust_policy": True,
            "track_traj_ids": False,
            "auto_register_policy_transforms": False,
        }
        super().__init__(create_env_fn, policy, **options | ours)
        if seed is not None:
            policy.generator.manual_seed(seed)
        self._state = policy.policy.core.initial_state(self.n_env)

    def __bool__(self) -> bool:
        return (
            True  # Ray asks when an actor fails to begin, and torchrl's __len__ raises then: its error would hide ours
        )

    def restart(self) -> None:
        """Begin fresh episodes in every row."""
        self.reset()
        self._state = torch.zeros_like(self._state)

    @torch.no_grad()
    def segment(self, weights: dict[str, Tensor] | None = None) -> Rollout:
        """The next segment as a rollout; weights: what the policy acts with, its own where not given."""
        if weights is not None:
            self.policy.policy.load_state_dict(weights)
        data = self.next()
        rollout = to_rollout(data, self._state, self.policy.policy)
        self._state = data["next", "recurrent_state"][:, -1].contiguous()
        return rollout


def to_rollout(data: TensorDict, start_state: Tensor, policy: ActorCritic) -> Rollout:
    """What torchrl's Collector gave, [B, T], as a rollout; start_state: [B, layers, S], the memory before its first step.

    The data hold what every action led to before any reset, and the memory there: from the two comes the value of what a
    cut episode would have gone on from.
    """
    after = data["next"]
    reward, terminated, truncated = (after[key].squeeze(-1) for key in ("reward", "terminated", "truncated"))
    last = data.shape[1] - 1

    def value_after(step: int) -> Tensor:
        obs, state = after["observation"][:, step].contiguous(), after["recurrent_state"][:, step].contiguous()
        return policy.step(obs, state, torch.zeros_like(truncated[:, step])).value

    final_value = torch.zeros_like(reward)
    for step in truncated.any(0).nonzero().squeeze(-1).tolist():
        final_value[:, step] = value_after(step)
    rollout = make_rollout(
        start_state,
        observation=data["observation"],
        is_init=data["is_init"].squeeze(-1),
        action=data["sample"],
        action_log_prob=data["action_log_prob"],
        state_value=data["state_value"],
        last_value=value_after(last),
        final_value=final_value,
        reward=reward,
        terminated=terminated,
        truncated=truncated,
    )
    if "ended" in after.keys():  # noqa: SIM118 (a TensorDict)
        rollout.data["next", "ended"] = after["ended"]
    return rollout


def count_rollout(log: EpisodeLog, rollout: Rollout) -> None:
    """Count the episodes of a rollout that `to_rollout` made, and take out of it what is there for that alone."""
    after = rollout.data["next"]
    ended = after.pop("ended", {})
    log.count_segment(after["reward"], after["done"], dict(ended.items()))


class TorchRLCollector(OurCollector):
    """Acts through torchrl's Collector; its rollouts are to the bit those of our own. Segments have one length.

    A saved state holds the env and what was counted, not torchrl's place in the running episodes: they start afresh.
    """

    def __init__(
        self, env: BatchedEnv, policy: ActorCritic, head: ActionHead, generator: torch.Generator, segment: int
    ) -> None:
        self.policy = RecurrentPolicy(policy, head, generator)
        self.segment = segment
        self.name = "torchrl's Collector"
        self.log = EpisodeLog(env.num_envs, env.success_return, generator.device)
        self._open(env)

    def _open(self, env: BatchedEnv) -> None:
        self.env = env
        state = self.policy.policy.core.initial_state(1)[0]
        self._collector = SegmentCollector(
            recurrent_env(env, state), self.policy, frames_per_batch=self.segment * env.num_envs
        )

    def collect(self, segment: int) -> Rollout:
        if segment != self.segment:
            raise ValueError(
                f"this collector was made for segments of {self.segment} steps, got {segment}; make another"
            )
        rollout = self._collector.segment()
        rollout.require_finite(self.env)
        count_rollout(self.log, rollout)
        return rollout

    def change_env(self, env: BatchedEnv) -> None:
        self.close()
        self._open(env)
        self.log.change_env(env.success_return)

    def close(self) -> None:
        self._collector.shutdown()

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.log.state_dict(),
            "generator": self.policy.generator.get_state(),
            "env": self.env.state_dict() if self.env.saves_state else None,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> bool:
        self.log.load_state_dict(saved)
        self.log.restart()
        self.policy.generator.set_state(saved["generator"])
        if saved["env"] is not None:
            self.env.load_state_dict(saved["env"])  # for what it draws: not the same episodes again
        self._collector.restart()
        return False
