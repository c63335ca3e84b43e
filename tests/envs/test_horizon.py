"""What every long-horizon task promises: exact returns of perfect memory and of none, checked by play."""

from __future__ import annotations

import math

import pytest
import torch

from mru_rl.envs import list_ids, make
from mru_rl.envs.horizon.players import WITHOUT_MEMORY, perfect_memory
from mru_rl.envs.reference_players import returns
from mru_rl.envs.scores import normalised_score

TASKS = [
    ("TMaze", {"length": 5}),
    ("TMaze", {"length": 5, "rewards": "bakker"}),
    ("TMaze", {"length": 5, "rewards": "memory-rl"}),
    ("RecallFirst", {"length": 6}),
    ("RecallFirst", {"length": 6, "symbols": 3, "ask": "always"}),
    ("FlipFlop", {"length": 12, "hold": 3}),
    ("FlipFlop", {"length": 7, "hold": 2, "bits": 1}),
]


def make_task(task: str, rows: int, **options):
    return make(f"mru_rl/{task}-v0", rows, **options)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_every_long_horizon_task_is_measured_here():
    assert {f"mru_rl/{task}-v0" for task, _ in TASKS} == {i for i in list_ids() if i.startswith("mru_rl/")}
    assert {task for task, _ in TASKS} == set(WITHOUT_MEMORY)


@pytest.mark.parametrize(("task", "options"), TASKS)
def test_perfect_memory_earns_the_perfect_return_in_every_episode_and_succeeds(task, options):
    env = make_task(task, 500, **options)
    earned = returns(env, perfect_memory, generator())
    torch.testing.assert_close(earned, torch.full_like(earned, env.perfect_return), atol=1e-6, rtol=0)
    assert env.success_return < env.perfect_return
    assert env.memoryless_return < env.success_return + 1e-9


@pytest.mark.parametrize(("task", "options"), TASKS)
def test_no_memory_earns_the_memoryless_return_on_average(task, options):
    episodes = 20_000
    env = make_task(task, episodes, **options)
    earned = returns(env, WITHOUT_MEMORY[task], generator())
    four_sigma = 4 * earned.std().item() / math.sqrt(episodes)
    assert abs(earned.mean().item() - env.memoryless_return) <= four_sigma + 1e-6


@pytest.mark.parametrize(("task", "options"), TASKS)
def test_the_score_runs_from_0_without_memory_to_1_with_a_perfect_one(task, options):
    env = make_task(task, 1, **options)
    for known in ((env,), (f"mru_rl/{task}-v0", options)):
        score = lambda earned, env=known[0], opts=(known[1] if known[1:] else {}): normalised_score(env, earned, **opts)  # noqa: E731
        assert score(env.memoryless_return) == 0
        assert score(env.perfect_return) == 1
        assert score(2 * env.perfect_return - env.memoryless_return) == pytest.approx(2)  # not clipped


@pytest.mark.parametrize("task", sorted({task for task, _ in TASKS}))
def test_the_agents_inputs_leave_the_known_returns_in_place(task):
    env, inner = make_task(task, 1, start_flag=True), make_task(task, 1)
    for name in ("perfect_return", "memoryless_return", "success_return", "horizon", "credit_horizon", "open_loop"):
        assert getattr(env, name) == getattr(inner, name), name
