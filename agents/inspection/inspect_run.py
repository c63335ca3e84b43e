"""What `mru-rl inspect` does: an episode of a run recorded, drawn and told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mru_rl.agents.console.errors import require
from mru_rl.agents.inspection.episode import record_episode
from mru_rl.agents.inspection.picture import draw
from mru_rl.agents.inspection.summary import text
from mru_rl.agents.records.run import Run


def inspect_run(
    run: Run,
    *,
    number: int = 0,
    env_kwargs: dict[str, Any] | None = None,
    seed: int,
    max_steps: int = 100_000,
    out: Path | None = None,
) -> tuple[Path, list[str]]:
    """Draw one episode of a run into a PNG; returns its path and the lines of `summary.text`.

    out: RUN/inspect_episode_K.png where not given. The rest is as in `record_episode`. Raises ValueError where out
    cannot be a picture and for what `mru-rl eval` refuses.
    """
    path = out or run.path / f"inspect_episode_{number}.png"
    require(
        path.suffix.lower() == ".png" and not path.is_dir(),
        f"--out is the PNG to write, got {path}; end its name in .png",
    )
    episode = record_episode(run, number=number, env_kwargs=env_kwargs or {}, seed=seed, max_steps=max_steps)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(episode, path)
    return path, text(episode)
