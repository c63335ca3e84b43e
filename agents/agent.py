"""A trained agent to act with: no env is built, its spaces and inputs are those kept in the run."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor, nn

from mru_rl.agents.algorithms import config_from_json, trainer_class
from mru_rl.agents.build import pick_device, seeded, torch_settings
from mru_rl.agents.config import TrainConfig, env_name, to_json
from mru_rl.agents.console.errors import require
from mru_rl.agents.nets.heads import ActionHead
from mru_rl.agents.nets.networks import Policy
from mru_rl.agents.records.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from mru_rl.agents.records.run import RunDirectory
from mru_rl.agents.trainer import check_made_by, load_policy, made_by
from mru_rl.blocks.core import MemoryCore
from mru_rl.envs import AgentInput
from mru_rl.envs.actions import action_layout
from mru_rl.envs.frames import Frames
from mru_rl.envs.input_rules import InputRules
from mru_rl.envs.native import layout, native_action
from mru_rl.envs.spaces import space_from_json, space_to_json

AGENT_KIND = "agent"


def spaces_of(env: AgentInput) -> dict[str, Any]:
    """What an agent needs to know of its env, as JSON: the spaces as the env itself has them, and the input rules."""
    return {
        "observation": space_to_json(env.env.native_observation_space),
        "action": space_to_json(env.env.native_action_space),
        "inputs": env.rules.to_json(),
    }


class AgentStep(nn.Module):
    """One step of an agent as a module: observation and state in, action and state out. What is exported.

    The state of a row is one vector: the memory [layers, S] flattened, then the last action, where the agent sees that, then
    the frames before the next one, where it sees stacks of them.
    frames: makes stacks of what the env shows, one image at a time; observation_space: that of the env.
    """

    def __init__(
        self,
        policy: Policy,
        head: ActionHead,
        rules: InputRules,
        observation_space: Space | None = None,
        frames: Frames | None = None,
    ) -> None:
        super().__init__()
        self.policy, self.head, self.rules, self.frames = policy, head, rules, frames
        self.observation_space = rules.observation_space if observation_space is None else observation_space
        self.memory_size = policy.core.num_layers * policy.core.state_size
        self._action_dtype, self._action_shape = action_layout(rules.action_space)
        self.action_size = math.prod(self._action_shape) if rules.previous_action else 0
        self._frames_from = self.memory_size + self.action_size
        self.state_size = self._frames_from + (0 if frames is None else (frames.count - 1) * frames.size)

    def forward(
        self, obs: Tensor | tuple[Tensor, Tensor], state: Tensor, is_init: Tensor, reward: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """obs: [B, ...] as the batched env lays it out, or of bytes its numbers and its bytes apart; state: [B, state_size]; is_init: bool [B]; reward: [B], what the last
        action earned, where the agent sees it. Returns the most likely action [B, ...] and the next state."""
        params, memory, older = self.think(obs, state, is_init, reward)
        action = self.head.to_env(self.head.mode(params))
        return action, self.next_state(memory, action, older)

    def think(
        self, obs: Tensor | tuple[Tensor, Tensor], state: Tensor, is_init: Tensor, reward: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Parameters of the action head [B, num_params], the memory after the step [B, layers, S], and the frames before the
        next one, None where there are no stacks."""
        obs, older = self._stack(obs, state, is_init)
        action = None
        if self.action_size:
            columns = state[:, self.memory_size : self._frames_from]
            action = columns.to(self._action_dtype).reshape(-1, *self._action_shape)
        x = self.rules.encode_apart(obs, action=action, reward=reward, start=is_init)  # ONNX has no views of bytes
        core = self.policy.core
        memory = state[:, : self.memory_size].unflatten(1, (core.num_layers, core.state_size))
        out = self.policy.step(x if self.policy.encoder is not None else x[0], memory, is_init)
        return out.params, out.state, older

    def _stack(
        self, obs: Tensor | tuple[Tensor, Tensor], state: Tensor, is_init: Tensor
    ) -> tuple[Tensor | tuple[Tensor, Tensor], Tensor | None]:
        """The obs with the frames before it, as AgentInput shows it, and the frames before the next one."""
        frames = self.frames
        if frames is None:
            return obs, None
        rows = obs if isinstance(obs, Tensor) else obs[1]
        kept = state[:, self._frames_from :].unflatten(1, (frames.count - 1, frames.size)).to(torch.uint8)
        older = torch.where(is_init[:, None, None], frames.first(rows), kept)
        stacks = frames(rows, older)
        return stacks if isinstance(obs, Tensor) else (obs[0], stacks), frames.after(older, rows)

    def next_state(self, memory: Tensor, action: Tensor, older: Tensor | None = None) -> Tensor:
        """The state to carry on from, given the action that was taken, as the batched env takes it."""
        parts = [memory.flatten(1)]
        if self.action_size:
            columns = action.flatten(1) if action.dim() > 1 else action.unsqueeze(1)
            parts.append(columns.to(memory.dtype))
        if older is not None:
            parts.append(older.flatten(1).to(memory.dtype))
        return torch.cat(parts, dim=1)


