"""An episode as a file of arrays, for plots of one's own."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from mru_rl.agents.inspection.episode import Episode
from mru_rl.agents.records.checkpoint import write_atomically


def arrays(episode: Episode) -> dict[str, np.ndarray]:
    """Return all of an episode of T steps by name.

    inputs               float32 [T, D], what the agent saw but for images
    channels             str [D], the names of the columns of inputs
    frames               [T, *shape], an image that it saw, as its space has it: uint8, or floats; frames.NAME where the
                         obs has parts with names
    action               [T] or [T, n], as the env takes it: int64, float32 or bool
    reward, value        float32 [T]; value: the discounted return that the agent expected
    LAYER.CELL.states    float32 [T, units], what a cell held after each step, as in `layer_0.bmru.states`
    LAYER.CELL.writes    bool [T, units], where it wrote; only of cells with write gates
    about                str, a JSON object: env, env_kwargs, core, train_seed, trained_steps, episode, return, finished,
                         success
    """
    about = {
        "env": episode.env,
        "env_kwargs": episode.env_kwargs,
        "core": episode.core,
        "train_seed": episode.train_seed,
        "trained_steps": episode.trained_steps,
        "episode": episode.number,
        "return": episode.total,
        "finished": episode.finished,
        "success": episode.success,
    }
    found = {
        "inputs": episode.inputs,
        "channels": np.array(episode.channels),
        "action": episode.action,
        "reward": episode.reward,
        "value": episode.value,
        "about": np.array(json.dumps(about)),
    }
    for film in episode.films:
        found[f"frames.{film.name}" if film.name else "frames"] = film.frames
    for memory in episode.memory:
        found[f"{memory.layer}.{memory.cell}.states"] = memory.states
        if memory.writes is not None:
            found[f"{memory.layer}.{memory.cell}.writes"] = memory.writes
    return found


def write_arrays(episode: Episode, path: Path) -> None:
    """Write `arrays` into an .npz file, atomically; `numpy.load(path)` reads it, without pickle."""
    file = io.BytesIO()
    named: dict[str, Any] = {**arrays(episode)}
    np.savez_compressed(file, **named)
    write_atomically(path, file.getvalue())
