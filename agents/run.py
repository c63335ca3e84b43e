"""A run, as Python sees it: its directory, and what can be asked of the agent in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mru_rl.agents.agent import Agent, load
from mru_rl.agents.algorithms import config_from_json
from mru_rl.agents.config import EVALUATION_SEED, TrainConfig
from mru_rl.agents.evaluate import Evaluation, evaluate_run
from mru_rl.agents.records.run import RunDirectory


class Run(RunDirectory):
    """The directory of a run and what it holds: config.json, metrics.jsonl, checkpoints/, learning_curve.png and more.

    `train` and `resume` return it, `Run.open` finds it again; only files are kept, so that a run may be moved or copied.

    >>> import tempfile
    >>> from mru_rl.agents import PPOConfig, Run, train
    >>> folder = tempfile.mkdtemp()
    >>> run = train(PPOConfig(env="CartPole-v1", steps=256, num_envs=2, run_dir=f"{folder}/run"), progress=False)
    >>> Run.open(run.path).config.env
    'CartPole-v1'
    >>> run.metrics()["steps"][-1]
    256
    """

    @property
    def config(self) -> TrainConfig:
        """The config it is trained with, every value chosen. Raises ValueError where another version made it."""
        return config_from_json(self.config_values())

    def evaluate(
        self,
        *,
        env: Any = None,
        env_kwargs: dict[str, Any] | None = None,
        episodes: int | None = None,
        seed: int = EVALUATION_SEED,
        sample: bool = False,
        checkpoint: str = "last",
        device: str | None = None,
        max_steps: int | None = None,
        progress: bool = True,
    ) -> Evaluation:
        """Whole episodes with the agent of a checkpoint, as `mru-rl eval` runs them.

        env: another env to run it in (an id, a factory, a batched env, a VectorEnv), with the same spaces; needed where
        the run was trained in one given as an object. env_kwargs: options of the env to change. episodes: rounded up to
        fill the rows; 128 where not given, down to 32 where they are long. sample: draw actions from the policy instead of
        taking the most likely ones. checkpoint: "last", "best" or "step_N". device: "cpu" or "cuda"; where not given that
        of the run, or the CPU without a GPU. max_steps: an episode is cut after so many, with its return so far and as no
        success; `cut` counts those. 10,000 where not given, or twice the longest episode the env names if that is more.
        """
        return evaluate_run(
            self,
            env=env,
            env_kwargs=env_kwargs or {},
            episodes=episodes,
            seed=seed,
            sample=sample,
            checkpoint=checkpoint,
            device=device,
            max_steps=max_steps,
            progress=progress,
        )

    def agent(self, checkpoint: str = "last", *, device: str | None = None) -> Agent:
        """The trained agent, to act with; no env is built. As `mru_rl.agents.load`."""
        return load(self.path, checkpoint=checkpoint, device=device)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)


def as_run(run: Run | str | Path) -> Run:
    """A run from itself or from its directory. Raises ValueError where that holds no run."""
    return run if isinstance(run, Run) else Run.open(run)
