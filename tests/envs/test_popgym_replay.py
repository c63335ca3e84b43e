"""The ports of popgym's games against the installed popgym: the same hidden state, the same actions, the same steps.

Row i of a port is given what upstream drew at its reset with seed i, then both are stepped together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import popgym.envs
import pytest
import torch
from popgym.wrappers import Antialias, Flatten, PreviousAction

from mru_rl.envs import list_ids, make
from mru_rl.envs.columns import columns
from mru_rl.envs.popgym import deck
from mru_rl.envs.popgym.quiz import Quiz

QUIZZES = ("RepeatFirst", "RepeatPrevious", "Autoencode", "CountRecall", "HigherLower")
GAMES = (*QUIZZES, "Battleship", "Concentration", "MineSweeper", "MultiarmedBandit")
LEVELS = ("Easy", "Medium", "Hard")
IDS = [f"popgym-{game}{level}-v0" for game in GAMES for level in LEVELS]
UPSTREAM = {entry["id"]: cls for cls, entry in popgym.envs.ALL.items()}
STEPS = {
    "RepeatFirst": (51, 415, 831),
    "RepeatPrevious": (51, 103, 155),
    "Autoencode": (103, 207, 311),
    "CountRecall": (51, 103, 207),
    "HigherLower": (51, 103, 155),
    "Battleship": (64, 100, 144),
    "Concentration": (104, 208, 104),
    "MineSweeper": (14, 30, 54),
    "MultiarmedBandit": (200, 400, 600),
}
FLAT_SIZE = {
    "RepeatFirst": (10, 10, 10),
    "RepeatPrevious": (10, 10, 10),
    "Autoencode": (12, 12, 12),
    "CountRecall": (33, 37, 45),
    "HigherLower": (17, 17, 17),
    "Battleship": (20, 24, 28),
    "Concentration": (210, 418, 782),
    "MineSweeper": (13, 21, 28),
    "MultiarmedBandit": (14, 24, 34),
}
LOOK_BACK = {"Easy": 4, "Medium": 32, "Hard": 64}


def split(env_id: str) -> tuple[str, str]:
    """Return game and level of an id."""
    level = next(level for level in LEVELS if level in env_id)
    return env_id.removeprefix("popgym-").removesuffix(f"{level}-v0"), level


def by_level(table: dict[str, tuple[int, int, int]], env_id: str) -> int:
    game, level = split(env_id)
    return table[game][LEVELS.index(level)]


class FixedDraws:
    """Stands in for the generator of an upstream bandit: gives the draws it is told to."""

    def __init__(self, draws: np.ndarray) -> None:
        self.draws = iter(draws.tolist())

    def random(self) -> float:
        return next(self.draws)


@pytest.fixture
def pair(monkeypatch):
    """Return a function that makes a port with one row per upstream env and gives each row that env's hidden state."""

    def share(env_id: str, upstream: list[Any], **options: Any):
        game, _ = split(env_id)
        port = make(env_id, len(upstream), **options)
        inner = getattr(port, "env", port)
        if game in QUIZZES or game == "Concentration":
            names = ["value_deck", "query_deck"] if game == "CountRecall" else ["deck"]
            step = 1 if game == "Concentration" else -1  # upstream deals single cards from the end of the deck
            dealt = [np.stack([getattr(env, name).idx[::step].copy() for env in upstream]) for name in names]
            decks = itertools.cycle(torch.from_numpy(cards).long() for cards in dealt)
            monkeypatch.setattr(
                deck, "shuffled", lambda rows, faces, *, generator: faces[next(decks)][:rows].to(torch.uint8)
            )
        port.reset()
        if game == "Battleship":
            inner.squares.copy_(torch.from_numpy(np.stack([env.board.flatten() for env in upstream])))
        elif game == "MineSweeper":
            mines = torch.from_numpy(np.stack([env.hidden_grid.flatten() for env in upstream]))
            inner.squares.copy_(mines)
            inner.mines_near.copy_(mines.float() @ inner.near)
        elif game == "MultiarmedBandit":
            inner.chances.copy_(torch.from_numpy(np.stack([env.bandits for env in upstream])))
            draws = torch.rand(inner.horizon, len(upstream), generator=torch.Generator().manual_seed(7))
            for row, env in enumerate(upstream):
                env._np_random = FixedDraws(draws[:, row].double().numpy())
            played = iter(draws)
            monkeypatch.setattr(inner, "_draw", lambda: next(played))
        return port

    return share


def first_suit(env, seen):
    return seen[0]


def suit_before(env, seen):
    return seen[-env.k] if len(seen) >= env.k else 3


