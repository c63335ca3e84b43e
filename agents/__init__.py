"""Train agents that remember, from Python: what the command `mru-rl` does, and what it opens to other people's parts.

    from mru_rl.agents import PPOConfig, train, load

    run = train(PPOConfig(env="mru_rl/TMaze-v0", env_kwargs={"length": 100}))   # a Run: its directory and what it holds
    run.evaluate(env_kwargs={"length": 5000}).success_rate
    run.metrics()                                                               # columns, ready for pandas or a plot

    agent = load(run)                                                           # or a path; no env is built
    state = agent.initial_state()
    action, state = agent.act(obs, state, is_init=True)                         # one step inside a loop of your own

`train` and `resume` start and continue runs; `PPOConfig` and `R2D2Config` say what of; `Run` is what they leave; `load` gives the
`Agent` to act with; `Callback` and `Logger` look on. `register_algorithm`, `register_encoder` and `register_logger` here, `mru_rl.register_cell` and
`mru_rl.envs.register_env` make parts of your own known by name; a module that does so is named with `imports`
(`--import MODULE` on the command line), so that every process finds it.

The names below are resolved on first use, so that `mru-rl --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mru_rl.agents.agent import Agent, load
    from mru_rl.agents.algorithms import list_algorithms, register_algorithm
    from mru_rl.agents.callbacks import Callback, CallbackError
    from mru_rl.agents.config import Task, TrainConfig
    from mru_rl.agents.evaluate import Evaluation
    from mru_rl.agents.nets.encoders import make_encoder, register_encoder
    from mru_rl.agents.ppo.config import PPOConfig
    from mru_rl.agents.r2d2.config import R2D2Config
    from mru_rl.agents.records.loggers import Logger, list_loggers, register_logger
    from mru_rl.agents.run import Run
    from mru_rl.agents.trainer import Trainer
    from mru_rl.agents.training import resume, train
    from mru_rl.agents.training_loop import Training

_HOME = {
    "Agent": "agent",
    "Callback": "callbacks",
    "CallbackError": "callbacks",
    "Evaluation": "evaluate",
    "Logger": "records.loggers",
    "PPOConfig": "ppo.config",
    "R2D2Config": "r2d2.config",
    "Run": "run",
    "Task": "config",
    "TrainConfig": "config",
    "Trainer": "trainer",
    "Training": "training_loop",
    "list_algorithms": "algorithms",
    "list_loggers": "records.loggers",
    "load": "agent",
    "make_encoder": "nets.encoders",
    "register_algorithm": "algorithms",
    "register_encoder": "nets.encoders",
    "register_logger": "records.loggers",
    "resume": "training",
    "train": "training",
}
__all__ = [
    "Agent",
    "Callback",
    "CallbackError",
    "Evaluation",
    "Logger",
    "PPOConfig",
    "R2D2Config",
    "Run",
    "Task",
    "TrainConfig",
    "Trainer",
    "Training",
    "list_algorithms",
    "list_loggers",
    "load",
    "make_encoder",
    "register_algorithm",
    "register_encoder",
    "register_logger",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mru_rl.agents' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"mru_rl.agents.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
