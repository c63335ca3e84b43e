"""Acting on several machines: torchrl's collectors as Ray actors, each with its share of the envs."""

from __future__ import annotations

import contextlib
import copy
import pickle
import sys
import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchrl.envs import TransformedEnv

import mru_rl.envs
from mru_rl.agents.acting.collector import Collector
from mru_rl.agents.acting.episodes import EpisodeLog
from mru_rl.agents.acting.ray_session import ray_session
from mru_rl.agents.acting.rollout import Rollout
from mru_rl.agents.acting.torchrl import RecurrentPolicy, SegmentCollector, count_rollout, recurrent_env
from mru_rl.agents.console.imports import import_modules
from mru_rl.agents.nets.heads import ActionHead
from mru_rl.agents.nets.networks import ActorCritic
from mru_rl.envs.base import BatchedEnv

TRIES = 3
"""How often one collector may die over one segment before that is taken to be the segment's fault."""


class RayCollectors(Collector):
    """Collectors on Ray side by side, `num_collectors` of them with a CPU each, all acting with the newest weights.

    env is only asked for its spaces and options; every collector makes its own rows of it, on seeds of its own: those of
    the first are those of our own loop. One that dies is replaced, and its part of the segment acted anew in fresh
    episodes. A saved state holds what was counted; restored, all rows start fresh episodes.

    torchrl's RayCollector makes the actors, their segments are asked for here: its iterator ends with the first actor
    that dies, and its weights go through a process group that a replacement cannot join.
    """

    def __init__(
        self,
        env: BatchedEnv,
        policy: ActorCritic,
        head: ActionHead,
        device: str,
        *,
        num_collectors: int,
        segment: int,
        seed: int,
        backend: str,
        imports: tuple[str, ...] = (),
    ) -> None:
        if env.num_envs % num_collectors:
            raise ValueError(
                f"{num_collectors} collectors cannot share {env.num_envs} envs evenly; change one of the two"
            )
        self.env, self.policy, self.head, self.device = env, policy, head, device
        self.num_collectors, self.segment, self.seed, self.backend = num_collectors, segment, seed, backend
        self.imports = imports
        self.name = "a collector on Ray"
        self.rows = env.num_envs // num_collectors
        self.log = EpisodeLog(env.num_envs, env.success_return, torch.device(device))
        self._begun = 0  # so many collectors were replaced or sent to other envs: the next one draws other episodes
        self._session = contextlib.ExitStack()
        self._ray = self._session.enter_context(ray_session(num_collectors))
        self._collectors: Any = None

    def collect(self, segment: int) -> Rollout:
        if segment != self.segment:
            raise ValueError(f"these collectors were made for segments of {self.segment} steps, got {segment}")
        if self._collectors is None:
            self._collectors = self._open()
        weights = self._ray.put({name: tensor.cpu() for name, tensor in self.policy.state_dict().items()})
        asked = [actor.segment.remote(weights) for actor in self._collectors.remote_collectors]
        parts = [self._wait(place, reference, weights) for place, reference in enumerate(asked)]
        data = torch.cat([part.data for part in parts]).to(self.device)
        rollout = Rollout(data, torch.cat([part.start_state for part in parts]).to(self.device))
        rollout.require_finite(self.env)
        count_rollout(self.log, rollout)
        return rollout

    def _open(self) -> Any:
        with warnings.catch_warnings():  # torchrl 0.14 warns of its own classes while it is imported
            warnings.simplefilter("ignore", DeprecationWarning)
            from torchrl.collectors.distributed import RayCollector

        free = int(self._ray.available_resources().get("CPU", 0))
        if free < self.num_collectors:
            print(
                f"mru-rl: waiting for {self.num_collectors} CPUs of the Ray cluster, {free} are free now",
                file=sys.stderr,
            )
        places = range(self.num_collectors)
        make = partial(
            RayCollector,
            [self._make_env(place) for place in places],
            self._policy(),
            collector_class=SegmentCollector,
            collector_kwargs=[{"seed": self._seed(place) + 1} for place in places],
            num_collectors=self.num_collectors,
            frames_per_batch=self.segment * self.env.num_envs,
            sync=True,
            remote_configs=_ACTOR,
            weight_sync_schemes={},
        )
        try:
            return make()
        except self._ray.exceptions.RayError as error:
            raise ChildProcessError(f"collectors on Ray cannot begin: {_last_line(error)}") from None

    def _seed(self, place: int) -> int:
        return self.seed + 10_007 * place + 100_000_007 * self._begun

    def _policy(self) -> _SentPolicy:
        return _SentPolicy(copy.deepcopy(self.policy).cpu(), self.head, torch.Generator(), self.imports)

    def _make_env(self, place: int) -> partial[TransformedEnv]:
        state = self.policy.core.initial_state(1)[0].cpu()
        return partial(
            _remote_env, self.env.id, self.rows, self._seed(place), self.backend, self.env.options, state, self.imports
        )

    def _wait(self, place: int, reference: Any, weights: Any) -> Rollout:
        """A collector's segment; where it died over it, that of its replacement."""
        for _ in range(TRIES):
            try:
                return self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except self._ray.exceptions.RayActorError as error:
                why = _last_line(error)
                reference = self._replace(place).segment.remote(weights)
        raise ChildProcessError(
            f"collector {place} on Ray died {TRIES} times over one segment of {self.env.id} ({why}); --collector torchrl "
            "does the same in this process"
        )

    def _replace(self, place: int) -> Any:
        actors = self._collectors.remote_collectors
        self._ray.kill(actors[place])  # one that cannot be reached may yet live
        self._begun += 1
        options = self._collectors.collector_kwargs[place] | {"seed": self._seed(place) + 1}
        self._collectors.add_collectors([self._make_env(place)], 1, self._policy(), [options], [_ACTOR])
        actors[place] = actors.pop()
        self.log.restart(slice(place * self.rows, (place + 1) * self.rows))
        return actors[place]

    def change_env(self, env: BatchedEnv) -> None:
        self._stop()
        self.env = env
        self.log.change_env(env.success_return)

    def _stop(self) -> None:
        """End the collectors; the next segment begins with others."""
        self._begun += 1
        if self._collectors is not None:
            self._collectors.shutdown()
            self._collectors = None

    def close(self) -> None:
        self._stop()
        self._session.close()

    def state_dict(self) -> dict[str, Any]:
        return {**self.log.state_dict(), "begun": self._begun}

    def load_state_dict(self, saved: dict[str, Any]) -> bool:
        self._stop()
        self._begun = saved["begun"] + 1
        self.log.load_state_dict(saved)
        self.log.restart()
        return False


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


