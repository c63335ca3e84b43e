"""Which memories learn to recall the first input of a sequence, under one small budget for all.

    python -m mru_rl.agents.bench.recall [--cores SPEC ...] [--length N] [--updates N] [--seeds N] [--threads N] [--out DIR]

Each step shows one of four symbols, the first step a flag beside it; the answer at every step is the first symbol, as in
POPGym's RepeatFirst. Every core has one layer, the same width and the same state size and is trained with the same
updates; what it gets right at the last step of fresh sequences is in the table (chance: 0.25), and so is what it gets
right at four times the length. --out writes recall.json and recall.md into DIR.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mru_rl import list_cells, make_core
from mru_rl.agents.bench.scan import provenance

SYMBOLS = 4
WIDTH = 32  # of the core and of its state
BATCH = 32
LEARNING_RATE = 3e-3
LEARNED = 0.95  # share of right answers at the last step from which on a core counts as having learned
HYBRIDS = ["bmru+mingru", "bmru+lru"]
COLUMNS = ["core", "accuracy", "four times as long", "learned", "parameters", "state size", "seconds"]


def main(argv: list[str] | None = None) -> None:
    """Train every core, print the table and, with --out, write it."""
    parser = argparse.ArgumentParser(
        prog="python -m mru_rl.agents.bench.recall", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--cores", nargs="+", default=[*list_cells(), *HYBRIDS], help="core specs")
    parser.add_argument("--length", type=int, default=50, help="steps of a sequence")
    parser.add_argument("--updates", type=int, default=300, help="gradient steps per core")
    parser.add_argument("--seeds", type=int, default=3, help="runs per core")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--out", type=Path, help="folder for recall.json and recall.md")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)

    made = provenance(options.threads, "cpu") | {
        "command": shlex.join(["python", "-m", "mru_rl.agents.bench.recall", *(sys.argv[1:] if argv is None else argv)]),
        "length": options.length, "updates": options.updates, "seeds": options.seeds, "batch": BATCH,
        "width": WIDTH, "learning_rate": LEARNING_RATE,
    }  # fmt: skip
    rows = []
    print(_line(COLUMNS), _line(["---"] * len(COLUMNS)), sep="\n")
    for spec in options.cores:
        runs = [train(spec, options.length, options.updates, seed) for seed in range(options.seeds)]
        rows.append(summary(spec, runs))
        print(_line(rows[-1]["cells"]), flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / "recall.json").write_text(json.dumps({"provenance": made, "cores": rows}, indent=1) + "\n")
            table = [COLUMNS, ["---"] * len(COLUMNS), *(row["cells"] for row in rows)]
            (options.out / "recall.md").write_text("\n".join(map(_line, table)) + "\n")


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
        f"`{spec}`", f"{mean['accuracy']:.2f}", f"{mean['accuracy_4x']:.2f}", f"{learned} of {len(runs)}",
        str(runs[0]["parameters"]), str(runs[0]["state_size"]), f"{mean['seconds']:.0f}",
    ]  # fmt: skip
    return {"core": spec, "learned": learned, "cells": cells, "runs": runs}


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
