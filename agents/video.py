"""An episode of a trained agent as a moving picture, for envs that render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mru_rl.agents.build import torch_settings
from mru_rl.agents.config import EVALUATION_SEED
from mru_rl.agents.console.errors import require, require_package
from mru_rl.agents.evaluate import act, load_agent
from mru_rl.agents.records.run import RunDirectory
from mru_rl.envs import list_ids

FRAMES_PER_SECOND = 30
MOST_FRAMES = 2000


def record_video(
    run: RunDirectory,
    path: str | Path,
    *,
    env_kwargs: dict[str, Any] | None = None,
    seed: int = EVALUATION_SEED,
    checkpoint: str = "last",
) -> int:
    """Write one episode, with the most likely actions, as a GIF or an MP4; returns its frames, at most MOST_FRAMES.

    Raises ValueError for a file of another kind, an env that draws no pictures, and where MP4's package is absent.
    """
    path = Path(path)
    kind = path.suffix.lower()
    require(kind in (".gif", ".mp4"), f"{{video}} is a GIF or MP4 file to write, got {path}; end its name in .gif")
    require(path.parent.is_dir(), f"{{video}} goes into a folder that exists, got {path}; make it first")
    if kind == ".mp4":
        require_package("moviepy", "video", "an MP4", ", or write a .gif")
    mode = {} if run.config_values()["env"] in list_ids() else {"render_mode": "rgb_array"}
    prepared = load_agent(run, 1, {**(env_kwargs or {}), **mode}, seed, checkpoint=checkpoint)
    frames: list[np.ndarray] = []
    env = prepared.env
    with torch_settings(prepared.config.threads), env, torch.inference_mode():
        require(
            env.can_render,
            f"{env.id} draws no pictures, so there is no {{video}} of it; `mru-rl inspect` draws what the memory held",
        )
        obs = env.reset()
        frames.append(env.render())
        for acted in act(prepared.policy, prepared.head, env, obs=obs):
            last = env.final_frame if acted.done else None  # a row that is done has begun again
            frames.append(env.render() if last is None else last)
            if acted.done or len(frames) == MOST_FRAMES:
                break
    _write(frames, path)
    return len(frames)


def _write(frames: list[np.ndarray], path: Path) -> None:
    if path.suffix.lower() == ".mp4":
        from moviepy import ImageSequenceClip

        ImageSequenceClip(frames, fps=FRAMES_PER_SECOND).write_videofile(str(path), logger=None)
        return
    from PIL import Image  # comes with matplotlib

    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=1000 // FRAMES_PER_SECOND, loop=0)
