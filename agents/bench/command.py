"""`mru-rl bench NAME`: which benchmarks there are. Only the module of the one that is asked for is imported."""

from __future__ import annotations

import importlib

from mru_rl.agents.console.errors import nearest, require

BENCHMARKS: dict[str, tuple[str, str]] = {
    "retention": ("memory", "trained on a short T-maze, walked up to 10,000 times as far"),
    "delay": ("memory", "trained on long T-mazes directly, each length by itself"),
    "rewrite": ("memory", "bits set and reset again and again, held longer than in training"),
    "capacity": ("memory", "how many bits can be recalled after a delay"),
    "contamination": ("memory", "a burst of inputs never seen in training, between cue and question"),
    "count": ("memory", "events counted modulo 4, over more steps than in training"),
    "custom": ("memory", "any env, any cores, over seeds"),
    "settings": ("ablation", "one setting of training changed at a time"),
    "staleness": ("staleness", "how far stored states of replayed sequences are off"),
    "popgym": ("popgym", "a pass over POPGym: what can be learned at all"),
    "recall": ("recall", "which cells learn to recall the first input of a sequence, without RL"),
    "scan": ("scan", "time and memory of the scan, beside torch.nn.GRU and LSTM"),
    "speed": ("training_speed", "training speed end to end, beside sb3-contrib"),
    "envs": ("env_speed", "speed of stepping the POPGym ports, beside upstream"),
    "collectors": ("collectors", "speed of acting: our own loop, torchrl's Collector, Ray"),
    "scores": ("scores", "what random actions and reference players earn on the POPGym tasks"),
}
"""Name -> the module in this folder, whose main(words, name) runs it, and what it measures."""


def main(words: list[str]) -> None:
    """Entry point of `mru-rl bench`. Raises ValueError, in one line, for what the caller can mend."""
    if not words or words[0] in ("-h", "--help"):
        print("usage: mru-rl bench NAME [options]\n")
        for name, (_, summary) in BENCHMARKS.items():
            print(f"  {name:14s} {summary}")
        print("\n`mru-rl bench NAME --help` explains the options.")
        return
    name, *rest = words
    require(
        name in BENCHMARKS,
        f"there is no benchmark {name!r}; {nearest(name, BENCHMARKS)}benchmarks are {', '.join(BENCHMARKS)}",
    )
    importlib.import_module(f"mru_rl.agents.bench.{BENCHMARKS[name][0]}").main(rest, name)
