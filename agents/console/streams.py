"""What is printed beside the work: nobody listening any more is no reason to end it."""

from __future__ import annotations

import os
import select
import sys
from typing import Any


def tell(text: str) -> None:
    """Print on stdout."""
    _print(text, sys.stdout)


def warn(message: str) -> None:
    """Say on stderr what went wrong and was got over."""
    tell_error(f"mru-rl: warning: {message}")


def tell_error(text: str) -> None:
    """Print on stderr."""
    _print(text, sys.stderr)


def unread(stream: Any) -> bool:
    """Whether a stream is a pipe whose reader is gone."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLERR)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def silence(stream: Any) -> None:
    """Have what is still written to a stream go nowhere, also at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _print(text: str, stream: Any) -> None:
    try:
        print(text, file=stream, flush=True)
    except OSError:
        silence(stream)
