"""Ray tasks that do jobs side by side, one thread each: what workers.do_all is, on one machine or many."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mru_rl.agents.acting.ray_session import ray_session
from mru_rl.agents.bench.jobs import RUNNING
from mru_rl.agents.bench.workers import TRIES, Outcome


def do_all_on_ray(
    jobs: Sequence[Any], work: Callable[[Any], Any], workers: int, tick: Callable[[list[Any]], None]
) -> Iterator[Outcome]:
    """Do every job as a Ray task, `workers` at a time, and yield each outcome as it comes.

    work: a function the machines of the cluster can import, called with one job. tick: called about once a second with the
    jobs that are being done. A task whose process or machine dies is begun again, elsewhere if need be, at most TRIES
    times; tasks end with this generator.
    """
    if not jobs:
        return
    with ray_session(processes=min(workers, len(jobs))) as ray:

        @ray.remote(num_cpus=1, max_retries=TRIES - 1)
        def task(job: Any) -> Any:
            return work(job)

        left = list(jobs)[::-1]
        running: dict[Any, Any] = {}

        def begin_next() -> None:
            if left:
                job = left.pop()
                running[task.remote(job)] = job

        try:
            for _ in range(workers):
                begin_next()
            while running:
                finished, _ = ray.wait(list(running), timeout=1.0)
                for reference in finished:
                    outcome = _outcome(ray, reference, running.pop(reference))
                    begin_next()
                    yield outcome
                tick(list(running.values()))
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _outcome(ray: Any, reference: Any, job: Any) -> Outcome:
    try:
        return Outcome(job, ray.get(reference), None)
    except ray.exceptions.RayTaskError as error:  # raised by the job: a traceback of its own
        return Outcome(job, None, str(error))
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        return Outcome(job, None, f"its process ended {TRIES} times: {reason}")


def work_anywhere(job: Any, folder: Path, work: Callable[..., Any]) -> Any:
    """work(job, folder=folder), on whatever machine. Raises ValueError on one that does not see the folder."""
    if not (folder / RUNNING).is_dir():
        raise ValueError(
            f"the machine {socket.gethostname()} does not see {folder}; give --out a directory that all machines of the "
            "cluster share"
        )
    return work(job, folder=folder)
