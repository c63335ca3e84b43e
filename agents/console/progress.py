"""Progress of long work: one live line in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mru_rl.agents.console.streams import silence


class Progress:
    """Shows `done of total`, time left and whatever else is worth a look. Use as a context manager; writes to stderr."""

    def __init__(self, label: str, total: int, unit: str = "steps", *, every: float = 10.0) -> None:
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.console = Console(stderr=True)
        self._live = Live(console=self.console, refresh_per_second=4, transient=True)
        self._started = self._printed = time.monotonic()
        self._first: int | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def show(self, done: int, details: str = "") -> None:
        """Report the amount done so far."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._started = done, now
        rate = (done - self._first) / (now - self._started) if now > self._started else 0.0
        left = f"{duration((self.total - done) / rate)} left" if rate > 0 else "starting"
        share = f"{100 * min(done / self.total, 1):3.0f}%"
        line = f"{self.label}  {share}  {done:,} of {self.total:,} {self.unit}  {details}  {left}"
        if self.console.is_terminal:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        elif now - self._printed >= self.every or done >= self.total:
            self._printed = now
            try:
                self.console.print(line, highlight=False, soft_wrap=True)
            except (OSError, SystemExit):  # nobody listens any more, which rich takes for a reason to end
                silence(sys.stderr)


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3:05 min, 2:10:00 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, seconds_left = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{seconds_left:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds_left:02d} h"
