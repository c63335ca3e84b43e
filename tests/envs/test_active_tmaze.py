"""The active T-maze against a walk through it written out in plain Python."""

from __future__ import annotations

import pytest
import torch

from mru_rl.envs import make

UP, DOWN, FORWARD, BACK = range(4)
PAY = {"turn": (1.0, -1.0), "bakker": (4.0, -0.1), "memory-rl": (1.0, 0.0)}


def walk(cue: int, actions: list[int], *, length: int, back: int, rewards: str) -> tuple[list, list]:
    """Squares and rewards of one episode. "memory-rl" follows TMazeBase.step and reward_fn of twni2016/Memory-RL."""
    right, wrong = PAY[rewards]
    square, time, squares, earned = back, 0, [back], []
    limit = (length + 2 * back + 1) * (1 if rewards == "memory-rl" else 2)
    for action in actions:
        before, time = square, time + 1
        if square == back + length and action in (UP, DOWN):
            return [*squares, None], [*earned, right if action == cue else wrong]
        square = min(max(square + {FORWARD: 1, BACK: -1}.get(action, 0), 0), back + length)
        squares.append(square)
        if time == limit:
            return squares, [*earned, wrong]
        if rewards == "memory-rl":
            earned.append(-1 / length if square < time - back else 0.0)
        else:
            earned.append(-0.1 if rewards == "bakker" and square == before else 0.0)
    raise AssertionError("never ended")


@pytest.mark.parametrize("rewards", ["turn", "bakker", "memory-rl"])
@pytest.mark.parametrize(("length", "back"), [(1, 1), (4, 1), (3, 2), (3, 0)])
def test_every_walk_pays_and_shows_what_the_plain_one_does(length, back, rewards):
    rows = 300
    env = make("mru_rl/ActiveTMaze-v0", rows, length=length, back=back, rewards=rewards, noise=0)
    obs, cue, generator = env.reset(), env.cue.tolist(), torch.Generator().manual_seed(2)
    eager = torch.rand(rows, generator=generator) * 0.9  # some walk straight on, others wander
    seen, actions, paid, ends = [obs], [], [], []
    for _ in range(env.horizon):
        wander = torch.randint(4, (rows,), generator=generator)
        action = torch.where(torch.rand(rows, generator=generator) < eager, FORWARD, wander)
        step = env.step(action)
        assert not step.truncated.any()
        actions.append(action)
        seen.append(step.final_obs)
        paid.append(step.reward)
        ends.append(step.terminated)
    lengths = set()
    for row in range(rows):
        squares, earned = walk(cue[row], [int(a[row]) for a in actions], length=length, back=back, rewards=rewards)
        steps = len(earned)
        lengths.add(steps)
        assert [bool(e[row]) for e in ends[:steps]] == [False] * (steps - 1) + [True]
        assert [float(p[row]) for p in paid[:steps]] == pytest.approx(earned)
        looked = False
        for square, shown in zip(squares, seen, strict=False):
            here = square == 0 and not looked
            looked |= square == 0
            assert shown[row].tolist() == [
                here and cue[row] == UP,
                here and cue[row] == DOWN,
                square == back + length,
                0,
            ]
    assert max(lengths) == env.horizon
    assert len(lengths) > 1 or rewards == "memory-rl"


def test_the_cue_is_a_fair_coin_and_credit_reaches_back_to_the_first_step():
    env = make("mru_rl/ActiveTMaze-v0", 10_000, length=50)
    env.reset()
    assert abs(env.cue.float().mean() - 0.5) < 0.02
    assert not env.open_loop
    assert (env.horizon, env.credit_horizon) == (106, 105)
    assert make("mru_rl/ActiveTMaze-v0", 1, length=50, rewards="memory-rl").horizon == 53


def test_the_markov_state_tells_side_place_and_time():
    env = make("mru_rl/ActiveTMaze-v0", 2, length=4, back=1, state="only")
    state = env.reset()
    assert torch.equal(state, torch.stack((env.cue, torch.full((2,), 0.2), torch.zeros(2), torch.zeros(2)), dim=1))
    after = env.step(torch.tensor([BACK, FORWARD])).obs
    torch.testing.assert_close(after[:, 1:], torch.tensor([[0.0, 1.0, 1 / 14], [0.4, 0.0, 1 / 14]]))
