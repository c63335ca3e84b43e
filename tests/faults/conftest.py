"""What the tests of faults share: a run to compare with, an env that misbehaves, a check of what errors say."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest

import mru_rl
from rig.runs import Task, unbroken

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # worker processes cannot import a conftest


class Misbehaving(gymnasium.Env):
    """Counts the steps of an episode in obs[0], and does `fault` at step `at` of each.

    once      path; with it the fault happens once, in one env
    length    steps of an episode
    width     numbers in obs
    child     keep a process of its own running
    home      the only process it can be made in
    """

    action_space = gymnasium.spaces.Discrete(2)

    def __init__(
        self,
        fault: str = "none",
        at: int = 3,
        once: str = "",
        length: int = 1000,
        width: int = 2,
        child: bool = False,
        home: int = 0,
    ):
        if home and home != os.getpid():
            raise RuntimeError("made in another process")
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,))
        self.fault, self.at, self.once, self.length = fault, at, once, length
        self.child = subprocess.Popen(["sleep", "600"]) if child else None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.see(), {}

    def close(self):
        if self.child is not None:
            self.child.kill()
            self.child.wait()

    def see(self) -> np.ndarray:
        obs = np.ones(self.observation_space.shape, dtype=np.float32)
        obs[0] = self.count
        return obs

    def step(self, action):
        self.count += 1
        obs, reward, ended = self.see(), 1.0, self.count == self.length
        if self.count == self.at and self.first():
            if self.fault.startswith("reward="):
                reward = float(self.fault.removeprefix("reward="))
            elif self.fault.startswith("obs="):
                obs[0] = float(self.fault.removeprefix("obs="))
            elif self.fault != "none":
                getattr(self, self.fault)()
        return obs, reward, ended, False, {}

    def first(self) -> bool:
        if not self.once:
            return True
        try:
            os.close(os.open(self.once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def dies(self):
        os._exit(7)

    def is_killed(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def hangs(self):
        time.sleep(600)

    def hangs_without_yielding(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sum(range(10**12))

    def raises(self):
        raise KeyError("the simulator is gone")


MISBEHAVING = "mru_rl-faults/Misbehaving-v0"
gymnasium.register(MISBEHAVING, Misbehaving, disable_env_checker=True)


@pytest.fixture
def misbehaving() -> str:
    """The id of an env that misbehaves as its options say."""
    return MISBEHAVING


@pytest.fixture
def once(tmp_path: Path) -> str:
    """A path that lets one env misbehave, once."""
    return str(tmp_path / "happened")


PACKAGE = Path(mru_rl.__file__).resolve().parent.parent
ROOMS = tuple(str(PACKAGE / room) + os.sep for room in ("agents", "envs", "mru_rl"))


@contextlib.contextmanager
def _documented(*errors: type[Exception]):
    kinds = errors or (ValueError, TypeError, RuntimeError)
    try:
        yield
    except kinds as error:
        raised = error
    else:
        return
    where = traceback.extract_tb(raised.__traceback__)[-1].filename
    assert where.startswith(ROOMS), f"raised inside {where}: {raised!r}"
    assert len(str(raised).split()) >= 6, f"too short to hold a rule, what arrived and the next move: {raised!r}"


@pytest.fixture(scope="session")
def documented():
    """A block that ends well, or with one of these errors, raised in our own code and saying what to do."""
    return _documented


@pytest.fixture(scope="session")
def task_and_end(tmp_path_factory: pytest.TempPathFactory):
    """A small run of an algorithm, and what it comes to when nothing happens to it."""
    known: dict[str, tuple[Task, dict[str, Any]]] = {}

    def get(algorithm: str) -> tuple[Task, dict[str, Any]]:
        if algorithm not in known:
            task = Task(algorithm)
            known[algorithm] = task, unbroken(task, tmp_path_factory.mktemp(algorithm) / "unbroken")
        return known[algorithm]

    return get
