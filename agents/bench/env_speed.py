"""Speed of stepping popgym: our batched ports against upstream, as ratios from one run on one machine.

Per id, env steps per second under random actions drawn beforehand, whole episodes with their resets inside the time:
the port at 64, 1,024 and 4,096 envs; one bare upstream env, stepped in a plain loop; and gymnasium's SyncVectorEnv of
64 upstream envs. One process, one thread. Each is timed three times in turns, and the fastest counts. The goal is 50
times bare upstream at 1,024 envs for the card games and 20 times for the others.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mru_rl.agents.bench.options import TimingOptions, command_line, read_options
from mru_rl.agents.console.errors import require
from mru_rl.agents.records.checkpoint import write_atomically
from mru_rl.agents.records.run import provenance, write_json
from mru_rl.envs import list_ids, list_upstream_ids, make
from mru_rl.envs.players.base import random_actions

ENVS, GOAL_ENVS, VECTOR_ENVS, ROUNDS = (64, 1024, 4096), 1024, 64, 3
CARD_GAMES = ("RepeatFirst", "RepeatPrevious", "Autoencode", "CountRecall", "HigherLower", "Concentration")
Advance = Callable[[], int]
"""Takes some steps and returns how many, over all envs."""


def port(id: str, num_envs: int) -> Advance:
    """One step of the batched port."""
    env = make(id, num_envs)
    env.reset()
    generator = torch.Generator().manual_seed(0)
    draw = random_actions(env, generator)
    actions = itertools.cycle([draw(torch.empty(0)) for _ in range(64)])

    def advance() -> int:
        env.step(next(actions))
        return num_envs

    return advance


def bare(id: str) -> Advance:
    """A hundred steps of one upstream env without any wrapper."""
    env = upstream_class(id)()
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = itertools.cycle([env.action_space.sample() for _ in range(1000)])

    def advance() -> int:
        for _ in range(100):
            _, _, terminated, truncated, _ = env.step(next(actions))
            if terminated or truncated:
                env.reset()
        return 100

    return advance


def sync_vector(id: str) -> Advance:
    """One step of gymnasium's SyncVectorEnv of upstream envs."""
    from gymnasium.vector import SyncVectorEnv

    env = SyncVectorEnv([upstream_class(id)] * VECTOR_ENVS)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = itertools.cycle([env.action_space.sample() for _ in range(64)])

    def advance() -> int:
        env.step(next(actions))
        return VECTOR_ENVS

    return advance


def upstream_class(id: str) -> Any:
    import popgym.envs

    return next(cls for cls, entry in popgym.envs.ALL.items() if entry["id"] == id)


def steps_per_second(advance: Advance, calls: int, seconds: float) -> float:
    """Steps per second over at least `calls` calls and `seconds`."""
    taken, steps = 0, 0
    started = time.perf_counter()
    while taken < calls or time.perf_counter() - started < seconds:
        steps += advance()
        taken += 1
    return steps / (time.perf_counter() - started)


def measure(id: str, seconds: float) -> dict[str, float]:
    """Steps per second of every contender."""
    horizon = make(id, 1).horizon or 1
    contenders: dict[str, tuple[Advance, int]] = {
        **{f"port, {n} envs": (port(id, n), horizon) for n in ENVS},
        "upstream, bare": (bare(id), 1),
        f"upstream, SyncVectorEnv of {VECTOR_ENVS}": (sync_vector(id), 1),
    }
    best = dict.fromkeys(contenders, 0.0)
    for _ in range(ROUNDS):
        for name, (advance, calls) in contenders.items():
            best[name] = max(best[name], steps_per_second(advance, calls, seconds))
    return best


def goal(id: str) -> int:
    """How many times faster than bare upstream the port must be at 1,024 envs."""
    return 50 if any(name in id for name in CARD_GAMES) else 20


def table(speeds: dict[str, dict[str, float]]) -> str:
    """The result as markdown; steps per second in thousands."""
    names = list(next(iter(speeds.values())))
    bare_name, sync_name = names[-2:]
    head = [
        "id",
        *(f"{name} (k/s)" for name in names),
        f"x bare at {GOAL_ENVS}",
        f"x SyncVectorEnv at {GOAL_ENVS}",
        "goal",
    ]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for id, speed in speeds.items():
        ours = speed[f"port, {GOAL_ENVS} envs"]
        ratio = ours / speed[bare_name]
        numbers = [f"{speed[name] / 1e3:,.0f}" for name in names]
        met = "met" if ratio >= goal(id) else "missed"
        lines.append([id, *numbers, f"{ratio:.0f}", f"{ours / speed[sync_name]:.0f}", f"{goal(id)}: {met}"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


PORTED = [id for id in list_upstream_ids() if id in list_ids()]


@dataclass(frozen=True, kw_only=True)
class Options(TimingOptions):
    """Options of `mru-rl bench envs`."""

    ids: tuple[str, ...] = ()
    """popgym ids with a port; all of them where not given"""
    seconds: float = 0.3
    """time per measurement, at least one episode"""
    out: Path | None = None
    """directory for env_speed.json and env_speed.md; nothing is written without it"""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.ids) - set(PORTED))
        require(not unknown, f"there is no port of {', '.join(unknown)}; {{ids}} are {', '.join(PORTED)}")


def main(words: list[str], name: str = "envs") -> None:
    """Entry point of `mru-rl bench envs`."""
    options = read_options(Options, words, name, __doc__)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Maze environments have been shown", category=DeprecationWarning)
    speeds: dict[str, dict[str, float]] = {}
    for id in options.ids or PORTED:
        speeds[id] = measure(id, options.seconds)
        print(
            f"{id:45s} " + "  ".join(f"{case} {speed / 1e3:,.0f}k/s" for case, speed in speeds[id].items()), flush=True
        )
    print(table(speeds))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        made = provenance("cpu") | {
            "command": command_line(name, words),
            "threads": 1,
            "seconds_per_measurement": options.seconds,
            "rounds": ROUNDS,
        }
        write_json(options.out / "env_speed.json", {"steps_per_second": speeds} | made)
        foot = f"\n`{made['command']}`, commit {made['commit']}, {made['machine']['cpu']}, one thread, versions {made['versions']}\n"
        write_atomically(options.out / "env_speed.md", (table(speeds) + foot).encode())
