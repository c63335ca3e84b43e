"""Gymnasium envs in a process each. One that dies, hangs or raises is replaced: its episode is cut, its row goes on.

Written here because gymnasium's AsyncVectorEnv raises for all rows as soon as one worker fails, waits for ever for one
that hangs or was killed, and cannot start a single one anew.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import logging
import multiprocessing
import os
import pickle
import select
import selectors
import signal
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper

from mru_rl.envs.from_gymnasium.rows import EnvError, MissingPackage, Row, RowStep

START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""Never fork: a forked child of a process that has run torch can hang in its thread pools."""
START_SECONDS = 300.0
"""An env must be made within this time; many processes that import at once on few cores are slow."""
CLOSE_SECONDS = 5.0
"""Processes that have not closed their env after this time are killed."""
_LONGEST_WAIT = 3600.0
"""Most seconds in one wait of a selector, which takes no infinite time."""
_LENGTH = 8
"""Bytes before an answer that hold its length."""

_log = logging.getLogger("mru_rl.envs")


class WorkerRows:
    """Envs stepped side by side, each in a daemon process with a process group of its own.

    A worker that raises, dies or does not answer within `seconds` is killed with all it started, and its row goes on in
    a new process. If it was stepping, the episode is cut (truncated, reward 0) at the last obs it showed. After `restarts`
    replacements the next failure ends all workers and raises EnvError with the worker's own traceback.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        count: int,
        *,
        seconds: float,
        restarts: int,
        metrics: Sequence[str] = (),
    ) -> None:
        self.seconds, self.limit, self.restarts, self.metrics = seconds, restarts, 0, metrics
        self._make = CloudpickleWrapper(make)
        self._context = multiprocessing.get_context(START_METHOD)
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._kill = weakref.finalize(self, _kill_all, self._workers)  # where nobody calls close
        self._workers += [self._worker(row) for row in range(count)]
        for worker in self._workers:
            self._selector.register(worker.pipe, selectors.EVENT_READ, worker.row)
        self._seeds: list[int | None] = [None] * count
        self._seen: list[np.ndarray | None] = [None] * count
        _, failed = self._answers(range(count), START_SECONDS)
        for row, error in failed.items():
            self._renew(row, error)

    def reset(self, rows: Sequence[int], seeds: Sequence[int | None]) -> list[np.ndarray]:
        """Start fresh episodes in some rows; return the obs [columns] of each."""
        for row, seed in zip(rows, seeds, strict=True):
            self._seeds[row] = seed if seed is not None else self._seeds[row]
            self._workers[row].send(("reset", seed))
        answers, failed = self._answers(rows, self.seconds)
        for row, error in failed.items():
            self._renew(row, error)
            answers[row] = self._restart(row)
        for row in rows:
            self._seen[row] = answers[row]
        return [answers[row] for row in rows]

    def step(self, actions: Iterable[Any]) -> list[RowStep]:
        """Advance every row by one of the actions, one per row."""
        for worker, action in zip(self._workers, actions, strict=True):
            worker.send(("step", action))
        answers, failed = self._answers(range(len(self._workers)), self.seconds)
        for row, error in failed.items():
            self._renew(row, error)
            answers[row] = RowStep(self._restart(row), 0.0, False, True, self._seen[row])
        self._seen = [answers[row].obs for row in range(len(self._workers))]
        return [answers[row] for row in range(len(self._workers))]

    def close(self) -> None:
        """Close the envs and end their processes, by force if they do not end by themselves."""
        for worker in self._workers:
            worker.send(("close", None))
        deadline = time.monotonic() + CLOSE_SECONDS
        for worker in self._workers:
            worker.wait(deadline)
        self._kill()
        self._selector.close()

    def _answers(self, rows: Sequence[int], seconds: float) -> tuple[dict[int, Any], dict[int, EnvError]]:
        """Return what the workers of some rows answer, by row, and the error of each that failed."""
        answers: dict[int, Any] = {}
        failed: dict[int, EnvError] = {}
        waiting, deadline = set(rows), time.monotonic() + seconds
        while waiting:
            ready = self._selector.select(min(max(deadline - time.monotonic(), 0), _LONGEST_WAIT))
            for row in {key.data for key, _ in ready} & waiting:
                try:
                    answer = self._workers[row].receive()
                except EnvError as error:
                    waiting.remove(row)
                    failed[row] = error
                    continue
                if answer is not None:
                    waiting.remove(row)
                    answers[row] = answer
            if waiting and time.monotonic() >= deadline:
                for row in waiting:
                    failed[row] = self._workers[row].hung(seconds)
                break
        return answers, failed

    def _renew(self, row: int, error: EnvError) -> None:
        """Put a new worker in the place of one that failed."""
        while True:
            old = self._workers[row]
            self._selector.unregister(old.pipe)
            old.end()
            if isinstance(error, MissingPackage):
                self._kill()
                raise error
            if self.restarts >= self.limit:
                self._kill()
                raise EnvError(
                    f"{error}; {self.limit} restart(s) of workers are allowed (--worker-restarts, worker_restarts=) and used up",
                    error.traceback,
                ) from None
            self.restarts += 1
            _log.warning(
                "%s; row %d goes on in a new process (restart %d of %d)\n%s",
                error,
                row,
                self.restarts,
                self.limit,
                error.traceback,
            )
            self._workers[row] = self._worker(row)
            self._selector.register(self._workers[row].pipe, selectors.EVENT_READ, row)
            _, failed = self._answers([row], START_SECONDS)
            if not failed:
                return
            error = failed[row]

    def _worker(self, row: int) -> _Worker:
        return _Worker(self._context, self._make, row, self.metrics)

    def _restart(self, row: int) -> np.ndarray:
        """Return the first obs of a new worker, whose seed follows from the row's and from the number of restarts."""
        while True:
            seed = np.random.SeedSequence([self._seeds[row] or 0, self.restarts]).generate_state(1)[0]
            self._workers[row].send(("reset", int(seed)))
            answers, failed = self._answers([row], self.seconds)
            if not failed:
                return answers[row]
            self._renew(row, failed[row])


