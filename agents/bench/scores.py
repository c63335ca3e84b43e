"""What random actions and the reference players earn on the POPGym tasks: makes the scores.json of `mru_rl.envs.scores`.

Per id the mean return of random actions, the floor, and of every player of its family (`mru_rl.envs.players.popgym`),
each with the 95% interval (normal) over its episodes. Ids that are in the file and not asked for stay as they are.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mru_rl.agents.bench.options import command_line, read_options
from mru_rl.agents.console.errors import nearest, require
from mru_rl.agents.records.checkpoint import write_atomically
from mru_rl.agents.records.run import provenance
from mru_rl.envs import list_ids, make
from mru_rl.envs.players.base import random_actions, returns
from mru_rl.envs.players.popgym import PLAYERS

IDS = [env_id for env_id in list_ids() if env_id.startswith("popgym-")]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `mru-rl bench scores`."""

    out: Path
    """JSON file to write; envs/scores.json of a checkout is the one that `mru_rl.envs.scores` reads"""
    ids: tuple[str, ...] = ()
    """popgym ids to measure; all of them, and no others kept, where not given"""
    episodes: int = 4096
    """episodes per id and player; labyrinths an eighth"""
    seed: int = 0
    """decides everything random"""

    def __post_init__(self) -> None:
        require(self.episodes >= 2, f"{{episodes}} must be at least 2, got {self.episodes}")
        for env_id in self.ids:
            require(
                env_id in IDS,
                f"{{ids}} are popgym ids with a port, as `mru-rl envs` lists them; {nearest(env_id, IDS)}got {env_id!r}",
            )


def main(words: list[str], name: str = "scores") -> None:
    """Entry point of `mru-rl bench scores`."""
    options = read_options(Options, words, name, __doc__)
    out = options.out
    kept = json.loads(out.read_text())["scores"] if options.ids and out.exists() else {}
    for env_id in options.ids or IDS:
        episodes = options.episodes // 8 if "Labyrinth" in env_id else options.episodes
        kept[env_id] = measure(env_id, seed=options.seed, episodes=max(episodes, 2))
        print(env_id, kept[env_id]["random"], kept[env_id]["players"][kept[env_id]["reference"]], flush=True)
    made_by = provenance("cpu") | {
        "command": command_line(name, words),
        "seed": options.seed,
        "interval": "mean, low and high end of its 95% interval (normal), episodes",
    }
    lines = ",\n".join(f"    {json.dumps(env_id)}: {json.dumps(entry)}" for env_id, entry in kept.items())
    out.parent.mkdir(parents=True, exist_ok=True)
    text = f'{{\n  "made_by": {json.dumps(made_by)},\n  "scores": {{\n{lines}\n  }}\n}}\n'
    write_atomically(out, text.encode())


def measure(env_id: str, *, seed: int, episodes: int, batch: int = 512) -> dict[str, Any]:
    """Play an id with random actions and with the players of its family: an entry of scores.json."""
    family = next(name for name in PLAYERS if env_id.startswith(f"popgym-{name}"))
    result: dict[str, Any] = {"reference": next(iter(PLAYERS[family])), "players": {}}
    for name, player in {"random": random_actions, **PLAYERS[family]}.items():
        earned = []
        for start in range(0, episodes, batch):
            own_seed = zlib.crc32(f"{seed} {env_id} {name} {start}".encode())
            env = make(env_id, min(batch, episodes - start), seed=own_seed)
            earned.append(returns(env, player, torch.Generator().manual_seed(own_seed)))
        total = torch.cat(earned)
        mean, half = total.mean().item(), 1.96 * total.std().item() / math.sqrt(episodes)
        summary = [round(mean, 4), round(mean - half, 4), round(mean + half, 4), episodes]
        if name == "random":
            result["random"] = summary
        else:
            result["players"][name] = summary
    return result
