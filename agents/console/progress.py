"""Progress of long work: one line that changes, in a terminal and in a notebook; elsewhere a line now and then."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mru_rl.agents.console.streams import tell_error


class Progress:
    """Shows how much is done, what else is worth a look, and how long the rest takes. Use as a context manager.

    total: how much there is to do; once more than that is done, the amount alone is shown. every: seconds between two lines
    where no line can change. Lines go to stderr, or below a notebook's cell. Works in any thread.
    """

    def __init__(self, label: str, total: int, unit: str = "steps", *, every: float = 10.0) -> None:
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self._started = time.monotonic()
        self._first: int | None = None
        self._display: _Display | None = None

    def __enter__(self) -> Progress:
        self._display = _display(self.every)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.close()
            self._display = None

    def show(self, done: int, details: str = "") -> None:
        """Report the amount done so far."""
        if self._display is not None:
            self._display.show(self._line(done, details), complete=done >= self.total)

    def _line(self, done: int, details: str) -> str:
        now = time.monotonic()
        if self._first is None:
            self._first, self._started = done, now
        seconds = now - self._started
        if done > self.total:
            return f"{self.label}  {done:,} {self.unit}  {details}  {duration(seconds)} so far"
        rate = (done - self._first) / seconds if seconds > 0 else 0.0
        left = f"{duration((self.total - done) / rate)} left" if rate > 0 else "starting"
        share = f"{100 * done / self.total:3.0f}%"
        return f"{self.label}  {share}  {done:,} of {self.total:,} {self.unit}  {details}  {left}"


class _Display(ABC):
    """Where lines of progress go."""

    @abstractmethod
    def show(self, line: str, *, complete: bool) -> None:
        """Take the newest line; complete: all is done."""

    @abstractmethod
    def close(self) -> None:
        """Leave what is shown as it is to stay."""


class _TerminalLine(_Display):
    """The line at the bottom of a terminal, gone in the end."""

    def __init__(self, console: Console) -> None:
        # sys.stdout belongs to all threads: two that replace it would put it back in the wrong order
        alone = threading.current_thread() is threading.main_thread()
        self._live = Live(
            console=console, refresh_per_second=4, transient=True, redirect_stdout=alone, redirect_stderr=alone
        )
        self._live.start()

    def show(self, line: str, *, complete: bool) -> None:
        self._live.update(Text(line, no_wrap=True, overflow="ellipsis"))

    def close(self) -> None:
        self._live.stop()


class _NotebookLine(_Display):
    """A line below a notebook's cell; the last one stays."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._waiting: str | None = None
        self._shown_at = -float("inf")

    def show(self, line: str, *, complete: bool) -> None:
        self._waiting = line
        if time.monotonic() - self._shown_at >= 0.25:
            self._write()

    def close(self) -> None:
        if self._waiting is not None:
            self._write()

    def _write(self) -> None:
        display = importlib.import_module("IPython.display").display  # a notebook has it, we do not depend on it
        text = {"text/plain": self._waiting}
        if self._handle is None:
            self._handle = display(text, raw=True, display_id=True)
        else:
            self._handle.update(text, raw=True)
        self._waiting, self._shown_at = None, time.monotonic()


class _Lines(_Display):
    """A line on stderr every so many seconds, and when all is done."""

    def __init__(self, every: float) -> None:
        self.every = every
        self._shown_at = time.monotonic()
        self._complete = False

    def show(self, line: str, *, complete: bool) -> None:
        if time.monotonic() - self._shown_at >= self.every or (complete and not self._complete):
            self._shown_at, self._complete = time.monotonic(), complete
            tell_error(line)

    def close(self) -> None:
        pass


def _display(every: float) -> _Display:
    if _in_notebook():
        return _NotebookLine()
    console = Console(stderr=True)
    return _TerminalLine(console) if console.is_terminal else _Lines(every)


def _in_notebook() -> bool:
    """Return True if IPython runs a kernel in this process, not a terminal."""
    ipython = sys.modules.get("IPython")  # a kernel has imported it
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def duration(seconds: float) -> str:
    """Return seconds as people say them: 42 s, 3:05 min, 2:10:00 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, seconds_left = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{seconds_left:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds_left:02d} h"