def recite(env, seen):
    watched = [suit for mode, suit in seen if mode == 1]
    reciting = len(seen) - len(watched)
    watched.append(seen[len(watched)][1] if reciting else 0)
    return watched[-reciting] if reciting else 2


def count(env, seen):
    return [dealt for dealt, _ in seen].count(seen[-1][1])


def count_cards(env, seen):
    left = np.full(13, 4 * env.num_decks) - np.bincount(seen, minlength=13)
    return 0 if left[seen[-1] + 1 :].sum() >= left[: seen[-1]].sum() else 1


def lower(env, seen):
    return 1


def next_square(env, seen):
    return divmod(len(seen) - 1, env.board_size)


def next_ship(env, seen):
    return np.argwhere((env.board == 1) & (env.guesses == 0))[0]


def same_square(env, seen):
    return (1, 2)


def next_pair(env, seen):
    return np.argsort(env.state, kind="stable")[len(seen) - 1]


def same_card(env, seen):
    return 5


def every_kind_of_turn(env, seen):
    """A match, an up card as first and as second of a turn, one card twice, a mismatch, then the pairs from the end."""
    order = np.argsort(env.state, kind="stable")
    a, b, c, last = *order[:3], order[-1]
    script = [a, b, a, b, c, a, c, c, c, last, last, b, c, last]
    turn = len(seen) - 1
    return script[turn] if turn < len(script) else order[::-1][(turn - len(script)) % len(order)]


def next_clear(env, seen):
    return np.argwhere(env.hidden_grid == 0)[0]


def same_clear(env, seen):
    return np.argwhere(env.hidden_grid != 1)[0]


def clear_then_mine(env, seen):
    return np.argwhere(env.hidden_grid == min(1, len(seen) - 1))[0]


def best_arm(env, seen):
    return int(env.bandits.argmax())


def wins(env):
    return 1.0


def one_shot_that_counts(env):
    squares, hits = env.board_size**2, int(env.board[1, 2])
    return hits / 12 - (squares - hits) / (squares - 12)


def one_view_that_counts(env):
    steps = env.max_episode_length
    return 1 / steps - 0.5 * (steps - 1) / (steps - 2)


SCRIPTS: dict[str, dict[Callable, tuple[Callable | None, Callable | None]]] = {
    # what is played: the return it earns, and the steps until the end where they differ from the horizon
    "RepeatFirst": {first_suit: (wins, None)},
    "RepeatPrevious": {suit_before: (wins, None)},
    "Autoencode": {recite: (wins, None)},
    "CountRecall": {count: (wins, None)},
    "HigherLower": {count_cards: (None, None), lower: (None, None)},
    "Battleship": {
        next_ship: (wins, lambda env: 12),
        next_square: (None, lambda env: 1 + np.flatnonzero(env.board.ravel())[-1]),
        same_square: (one_shot_that_counts, None),
    },
    "Concentration": {
        next_pair: (wins, lambda env: len(env.deck)),
        same_card: (lambda env: -1.0, None),
        every_kind_of_turn: (None, lambda env: len(env.deck) + 12),
    },
    "MineSweeper": {
        next_clear: (wins, None),
        same_clear: (one_view_that_counts, None),
        clear_then_mine: (lambda env: -0.5, lambda env: 2),
    },
    "MultiarmedBandit": {best_arm: (None, None)},
}
PLAYED = [
    pytest.param(env_id, script, id=f"{env_id}-{script.__name__ if script else 'random'}")
    for env_id in IDS
    for script in [None, *SCRIPTS[split(env_id)[0]]]
]


def plain(obs: Any) -> Any:
    return obs if isinstance(obs, int) else np.asarray(obs).tolist()


def test_every_game_of_upstream_is_ported():
    assert set(IDS) <= set(list_ids())


