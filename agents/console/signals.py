"""SIGINT and SIGTERM: whether they cut the work short or wait for its next safe place, and the exit status they give."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM)
SYSTEM = dict.fromkeys(ENDING, signal.SIG_DFL)


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end. The message says what is kept and how to go on; it may be empty."""

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message)
        self.signum = signum


class Request:
    """Whether a signal asked for the end: the request is true once one has, and `signum` is which."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def __bool__(self) -> bool:
        return self.signum is not None


@contextlib.contextmanager
def raising() -> Iterator[Request]:
    """Inside, the first SIGINT or SIGTERM raises Interrupted, so that what is open is closed on the way out.

    The second one ends the process at once, as the system does it, also out of a call that does not return. The request
    this gives knows the signal where a library, as Ray does, has made a plain KeyboardInterrupt of it.
    """
    request = Request()

    def cut_short(signum: int, frame: Any) -> None:
        _give_back(SYSTEM)
        request.signum = signum
        raise Interrupted(signum)

    with _handled_by(cut_short):
        yield request


@contextlib.contextmanager
def waiting() -> Iterator[Request]:
    """Inside, the first SIGINT or SIGTERM is noted in the request this gives.

    The second one ends the process at once; where Python's own handler stood before, as in a script or a notebook of
    somebody's, that gets it: a KeyboardInterrupt, which leaves the notebook's process alive.
    """
    request = Request()
    before = {ending: signal.getsignal(ending) for ending in ENDING}

    def note(signum: int, frame: Any) -> None:
        request.signum = signum
        _give_back(before if before[signal.SIGINT] is signal.default_int_handler else SYSTEM)

    with _handled_by(note):
        yield request


def exit_status(error: KeyboardInterrupt, request: Request) -> int:
    """What shells report for a process that a signal ended: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + (error.signum if isinstance(error, Interrupted) else request.signum or signal.SIGINT)


def _give_back(handlers: Mapping[signal.Signals, Any]) -> None:
    """Give the signals back to these handlers. One that came together with the first belongs to it: Python is to take it
    before, since it complains of a signal that waits and has no handler any more."""
    for ending in ENDING:
        signal.signal(ending, lambda signum, frame: None)
    signal.raise_signal(ENDING[0])
    for ending, handler in handlers.items():
        signal.signal(ending, handler)


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Put the handler in place of those that stood; outside the main thread, which alone gets signals, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(ending, handler) for ending in ENDING]
    try:
        yield
    finally:
        for ending, old in zip(ENDING, before, strict=True):
            signal.signal(ending, old)
