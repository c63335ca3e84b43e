"""Why an agent that had learned RepeatFirst forgets it again: its units, watched from update to update.

    python runs/benchmarks/training/fall_back.py --out DIR [--steps N] [--seed S] [training options as name=value]

An agent sees eight inputs in this task: four cards, on the first step and later. So it can be said exactly which units
carry the first card: those that write on the first step, in a way that differs between cards, and on no later card. Per
update this writes the mean return, how many units carry, how many carriers of the update before were lost and how many
now write something else on some first card, how many of the four cards the carriers tell apart, and how near the nearest
carrier is to being overwritten (threshold minus drive of the strongest later card), as JSON and a plot.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import torch

from mru_rl.agents.cli.args import read_pairs
from mru_rl.agents.ppo.config import PPOConfig
from mru_rl.agents.ppo.trainer import PPOTrainer
from mru_rl.agents.records.run import provenance, write_json
from mru_rl.cells.mru.bmru import BMRU

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter

CARDS = 4


@torch.no_grad()
def carriers(trainer: PPOTrainer) -> tuple[dict[int, tuple[float, ...]], float]:
    """What each unit that carries the first card writes on the four of them, in {-1, 0, +1}, and the smallest distance of
    such a unit from being overwritten."""
    core = trainer.policy.core
    block, cards = core.blocks[0], torch.eye(CARDS)
    assert isinstance(block.cell, BMRU)
    later, first = ([1.0, 0.0], [0.0, 1.0])
    inputs = torch.cat([torch.cat([cards, torch.tensor(flag).expand(CARDS, 2)], dim=1) for flag in (first, later)])
    u, beta = block.cell.candidate_and_threshold(block.norm(core.encoder(inputs)))
    written = torch.where(u.abs() > beta, u.sign(), 0.0)[:CARDS]  # [cards, units]
    tells_apart = (written != written[0]).any(dim=0)
    margin = (beta - u.abs())[CARDS:].amin(dim=0)
    carry = tells_apart & (margin > 0)
    found = {unit: tuple(written[:, unit].tolist()) for unit in carry.nonzero().flatten().tolist()}
    return found, margin[carry].min().item() if found else 0.0


def watch(config: PPOConfig) -> list[dict[str, float]]:
    """Train, and record every update."""
    trainer, rows, before = PPOTrainer(config), [], {}
    while trainer.steps < config.steps:
        metrics, _ = trainer.update()
        now, margin = carriers(trainer)
        recent = [value for value, _, _ in trainer.collector.recent]
        rows.append(
            {
                "steps": trainer.steps, "return_mean": sum(recent) / max(len(recent), 1), "carriers": len(now),
                "lost": len(before.keys() - now.keys()),
                "changed": sum(before[unit] != now[unit] for unit in before.keys() & now.keys()),
                "told_apart": len(set(zip(*now.values(), strict=True))) if now else 1, "margin": margin, "entropy": metrics.get("entropy"), "kl": metrics.get("kl"),
            }
        )  # fmt: skip
        before = now
    return rows


def draw(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Return, carriers and their losses over training."""
    figure, axes = plt.subplots(3, 1, figsize=(7, 6.5), sharex=True, layout="constrained")
    steps = [row["steps"] for row in rows]
    axes[0].plot(steps, [row["return_mean"] for row in rows], color="#0b6e99")
    axes[0].set_ylabel("return")
    axes[0].set_title(title)
    axes[1].plot(steps, [row["carriers"] for row in rows], color="#b3541e")
    for what, marker, label in (("lost", "x", "one was lost"), ("changed", "o", "one writes another value")):
        at = [(row["steps"], row["carriers"]) for row in rows if row[what]]
        if at:
            axes[1].plot(*zip(*at, strict=True), marker, color="#444444", label=label)
    axes[1].legend(frameon=False, loc="lower right")
    axes[1].set_ylabel("units that carry\nthe first card")
    axes[2].plot(steps, [row["margin"] for row in rows], color="#444444")
    axes[2].set_ylabel("nearest carrier's distance\nfrom being overwritten")
    axes[2].set_xlabel("env steps")
    axes[2].xaxis.set_major_formatter(EngFormatter())
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for NAME.json and NAME.png")
    parser.add_argument("--name", required=True, help="name of this setting")
    parser.add_argument("--steps", type=int, default=4_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="fields of the training config")
    args = parser.parse_args()
    settings = read_pairs(args.settings)
    config = PPOConfig(env="popgym-RepeatFirstHard-v0", core="bmru", steps=args.steps, seed=args.seed, **settings)
    rows = watch(config)
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / f"{args.name}.json", {"settings": settings, "provenance": provenance("cpu"), "rows": rows})
    draw(rows, args.out / f"{args.name}.png", f"RepeatFirstHard, bmru, {args.name}")
    best = max(row["return_mean"] for row in rows)
    print(json.dumps({"name": args.name, "best": round(best, 3), "last": round(rows[-1]["return_mean"], 3)}))


if __name__ == "__main__":
    main()
