"""Evaluation: whole episodes under the trained policy, the same number in every row, with an interval.

`evaluate` steps env and policy side by side and is the definition. Where no action is ever seen, `evaluate_open_loop`
finds the same returns by running the memory over long stretches of observations at once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from scipy import stats
from torch import Tensor, nn

from mru_rl.agents.algorithms import config_from_json, trainer_of
from mru_rl.agents.build import make_env
from mru_rl.agents.config import TrainConfig
from mru_rl.agents.console.errors import require
from mru_rl.agents.console.progress import Progress
from mru_rl.agents.nets.heads import ActionHead
from mru_rl.agents.nets.networks import Policy, QNetwork
from mru_rl.agents.records.run import Run
from mru_rl.agents.trainer import check_made_by, load_policy
from mru_rl.envs import AgentInput
from mru_rl.envs.base import NonFiniteError
from mru_rl.envs.scores import has_score, normalised_score, scale

STRETCH_NUMBERS = 2**18
"""(step, unit) pairs of a stretch, 1 MiB a tensor: measured on one EPYC core with three cores, 2^17 to 2^19 are fastest."""

ROWS = 64
"""envs that `mru-rl eval` steps side by side"""


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths of finished episodes; success_return is the env's threshold, None where it names none."""

    returns: list[float]
    lengths: list[int]
    success_return: float | None

    @property
    def return_mean(self) -> float:
        return sum(self.returns) / len(self.returns)

    @property
    def return_ci95(self) -> tuple[float, float]:
        """95% interval of the mean return, Student's t over episodes."""
        n, mean = len(self.returns), self.return_mean
        if n < 2:
            return mean, mean
        deviation = math.sqrt(sum((r - mean) ** 2 for r in self.returns) / (n - 1))
        half = float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
        return mean - half, mean + half

    @property
    def success_rate(self) -> float | None:
        if self.success_return is None:
            return None
        return sum(r >= self.success_return for r in self.returns) / len(self.returns)


class Acted(NamedTuple):
    """One step of every row: obs [B, D] and is_init [B] it was taken on, the head's action, the critic's value [B],
    reward [B], and done [B], terminated or truncated."""

    obs: Tensor
    is_init: Tensor
    action: Tensor
    value: Tensor
    reward: Tensor
    done: Tensor


def act(policy: Policy, head: ActionHead, env: Any, generator: torch.Generator | None = None) -> Iterator[Acted]:
    """Step policy and env side by side from fresh episodes, without end; to be consumed under torch.inference_mode.

    generator: draws actions from the policy; without one the most likely action is taken.
    """
    obs = env.reset()
    state = policy.core.initial_state(env.num_envs)
    is_init = torch.ones(env.num_envs, dtype=torch.bool, device=obs.device)
    while True:
        params, value, state = policy.step(obs, state, is_init)
        action = head.mode(params) if generator is None else head.sample(params, generator)
        after = env.step(head.to_env(action))
        done = after.terminated | after.truncated
        yield Acted(obs, is_init, action, value, after.reward, done)
        obs, is_init = after.obs, done


def evaluate(
    policy: Policy,
    head: ActionHead,
    env: Any,
    episodes: int,
    *,
    generator: torch.Generator | None = None,
) -> Evaluation:
    """Run whole episodes; every row of the env contributes equally many, so that short ones are not favoured.

    generator: draws actions from the policy; without one the most likely action is taken.
    """
    quota = _quota(episodes, env)
    counted: list[list[tuple[float, int]]] = [[] for _ in range(env.num_envs)]
    total = torch.zeros(env.num_envs, dtype=torch.float64, device=env.device)
    length = torch.zeros(env.num_envs, dtype=torch.int64, device=env.device)
    finished, steps = 0, 0
    longest = (env.horizon or 1000) * quota
    with torch.inference_mode(), Progress(f"evaluating {env.id}", longest, "steps a row") as progress:
        for acted in act(policy, head, env, generator):
            done = acted.done
            total += acted.reward
            length += 1
            steps += 1
            if steps % 1000 == 0:
                progress.show(steps, f"{finished} of {episodes} episodes")
            if not done.any():
                continue
            _require_finite(total, env)
            for row in done.nonzero().flatten().tolist():
                if len(counted[row]) < quota:
                    counted[row].append((total[row].item(), int(length[row])))
                    finished += 1
            total[done] = 0
            length[done] = 0
            if finished == episodes:
                break
    flat = [episode for row in counted for episode in row]
    return Evaluation([r for r, _ in flat], [n for _, n in flat], env.success_return)


