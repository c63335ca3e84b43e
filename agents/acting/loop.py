"""The acting loop: step the policy and the envs side by side, keep what learning needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mru_rl.agents.acting.behavior import Behavior, Columns
from mru_rl.agents.acting.collector import Collector
from mru_rl.agents.acting.episodes import EpisodeLog
from mru_rl.agents.acting.guards import Guard
from mru_rl.agents.acting.rollout import Rollout, require_finite
from mru_rl.agents.nets.heads import ActionHead
from mru_rl.agents.nets.networks import Policy, PolicyOutput


class ActingLoop(Collector):
    """Acts in a batched env, one segment at a time, carrying memory and observations over from one to the next.

    Written here, not taken from torchrl: an episode that was cut is valued at its true last observation while the memory
    that led to it is still at hand, and the state goes on to the bit from a checkpoint.
    behavior: how it acts, and what is kept of a step. guard: what is done about numbers that are not finite, which every
    step is looked at for.
    """

    def __init__(
        self,
        env: Any,
        policy: Policy,
        head: ActionHead,
        generator: torch.Generator,
        behavior: Behavior,
        guard: Guard | None = None,
    ) -> None:
        self.env, self.policy, self.head, self.generator, self.behavior = env, policy, head, generator, behavior
        self.guard = guard or Guard()
        env.refuse_nonfinite = False  # they are looked for here, where the step is known
        self.name = env.id
        self.state = policy.core.initial_state(env.num_envs)
        self.is_init = torch.ones(env.num_envs, dtype=torch.bool, device=generator.device)
        self.obs = env.reset()
        require_finite(env.floats(self.obs).unsqueeze(1), "observation", env.id)
        self.log = EpisodeLog(env.num_envs, env.success_return, generator.device)

    def collect(self, segment: int) -> Rollout:
        start_state = self.state.clone()
        with torch.inference_mode():
            steps = [self._act(step) for step in range(segment)]
            ahead = self._ask() if self.behavior.looks_ahead else None
        columns = {name: torch.stack([step[name] for step in steps], dim=1) for name in steps[0]}
        return self.guard.finish(self.behavior.rollout(columns, start_state, ahead), self)

    def _act(self, step: int) -> Columns:
        out = self.guard.ask(self._ask, self, step)
        obs, is_init, before = self.obs, self.is_init, self.state
        action = self.behavior.choose(out, self.head, self.generator)
        after, bad = self.guard.look_at(self.env.step(self.head.to_env(action)), self, step)
        done = after.terminated | after.truncated
        self.log.count(after.reward, done, self.env.ended)
        self.obs, self.is_init, self.state = after.obs, done, out.state
        if bad is not None:
            self.guard.drop(bad, self)
        return {
            "observation": obs,
            "is_init": is_init,
            "reward": after.reward,
            "terminated": after.terminated,
            "truncated": after.truncated,
            **self.behavior.keep(out, before, action, after, self.policy, self.head),
        }

    def _ask(self) -> PolicyOutput:
        """What the network says of what the envs show."""
        return self.policy.step(self.obs, self.state, self.is_init)

    def begin_again(self, rows: Tensor, fresh: Tensor) -> None:
        """Go on in rows (bool [B]) from the first obs of fresh episodes [rows, ...], with an empty memory."""
        self.obs = self.obs.index_put((rows,), fresh)
        self.is_init = self.is_init | rows
        self.state = torch.where(rows[:, None, None], torch.zeros_like(self.state), self.state)
        self.log.restart(rows)

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
