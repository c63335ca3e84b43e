"""What is printed beside the work: if nobody reads it any more, the work goes on all the same."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any


def tell(text: str) -> None:
    """Print a line on stdout."""
    _print(text, sys.stdout)


def warn(message: str) -> None:
    """Print a warning on stderr: something went wrong, and the work goes on."""
    tell_error(f"mru-rl: warning: {message}")


def tell_error(text: str) -> None:
    """Print a line on stderr."""
    _print(text, sys.stderr)


def unread(stream: Any) -> bool:
    """Return True if a stream is a pipe whose reader is gone."""
    number = _file_number(stream)
    if number is None:
        return False
    poll = select.poll()
    poll.register(number, select.POLLERR)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def silence(stream: Any) -> None:
    """Send what is still written to a stream nowhere, also at the end of the process.

    A stream without a file, such as a notebook's, stays as it is: nothing of it waits to be written.
    """
    number = _file_number(stream)
    if number is not None:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), number)


def _print(text: str, stream: Any) -> None:
    if stream is None:  # the process was started without one
        return
    try:
        print(text, file=stream, flush=True)
    except OSError:
        silence(stream)


def _file_number(stream: Any) -> int | None:
    try:
        return stream.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return None