@pytest.mark.parametrize(("env_id", "script"), PLAYED)
def test_port_replays_upstream_popgym_step_by_step(env_id, script, pair, random_action):
    game, _ = split(env_id)
    rows = 12 if script is None else 4
    upstream = [UPSTREAM[env_id]() for _ in range(rows)]
    seen = [[plain(env.reset(seed=seed)[0])] for seed, env in enumerate(upstream)]
    port = pair(env_id, upstream)
    assert port._show().tolist() == [history[0] for history in seen]
    want_return, want_steps = SCRIPTS[game].get(script, (None, None))
    want = [(want_return and want_return(env), want_steps and want_steps(env)) for env in upstream]
    total, total32, running = np.zeros(rows), torch.zeros(rows), set(range(rows))
    while running:
        action = random_action(port)
        if script is not None:
            for row in running:
                action[row] = torch.as_tensor(np.asarray(script(upstream[row], seen[row])))
        got = port.step(action)
        shown, paid = got.final_obs.tolist(), got.reward.tolist()
        ends = list(zip(got.terminated.tolist(), got.truncated.tolist(), strict=True))
        total32 += torch.where(torch.tensor([row in running for row in range(rows)]), got.reward, 0)
        for row in sorted(running):
            native = action[row].item() if action.ndim == 1 else action[row].numpy()
            up_obs, up_reward, up_terminated, up_truncated, _ = upstream[row].step(native)
            assert shown[row] == plain(up_obs)
            assert paid[row] == np.float32(up_reward)
            assert ends[row] == (up_terminated, up_truncated)
            seen[row].append(shown[row])
            total[row] += up_reward
            if up_terminated or up_truncated:
                running.discard(row)
                steps = len(seen[row]) - 1
                assert steps <= port.horizon == by_level(STEPS, env_id)
                if script is not None:
                    assert steps == (want[row][1] or port.horizon)
                if want[row][0] is not None:
                    assert total[row] == pytest.approx(want[row][0], abs=1e-9)
    if want_return is wins and port.success_return is not None:
        assert (total32 >= port.success_return).all()  # in float32 too
        assert (total32 - 1 / port.horizon < port.success_return).all()  # and one mistake is too much


@pytest.mark.parametrize("env_id", IDS)
def test_flat_input_equals_upstream_flatten_antialias_previous_action(env_id, pair, random_action):
    bare = [UPSTREAM[env_id]() for _ in range(2)]
    upstream = [Flatten(Antialias(PreviousAction(env))) for env in bare]
    want = np.stack([env.reset(seed=seed)[0] for seed, env in enumerate(upstream, 5)])
    port = pair(env_id, bare, flatten=True, previous_action=True, start_flag=True)
    assert port.obs_size == upstream[0].observation_space.shape[0] == by_level(FLAT_SIZE, env_id)
    first = port.rules.encode(port.env._show(), start=True)
    np.testing.assert_array_equal(first.numpy(), want)
    for _ in range(60):
        action = random_action(port)
        native = action.tolist() if action.ndim == 1 else action.numpy()
        steps = [env.step(native[row]) for row, env in enumerate(upstream)]
        got = port.step(action)
        np.testing.assert_array_equal(got.final_obs.numpy(), np.stack([step[0] for step in steps]))
        if any(step[2] or step[3] for step in steps):
            break


@pytest.mark.parametrize("env_id", IDS)
def test_markov_state_equals_upstream_get_state_at_every_step(env_id, pair, random_action):
    upstream = [UPSTREAM[env_id]() for _ in range(2)]
    for seed, env in enumerate(upstream):
        env.reset(seed=seed)
    port = pair(env_id, upstream, state="only")
    space = upstream[0].state_space

    def states() -> np.ndarray:
        leaves = [columns(space, env.get_state()) for env in upstream]
        return np.stack([np.concatenate([np.reshape(leaf, -1) for leaf in row]) for row in leaves])

    np.testing.assert_array_equal(port._show().numpy(), states())
    for _ in range(min(port.horizon, 250)):
        action = random_action(port)
        native = action.tolist() if action.ndim == 1 else action.numpy()
        ended = [any(env.step(native[row])[2:4]) for row, env in enumerate(upstream)]
        np.testing.assert_array_equal(port.step(action).final_obs.numpy(), states())
        if any(ended):
            break


@pytest.mark.parametrize("env_id", [env_id for env_id in IDS if split(env_id)[0] in QUIZZES])
def test_quiz_plays_the_same_whether_its_rows_move_together_or_not(env_id, random_action):
    together, apart = make(env_id, 6, seed=2), make(env_id, 6, seed=2)
    assert isinstance(together, Quiz)
    assert torch.equal(together.reset(), apart.reset())
    apart._keep_step(shared=False)
    ended = torch.zeros(6, dtype=torch.bool)
    while not ended.all():
        action = random_action(together)
        before = [env.generator.get_state() for env in (together, apart)]
        assert torch.equal(*before)
        one, other = together.step(action), apart.step(action)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        ended |= one.terminated
    apart._keep_step(shared=False)
    one, other = together.step(action), apart.step(action)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("game", ["RepeatFirst", "RepeatPrevious", "Autoencode"])
def test_wrong_answers_everywhere_earn_minus_one(game):
    env = make(f"popgym-{game}Easy-v0", 5, seed=3)
    env.reset()
    total = torch.zeros(5, dtype=torch.float64)
    for step in range(env.horizon):
        right = env.answers[:, step].long()
        total += env.step((right + 1) % 4).reward
    torch.testing.assert_close(total, -torch.ones(5, dtype=torch.float64), atol=1e-5, rtol=0)