class Agent:
    """A trained agent: `act` takes what an env shows and gives what the env takes, one step at a time.

    Made by `load`, `Run.agent` or from an agent file; the previous action, the start flag and resets are taken care of.

    >>> import gymnasium, tempfile
    >>> from mru_rl.agents import PPOConfig, load, train
    >>> folder = tempfile.mkdtemp()
    >>> run = train(PPOConfig(env="CartPole-v1", steps=256, num_envs=2, run_dir=f"{folder}/run"), progress=False)
    >>> agent = load(run)
    >>> env = gymnasium.make("CartPole-v1")
    >>> obs, _ = env.reset(seed=0)
    >>> state, start, over = agent.initial_state(), True, False
    >>> while not over:
    ...     action, state = agent.act(obs, state, start)
    ...     obs, reward, terminated, truncated, _ = env.step(action)
    ...     start, over = False, terminated or truncated
    """

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        head: ActionHead,
        spaces: dict[str, Any],
        steps: int,
    ) -> None:
        self.config, self.policy, self.head, self.steps = config, policy, head, steps
        self.spaces = spaces
        self.observation_space: Space = space_from_json(spaces["observation"])
        self.action_space: Space = space_from_json(spaces["action"])
        self.device = next(policy.parameters()).device
        rules = InputRules.from_json(spaces["inputs"], device=self.device)
        stack = Frames(self.observation_space, config.frame_stack) if config.frame_stack > 1 else None
        self.step = AgentStep(policy, head, rules, None if stack is None else self.observation_space, stack)

    @property
    def core(self) -> MemoryCore:
        """The memory core, a module."""
        return self.policy.core

    def initial_state(self, batch_size: int = 1) -> Tensor:
        """The state before the first step of `batch_size` episodes: zeros, float32 or wider [batch_size, N].

        A row holds the memory [layers, S] flattened, behind it the last action where the agent sees that, and the last images
        where it sees several (frame_stack).
        """
        memory = self.policy.core.initial_state(batch_size)
        return memory.new_zeros(batch_size, self.step.state_size)

    @torch.no_grad()
    def act(
        self,
        obs: Any,
        state: Tensor,
        is_init: Any = None,
        *,
        reward: Any = None,
        action_mask: Any = None,
        sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, Tensor]:
        """One step: from what the env shows to what it takes.

        obs: as the env gives it, numbers, numpy arrays, tuples and dicts of them, or torch tensors; of one env, or of a
        batch. An agent that sees stacks of images (frame_stack) is given the newest alone: the state carries those before it.
        state: [B, N] from `initial_state` or the last call, B = 1 for one env. is_init: True on the first step of an
        episode, a bool or one flag per row [B]; where not given, no episode starts. reward: what the last action earned,
        for an agent trained with previous_reward. action_mask: which actions there are, where the env says it in info (it is
        put beside obs as an env that shows it does); array [n], or [B, n]. sample: draw the action from the policy, from `generator` where one is
        given, instead of taking the most likely one.
        Returns the action as the env takes it (a torch tensor where obs is one, else numpy; one for one env, a batch for a
        batch) and the next state.
        Raises ValueError for an obs of another shape or kind, a mask that leaves no action, a state of another batch, and a sample of an agent that
        values actions instead of drawing them.
        """
        if action_mask is not None:
            obs = {"observation": obs, "action_mask": action_mask}
        rows, batched = layout(self.observation_space, obs)
        rows = rows.to(self.device)
        flags = self._flags(is_init, len(rows))
        self._check_state(state, len(rows))
        rewards = self._rewards(reward, len(rows))
        self._check_mask(rows)
        params, memory, older = self.step.think(rows, state, flags, rewards)
        if sample:
            require(
                self.policy.stochastic,
                f"{{sample}} draws actions from a policy's probabilities, and {self.config.algorithm} values actions; leave "
                "it out",
            )
            chosen = self.head.sample(params, generator or _default_generator(self.device))
        else:
            chosen = self.head.mode(params)
        action = self.head.to_env(chosen)
        after = self.step.next_state(memory, action, older)
        if isinstance(obs, Tensor):
            return (action if batched else action[0]), after
        return native_action(self.action_space, action, batched=batched), after

    def _flags(self, is_init: Any, rows: int) -> Tensor:
        if is_init is None:
            return torch.zeros(rows, dtype=torch.bool, device=self.device)
        flags = torch.as_tensor(np.asarray(is_init) if not isinstance(is_init, Tensor) else is_init)
        if flags.dtype != torch.bool or flags.numel() not in (1, rows):
            raise ValueError(
                f"is_init is True on the first step of an episode: a bool, or one for each of {rows} row(s); got "
                f"{str(flags.dtype).removeprefix('torch.')} {list(flags.shape)}"
            )
        return flags.to(self.device).reshape(-1).expand(rows)

    def _check_state(self, state: Any, rows: int) -> None:
        wanted = (rows, self.step.state_size)
        if not isinstance(state, Tensor) or state.shape != wanted:
            got = list(state.shape) if isinstance(state, Tensor) else type(state).__name__
            raise ValueError(
                f"the state of {rows} row(s) is a tensor {list(wanted)}, got {got}; start with "
                f"agent.initial_state({rows}) and give back what act returned"
            )

    def _check_mask(self, rows: Tensor) -> None:
        encoder = self.policy.encoder
        if encoder is None or not encoder.masks:
            return
        numbers, rest = self.step.rules.encode_apart(rows, start=True)
        none = (~encoder.allowed((numbers, rest))).all(-1)
        if none.any():
            raise ValueError(
                f"an action_mask leaves no action, in row {int(none.nonzero()[0])}; begin another episode there"
            )

    def _rewards(self, reward: Any, rows: int) -> Tensor | None:
        if not self.config.previous_reward:
            return None
        if reward is None:
            raise ValueError(
                "this agent was trained with its previous reward as an input (previous_reward); give reward=, what the "
                "last action earned, 0 on the first step"
            )
        values = torch.as_tensor(np.asarray(reward, dtype=np.float32)).to(self.device).reshape(-1)
        if values.numel() not in (1, rows):
            raise ValueError(f"reward is one number for each of {rows} row(s), got {list(values.shape)}")
        return values.expand(rows)

    def save(self, path: str | Path) -> None:
        """Write the agent to one file, which `load` reads: weights, config and spaces, and no code.

        Raises OSError where it cannot be written.
        """
        save_agent(Path(path), self.config, self.policy, self.spaces, self.steps)

    def __repr__(self) -> str:
        config = self.config
        return f"Agent({config.algorithm} {config.core} on {env_name(config.env)}, {self.steps:,} steps, {self.device})"


