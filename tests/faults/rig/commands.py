"""`mru-rl ...` in a process of its own, which can be killed at a chosen moment."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from rig.processes import alive, descendants

_SERVER = multiprocessing.get_context("forkserver")
"""forks each command from a process that has imported torch and never used it, so that starting takes no seconds"""
_SERVER.set_forkserver_preload(  # here, since a process has one server, whoever starts it first
    [
        f"mru_rl.agents.{name}"
        for name in ("cli.main", "ppo.trainer", "r2d2.trainer", "evaluate", "records.plots", "bench.memory")
    ]
)


class Moment(NamedTuple):
    """When to kill: `seconds` after the start, or at the `nth` time that something is done to a file.

    act     "write": half of what is written is in the file; "rename": it is whole, and about to get its name; "time"
    file    a part of the file's name
    """

    act: str
    file: str = ""
    nth: int = 1
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"at a random time ({self.seconds:.2f} s)"
            if self.act == "time"
            else f"{self.act} {self.nth} of {self.file}"
        )


class Limits(NamedTuple):
    """What a command is denied. file_bytes: no file may grow larger, as on a full disk; plain_user: the superuser's right
    to write where the mode forbids it."""

    file_bytes: int | None = None
    plain_user: bool = False


NO_LIMITS = Limits()


class Command:
    """`mru-rl WORDS`, started at once; its output is in `folder`/stdout and stderr. Every update of training is recorded."""

    def __init__(
        self, words: Sequence[str], folder: Path, *, moment: Moment | None = None, limits: Limits = NO_LIMITS
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.moment = folder, moment
        self._told, tell = _SERVER.Pipe(duplex=False)
        self.process = _SERVER.Process(target=_serve, args=(list(words), folder, moment, limits, tell))
        self.process.start()
        tell.close()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait_for_moment(self, timeout: float = 300.0) -> bool:
        """Wait for the moment; return False if the command ends before it. Raises TimeoutError if neither happens."""
        if self.moment is None or self.moment.act == "time":
            self.process.join(self.moment.seconds if self.moment else timeout)
            return self.process.is_alive()
        ready = wait([self._told, self.process.sentinel], timeout)
        if not ready:
            self.process.kill()
            raise TimeoutError(f"{self.moment} did not come in {timeout:.0f} s; see {self.folder}")
        try:
            return self._told in ready and self._told.recv_bytes() == b"here"
        except EOFError:  # it ended
            return False

    def send(self, signum: int) -> None:
        """Send a signal to the process, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)

    def end_with(self, signum: int) -> int:
        """Send a signal, wait until the process and all it started are gone, and return the exit status."""
        below = descendants(self.pid)
        self.send(signum)
        status = self.join()
        deadline = time.monotonic() + 30
        while any(alive(pid) for pid in below):
            if time.monotonic() > deadline:
                raise TimeoutError("a process outlived the command that started it by 30 s")
            time.sleep(0.01)
        return status

    def join(self, timeout: float = 300.0) -> int:
        """Wait for the end and return the exit status, negative if a signal ended it. Raises TimeoutError."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"the command did not end in {timeout:.0f} s; see {self.folder}")
        return self.process.exitcode

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()


def _serve(words: list[str], folder: Path, moment: Moment | None, limits: Limits, tell: Connection) -> None:
    """Run the command, in its own process."""
    for stream, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
        os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    from mru_rl.agents import training_loop
    from mru_rl.agents.cli import main

    training_loop._LOG_SECONDS = 0.0
    if moment is not None and moment.act != "time":
        stand_still_at(moment, tell)
    if limits.plain_user:
        give_up_privileges()
    if limits.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))
    main.main(words)
    tell.close()


def stand_still_at(moment: Moment, tell: Connection) -> None:
    """Patch pathlib in this process so that at the moment it sends "here" through `tell` and stands still."""
    open_file, replace = Path.open, Path.replace
    left = moment.nth

    def comes_now(name: str, act: str) -> bool:
        nonlocal left
        left -= act == moment.act and moment.file in name
        return left == 0

    def stand_still() -> None:
        tell.send_bytes(b"here")
        while True:
            signal.pause()

    class HalfWriter:
        """A file whose write stops halfway at the moment."""

        def __init__(self, file: Any, name: str) -> None:
            self.file, self.name = file, name

        def write(self, content: Any) -> Any:
            if not comes_now(self.name, "write"):
                return self.file.write(content)
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            return stand_still()

        def __enter__(self) -> HalfWriter:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    def open_and_stop(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = open_file(self, mode, *args, **options)
        return HalfWriter(file, self.name) if mode in ("a", "w", "wb") else file

    def stop_and_replace(self: Path, target: Any) -> Path:
        if comes_now(self.name, "rename"):
            stand_still()
        return replace(self, target)

    Path.open, Path.replace = open_and_stop, stop_and_replace  # type: ignore[method-assign, assignment]


def give_up_privileges() -> None:
    """Drop the superuser's capabilities, so that it obeys file modes like any user (Linux, capset(2))."""
    if os.geteuid() != 0:
        return
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    none = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset failed")
