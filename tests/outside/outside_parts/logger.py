"""A logger of one's own: the returns of a run in a text file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mru_rl.agents import register_logger


@register_logger("returns-txt")
class ReturnsText:
    """RUN/returns.txt, a line a record: env steps and mean return."""

    def __init__(self, path: Path, config: dict[str, Any], steps: int) -> None:
        self._file = (path / "returns.txt").open("a")

    def log(self, record: Mapping[str, float]) -> None:
        self._file.write(f"{record['steps']:.0f} {record.get('return_mean', float('nan')):.3f}\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
