"""The labyrinth ports against the installed popgym in the same mazes, and their mazes against mazelib's."""

from __future__ import annotations

import random
from collections import deque

import numpy as np
import popgym.envs
import pytest
import torch
from popgym.wrappers import Antialias, Flatten, PreviousAction
from scipy import stats

from mru_rl.envs import list_ids, make
from mru_rl.envs.popgym import hunt_and_kill

mazelib = pytest.importorskip("mazelib", reason="popgym's labyrinths need mazelib; the ports do not")
from mazelib.generate.HuntAndKill import HuntAndKill  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Maze environments have been shown:DeprecationWarning")
UPSTREAM = {entry["id"]: cls for cls, entry in popgym.envs.ALL.items()}
PORTED = [env_id for env_id in list_ids() if "Labyrinth" in env_id]
WAYS = ((0, -1), (0, 1), (-1, 0), (1, 0))  # the four actions
WALL, GOAL = 1, 3
ROWS = 4


@pytest.fixture
def same_mazes(monkeypatch):
    """Return a function that makes a port carve the mazes of these upstream envs, row by row."""

    def use(upstreams):
        grids = np.stack([env.maze.grid for env in upstreams])
        grids[grids > WALL] = WALL
        grids = torch.from_numpy(grids.astype(np.uint8))
        ends = [torch.tensor([getattr(env.maze, end) for env in upstreams]) for end in ("start", "end")]

        def repeat(rows, count):
            return torch.cat([rows] * (count // len(rows) + 1))[:count]

        monkeypatch.setattr(hunt_and_kill, "carve", lambda count, cells, *, generator: repeat(grids, count))
        monkeypatch.setattr(
            hunt_and_kill, "entrances", lambda count, cells, *, generator: tuple(repeat(end, count) for end in ends)
        )

    return use


@pytest.fixture(autouse=True)
def mazelib_draws_the_same_mazes_every_time():
    """mazelib draws from Python's global generator; put that back afterwards."""
    before = random.getstate()
    random.seed(0)
    yield
    random.setstate(before)


def steps_from(grid: np.ndarray, start: tuple[int, int]) -> tuple[dict, dict]:
    """Return distance and first action from start for every square that can be reached."""
    distance, first = {start: 0}, {}
    queue = deque([start])
    while queue:
        here = queue.popleft()
        for action, (dy, dx) in enumerate(WAYS):
            there = here[0] + dy, here[1] + dx
            inside = 0 <= there[0] < grid.shape[0] and 0 <= there[1] < grid.shape[1]
            if inside and grid[there] != WALL and there not in distance:
                distance[there] = distance[here] + 1
                first[there] = first.get(here, action)
                queue.append(there)
    return distance, first


def next_move(env) -> int:
    """Walk to the goal, or where there is none to the nearest square not explored yet."""
    distance, first = steps_from(env.maze.grid, tuple(env.position))
    if (env.maze.grid == GOAL).any():
        return first[tuple(env.maze.end)]
    return first[min((d, square) for square, d in distance.items() if not env.explored[square])[1]]


@pytest.mark.parametrize("policy", ["random", "scripted"])
@pytest.mark.parametrize("env_id", PORTED)
def test_port_replays_upstream_popgym_step_by_step(env_id, policy, same_mazes, random_action):
    upstreams = [UPSTREAM[env_id]() for _ in range(ROWS)]
    want = [env.reset(seed=seed)[0] for seed, env in enumerate(upstreams)]
    same_mazes(upstreams)
    port = make(env_id, ROWS, state="append")
    first = port.reset()
    for row, env in enumerate(upstreams):
        assert first[row].tolist() == [*want[row], *env.get_state().ravel()]
    away = [steps_from(env.maze.grid, env.maze.start)[0].get(env.maze.end) for env in upstreams]
    running, steps, total = set(range(ROWS)), [0] * ROWS, [0.0] * ROWS
    while running:
        action = random_action(port)
        if policy == "scripted":
            for row in running:
                action[row] = next_move(upstreams[row])
        step = port.step(action)
        for row in sorted(running):
            obs, reward, terminated, truncated, _ = upstreams[row].step(int(action[row]))
            assert step.final_obs[row].tolist() == [*obs, *upstreams[row].get_state().ravel()]
            assert step.reward[row] == np.float32(reward)
            assert (step.terminated[row], step.truncated[row]) == (terminated, truncated)
            steps[row] += 1
            total[row] += reward
            if terminated or truncated:
                running.remove(row)
                assert terminated or steps[row] == 1023 == port.horizon
                assert (total[row] >= port.success_return) == terminated
    if policy == "scripted":
        unpaid = np.array(steps)
        if "Escape" in env_id:
            assert steps == away
        else:
            unpaid -= [(env.maze.grid == 0).sum() for env in upstreams]
            assert max(unpaid) < 200
        assert total == pytest.approx(1 - unpaid / 1024, abs=1e-9)


@pytest.mark.parametrize("env_id", PORTED)
def test_spaces_equal_upstream(env_id):
    upstream, port = UPSTREAM[env_id](), make(env_id, 1)
    assert port.observation_space == upstream.observation_space
    assert port.action_space == upstream.action_space
    assert port.markov_space == upstream.state_space
    flat = make(env_id, 1, flatten=True, previous_action=True, start_flag=True)
    assert flat.obs_size == Flatten(Antialias(PreviousAction(upstream))).observation_space.shape[0]


def carved(count: int, cells: int, seed: int = 0) -> np.ndarray:
    return hunt_and_kill.carve(count, cells, generator=torch.Generator().manual_seed(seed)).numpy()


@pytest.mark.parametrize("cells", [5, 7, 9])
def test_mazes_are_trees_that_a_walk_can_carve(cells):
    for grid in carved(200, cells):
        assert grid[0].all()
        assert grid[-1].all()
        assert grid[:, 0].all()
        assert grid[:, -1].all()
        assert grid[2:-1:2, 2:-1:2].all()  # the corners between four cells
        visited = (grid[1::2, 1::2] == 0).sum()
        assert (grid == 0).sum() == 2 * visited - 1
        start = tuple(np.argwhere(grid == 0)[0])
        assert len(steps_from(grid, start)[0]) == 2 * visited - 1


def features(grid: np.ndarray) -> tuple[int, int, int, int]:
    """Return free squares, dead ends, straight corridors, and the distance between two corners (-1: not joined)."""
    cells = np.argwhere(grid[1::2, 1::2] == 0) * 2 + 1
    doors = np.array([[grid[y + dy, x + dx] == 0 for dy, dx in WAYS] for y, x in cells])
    count, straight = doors.sum(1), (doors[:, 0] & doors[:, 1]) | (doors[:, 2] & doors[:, 3])
    far = grid.shape[0] - 2
    distance = steps_from(grid, (1, 1))[0].get((far, far), -1)
    return int((grid == 0).sum()), int((count == 1).sum()), int((straight & (count == 2)).sum()), distance


def test_mazes_have_the_distribution_of_mazelib():
    want_grids = np.stack([HuntAndKill(5, 5).generate() for _ in range(1500)])
    got_grids = carved(1500, 5)
    for want, got in zip(*(np.array([features(g) for g in grids]).T for grids in (want_grids, got_grids)), strict=True):
        assert stats.ks_2samp(want, got).pvalue > 0.01
    doors = [1 - grids[:, 1:-1, 1:-1].astype(int) for grids in (want_grids, got_grids)]
    open_share = [door.mean(0) for door in doors]
    spread = np.sqrt(2 * open_share[0] * (1 - open_share[0]) / 1500)
    z = (open_share[0] - open_share[1])[spread > 0] / spread[spread > 0]
    assert np.abs(z).max() < 3.5  # 40 passages
    assert stats.kstest(z, "norm").pvalue > 0.01


def test_hunts_run_out_as_often_as_in_mazelib(monkeypatch):
    """Cells that nothing leads to come about once in 10,000 mazes; with fewer hunts they are common."""
    hunts = 12
    monkeypatch.setattr(
        HuntAndKill,
        "_hunt_random",
        lambda self, grid, count: (
            (-1, -1) if count >= hunts else (random.randrange(1, self.H, 2), random.randrange(1, self.W, 2))
        ),
    )
    full = torch.full

    def fewer(shape, value, **kwargs):
        return full(shape, hunts if value == 121 else value, **kwargs)

    monkeypatch.setattr(hunt_and_kill.torch, "full", fewer)
    want = [(HuntAndKill(5, 5).generate() == 0).sum() for _ in range(1500)]
    got = (carved(3000, 5) == 0).sum((1, 2))
    assert 0.05 < np.mean(np.array(want) < 49) < 0.95
    assert stats.ks_2samp(want, got).pvalue > 0.01
    assert abs(np.mean(np.array(want) < 49) - np.mean(got < 49)) < 0.05


def test_entrances_are_uniform_and_opposite():
    start, end = (e.numpy() for e in hunt_and_kill.entrances(8000, 5, generator=torch.Generator().manual_seed(0)))
    flipped = 10 - start
    across = np.where(np.isin(start[:, 0], (0, 10)), 0, 1)
    rows = np.arange(8000)
    assert (end[rows, across] == flipped[rows, across]).all()
    for ends in (start, end):
        squares, counts = np.unique(ends, axis=0, return_counts=True)
        assert len(squares) == 20
        assert stats.chisquare(counts).pvalue > 0.01
    along = np.stack((start[rows, 1 - across], end[rows, 1 - across])) // 2
    assert stats.chisquare(np.bincount(along[0] * 5 + along[1], minlength=25)).pvalue > 0.01


def test_every_maze_is_dealt_once_whatever_order_rows_restart_in():
    env = make("popgym-LabyrinthExploreHard-v0", 3, seed=0)
    env.reset()
    seen = {row.numpy().tobytes() for row in env.maze}
    for mask in ([True, False, False], [False, True, True], [True, True, True]) * 40:
        mask = torch.tensor(mask)
        env.reset_rows(mask)
        fresh = {row.numpy().tobytes() for row in env.maze[mask]}
        assert len(fresh) == int(mask.sum())
        assert not fresh & seen
        seen |= fresh


def test_state_saved_with_mazes_in_stock_continues_identically_and_a_new_seed_forgets_them():
    env, other = (make("popgym-LabyrinthEscapeEasy-v0", 3, seed=seed) for seed in (0, 9))
    env.reset()
    other.load_state_dict(env.state_dict())
    for _ in range(40):
        assert torch.equal(env.reset(), other.reset())
    assert torch.equal(env.maze, other.maze)
    env.reseed(4)
    fresh = make("popgym-LabyrinthEscapeEasy-v0", 3, seed=4)
    assert torch.equal(env.reset(), fresh.reset())
    assert torch.equal(env.maze, fresh.maze)
