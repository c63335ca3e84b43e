"""From an env given as an object to a batched env."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import torch
from gymnasium.vector import VectorEnv

from mru_rl.envs.base import BatchedEnv, check_count
from mru_rl.envs.columns import described
from mru_rl.envs.from_gymnasium.named import Wrapper
from mru_rl.envs.from_gymnasium.vector import GymnasiumEnv
from mru_rl.envs.from_gymnasium.vector_env import VectorEnvAsBatched


def from_object(
    env: BatchedEnv | VectorEnv | Callable[[], gymnasium.Env],
    num_envs: int,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    workers: str = "sync",
    worker_seconds: float = 60.0,
    worker_restarts: int = 10,
    info_metrics: Sequence[str] = (),
    wrappers: str | Sequence[Wrapper] = (),
) -> BatchedEnv:
    """Return a batched env of `num_envs` rows made from an object.

    env     a function without arguments that returns a gymnasium.Env, called once per row (and once to look at it): see
            GymnasiumEnv, whose options `workers`, `worker_seconds`, `worker_restarts`, `info_metrics` and `wrappers`
            are;
            a gymnasium VectorEnv of `num_envs` envs: see VectorEnvAsBatched, which has `info_metrics` too;
            a batched env of `num_envs` rows, which is returned as it is, with the seed and device it has

    Raises TypeError for any other object and for a function that returns something else, ValueError where the object has
    another number of rows, and what the two classes raise.

        env = mru_rl.envs.from_object(lambda: gymnasium.make("CartPole-v1"), num_envs=8)
    """
    check_count(num_envs, name="num_envs", least=1)
    if isinstance(env, (BatchedEnv, VectorEnv)):
        if env.num_envs != num_envs:
            raise ValueError(
                f"num_envs must be the number of rows the env has, got num_envs={num_envs} and an env of {env.num_envs}; "
                "pass the same number to both"
            )
        if wrappers:
            raise ValueError(
                f"wrappers go around single gymnasium envs, got {wrappers} for {described(env)}, a batch of envs; wrap the env "
                "before it is given"
            )
        if isinstance(env, BatchedEnv):
            return env
        return VectorEnvAsBatched(env, seed=seed, device=device, info_metrics=info_metrics)
    if not callable(env) or isinstance(env, gymnasium.Env):
        raise TypeError(
            "an env is given as a function that returns a gymnasium.Env (lambda: MyEnv()), as a gymnasium VectorEnv or as a "
            f"BatchedEnv, got {_what(env)}"
        )
    limits: dict[str, Any] = {"worker_seconds": worker_seconds, "worker_restarts": worker_restarts}
    given: dict[str, Any] = {"workers": workers, "wrappers": wrappers, "info_metrics": info_metrics, **limits}
    return GymnasiumEnv(factory=env, num_envs=num_envs, seed=seed, device=device, **given)


def _what(env: Any) -> str:
    if isinstance(env, gymnasium.Env):
        return f"one {type(env).__name__}; pass a function, since every row needs an env of its own"
    if isinstance(env, str):
        return f"{env!r}; an id goes to mru_rl.envs.make"
    return f"{described(env)}; put it into one of these forms"