def evaluate_open_loop(
    policy: Policy, head: ActionHead, env: Any, episodes: int, *, stretch_numbers: int = STRETCH_NUMBERS
) -> Evaluation:
    """What `evaluate` returns with the most likely actions, for an env that can unroll.

    The memory runs over whole stretches and the actor over the steps that ask; the critic is not needed. Working memory
    does not depend on the length of episodes: a stretch has at most stretch_numbers (step, unit) pairs. Sums are in
    another order than step by step, so a write or a choice within rounding of a tie may fall the other way.
    """
    quota = _quota(episodes, env)
    steps = max(stretch_numbers // (env.num_envs * policy.core.hidden_size), 1)
    env.reset()
    state = policy.core.initial_state(env.num_envs)
    returns: list[Tensor] = []
    done = 0
    total = torch.zeros(env.num_envs, dtype=torch.float64, device=state.device)
    with torch.inference_mode(), Progress(f"evaluating {env.id}", env.horizon * quota, "steps a row") as progress:
        while len(returns) < quota:
            stretch = env.unroll(steps)
            is_init = torch.zeros_like(stretch.asked)
            is_init[:, 0] = stretch.started
            if not stretch.asked.any():
                state = policy.core.advance(stretch.obs, state, is_init)
            else:
                y, state = policy.core(stretch.obs, state, is_init)
                chosen = head.to_env(head.mode(policy.actor(y[stretch.asked])))
                action = chosen.new_zeros((*stretch.asked.shape, *chosen.shape[1:]))
                action[stretch.asked] = chosen
                total += stretch.pay(action).sum(1, dtype=torch.float64)
            if stretch.ended:
                _require_finite(total, env)
                returns.append(total.clone())
                total.zero_()
            done += is_init.shape[1]
            progress.show(done, f"{len(returns) * env.num_envs} of {episodes} episodes")
    by_row = torch.stack(returns, dim=1).flatten().tolist()
    return Evaluation(by_row, [env.horizon] * episodes, env.success_return)


def _quota(episodes: int, env: Any) -> int:
    """Episodes per row."""
    require(
        episodes % env.num_envs == 0, f"episodes ({episodes}) must be a multiple of the env's rows ({env.num_envs})"
    )
    return episodes // env.num_envs


def _require_finite(total: Tensor, env: Any) -> None:
    bad = (~total.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise NonFiniteError(f"env {env.id} returned a reward that is NaN or infinite in row {bad[0]}")


def episodes_for(length: int) -> int:
    """128 episodes, fewer where they are very long, never under 32."""
    return max(32, min(128, 1_280_000 // length))


def evaluate_run(
    run: Run, *, episodes: int | None = None, env_kwargs: dict[str, Any], seed: int, sample: bool, num_envs: int = ROWS
) -> dict[str, Any]:
    """What `mru-rl eval` prints: the newest checkpoint of a run on its env, options of the env overridden.

    episodes: rounded up to fill the rows of the env; None: as many as `episodes_for` gives. Raises ValueError for a
    sample of a run whose network gives no probabilities.
    """
    if episodes is None:
        with make_env(load_config(run), 1, seed, env_kwargs) as one:
            episodes = episodes_for(one.horizon or 1)
    rows = min(num_envs, episodes)
    episodes = -(-episodes // rows) * rows
    config, env, head, policy, steps = load_agent(run, rows, env_kwargs, seed)
    require(
        not (sample and isinstance(policy, QNetwork)),
        "--sample draws actions from a policy's probabilities, got a run of R2D2, whose network gives values; leave it out",
    )
    if env.can_unroll and not sample:
        result = evaluate_open_loop(policy, head, env, episodes)
    else:
        generator = torch.Generator(device=str(env.device)).manual_seed(seed) if sample else None
        result = evaluate(policy, head, env, episodes, generator=generator)
    env.close()
    return {
        "env": config.env,
        "env_kwargs": config.env_kwargs | env_kwargs,
        "core": config.core,
        "return_mean": result.return_mean,
        "return_ci95": list(result.return_ci95),
        "success_rate": result.success_rate,
        "score": normalised_score(env, result.return_mean) if has_score(env) else None,
        "score_scale": list(scale(env)) if has_score(env) else None,
        "episodes": len(result.returns),
        "length_mean": sum(result.lengths) / len(result.lengths),
        "steps": steps,
        "params_sha256": params_sha256(policy),
    }


class Agent(NamedTuple):
    """A trained agent in an env of so many rows; steps: env steps it was trained for."""

    config: TrainConfig
    env: AgentInput
    head: ActionHead
    policy: Policy
    steps: int


def load_agent(run: Run, rows: int, env_kwargs: dict[str, Any], seed: int) -> Agent:
    """The agent of a run's newest checkpoint."""
    config = load_config(run)
    torch.set_num_threads(config.threads)
    saved = run.checkpoint()
    check_made_by(saved, config)
    env = make_env(config, rows, seed, env_kwargs)
    head, policy = trainer_of(config).make_agent(config, env)
    load_policy(policy, saved["policy"])
    policy.eval()
    return Agent(config, env, head, policy, saved["steps"])


def load_config(run: Run) -> TrainConfig:
    """The config of a run. Raises ValueError where another algorithm or version made it."""
    return config_from_json(run.config())


def params_sha256(module: nn.Module) -> str:
    """SHA-256 over the raw bytes of all parameters, in name order."""
    digest = hashlib.sha256()
    for _, parameter in sorted(module.named_parameters()):
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
