"""The options that benchmarks share, and how a benchmark's command reads its own."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from mru_rl.agents.console.errors import require
from mru_rl.agents.console.imports import imported
from mru_rl.agents.console.options import parse

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TimingOptions:
    """A benchmark that prints what it measures."""

    out: Path | None = None
    """directory for the numbers, their tables and plots; nothing is written without it"""


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """A benchmark that is a grid of jobs."""

    workers: int = 2
    """jobs side by side, one thread each"""
    engine: Literal["processes", "ray"] = "processes"
    """processes of this machine, or Ray tasks, also of the cluster that RAY_ADDRESS names if all its machines see --out"""
    out: Path | None = None
    """directory for results and tables, where finished jobs are found again; runs/bench-NAME where not given"""

    def __post_init__(self) -> None:
        require_positive(self, "workers")


def require_positive(options: Any, *names: str) -> None:
    """Raise OptionError unless these options are at least 1, or left out."""
    for name in names:
        value = getattr(options, name)
        require(value is None or value >= 1, f"{{{name}}} must be at least 1, got {value}")


def read_options(schema: type[T], words: list[str], name: str, description: str | None) -> T:
    """The options of `mru-rl bench NAME`. Raises OptionError for what cannot be read."""
    return parse(schema, words, f"mru-rl bench {name}", (description or "").strip())


def command_line(name: str, words: list[str]) -> str:
    """The command as it can be typed again, the modules it was told to import included."""
    modules = [word for module in imported() for word in ("--import", module)]
    return shlex.join(["mru-rl", "bench", name, *modules, *words])