def save_agent(
    path: Path, config: TrainConfig, policy: Policy, spaces: dict[str, Any], steps: int, **more: Any
) -> None:
    """Write an agent file, as `Agent.save`. more: what else it is to hold."""
    content = {
        "kind": AGENT_KIND,
        "made_by": made_by(config),
        "config": to_json(config),
        "spaces": spaces,
        "steps": steps,
        "policy": policy.state_dict(),
    }
    save_checkpoint(path, content | more)


def load(path: Any, *, checkpoint: str = "last", device: str | None = None) -> Agent:
    """The trained agent of a run (its directory or a Run), or of a file that `Agent.save` wrote.

    checkpoint: of a run "last", "best" or "step_N". device: "cpu" or "cuda"; where not given that of the run, or the CPU
    without a GPU. No env is built, and a file is never able to run code: where an agent file needs modules of somebody's own
    (cells, an algorithm), import them first.
    Raises ValueError for what is neither, and for a file that is damaged or of another version.

    >>> import tempfile
    >>> from mru_rl.agents import PPOConfig, load, train
    >>> folder = tempfile.mkdtemp()
    >>> run = train(PPOConfig(env="CartPole-v1", steps=256, num_envs=2, run_dir=f"{folder}/run"), progress=False)
    >>> load(run).save(f"{folder}/agent.pt")
    >>> load(f"{folder}/agent.pt").steps
    256
    """
    place = Path(path)
    if place.is_file():
        return _from_file(place, device)
    run = RunDirectory.open(place)
    saved = run.checkpoint(checkpoint)
    config = config_from_json(run.config_values())
    check_made_by(saved, config)
    return make(config, saved, run.spaces(), device)


def make(config: TrainConfig, saved: dict[str, Any], spaces: dict[str, Any], device: str | None = None) -> Agent:
    """An agent from its config, a checkpoint of it, and its spaces."""
    config = on_device(config, device)
    with torch_settings(config.threads), seeded(config.seed):
        inputs = InputRules.from_json(spaces["inputs"], device=torch.device(pick_device(config.device)))
        head, policy = trainer_class(config).make_agent(config, inputs)
        load_policy(policy, saved["policy"])
        policy.eval()
        return Agent(config, policy, head, spaces, saved["steps"])


def on_device(config: TrainConfig, device: str | None) -> TrainConfig:
    """The config on a device; where none is given its own, or the CPU where that is a GPU and there is none."""
    if device is None:
        device = "cpu" if config.device == "cuda" and not torch.cuda.is_available() else config.device
    changes: dict[str, Any] = {"device": device}
    return dataclasses.replace(config, **changes)


def _from_file(path: Path, device: str | None) -> Agent:
    saved = load_checkpoint(path)
    if saved.get("kind") != AGENT_KIND:
        raise CheckpointError(
            f"{path} is a checkpoint of a run, which needs the run's other files; give the run's directory, or a file that "
            "Agent.save wrote"
        )
    values = saved["config"]
    imports = values.pop("imports", [])
    try:
        config = config_from_json(values)
        return make(config, saved, saved["spaces"], device)
    except ValueError as error:
        hint = f"; it was made with {', '.join(imports)}, import that first" if imports else ""
        raise ValueError(f"{path} cannot be loaded: {error}{hint}") from error


def _default_generator(device: torch.device) -> torch.Generator:
    return torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[device.index or 0]