class _Worker:
    """A worker process as its parent sees it."""

    def __init__(self, context: Any, make: CloudpickleWrapper, row: int, metrics: Sequence[str]) -> None:
        self.row = row
        self._come = bytearray()
        self.pipe, theirs = context.Pipe()
        self._dump, dump = context.Pipe(duplex=False)  # where the worker says where it crashed or hangs
        self._life, life = context.Pipe(
            duplex=False
        )  # nothing is ever sent: the worker ends with the reader, which is here
        self.process = context.Process(target=_serve, args=(make, row, metrics, theirs, dump, life), daemon=True)
        self.process.start()
        theirs.close()
        dump.close()
        life.close()

    def send(self, request: tuple[str, Any]) -> None:
        with contextlib.suppress(OSError):  # one that is dead is noticed when its answer is read
            self.pipe.send(request)

    def receive(self) -> Any:
        """Return its answer, None while parts of it are missing. Call it when there is something to read; it never waits.

        A worker that stops in the middle of its answer hangs like any other. Raises EnvError if the env raised or the
        process is gone.
        """
        piece = b""
        with contextlib.suppress(OSError):
            piece = os.read(self.pipe.fileno(), 2**16)
        if not piece:
            self.process.join(CLOSE_SECONDS)
            raise EnvError(f"the worker of row {self.row} died ({_exit(self.process.exitcode)})", self._dumped())
        self._come += piece
        if len(self._come) < _LENGTH or len(self._come) < _LENGTH + int.from_bytes(self._come[:_LENGTH], "little"):
            return None
        answer = pickle.loads(memoryview(self._come)[_LENGTH:])
        self._come = bytearray()
        if isinstance(answer, EnvError):
            raise answer
        return answer

    def hung(self, seconds: float) -> EnvError:
        """Return the error that it did not answer, with the place in its code where it is now."""
        with contextlib.suppress(OSError):
            os.kill(self.process.pid, signal.SIGUSR1)
        return EnvError(f"the worker of row {self.row} did not answer within {seconds:g} seconds", self._dumped())

    def _dumped(self) -> str:
        """Return what faulthandler wrote for it: it comes in pieces and is over when none has come for half a second."""
        pieces = []
        while select.select([self._dump], [], [], 0.5)[0]:
            piece = os.read(self._dump.fileno(), 2**16)
            if not piece:
                break
            pieces.append(piece)
        return b"".join(pieces).decode(errors="replace")

    def wait(self, deadline: float) -> None:
        """Wait for its end until a time of the monotonic clock."""
        if not self.pipe.closed:
            self.process.join(max(deadline - time.monotonic(), 0))

    def end(self) -> None:
        """Kill it and all it started; more calls do nothing."""
        if self.pipe.closed:
            return
        for kill in (os.killpg, os.kill):  # its group is there as soon as it runs our code
            with contextlib.suppress(OSError):
                kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.process.close()
        self.pipe.close()
        self._dump.close()
        self._life.close()


def _kill_all(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.end()


def _serve(make: CloudpickleWrapper, row: int, metrics: Sequence[str], pipe: Any, dump: Any, life: Any) -> None:
    """Be a worker: make the env and answer requests until the pipe closes."""
    _end_with_the_reader_of(life.fileno())
    faulthandler.enable(dump.fileno())
    faulthandler.register(signal.SIGUSR1, dump.fileno())
    try:
        env = Row(make.fn, row, metrics)
        _answer(pipe, "made")
        while True:
            request, argument = pipe.recv()
            if request == "close":
                env.close()
                return
            _answer(pipe, env.step(argument) if request == "step" else env.reset(argument))
    except EnvError as error:
        _answer(pipe, error)
    except (EOFError, OSError):  # the parent is gone
        return


def _answer(pipe: Any, answer: Any) -> None:
    """Send an answer with its length before it."""
    body = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
    rest = memoryview(len(body).to_bytes(_LENGTH, "little") + body)
    while rest:
        rest = rest[os.write(pipe.fileno(), rest) :]


def _end_with_the_reader_of(fd: int) -> None:
    """Have the kernel kill this process and those it starts when the last reader of a pipe, the parent, is gone.

    However the parent ended and whatever they are busy with, no Python code of theirs needs to run for it. Reading from
    the pipe kills as well, so nothing may be sent there.
    """
    os.setpgid(0, 0)
    if not hasattr(fcntl, "F_SETSIG"):  # Linux alone; elsewhere a worker ends when it next asks for a request
        return
    fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    gone = select.poll()
    gone.register(fd, select.POLLERR)
    if gone.poll(0):
        os._exit(1)


def _exit(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit status {code}"
    return f"killed by {signal.Signals(-code).name}"
