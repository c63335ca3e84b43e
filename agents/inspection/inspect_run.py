"""What `mru-rl inspect` does: record an episode of a run, draw it, and describe it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mru_rl.agents.console.errors import require
from mru_rl.agents.inspection.arrays import write_arrays
from mru_rl.agents.inspection.episode import record_episode
from mru_rl.agents.inspection.picture import draw
from mru_rl.agents.inspection.summary import text
from mru_rl.agents.run import Run


def inspect_run(
    run: Run,
    *,
    number: int = 0,
    env_kwargs: dict[str, Any] | None = None,
    seed: int,
    max_steps: int = 100_000,
    out: Path | None = None,
    npz: Path | None = None,
    checkpoint: str = "last",
    device: str | None = None,
) -> tuple[Path, list[str]]:
    """Draw one episode of a run into a PNG; return its path and the lines of `summary.text`.

    number, env_kwargs, seed, max_steps: as in `record_episode`. out: the PNG; None: RUN/inspect_episode_K.png. npz: the file
    for the arrays of the episode, named as in `arrays.arrays`; None: they are not written. Directories are made. checkpoint,
    device: as in `Run.evaluate`.
    Raises ValueError if a file name does not end in .png or .npz, and for what `mru-rl eval` refuses.
    """
    path = out or run.path / f"inspect_episode_{number}.png"
    _check_file("{out}", path, ".png")
    if npz is not None:
        _check_file("{npz}", npz, ".npz")
    episode = record_episode(
        run,
        number=number,
        env_kwargs=env_kwargs or {},
        seed=seed,
        max_steps=max_steps,
        checkpoint=checkpoint,
        device=device,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(episode, path)
    if npz is not None:
        npz.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(episode, npz)
    return path, text(episode)


def _check_file(option: str, path: Path, suffix: str) -> None:
    require(
        path.suffix.lower() == suffix and not path.is_dir(),
        f"{option} takes the name of a {suffix} file, got {path}; end the name in {suffix}",
    )
