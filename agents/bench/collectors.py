"""Speed of collecting: our own acting loop, torchrl's Collector and collectors on Ray, from one run on one machine.

Env steps per second of policy and envs together, nothing learned: bmru+mingru of width and state 64, 64 envs x 128 steps
a segment, one thread a process. A batched env steps all rows at once; gymnasium's CartPole steps them one by one, as any
env without a port does. Each is timed three times in turns, and the fastest counts. On Ray the weights are sent before
every segment, as in training. Needs the extra `ray`; RAY_ADDRESS names a cluster, as in training.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from mru_rl.agents.acting.collector import Collector
from mru_rl.agents.acting.ray_session import ray_session
from mru_rl.agents.algorithms import make_trainer
from mru_rl.agents.bench.options import TimingOptions, command_line, read_options, require_positive
from mru_rl.agents.console.errors import require
from mru_rl.agents.ppo.config import PPOConfig
from mru_rl.agents.records.checkpoint import write_atomically
from mru_rl.agents.records.run import provenance, write_json

ENVS = {
    "popgym-RepeatFirstEasy-v0": "batched, all rows at once",
    "CartPole-v1": "gymnasium, one by one",
}
NUM_ENVS, SEGMENT, WIDTH, ROUNDS = 64, 128, 64, 3


def contenders(env: str, counts: list[int]) -> dict[str, Collector]:
    """What collects from an env, by name."""
    options: dict[str, dict[str, object]] = {
        "own loop": {"collector": "own"},
        "torchrl Collector": {"collector": "torchrl"},
        **{f"Ray, {count} collector(s)": {"collector": "ray", "num_collectors": count} for count in counts},
    }
    common = {"env": env, "num_envs": NUM_ENVS, "segment": SEGMENT, "hidden_size": WIDTH, "device": "cpu"}
    return {name: make_trainer(PPOConfig(**common, **chosen)).collector for name, chosen in options.items()}  # type: ignore[arg-type]


def steps_per_second(collector: Collector, segments: int) -> float:
    """Env steps per second over some segments."""
    started = time.perf_counter()
    for _ in range(segments):
        collector.collect(SEGMENT)
    return segments * NUM_ENVS * SEGMENT / (time.perf_counter() - started)


def measure(env: str, counts: list[int], segments: int) -> dict[str, float]:
    """Steps per second of every contender, after one segment to begin with."""
    with _closed(contenders(env, counts)) as collectors:
        for collector in collectors.values():
            collector.collect(SEGMENT)
        best = dict.fromkeys(collectors, 0.0)
        for _ in range(ROUNDS):
            for name, collector in collectors.items():
                best[name] = max(best[name], steps_per_second(collector, segments))
    return best


@contextlib.contextmanager
def _closed(collectors: dict[str, Collector]) -> Iterator[dict[str, Collector]]:
    try:
        yield collectors
    finally:
        for collector in collectors.values():
            collector.close()


def table(speeds: dict[str, dict[str, float]]) -> str:
    """The result as markdown: thousands of steps per second, and beside them how many times the own loop's."""
    names = list(next(iter(speeds.values())))
    lines = [["env", "steps", *(f"{name} (k/s)" for name in names)], ["---", "---"] + ["---:"] * len(names)]
    for env, speed in speeds.items():
        own = speed["own loop"]
        lines.append([env, ENVS[env], *(f"{speed[name] / 1e3:,.1f} ({speed[name] / own:.2f}x)" for name in names)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


@dataclass(frozen=True, kw_only=True)
class Options(TimingOptions):
    """Options of `mru-rl bench collectors`."""

    collectors: tuple[int, ...] = (1, 2)
    """how many collect on Ray, one measurement each"""
    segments: int = 20
    """segments per measurement"""
    out: Path | None = None
    """directory for collectors.json and collectors.md; nothing is written without it"""

    def __post_init__(self) -> None:
        require_positive(self, "segments")
        for count in self.collectors:
            require(
                count >= 1 and NUM_ENVS % count == 0,
                f"{{collectors}} must be numbers that {NUM_ENVS} envs can be shared by evenly, as in 1 2 4, got {count}",
            )


def main(words: list[str], name: str = "collectors") -> None:
    """Entry point of `mru-rl bench collectors`."""
    options = read_options(Options, words, name, __doc__)
    counts = list(options.collectors)
    torch.set_num_threads(1)
    speeds: dict[str, dict[str, float]] = {}
    with ray_session(sum(counts)):
        for env in ENVS:
            speeds[env] = measure(env, counts, options.segments)
            print(f"{env:30s} " + "  ".join(f"{k} {v / 1e3:,.1f}k/s" for k, v in speeds[env].items()), flush=True)
    print(table(speeds))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        made = provenance("cpu") | {
            "command": command_line(name, words),
            "threads": 1,
            "segments_per_measurement": options.segments,
            "rounds": ROUNDS,
            "load_average": os.getloadavg()[0],
        }
        made["versions"]["ray"] = metadata.version("ray")
        write_json(options.out / "collectors.json", {"steps_per_second": speeds} | made)
        machine = made["machine"]
        foot = (
            f"\n`{made['command']}`, commit {made['commit']}, {machine['cpu']}, {machine['cores']} cores, one thread a process, "
            f"load average {made['load_average']:.1f}, versions {made['versions']}\n"
        )
        write_atomically(options.out / "collectors.md", (table(speeds) + foot).encode())
        print(f"written: {options.out / 'collectors.md'}")
