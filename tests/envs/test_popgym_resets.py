"""What the ports draw at a reset: legal, distributed as upstream draws it, and as the docstrings say."""

from __future__ import annotations

import numpy as np
import popgym.envs
import pytest
import torch
from scipy import stats

from mru_rl.envs import make
from mru_rl.envs.popgym import deck
from mru_rl.envs.popgym.battleship import SHIP_SIZES, placements

UPSTREAM = {entry["id"]: cls for cls, entry in popgym.envs.ALL.items()}
LEVELS = ("Easy", "Medium", "Hard")


def fresh(env_id: str, rows: int, *, seed: int = 0):
    env = make(env_id, rows, seed=seed)
    env.reset()
    return env


def upstream_resets(env_id: str, count: int, look) -> np.ndarray:
    env, out = UPSTREAM[env_id](), []
    env.reset(seed=0)
    for _ in range(count):
        env.reset()
        out.append(look(env))
    return np.stack(out)


def same_distribution(got: np.ndarray, want: np.ndarray) -> float:
    """P-value of a chi-square test on two samples of whole numbers; rare values are put together."""
    values, column = np.unique(np.concatenate([got, want]), return_inverse=True)
    table = np.stack([np.bincount(part, minlength=len(values)) for part in np.split(column, [len(got)])])
    rare = table.sum(0) < 40
    table = np.concatenate([table[:, ~rare], table[:, rare].sum(1, keepdims=True)], axis=1)
    return stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue


@pytest.mark.parametrize(("faces", "num_decks"), [("colors", 1), ("suits", 1), ("ranks", 1), ("ranks", 4)])
def test_fresh_decks_hold_every_card_and_are_uniform(faces, num_decks):
    face, rows, cards = deck.FACES[faces], 8000, 52 * num_decks
    dealt = face.deal(rows, cards, generator=torch.Generator().manual_seed(0)).long()
    copies = cards // face.count
    assert all(dealt.eq(one).sum(1).eq(copies).all() for one in range(face.count))
    for one, other in [(0, 1), (0, -1), (cards // 2, cards // 2 + 1)]:
        pairs = torch.bincount(dealt[:, one] * face.count + dealt[:, other], minlength=face.count**2).numpy()
        same = np.eye(face.count, dtype=bool).ravel()
        chance = np.where(same, copies * (copies - 1), copies**2) / (cards * (cards - 1))
        assert stats.chisquare(pairs, chance * rows).pvalue > 0.01


@pytest.mark.parametrize("game", ["RepeatFirst", "Autoencode", "HigherLower", "Concentration"])
def test_fresh_decks_are_distributed_as_upstream_shuffles_them(game):
    env_id = f"popgym-{game}Easy-v0"
    env = fresh(env_id, 4000, seed=1)
    cards = getattr(env, "faces", None) if game == "Concentration" else env.shown
    cards = cards[..., 1] if game == "Autoencode" else cards
    faces = {"HigherLower": "ranks_idx", "Concentration": "colors_idx"}.get(game, "suits_idx")
    step = 1 if game == "Concentration" else -1
    want = upstream_resets(env_id, 1500, lambda env: getattr(env.deck, faces)[env.deck.idx][::step].copy())
    for one, other in [(0, 1), (0, 51), (20, 30)]:
        got_pair = 13 * cards[:, one].long() + cards[:, other].long()
        assert same_distribution(got_pair.numpy(), 13 * want[:, one] + want[:, other]) > 0.01


def test_the_two_decks_of_count_recall_are_shuffled_apart():
    env = fresh("popgym-CountRecallMedium-v0", 8000)
    first = env.shown[:, 0].long()
    assert stats.chisquare(torch.bincount(first[:, 0] * 4 + first[:, 1], minlength=16)).pvalue > 0.01


@pytest.mark.parametrize("level", LEVELS)
def test_fresh_battleship_boards_are_distributed_as_upstream_places_the_ships(level):
    env_id = f"popgym-Battleship{level}-v0"
    env, size = fresh(env_id, 12000), UPSTREAM[env_id]().board_size
    boards = env.squares.view(-1, size, size).long().numpy()
    assert (boards.sum((1, 2)) == sum(SHIP_SIZES)).all()
    want = upstream_resets(env_id, 5000, lambda env: env.board.astype(int))
    edge = np.ones((size, size), dtype=int)
    edge[1:-1, 1:-1] = 0
    for look in (
        lambda b: (b * edge).sum((1, 2)),  # how many ship squares lie on the edge
        lambda b: b[:, : size // 2, : size // 2].sum((1, 2)),  # and how many in one corner
        lambda b: (b[:, 1:] & b[:, :-1]).sum((1, 2)),  # which way they lie, and whether they touch
        lambda b: b[:, size // 2, size // 2] * 2 + b[:, 0, 0],
    ):
        assert same_distribution(look(boards), look(want)) > 0.01


@pytest.mark.parametrize("size", [2, 3, 4])
def test_placements_are_all_straight_lines_of_a_board_once_each(size):
    lines = placements(6, size).tolist()
    want = {tuple(6 * row + col + i for i in range(size)) for row in range(6) for col in range(7 - size)}
    want |= {tuple(6 * (row + i) + col for i in range(size)) for row in range(7 - size) for col in range(6)}
    assert len(lines) == len(want) == 2 * 6 * (7 - size)
    assert set(map(tuple, lines)) == want


@pytest.mark.parametrize("level", LEVELS)
def test_fresh_minefields_are_uniform_and_their_numbers_count_the_mines_around(level):
    env_id = f"popgym-MineSweeper{level}-v0"
    env, upstream = fresh(env_id, 8000), UPSTREAM[env_id]()
    mines = env.squares.long()
    assert mines.sum(1).eq(upstream.num_mines).all()
    chance = upstream.num_mines / env.num_squares
    for square in (0, env.num_squares // 2, env.num_squares - 1):
        assert stats.binomtest(int(mines[:, square].sum()), 8000, chance).pvalue > 0.01
    both = chance * (upstream.num_mines - 1) / (env.num_squares - 1)
    assert stats.binomtest(int((mines[:, 0] & mines[:, 1]).sum()), 8000, both).pvalue > 0.01

    side = env.board_size
    for row in range(20):
        board = np.pad(mines[row].view(side, side).numpy(), 1)
        around = [[board[i : i + 3, j : j + 3].sum() for j in range(side)] for i in range(side)]
        assert env.mines_near[row].tolist() == np.ravel(around).tolist()
    want = upstream_resets(env_id, 1500, lambda env: env.neighbor_grid.sum())
    assert same_distribution(env.mines_near.long().sum(1).numpy(), want) > 0.01


@pytest.mark.parametrize("level", LEVELS)
def test_fresh_bandits_have_uniform_chances_and_pay_as_often_as_these_say(level):
    env_id = f"popgym-MultiarmedBandit{level}-v0"
    env = fresh(env_id, 3000)
    assert stats.kstest(env.chances.flatten().numpy(), stats.uniform.cdf).pvalue > 0.01
    want = upstream_resets(env_id, 1500, lambda env: env.bandits.max())
    assert stats.ks_2samp(env.chances.max(1).values.numpy(), want).pvalue > 0.01
    chance, arm = env.chances.double(), torch.zeros(3000, dtype=torch.int64)
    paid = torch.stack([env.step(arm + pull).reward > 0 for pull in range(10)], dim=1).double()
    surprise = (paid - chance[:, :10]).sum() / (chance * (1 - chance))[:, :10].sum().sqrt()
    assert abs(surprise) < 2.6
