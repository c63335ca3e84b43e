"""The options of benchmarks: like argparse's, but a mistake is one line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose description is a module's docstring and whose errors are one line with exit status 2."""

    def __init__(self, name: str, doc: str | None) -> None:
        super().__init__(
            prog=f"mru-rl bench {name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.add_argument("--out", type=Path, help="directory for the results; nothing is written without it")

    def add_workers(self) -> None:
        """--workers and --engine, for a benchmark that is a grid of jobs."""
        self.add_argument("--workers", type=int, default=2, help="jobs side by side, one thread each (default 2)")
        self.add_argument(
            "--engine", choices=("processes", "ray"), default="processes",
            help="processes of this machine, or Ray tasks: on the cluster RAY_ADDRESS names, or here without it; the "
            "extra `ray` is needed, and on several machines an --out that all of them see",
        )  # fmt: skip

    def error(self, message: str) -> NoReturn:
        print(f"mru-rl: error: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)
