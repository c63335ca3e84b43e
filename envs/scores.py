"""What a return on a task is worth: between a floor, 0, and a reference, 1.

    normalised_score("popgym-BattleshipEasy-v0", 0.2)
    normalised_score("mru_rl/FlipFlop-v0", 0.8, hold=30, length=10_000)
    normalised_score(env, 0.8)

The long-horizon tasks know both exactly, for any options: `env.memoryless_return` and `env.perfect_return`. For the
popgym tasks scores.json beside this file holds, per id, the mean return of random actions (the floor) and of a few players, each
with a 95% interval over its episodes. The reference is perfect play where memory can reach it (1 in RepeatFirst,
RepeatPrevious, Autoencode, CountRecall), the best simple rule in games that also take luck (HigherLower, Battleship,
Concentration, MineSweeper: an agent can score above 1), and a player who sees the hidden state elsewhere (bandits,
control, labyrinths). The players: `mru_rl.envs.players.popgym`. The file is made again by

    python -m mru_rl.envs.scores --out scores.json [--ids ID ...] [--episodes N]

POPGym's own tables show another number: MMER, the maximum over training of the mean episodic return, averaged over
trials. It picks, after the fact, the best of the epochs by the same episodes it is then reported from: it can only grow
while training goes on, hides a collapse after the peak, and on noisy returns (bandits above all) lies above what the
policy of that epoch would earn again. The final return is that of the policy one ends up with. We report both, and
normalise the final one: `mmer` below is for comparison with their tables.
"""

from __future__ import annotations

import argparse
import functools
import importlib.resources
import json
import math
import platform
import zlib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mru_rl.envs.base import BatchedEnv


class Mean(NamedTuple):
    """A mean return with its 95% interval."""

    mean: float
    low: float
    high: float
    episodes: int


class Score(NamedTuple):
    """What is known about the returns of one id."""

    random: Mean
    reference: str
    """The player that counts as 1."""
    players: dict[str, Mean]


@functools.cache
def scores() -> dict[str, Score]:
    """Return the scores of every id that has them."""
    data = json.loads(importlib.resources.files("mru_rl.envs").joinpath("scores.json").read_text())
    return {
        id: Score(Mean(*entry["random"]), entry["reference"], {n: Mean(*m) for n, m in entry["players"].items()})
        for id, entry in data["scores"].items()
    }


def normalised_score(env: str | BatchedEnv, episodic_return: float, **options: Any) -> float:
    """Return 0 for the floor and 1 for the reference, linear and not clipped.

    env: an env, or an id and its options. Floor and reference are random actions and the player of `scores()` for a
    popgym task, what is earned without memory and with a perfect one for a long-horizon task.
    """
    id = env if isinstance(env, str) else env.id
    if options and (id in scores() or not isinstance(env, str)):
        raise ValueError(f"{id} has no options left to choose here, got {', '.join(options)}; leave them out")
    if id in scores():
        score = scores()[id]
        floor, reference = score.random.mean, score.players[score.reference].mean
    else:
        floor, reference = _known_exactly(env, options)
    return (episodic_return - floor) / (reference - floor)


def has_score(env: BatchedEnv) -> bool:
    """Whether floor and reference of an env are known."""
    return env.id in scores() or None not in (env.memoryless_return, env.perfect_return)


def scale(env: BatchedEnv) -> tuple[str, str]:
    """What 0 and 1 are on the normalised score of an env that has one, in words."""
    if env.id in scores():
        return "random actions", f"{scores()[env.id].reference}, a reference player"
    return "all that can be earned without memory", "all that can be earned"


def _known_exactly(env: str | BatchedEnv, options: dict[str, Any]) -> tuple[float, float]:
    """What an env says is earned without memory and with a perfect one."""
    from mru_rl.envs import list_ids, make

    if isinstance(env, str) and env in list_ids():
        env = make(env, 1, **options)
    if isinstance(env, str) or env.memoryless_return is None or env.perfect_return is None:
        name = env if isinstance(env, str) else env.id
        raise ValueError(f"no scores for {name!r}; there are some for {', '.join(list_ids())}")
    return env.memoryless_return, env.perfect_return


def mmer(mean_returns: Iterable[float]) -> float:
    """Return POPGym's MMER of one trial, given the mean episodic return of each of its epochs."""
    return max(mean_returns)


def measure(id: str, *, seed: int, episodes: int, batch: int = 512) -> dict[str, Any]:
    """Play an id with random actions and with the players of its family."""
    import torch

    from mru_rl.envs import make
    from mru_rl.envs.players.popgym import PLAYERS, random_actions, returns

    family = next(name for name in PLAYERS if id.startswith(f"popgym-{name}"))
    result: dict[str, Any] = {"reference": next(iter(PLAYERS[family])), "players": {}}
    for name, player in {"random": random_actions, **PLAYERS[family]}.items():
        earned = []
        for start in range(0, episodes, batch):
            own_seed = zlib.crc32(f"{seed} {id} {name} {start}".encode())
            env = make(id, min(batch, episodes - start), seed=own_seed)
            earned.append(returns(env, player, torch.Generator().manual_seed(own_seed)))
        total = torch.cat(earned)
        mean, half = total.mean().item(), 1.96 * total.std().item() / math.sqrt(episodes)
        summary = [round(mean, 4), round(mean - half, 4), round(mean + half, 4), episodes]
        result.update({"random": summary}) if name == "random" else result["players"].update({name: summary})
    return result


def main() -> None:
    from mru_rl.envs import list_ids

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--ids", nargs="+", help="default: all popgym ids; those in the file and not named here stay")
    parser.add_argument(
        "--episodes", type=int, default=4096, help="per id and player (default 4096); labyrinths an eighth"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    ids = args.ids or [id for id in list_ids() if id.startswith("popgym-")]
    kept = json.loads(args.out.read_text())["scores"] if args.ids and args.out.exists() else {}
    for id in ids:
        episodes = args.episodes // 8 if "Labyrinth" in id else args.episodes
        kept[id] = measure(id, seed=args.seed, episodes=max(episodes, 2))
        print(id, kept[id]["random"], kept[id]["players"][kept[id]["reference"]], flush=True)
    made_by = {
        "command": f"python -m mru_rl.envs.scores --episodes {args.episodes} --seed {args.seed}",
        "seed": args.seed,
        "interval": "mean, low and high end of its 95% interval (normal), episodes",
        "versions": {name: metadata.version(name) for name in ("mru_rl", "torch", "popgym")},
        "python": platform.python_version(),
    }
    lines = ",\n".join(f"    {json.dumps(id)}: {json.dumps(entry)}" for id, entry in kept.items())
    args.out.write_text(f'{{\n  "made_by": {json.dumps(made_by)},\n  "scores": {{\n{lines}\n  }}\n}}\n')


if __name__ == "__main__":
    main()
