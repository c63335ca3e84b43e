"""Processes that do jobs side by side, one thread each.

Written here because concurrent.futures gives all jobs up when one of its processes is killed; here that job alone is done
again, by a new process.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

TRIES = 2
"""How often a job is begun before its workers' deaths are taken to be its own fault."""


class Outcome(NamedTuple):
    """What became of a job: a result, or the reason why there is none."""

    job: Any
    result: Any
    error: str | None


class _Worker:
    def __init__(self, work: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Any = None

    def begin(self, job: Any) -> None:
        self.job = job
        self.pipe.send(job)

    def outcome(self) -> Outcome | None:
        """What the job came to; None where the process died over it."""
        try:
            result, error = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return None
        return Outcome(self.job, result, error)

    def stop(self) -> None:
        self.pipe.close()
        if self.job is None:  # an idle worker reads the end of the pipe, leaves, and clears up behind it
            self.process.join(timeout=10)
        self.process.kill()
        self.process.join()


def do_all(
    jobs: Sequence[Any], work: Callable[[Any], Any], workers: int, tick: Callable[[list[Any]], None]
) -> Iterator[Outcome]:
    """Do every job in `workers` processes and yield each outcome as it comes.

    work: a function a new process can import, called with one job. tick: called about once a second with the jobs that
    are being done. Processes end with this generator, and with this process, however it ends.
    """
    left = list(jobs)[::-1]
    begun: dict[int, int] = {}
    crew = [_Worker(work) for _ in range(min(workers, len(left)))]
    try:
        for worker in crew:
            worker.begin(left.pop())
        while any(worker.job is not None for worker in crew):
            busy = [worker for worker in crew if worker.job is not None]
            for pipe in wait([worker.pipe for worker in busy], timeout=1.0):
                at = next(i for i, worker in enumerate(crew) if worker.pipe is pipe)
                worker, job = crew[at], crew[at].job
                outcome = worker.outcome()
                if outcome is None:
                    begun[id(job)] = begun.get(id(job), 0) + 1
                    worker.stop()
                    crew[at] = _Worker(work)
                    if begun[id(job)] < TRIES:
                        crew[at].begin(job)
                        continue
                    ended = f"its process ended with exit code {worker.process.exitcode} {TRIES} times"
                    outcome = Outcome(job, None, ended)
                crew[at].job = None
                if left:
                    crew[at].begin(left.pop())
                yield outcome
            tick([worker.job for worker in crew if worker.job is not None])
    finally:
        for worker in crew:
            worker.stop()


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    """The life of a worker: jobs in, (result, None) or (None, traceback) out."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (the grid's table is the progress; these lines would tear it)
    while True:
        try:
            job = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        answer: tuple[Any, str | None]
        try:
            answer = (work(job), None)
        except KeyboardInterrupt:
            return
        except Exception:
            answer = (None, traceback.format_exc())
        pipe.send(answer)


def _end_with_parent() -> None:
    """Leave as soon as the parent is gone, so that a killed benchmark leaves no process that writes on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
