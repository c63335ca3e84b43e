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

    def error(self, message: str) -> NoReturn:
        print(f"mru-rl: error: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)
