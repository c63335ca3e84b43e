"""What a return on a task is worth: between a floor, 0, and a reference, 1.

    normalized_score("popgym-BattleshipEasy-v0", 0.2)
    normalized_score("mru_rl/FlipFlop-v0", 0.8, hold=30, length=10_000)
    normalized_score(env, 0.8)

The long-horizon tasks know both exactly, for any options: `env.memoryless_return` and `env.perfect_return`. For the
popgym tasks scores.json beside this file holds, per id, the mean return of random actions (the floor) and of a few players, each
with a 95% interval over its episodes. The reference is perfect play where memory can reach it (1 in RepeatFirst,
RepeatPrevious, Autoencode, CountRecall), the best simple rule in games that also take luck (HigherLower, Battleship,
Concentration, MineSweeper: an agent can score above 1), and a player who sees the hidden state elsewhere (bandits,
control, labyrinths). The players: `mru_rl.envs.players.popgym`. The file is made again by
`mru-rl bench scores --out scores.json`.

POPGym's own tables show another number: MMER, the maximum over training of the mean episodic return, averaged over
trials. It picks, after the fact, the best of the epochs by the same episodes it is then reported from: it can only grow
while training goes on, hides a collapse after the peak, and on noisy returns (bandits above all) lies above what the
policy of that epoch would earn again. The final return is that of the policy one ends up with. We report both, and
normalize the final one: `mmer` below is for comparison with their tables.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Iterable
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


def normalized_score(env: str | BatchedEnv, episodic_return: float, **options: Any) -> float:
    """Return 0 for the floor and 1 for the reference, linear and not clipped.

    env: an env, or an id and its options. Floor and reference are random actions and the player of `scores()` for a
    popgym task, what is earned without memory and with a perfect one for a long-horizon task. Raises ValueError for an env
    without them, and for options that the id has not.
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


normalised_score = normalized_score
"""The same under its British name."""


def has_score(env: BatchedEnv) -> bool:
    """Return True if floor and reference of an env are known."""
    return env.id in scores() or None not in (env.memoryless_return, env.perfect_return)


def scale(env: BatchedEnv) -> tuple[str, str]:
    """Return what 0 and 1 are on the normalized score of an env that has one, in words."""
    if env.id in scores():
        return "random actions", f"{scores()[env.id].reference}, a reference player"
    return "all that can be earned without memory", "all that can be earned"


def _known_exactly(env: str | BatchedEnv, options: dict[str, Any]) -> tuple[float, float]:
    """Return what an env says is earned without memory and with a perfect one."""
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
