"""Grids as Ray tasks: the same results as in processes, what dies is done again, what is finished is not."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mru_rl.agents.bench import grid, ray_tasks
from mru_rl.agents.bench.jobs import RUNNING, run_job
from mru_rl.agents.bench.ray_tasks import do_all_on_ray
from mru_rl.agents.bench.workers import TRIES
from mru_rl.agents.report.data import to_json


@pytest.fixture
def by_value(ray_here):
    """Functions of this file reach the workers as code: they cannot import it."""
    ray_here.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray_here.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def lines(folder: Path) -> list[dict]:
    file = folder / "results.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def die_once(job: str) -> str:
    if not os.path.exists(job):
        open(job, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def misbehave(job: str) -> str:
    if job == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "fails":
        raise RuntimeError("out of luck")
    return job


def test_a_task_whose_process_is_killed_is_done_again(by_value, tmp_path):
    jobs = [str(tmp_path / name) for name in "ab"]
    outcomes = list(do_all_on_ray(jobs, die_once, 2, lambda running: None))
    assert {o.job: (o.result, o.error) for o in outcomes} == dict.fromkeys(jobs, ("done", None))


def test_a_task_that_fails_or_always_dies_is_named_and_the_others_are_done(by_value):
    seen = []
    outcomes = {o.job: o for o in do_all_on_ray(["dies", "fails", "works"], misbehave, 1, seen.append)}
    assert outcomes["works"].result == "works"
    assert outcomes["fails"].error.strip().splitlines()[-1] == "RuntimeError: out of luck"
    assert f"its process ended {TRIES} times" in outcomes["dies"].error
    assert max(len(running) for running in seen) == 1


def test_a_grid_on_ray_survives_the_kill_of_a_worker_and_gives_what_one_process_gives(ray_here, tiny, tmp_path):
    """The worker is killed while it trains; its job goes on from its checkpoint, finished ones are not done again."""
    variant = dataclasses.replace(tiny.variants[0], steps=10_000)
    benchmark = dataclasses.replace(
        tiny,
        variants=(variant,),
        trials=1,
        cores=("bmru",),
        seeds=3,
        settings={**tiny.settings, "checkpoint_seconds": 0},
    )
    folder, killed = tmp_path / "ray", []

    def kill_one() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed:
            training = [p for p in (folder / RUNNING).glob("*/metrics.jsonl") if p.read_text()]
            pids = workers_at("task")
            if training and pids and lines(folder):
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])
            time.sleep(0.02)

    watch = threading.Thread(target=kill_one)
    watch.start()
    assert grid.run_benchmark(benchmark, folder, 2, "command", engine="ray") == []
    watch.join()
    assert killed
    jobs = grid.final_jobs(benchmark, dict.fromkeys(benchmark.cores, "default"))
    assert sorted(r["key"] for r in lines(folder)) == sorted(job.key for job in jobs), "each job is there, and once"
    here = {job.key: to_json(run_job(job, tmp_path / "here"))["evaluations"] for job in jobs}
    assert {r["key"]: r["evaluations"] for r in lines(folder)} == here
    assert not (folder / RUNNING).exists()


def test_a_machine_that_does_not_see_the_folder_says_what_to_do(tiny, tmp_path):
    job = grid.final_jobs(tiny, dict.fromkeys(tiny.cores, "default"))[0]
    with pytest.raises(
        ValueError, match="does not see .*; give --out a directory that all machines of the cluster share"
    ):
        ray_tasks.work_anywhere(job, tmp_path / "elsewhere", run_job)


def workers_at(task: str) -> list[int]:
    """Process ids of the Ray workers of this test process, grandchildren of it, that are doing a task of that name."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()[1:]]
    parents = {int(pid): int(ppid) for pid, ppid, _ in rows}
    return [int(pid) for pid, ppid, args in rows if args == f"ray::{task}" and parents.get(int(ppid)) == os.getpid()]
