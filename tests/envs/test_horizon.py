"""What every long-horizon task promises: exact returns of perfect memory and of none, checked by play."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from gymnasium import spaces

from mru_rl.envs import list_ids, make
from mru_rl.envs.players.base import returns
from mru_rl.envs.players.horizon import WITHOUT_MEMORY, perfect_memory
from mru_rl.envs.scores import normalized_score

TASKS = [
    ("TMaze", {"length": 5}),
    ("TMaze", {"length": 5, "rewards": "bakker"}),
    ("TMaze", {"length": 5, "rewards": "memory-rl"}),
    ("ActiveTMaze", {"length": 4}),
    ("ActiveTMaze", {"length": 4, "back": 2, "rewards": "bakker"}),
    ("ActiveTMaze", {"length": 4, "rewards": "memory-rl"}),
    ("ActiveTMaze", {"length": 4, "back": 0, "rewards": "memory-rl"}),
    ("RecallFirst", {"length": 6}),
    ("RecallFirst", {"length": 6, "symbols": 3, "ask": "always"}),
    ("Contamination", {"length": 6}),
    ("Contamination", {"length": 6, "burst": 5, "symbols": 3}),
    ("DelayedRecall", {"delay": 3}),
    ("DelayedRecall", {"delay": 0, "bits": 3, "symbols": 2, "window": 1, "numbered": False}),
    ("KeyDoor", {"length": 6}),
    ("KeyDoor", {"length": 1, "colors": 3, "things": 0}),
    ("FlipFlop", {"length": 12, "hold": 3}),
    ("FlipFlop", {"length": 7, "hold": 2, "bits": 1}),
    ("EventCount", {"length": 20}),
    ("EventCount", {"length": 9, "gap": 2, "modulus": 3}),
    ("EventCount", {"length": 9, "gap": 1, "modulus": 4}),
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


@pytest.mark.parametrize(("task", "options"), [(t, o) for t, o in TASKS if t != "ActiveTMaze"])
def test_no_policy_that_sees_the_obs_alone_earns_more_than_the_memoryless_return(task, options):
    """Open loop: the best such policy takes, for each distinct obs, the action that pays most over all episodes."""
    episodes, quiet = 20_000, {} if task in ("RecallFirst", "Contamination", "KeyDoor") else {"noise": 0}
    env = make_task(task, episodes, seed=1, **options, **quiet)
    env.reset()
    stretch = env.unroll(env.horizon)
    _, kind = stretch.obs.flatten(0, 1).unique(dim=0, return_inverse=True)
    earned = []
    for action in all_actions(env):
        pay = stretch.pay(action.expand(episodes, env.horizon, *action.shape)).double().flatten()
        earned.append(torch.zeros(int(kind.max()) + 1, dtype=torch.float64).index_add_(0, kind, pay))
    best = torch.stack(earned).amax(0).sum().item() / episodes
    assert best == pytest.approx(env.memoryless_return, abs=0.025 * env.perfect_return)


def all_actions(env) -> list[torch.Tensor]:
    space = env.action_space
    if isinstance(space, spaces.Discrete):
        return list(torch.arange(int(space.n)))
    return [torch.tensor(action) for action in itertools.product(*(range(n) for n in space.nvec.tolist()))]


@pytest.mark.parametrize("options", [options for task, options in TASKS if task == "ActiveTMaze"])
def test_no_reactive_policy_earns_more_in_the_active_maze_than_the_memoryless_return(options):
    """All 256 policies over what can be seen: a cue, the other cue, the junction, nothing."""
    policies = torch.tensor(list(itertools.product(range(4), repeat=4))).repeat_interleave(16, 0)
    env = make_task("ActiveTMaze", len(policies), noise=0, **options)
    obs, cue = env.reset(), env.cue.clone()
    total = torch.zeros(len(policies), dtype=torch.float64)
    playing = torch.ones(len(policies), dtype=torch.bool)
    for _ in range(env.horizon):
        seen = torch.where(obs[:, :3].any(1), obs[:, :3].argmax(1), 3)
        obs, reward, terminated, truncated, _ = env.step(policies.gather(1, seen[:, None]).squeeze(1))
        assert not truncated.any()
        total += reward * playing
        playing &= ~terminated
    assert not playing.any()
    by_cue = []
    for side in (0, 1):
        mine = (cue == side).view(256, 16)
        assert mine.any(1).all()
        by_cue.append((total.view(256, 16) * mine).sum(1) / mine.sum(1))
    best = (sum(by_cue) / 2).max().item()
    assert best == pytest.approx(env.memoryless_return, abs=1e-6)


@pytest.mark.parametrize(("task", "options"), TASKS)
def test_the_score_runs_from_0_without_memory_to_1_with_a_perfect_one(task, options):
    env = make_task(task, 1, **options)
    for known in ((env,), (f"mru_rl/{task}-v0", options)):
        score = lambda earned, env=known[0], opts=(known[1] if known[1:] else {}): normalized_score(env, earned, **opts)  # noqa: E731
        assert score(env.memoryless_return) == 0
        assert score(env.perfect_return) == 1
        assert score(2 * env.perfect_return - env.memoryless_return) == pytest.approx(2)  # not clipped


@pytest.mark.parametrize("task", sorted({task for task, _ in TASKS}))
def test_the_agents_inputs_leave_the_known_returns_in_place(task):
    env, inner = make_task(task, 1, start_flag=True), make_task(task, 1)
    for name in ("perfect_return", "memoryless_return", "success_return", "horizon", "credit_horizon", "open_loop"):
        assert getattr(env, name) == getattr(inner, name), name
