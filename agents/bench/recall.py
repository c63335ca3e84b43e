"""Which memories learn to recall the first input of a sequence, under one small budget for all.

Each step shows one of four symbols, the first step a flag beside it; the answer at every step is the first symbol, as in
POPGym's RepeatFirst. Every core has one layer, the same width and the same state size and is trained with the same
updates; what it gets right at the last step of fresh sequences is in the table (chance: 0.25), and so is what it gets
right at four times the length.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mru_rl import list_cells, make_core
from mru_rl.agents.bench.options import TimingOptions, command_line, read_options, require_positive
from mru_rl.agents.records.checkpoint import write_atomically
from mru_rl.agents.records.run import provenance, write_json
from mru_rl.agents.report.tables import markdown_row
from mru_rl.blocks.spec import parse_spec

SYMBOLS = 4
WIDTH = 32  # of the core and of its state
BATCH = 32
LEARNING_RATE = 3e-3
LEARNED = 0.95  # share of right answers at the last step from which on a core counts as having learned
HYBRIDS = ["bmru+mingru", "bmru+lru"]
COLUMNS = ["core", "accuracy", "four times as long", "learned", "parameters", "state size", "seconds"]


@dataclass(frozen=True, kw_only=True)
class Options(TimingOptions):
    """Options of `mru-rl bench recall`."""

    cores: tuple[str, ...] = (*list_cells(), *HYBRIDS)
    """core specs"""
    length: int = 50
    """steps of a sequence"""
    updates: int = 300
    """gradient steps per core"""
    seeds: int = 3
    """runs per core"""
    threads: int = 1
    """CPU threads of torch"""
    out: Path | None = None
    """directory for recall.json and recall.md; nothing is written without it"""

    def __post_init__(self) -> None:
        require_positive(self, "length", "updates", "seeds", "threads")
        for spec in self.cores:
            parse_spec(spec)


def main(words: list[str], name: str = "recall") -> None:
    """Entry point of `mru-rl bench recall`."""
    options = read_options(Options, words, name, __doc__)
    torch.set_num_threads(options.threads)
    made = provenance("cpu") | {
        "command": command_line(name, words),
        "threads": options.threads,
        "length": options.length,
        "updates": options.updates,
        "seeds": options.seeds,
        "batch": BATCH,
        "width": WIDTH,
        "learning_rate": LEARNING_RATE,
    }
    rows = []
    lines = [markdown_row(COLUMNS), markdown_row(["---"] * len(COLUMNS))]
    print(*lines, sep="\n")
    for spec in options.cores:
        runs = [train(spec, options.length, options.updates, seed) for seed in range(options.seeds)]
        rows.append(summary(spec, runs))
        lines.append(markdown_row(rows[-1]["cells"]))
        print(lines[-1], flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            write_json(options.out / "recall.json", {"provenance": made, "cores": rows})
            write_atomically(options.out / "recall.md", ("\n".join(lines) + "\n").encode())


def train(spec: str, length: int, updates: int, seed: int) -> dict[str, Any]:
    """One core trained from one seed: what it gets right, and what it is made of."""
    torch.manual_seed(seed)
    core = make_core(spec, SYMBOLS + 1, WIDTH, state_size=WIDTH)
    head = nn.Linear(WIDTH, SYMBOLS)
    optimizer = torch.optim.Adam([*core.parameters(), *head.parameters()], lr=LEARNING_RATE)

    def answers(x: Tensor, is_init: Tensor) -> Tensor:
        return head(core(x, core.initial_state(len(x)), is_init)[0])

    started = time.perf_counter()
    x, is_init, _ = sequences(BATCH, length)
    core.warm_up(x, is_init, horizon=length)
    for _ in range(updates):
        x, is_init, first = sequences(BATCH, length)
        loss = F.cross_entropy(answers(x, is_init).flatten(0, 1), first[:, None].expand(-1, length).flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(core.parameters(), 1.0)
        optimizer.step()
    seconds = time.perf_counter() - started

    @torch.no_grad()
    def accuracy(length: int) -> float:
        x, is_init, first = sequences(500, length)
        return (answers(x, is_init)[:, -1].argmax(-1) == first).float().mean().item()

    return {
        "seed": seed,
        "accuracy": accuracy(length),
        "accuracy_4x": accuracy(4 * length),
        "loss": loss.item(),
        "parameters": sum(p.numel() for p in core.parameters()),
        "state_size": core.state_size,
        "seconds": seconds,
    }


def sequences(B: int, T: int) -> tuple[Tensor, Tensor, Tensor]:
    """x [B, T, SYMBOLS + 1], is_init [B, T] and the first symbol of each row, int64 [B]."""
    symbols = torch.randint(0, SYMBOLS, (B, T))
    x = F.one_hot(symbols, SYMBOLS).float()
    is_init = torch.zeros(B, T, dtype=torch.bool)
    is_init[:, 0] = True
    return torch.cat([x, is_init[..., None].float()], dim=-1), is_init, symbols[:, 0]


def summary(spec: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of the table: means over the seeds, and the runs behind them."""
    mean = {key: sum(run[key] for run in runs) / len(runs) for key in ("accuracy", "accuracy_4x", "seconds")}
    learned = sum(run["accuracy"] >= LEARNED for run in runs)
    cells = [
        f"`{spec}`",
        f"{mean['accuracy']:.2f}",
        f"{mean['accuracy_4x']:.2f}",
        f"{learned} of {len(runs)}",
        str(runs[0]["parameters"]),
        str(runs[0]["state_size"]),
        f"{mean['seconds']:.0f}",
    ]
    return {"core": spec, "learned": learned, "cells": cells, "runs": runs}
