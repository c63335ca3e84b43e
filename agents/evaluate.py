"""Evaluation: whole episodes under the trained policy, the same number in every row, with an interval.

`evaluate` steps env and policy side by side and is the definition. Where no action is ever seen, `evaluate_open_loop`
finds the same returns by running the memory over long stretches of observations at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from scipy import stats
from torch import Tensor, nn

from mru_rl.agents.acting.episodes import info_means, of_row, success_of, success_rate
from mru_rl.agents.agent import Agent, load
from mru_rl.agents.build import for_evaluation, make_env, rows_of, torch_settings
from mru_rl.agents.config import EVALUATION_SEED, TrainConfig, env_name
from mru_rl.agents.console.errors import require
from mru_rl.agents.console.progress import Progress
from mru_rl.agents.nets.heads import ActionHead
from mru_rl.agents.nets.networks import Policy
from mru_rl.agents.records.run import RunDirectory
from mru_rl.envs import AgentInput
from mru_rl.envs.base import NonFiniteError
from mru_rl.envs.scores import has_score, normalised_score, scale

STRETCH_NUMBERS = 2**18
"""(step, unit) pairs of a stretch, 1 MiB a tensor: measured on one EPYC core with three cores, 2^17 to 2^19 are fastest."""

LEAST_CAP = 10_000
"""Steps after which an episode is cut where no number is given, or twice the longest episode the env names, if that is more:
an env may never end."""

ROWS = 64
"""envs that `mru-rl eval` steps side by side"""


@dataclass(frozen=True)
class Episodes:
    """Returns and lengths of episodes; success_return is the env's threshold, None where it names none.

    successes: of each what its info says, else whether its return reached the threshold, NaN where neither is there. info:
    mean of each number that `info_metrics` names, over the episodes whose info said it. cut: how many were cut after
    max_steps steps: their return is that so far, and they are no success.
    """

    returns: list[float]
    lengths: list[int]
    success_return: float | None
    successes: list[float]
    info: dict[str, float] = field(default_factory=dict, kw_only=True)
    cut: int = field(default=0, kw_only=True)
    max_steps: int | None = field(default=None, kw_only=True)

    @property
    def episodes(self) -> int:
        """How many there are."""
        return len(self.returns)

    @property
    def return_mean(self) -> float:
        """Mean return."""
        return sum(self.returns) / len(self.returns)

    @property
    def length_mean(self) -> float:
        """Mean length, in steps."""
        return sum(self.lengths) / len(self.lengths)

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
        """Mean success; None where no episode says anything of it. One that does not, among others that do, is none."""
        return success_rate(self.successes)


@dataclass(frozen=True)
class Evaluation(Episodes):
    """Whole episodes of a trained agent, and what agent and env they are of.

    env_kwargs: options of the env; steps: env steps the agent was trained for; sampled: actions were drawn from the policy,
    not the most likely ones; score: the mean return between a floor, 0, and a reference, 1, which score_scale names, both
    None where the env has none; params_sha256: over the raw bytes of all parameters, in name order.

    >>> import tempfile
    >>> from mru_rl.agents import Evaluation, PPOConfig, train
    >>> run = train(PPOConfig(env="CartPole-v1", steps=256, num_envs=2, run_dir=f"{tempfile.mkdtemp()}/run"), progress=False)
    >>> found = run.evaluate(episodes=8, progress=False)
    >>> isinstance(found, Evaluation), found.episodes, found.sampled
    (True, 8, False)
    >>> found.return_ci95[0] <= found.return_mean <= found.return_ci95[1]
    True
    """

    env: str
    env_kwargs: dict[str, Any]
    algorithm: str
    core: str
    steps: int
    sampled: bool
    score: float | None
    score_scale: tuple[str, str] | None
    params_sha256: str

    def to_json(self) -> dict[str, Any]:
        """What `mru-rl eval --json` prints."""
        return {
            "env": self.env,
            "env_kwargs": self.env_kwargs,
            "algorithm": self.algorithm,
            "core": self.core,
            "return_mean": self.return_mean,
            "return_ci95": list(self.return_ci95),
            "success_rate": self.success_rate,
            "info": self.info,
            "cut": self.cut,
            "score": self.score,
            "score_scale": None if self.score_scale is None else list(self.score_scale),
            "episodes": self.episodes,
            "length_mean": self.length_mean,
            "sampled": self.sampled,
            "steps": self.steps,
            "params_sha256": self.params_sha256,
        }


class Acted(NamedTuple):
    """One step of every row: obs [B, D] and is_init [B] it was taken on, the head's action, the critic's value [B],
    reward [B], and done [B], terminated or truncated; ended: what the env says of the episodes that are done."""

    obs: Tensor
    is_init: Tensor
    action: Tensor
    value: Tensor
    reward: Tensor
    done: Tensor
    ended: Mapping[str, Tensor]


def act(
    policy: Policy,
    head: ActionHead,
    env: Any,
    generator: torch.Generator | None = None,
    *,
    obs: Tensor | None = None,
    cut: Tensor | None = None,
) -> Iterator[Acted]:
    """Step policy and env side by side from fresh episodes, without end; to be consumed under torch.inference_mode.

    generator: draws actions from the policy; without one the most likely action is taken. obs: what a reset returned that was
    made already. cut: bool [B]; rows in which the caller sets it begin a fresh episode after the step, and it is False again.
    """
    obs = env.reset() if obs is None else obs
    state = policy.core.initial_state(env.num_envs)
    is_init = torch.ones(env.num_envs, dtype=torch.bool, device=obs.device)
    while True:
        params, value, state = policy.step(obs, state, is_init)
        action = head.mode(params) if generator is None else head.sample(params, generator)
        after = env.step(head.to_env(action))
        done = after.terminated | after.truncated
        yield Acted(obs, is_init, action, value, after.reward, done, env.ended)
        obs, is_init = after.obs, done
        if cut is not None and cut.any():
            obs, is_init = obs.index_put((cut,), env.reset_rows(cut)), done | cut
            cut.fill_(False)


def evaluate(
    policy: Policy,
    head: ActionHead,
    env: Any,
    episodes: int,
    *,
    generator: torch.Generator | None = None,
    max_steps: int | None = None,
    show: bool = True,
) -> Episodes:
    """Run whole episodes; every row of the env contributes equally many, so that short ones are not favored.

    generator: draws actions from the policy; without one the most likely action is taken. max_steps: an episode is cut
    after so many; as `cap_for` says where not given. show: print progress.
    """
    quota, cap = _quota(episodes, env), max_steps or cap_for(env)
    counted: list[list[_Counted]] = [[] for _ in range(env.num_envs)]
    total = torch.zeros(env.num_envs, dtype=torch.float64, device=env.device)
    length = torch.zeros(env.num_envs, dtype=torch.int64, device=env.device)
    cut = torch.zeros(env.num_envs, dtype=torch.bool, device=env.device)
    finished, steps, missing = 0, 0, math.nan if env.success_return is None else 0.0
    longest = None if env.horizon is None else min(env.horizon, cap) * quota
    with torch.inference_mode(), _progress(show, env, longest, episodes) as progress:
        for acted in act(policy, head, env, generator, cut=cut):
            done = acted.done
            total += acted.reward
            length += 1
            steps += 1
            if progress is not None and steps % 1000 == 0:
                if longest is None:
                    progress.show(finished, f"{steps:,} steps a row, an episode is cut after {cap:,}")
                else:
                    progress.show(steps, f"{finished} of {episodes} episodes")
            over = done | (length >= cap)
            if not over.any():
                continue
            _require_finite(total, env)
            for row in over.nonzero().flatten().tolist():
                if len(counted[row]) < quota:
                    value, whole = total[row].item(), bool(done[row])
                    said = of_row(acted.ended, row) if whole else {}
                    success = success_of(said, value, env.success_return) if whole else missing
                    counted[row].append(_Counted(value, int(length[row]), success, said, whole))
                    finished += 1
                    cut[row] = not whole and len(counted[row]) < quota
            total[over] = 0
            length[over] = 0
            if finished == episodes:
                break
    flat = [episode for row in counted for episode in row]
    return Episodes(
        [one.value for one in flat],
        [one.length for one in flat],
        env.success_return,
        [one.success for one in flat],
        info=info_means(one.said for one in flat),
        cut=sum(not one.whole for one in flat),
        max_steps=cap,
    )


class _Counted(NamedTuple):
    value: float
    length: int
    success: float
    said: dict[str, float]
    whole: bool


def cap_for(env: Any) -> int:
    """The steps after which an episode is cut where no number is given: LEAST_CAP says why."""
    return max(LEAST_CAP, 2 * (env.horizon or 0))


def evaluate_open_loop(
    policy: Policy,
    head: ActionHead,
    env: Any,
    episodes: int,
    *,
    stretch_numbers: int = STRETCH_NUMBERS,
    show: bool = True,
) -> Episodes:
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
    with torch.inference_mode(), _progress(show, env, env.horizon * quota, episodes) as progress:
        while len(returns) < quota:
            stretch = env.unroll(steps)
            is_init = torch.zeros_like(stretch.asked)
            is_init[:, 0] = stretch.started
            x = policy.encode(stretch.obs)
            if not stretch.asked.any():
                state = policy.core.advance(x, state, is_init)
            else:
                y, state = policy.core(x, state, is_init)
                chosen = head.to_env(head.mode(policy.params(y[stretch.asked], stretch.obs[stretch.asked])))
                action = chosen.new_zeros((*stretch.asked.shape, *chosen.shape[1:]))
                action[stretch.asked] = chosen
                total += stretch.pay(action).sum(1, dtype=torch.float64)
            if stretch.ended:
                _require_finite(total, env)
                returns.append(total.clone())
                total.zero_()
            done += is_init.shape[1]
            if progress is not None:
                progress.show(done, f"{len(returns) * env.num_envs} of {episodes} episodes")
    by_row = torch.stack(returns, dim=1).flatten().tolist()
    successes = [success_of({}, value, env.success_return) for value in by_row]
    return Episodes(by_row, [env.horizon] * episodes, env.success_return, successes)


@contextlib.contextmanager
def _progress(show: bool, env: Any, steps: int | None, episodes: int) -> Iterator[Progress | None]:
    """Progress in steps of a row where it is known how many there are at most, else in episodes."""
    if not show:
        yield None
        return
    total, unit = (episodes, "episodes") if steps is None else (steps, "steps a row")
    with Progress(f"evaluating {env.id}", total, unit) as progress:
        yield progress


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


def evaluate_agent(
    policy: Policy,
    head: ActionHead,
    env: AgentInput,
    episodes: int,
    *,
    sample: bool,
    seed: int,
    progress: bool,
    config: TrainConfig,
    steps: int,
    max_steps: int | None = None,
) -> Evaluation:
    """Whole episodes of an agent in an env, with all that is said of them. episodes: rounded up to fill the env's rows;
    max_steps: an episode is cut after so many.

    Raises ValueError for a sample of a policy that values actions.
    """
    require(
        not sample or policy.stochastic,
        f"{{sample}} draws actions from a policy's probabilities, and the network of {config.algorithm} gives values; leave "
        "it out",
    )
    episodes = -(-episodes // env.num_envs) * env.num_envs
    if env.can_unroll and not sample and (max_steps is None or max_steps >= (env.horizon or 0)):
        found = evaluate_open_loop(policy, head, env, episodes, show=progress)
    else:
        generator = torch.Generator(device=str(env.device)).manual_seed(seed) if sample else None
        found = evaluate(policy, head, env, episodes, generator=generator, max_steps=max_steps, show=progress)
    scored = has_score(env)
    return Evaluation(
        found.returns,
        found.lengths,
        found.success_return,
        found.successes,
        info=found.info,
        cut=found.cut,
        max_steps=found.max_steps,
        env=env_name(config.env),
        env_kwargs=config.env_kwargs,
        algorithm=config.algorithm,
        core=config.core,
        steps=steps,
        sampled=sample,
        score=normalised_score(env, found.return_mean) if scored else None,
        score_scale=scale(env) if scored else None,
        params_sha256=params_sha256(policy),
    )


def evaluate_run(
    run: RunDirectory,
    *,
    env: Any = None,
    env_kwargs: dict[str, Any] | None = None,
    episodes: int | None = None,
    seed: int = EVALUATION_SEED,
    sample: bool = False,
    checkpoint: str = "last",
    device: str | None = None,
    num_envs: int = ROWS,
    max_steps: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """What `mru-rl eval` prints: a checkpoint of a run on its env, options of the env overridden.

    episodes: rounded up to fill the rows of the env; None: as many as `episodes_for` gives. The rest as in `Run.evaluate`.
    """
    require(max_steps is None or max_steps >= 1, f"{{max_steps}} must be at least 1, got {max_steps}")
    agent = load(run.path, checkpoint=checkpoint, device=device)
    config = for_evaluation(agent.config, env)
    with torch_settings(config.threads):
        if episodes is None:
            with make_env(config, 1, seed, env_kwargs or {}) as one:
                episodes = episodes_for(one.horizon or 1)
        rows = rows_of(config.env) or min(num_envs, episodes)
        made = make_env(config, rows, seed, env_kwargs or {})
        with made:
            require_spaces_of(agent, made)
            found = evaluate_agent(
                agent.policy,
                agent.head,
                made,
                episodes,
                sample=sample,
                seed=seed,
                progress=progress,
                config=dataclasses.replace(config, env_kwargs=config.env_kwargs | (env_kwargs or {})),
                steps=agent.steps,
                max_steps=max_steps,
            )
    return found


def require_spaces_of(agent: Agent, env: AgentInput) -> None:
    """Raises ValueError where an env does not look as the one the agent was trained in."""
    rules = agent.step.rules
    for name, here, there in (
        ("shows observations of so many numbers", env.rules.size, rules.size),
        ("takes the actions", env.action_space, rules.action_space),
    ):
        require(
            here == there,
            f"the env {env.id} {name}: {here}, the agent was trained with {there}; evaluate it where it was trained, with "
            "options that keep its spaces",
        )


class Prepared(NamedTuple):
    """A trained agent in an env of so many rows; steps: env steps it was trained for."""

    config: TrainConfig
    env: AgentInput
    head: ActionHead
    policy: Policy
    steps: int


def load_agent(
    run: RunDirectory,
    rows: int,
    env_kwargs: dict[str, Any],
    seed: int,
    *,
    checkpoint: str = "last",
    device: str | None = None,
) -> Prepared:
    """The agent of a checkpoint of a run, and so many rows of its env."""
    agent = load(run.path, checkpoint=checkpoint, device=device)
    env = make_env(for_evaluation(agent.config), rows, seed, env_kwargs)
    require_spaces_of(agent, env)
    return Prepared(agent.config, env, agent.head, agent.policy, agent.steps)


def params_sha256(module: nn.Module) -> str:
    """SHA-256 over the raw bytes of all parameters, in name order."""
    digest = hashlib.sha256()
    for _, parameter in sorted(module.named_parameters()):
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
