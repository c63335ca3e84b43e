"""Players of the long-horizon tasks: perfect memory, and the best there is without any."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mru_rl.envs.horizon.tmaze_rewards import FORWARD, UP
from mru_rl.envs.players.base import Act, Player


def perfect_memory(env: Any, generator: torch.Generator) -> Act:
    """The right action at every step, from the hidden state."""
    return lambda obs: env.right_action()


def walk_and_guess(env: Any, generator: torch.Generator) -> Act:
    """T-mazes: on to the junction, then up."""
    on = FORWARD if env.action_space.n > FORWARD else UP
    return lambda obs: torch.where(_numbers(env, obs)[:, 2] == 1, UP, on)


def name_the_symbol_on_show(env: Any, generator: torch.Generator) -> Act:
    """RecallFirst: right where the cue is on, as good as anything elsewhere."""
    return lambda obs: _numbers(env, obs)[:, : env.symbols].argmax(1)


def any_answer(env: Any, generator: torch.Generator) -> Act:
    """DelayedRecall, KeyDoor: nothing to go by where it counts."""
    return lambda obs: obs.new_zeros(len(obs), dtype=torch.int64)


def likeliest_count(env: Any, generator: torch.Generator) -> Act:
    """EventCount: the count that is most frequent over an episode, one more at a pulse."""
    return lambda obs: (env.best_guess + obs[:, 0].long()) % env.modulus


def pulses_only(env: Any, generator: torch.Generator) -> Act:
    """FlipFlop: the pulses at this step are known, 0 for the bits without one."""
    return lambda obs: (obs[:, : env.bits] > 0).long()


def _numbers(env: Any, obs: Tensor) -> Tensor:
    """What an obs that may be a picture shows."""
    return env.shown_numbers() if obs.dtype == torch.uint8 else obs


WITHOUT_MEMORY: dict[str, Player] = {
    "TMaze": walk_and_guess,
    "ActiveTMaze": walk_and_guess,
    "RecallFirst": name_the_symbol_on_show,
    "Contamination": name_the_symbol_on_show,
    "DelayedRecall": any_answer,
    "KeyDoor": any_answer,
    "FlipFlop": pulses_only,
    "EventCount": likeliest_count,
}
"""By task; what they earn on average is the env's `memoryless_return`."""
