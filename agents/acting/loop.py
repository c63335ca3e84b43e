"""The acting loop: step the policy and the envs side by side, keep what learning needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from mru_rl.agents.acting.episodes import EpisodeLog
from mru_rl.agents.acting.guards import STATE_BOUND, Guard, all_finite, bad_rows, require_finite_parameters
from mru_rl.agents.nets.heads import ActionHead
from mru_rl.agents.nets.networks import ActorCritic, Policy, PolicyOutput
from mru_rl.envs.base import NonFiniteError, Step


class Rollout(NamedTuple):
    """data: TensorDict [B, T] with torchrl's keys; start_state: [B, layers, S], the memory at the first step.

    Where rows are to be left out of learning, data holds "sound", bool [B, T], False in all of such a row.
    """

    data: TensorDict
    start_state: Tensor

    @property
    def sound(self) -> Tensor | None:
        """bool [B], the rows to learn from; None for all."""
        return self.data["sound"].all(1) if "sound" in self.data.keys() else None  # noqa: SIM118 (a TensorDict)

    def kept(self) -> Rollout:
        """The rows to learn from."""
        sound = self.sound
        return self if sound is None else Rollout(self.data[sound], self.start_state[sound])

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
    guard: what is done about numbers that are not finite; it is looked for them in every step.
    """

    def __init__(
        self, env: Any, policy: Policy, head: ActionHead, generator: torch.Generator, guard: Guard | None = None
    ) -> None:
        self.env, self.policy, self.head, self.generator = env, policy, head, generator
        self.guard = guard or Guard()
        env.refuse_nonfinite = False  # they are looked for here, where the step is known
        device = generator.device
        self.state = policy.core.initial_state(env.num_envs)
        self.is_init = torch.ones(env.num_envs, dtype=torch.bool, device=device)
        self.name = env.id
        self.obs = env.reset()
        require_finite(self.obs.unsqueeze(1), "observation", env.id)
        self.log = EpisodeLog(env.num_envs, env.success_return, device)
        self._dropped = torch.zeros_like(self.is_init)

    def _decide(self, step: int) -> PolicyOutput:
        """What the policy makes of what the envs show."""
        out = self.policy.step(self.obs, self.state, self.is_init)
        if all_finite(out.params):
            return out
        require_finite_parameters(self.policy)
        bad = bad_rows(out.params)
        if bad_rows(self.obs).any():
            what = "observation values that are NaN or infinite"
        else:
            lost = "memory state" if bad_rows(out.state).any() else "outputs of the policy"
            what = f"{lost} no longer finite, after inputs of up to {self.obs[bad].abs().max().item():.3g},"
        self.guard.row(self.env.id, what, bad, step)
        self._drop(bad)
        out = self.policy.step(self.obs, self.state, self.is_init)
        if not all_finite(out.params):
            raise NonFiniteError(
                f"env {self.env.id}: {what} even in a fresh episode; mend the env or scale its observations"
            )
        return out

    def _take(self, after: Step, state: Tensor, step: int) -> Step:
        """Go on from what a step of the envs gave. Returns it, with zeros in rows that were dropped."""
        obs, reward, terminated, truncated, final_obs = after
        done = terminated | truncated
        whole = all_finite(reward, obs) if final_obs is obs else all_finite(reward, obs, final_obs)
        if whole:
            self.log.count(reward, done)
            self.obs, self.is_init, self.state = obs, done, state
            return after
        bad = bad_rows(reward) | bad_rows(obs) | bad_rows(final_obs)
        what = "observation" if (bad_rows(obs) | bad_rows(final_obs)).any() else "reward"
        self.guard.row(self.env.id, f"{what} values that are NaN or infinite", bad, step)
        columns = bad.unsqueeze(1)
        after = Step(
            obs.masked_fill(columns, 0.0), reward.masked_fill(bad, 0.0), terminated & ~bad, truncated & ~bad,
            final_obs.masked_fill(columns, 0.0),
        )  # fmt: skip
        self.log.count(after.reward, after.terminated | after.truncated)
        self.obs, self.is_init, self.state = after.obs, done, state
        self._drop(bad)
        return after

    def _drop(self, bad: Tensor) -> None:
        """Begin fresh episodes in rows (bool [B]) that are left out of this segment."""
        self._dropped = self._dropped | bad
        fresh = self.env.reset_rows(bad)
        hopeless = bad_rows(fresh)
        if hopeless.any():
            raise NonFiniteError(
                f"env {self.env.id}: observation values that are NaN or infinite in row {int(bad.nonzero()[hopeless][0])} even at "
                "the start of a fresh episode; mend the env"
            )
        self.obs = self.obs.index_put((bad,), fresh)
        self.is_init = self.is_init | bad
        self.state = torch.where(bad[:, None, None], torch.zeros_like(self.state), self.state)
        self.log.restart(bad)

    def _finish(self, data: TensorDict, start_state: Tensor) -> Rollout:
        """The rollout of a segment, once its values and the memory at its end were looked at."""
        sizes = self.state.abs().amax(dim=(1, 2))
        self.guard.state_max = sizes.max().item()
        if not self.guard.state_max <= STATE_BOUND:
            exploded = ~(sizes <= STATE_BOUND)
            what = f"the memory state has grown to {self.guard.state_max:.3g}, beyond {STATE_BOUND:.0e},"
            self.guard.row(self.env.id, what, exploded, data.shape[1] - 1)
            self._drop(exploded)
        if not self._dropped.any():
            return Rollout(data, start_state)
        self.guard.dropped_rows += int(self._dropped.sum())
        data["sound"] = ~self._dropped.unsqueeze(1).expand(data.batch_size)
        self._dropped = torch.zeros_like(self._dropped)
        return Rollout(data, start_state)

    def change_env(self, env: Any) -> None:
        self.env, self.name = env, env.id
        env.refuse_nonfinite = False
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
        return self._finish(rollout.data, start_state)

    def _act(self, segment: int) -> tuple[list[tuple[Tensor, ...]], Tensor]:
        steps: list[tuple[Tensor, ...]] = []
        for step in range(segment):
            params, value, state = self._decide(step)
            obs, is_init = self.obs, self.is_init
            action = self.head.sample(params, self.generator)
            log_prob, _ = self.head.log_prob_and_entropy(params, action)
            after = self._take(self.env.step(self.head.to_env(action)), state, step)
            final_value = value
            if after.truncated.any():  # the episode was cut, not over: value what it would have gone on from
                final_value = self.policy.step(after.final_obs, state, torch.zeros_like(is_init)).value
            steps.append(
                (obs, is_init, action, log_prob, value, after.reward, after.terminated, after.truncated, final_value)
            )
        return steps, self.policy.step(self.obs, self.state, self.is_init).value
