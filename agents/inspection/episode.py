"""One episode of a trained agent, every step of it kept: what it saw, did and got, and what its memory held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mru_rl.agents.console.errors import require
from mru_rl.agents.console.progress import Progress
from mru_rl.agents.evaluate import ROWS, act, load_agent
from mru_rl.agents.inspection.film import Film, take_apart
from mru_rl.agents.run import Run

CHUNK = 512
"""images encoded together"""


@dataclass(frozen=True)
class CellMemory:
    """What one cell held after each step. states: float [T, units]; writes: bool [T, units], None without write gates."""

    layer: str
    cell: str
    states: np.ndarray
    writes: np.ndarray | None

    @property
    def title(self) -> str:
        return f"{self.layer.replace('_', ' ')}, {self.cell}"

    @property
    def two_valued(self) -> bool:
        """True if each unit holds 0, its level or minus its level, as the units of a BMRU do."""
        level = np.abs(self.states).max(axis=0)
        return self.writes is not None and bool(((self.states == 0) | (np.abs(self.states) == level)).all())


@dataclass(frozen=True)
class Episode:
    """T steps of one row of the env.

    inputs             float32 [T, D], what the agent saw but for images; `channels` names the D columns
    films              the images that it saw
    action             [T] or [T, n], as the env takes it
    reward, value      float [T]; value: the discounted return that the agent expected
    finished           False if the episode was cut before its end
    """

    env: str
    env_kwargs: dict[str, Any]
    core: str
    train_seed: int
    trained_steps: int
    number: int
    inputs: np.ndarray
    channels: list[str]
    films: list[Film]
    action: np.ndarray
    reward: np.ndarray
    value: np.ndarray
    memory: list[CellMemory]
    finished: bool
    success_return: float | None

    @property
    def steps(self) -> int:
        return len(self.reward)

    @property
    def total(self) -> float:
        """The return, summed in float64."""
        return float(self.reward.sum(dtype=np.float64))

    @property
    def success(self) -> bool | None:
        """None if the env does not define success or the episode was cut."""
        known = self.finished and self.success_return is not None
        return self.total >= self.success_return if known else None  # type: ignore[operator]


def record_episode(
    run: Run,
    *,
    number: int = 0,
    env_kwargs: dict[str, Any],
    seed: int,
    max_steps: int,
    checkpoint: str = "last",
    device: str | None = None,
) -> Episode:
    """Run one episode with the most likely actions and trace its memory.

    number: the first episode of this row of the 64 that `mru-rl eval` steps with the same seed and options, so that what
    eval counted can be looked at. max_steps: the episode is cut after so many.
    Raises ValueError for a number outside 0..63 and for what `mru-rl eval` refuses.
    """
    require(
        0 <= number < ROWS, f"{{episode}} must lie in 0..{ROWS - 1}, the rows that `mru-rl eval` steps, got {number}"
    )
    prepared = load_agent(run, ROWS, env_kwargs, seed, checkpoint=checkpoint, device=device)
    config, env, head, policy, trained_steps = prepared
    rows, finished = [], False
    longest = min(env.horizon or max_steps, max_steps)
    with env, torch.inference_mode(), Progress(f"episode {number} of {env.id}", longest) as progress:
        for acted in act(policy, head, env):
            taken = head.to_env(acted.action)
            # copies: a view would keep all 64 rows of every step
            rows.append([column[number].clone() for column in (acted.obs, taken, acted.value, acted.reward)])
            finished = bool(acted.done[number])
            if len(rows) % 1000 == 0:
                progress.show(len(rows))
            if finished or len(rows) == max_steps:
                break
        saw, action, value, reward = (torch.stack(column) for column in zip(*rows, strict=True))
        inputs, channels, films = take_apart(env.rules, saw)
        is_init = torch.zeros(1, len(rows), dtype=torch.bool, device=saw.device)
        read = [policy.encode(some[None]) for some in saw.split(CHUNK if films else len(rows))]
        trace = policy.core.trace(torch.cat(read, dim=1), policy.core.initial_state(1), is_init)
    memory = []
    for layer, cells in trace.items():
        for cell, found in cells.items():
            writes = found.get("writes", None)
            memory.append(
                CellMemory(layer, cell, _numpy(found["states"][0]), None if writes is None else _numpy(writes[0]))
            )
    return Episode(
        env=config.env,
        env_kwargs=config.env_kwargs | env_kwargs,
        core=config.core,
        train_seed=config.seed,
        trained_steps=trained_steps,
        number=number,
        inputs=_numpy(inputs),
        channels=channels,
        films=films,
        action=_numpy(action),
        reward=_numpy(reward),
        value=_numpy(value),
        memory=memory,
        finished=finished,
        success_return=env.success_return,
    )


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
