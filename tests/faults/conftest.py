from __future__ import annotations

from typing import Any

import pytest

from mru_rl.agents.faults.runs import Task, unbroken


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
