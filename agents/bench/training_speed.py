"""Training speed end to end, ours against sb3-contrib's RecurrentPPO, as a ratio from one run on one machine.

Common configuration: RepeatFirstEasy, 64 envs x 128 steps, 4 epochs x 4 minibatches, width and state 64. Ours is one
layer of BMRU, and R2D2 from the same rollouts, each sequence replayed 4 times on average; theirs is MlpLstmPolicy on
upstream popgym, as shipped (separate LSTMs for actor and critic) and with one shared LSTM. Env stepping, acting and learning are all inside the time. Needs the extra `bench`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mru_rl.agents.bench.options import TimingOptions, command_line, read_options, require_positive
from mru_rl.agents.ppo.config import PPOConfig
from mru_rl.agents.ppo.trainer import PPOTrainer
from mru_rl.agents.r2d2.config import R2D2Config
from mru_rl.agents.r2d2.trainer import R2D2Trainer
from mru_rl.agents.records.run import provenance, write_json

ENVS, SEGMENT, EPOCHS, MINIBATCHES, WIDTH = 64, 128, 4, 4, 64


def ours(core: str, threads: int) -> Callable[[], Any]:
    """One update of this library, ready to be timed."""
    trainer = PPOTrainer(
        PPOConfig(
            core=core,
            num_envs=ENVS,
            segment=SEGMENT,
            epochs=EPOCHS,
            minibatches=MINIBATCHES,
            hidden_size=WIDTH,
            threads=threads,
            warm_up=False,
            steps=10**9,
        )
    )
    return trainer.update


def ours_r2d2(core: str, threads: int) -> Callable[[], Any]:
    """One round of acting and gradient steps of R2D2 with its defaults, ready to be timed."""
    trainer = R2D2Trainer(
        R2D2Config(
            core=core,
            num_envs=ENVS,
            segment=SEGMENT,
            hidden_size=WIDTH,
            learning_starts=1,
            threads=threads,
            warm_up=False,
            steps=10**9,
        )
    )
    return trainer.update


def sb3(shared: bool) -> Callable[[], Any]:
    """One update of sb3-contrib's RecurrentPPO on upstream popgym, ready to be timed."""
    from gymnasium.wrappers import FlattenObservation
    from popgym.envs.repeat_first import RepeatFirstEasy
    from popgym.wrappers import Antialias, PreviousAction
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    def make() -> Any:
        return FlattenObservation(Antialias(PreviousAction(RepeatFirstEasy())))

    model = RecurrentPPO(
        "MlpLstmPolicy",
        DummyVecEnv([make] * ENVS),
        n_steps=SEGMENT,
        n_epochs=EPOCHS,
        batch_size=ENVS * SEGMENT // MINIBATCHES,
        device="cpu",
        seed=0,
        policy_kwargs={
            "lstm_hidden_size": WIDTH,
            "net_arch": [WIDTH],
            "shared_lstm": shared,
            "enable_critic_lstm": not shared,
        },
    )
    return lambda: model.learn(ENVS * SEGMENT, reset_num_timesteps=False)


def steps_per_second(update: Callable[[], Any], updates: int) -> float:
    """Env steps per second of the fastest of several updates, after one to warm up."""
    update()
    best = float("inf")
    for _ in range(updates):
        started = time.perf_counter()
        update()
        best = min(best, time.perf_counter() - started)
    return ENVS * SEGMENT / best


@dataclass(frozen=True, kw_only=True)
class Options(TimingOptions):
    """Options of `mru-rl bench speed`."""

    threads: int = 2
    """CPU threads of torch"""
    out: Path | None = None
    """directory for training_speed.json; nothing is written without it"""

    def __post_init__(self) -> None:
        require_positive(self, "threads")


def main(words: list[str], name: str = "speed") -> None:
    """Entry point of `mru-rl bench speed`."""
    options = read_options(Options, words, name, __doc__)
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", module="stable_baselines3")
    cases = {
        "mru_rl bmru": (lambda: ours("bmru", options.threads), 10),
        "mru_rl bmru+mingru": (lambda: ours("bmru+mingru", options.threads), 10),
        "mru_rl gru": (lambda: ours("gru", options.threads), 5),
        "mru_rl r2d2 bmru": (lambda: ours_r2d2("bmru", options.threads), 10),
        "mru_rl r2d2 gru": (lambda: ours_r2d2("gru", options.threads), 5),
        "sb3-contrib RecurrentPPO, as shipped": (lambda: sb3(shared=False), 3),
        "sb3-contrib RecurrentPPO, one shared LSTM": (lambda: sb3(shared=True), 3),
    }
    speeds: dict[str, float] = {}
    for contender, (build, updates) in cases.items():
        speeds[contender] = steps_per_second(build(), updates)
        print(f"{contender:45s} {speeds[contender]:10,.0f} steps/s", flush=True)
    base = speeds["sb3-contrib RecurrentPPO, as shipped"]
    for contender, speed in speeds.items():
        print(f"{contender:45s} {speed / base:6.1f}x sb3-contrib as shipped")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        made = provenance("cpu") | {"command": command_line(name, words), "threads": options.threads}
        write_json(options.out / "training_speed.json", {"steps_per_second": speeds} | made)
        print(f"written: {options.out / 'training_speed.json'}")