_ACTOR = {"num_cpus": 1}
"""What Ray reserves for a collector."""


class _SentPolicy(RecurrentPolicy):
    """A RecurrentPolicy that imports modules where it is unpickled, before the network is: cells may be defined in them."""

    def __init__(
        self, policy: ActorCritic, head: ActionHead, generator: torch.Generator, imports: tuple[str, ...]
    ) -> None:
        super().__init__(policy, head, generator)
        self.imports = imports

    def __reduce__(self) -> tuple[Any, ...]:
        from ray import cloudpickle  # from an extra: not there whenever this file is imported

        return _arrived, (self.imports, cloudpickle.dumps((self.policy, self.head, self.generator)))


def _arrived(imports: tuple[str, ...], parts: bytes) -> _SentPolicy:
    import_modules(imports)
    policy, head, generator = pickle.loads(parts)
    return _SentPolicy(policy, head, generator, imports)


def _remote_env(
    env_id: str, rows: int, seed: int, backend: str, options: dict[str, Any], state: Tensor, imports: tuple[str, ...]
) -> TransformedEnv:
    """A collector's share of the envs, made where it acts; modules that register what it is made of are imported first."""
    torch.set_num_threads(1)
    import_modules(imports)
    return recurrent_env(mru_rl.envs.make(env_id, rows, seed=seed, backend=backend, **options), state)
