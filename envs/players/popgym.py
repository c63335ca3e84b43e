"""Players of the popgym tasks: rules that show what can be earned.

Rules play by what an agent could know; those named oracle look at the hidden state of the port.
"""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mru_rl.envs.players.base import Act, Player
from mru_rl.envs.popgym import battleship, deck, mine_sweeper
from mru_rl.envs.popgym.battleship import SHIP_SIZES, Battleship
from mru_rl.envs.popgym.cartpole import CartPole
from mru_rl.envs.popgym.concentration import Concentration
from mru_rl.envs.popgym.higher_lower import HIGHER, LOWER, HigherLower
from mru_rl.envs.popgym.labyrinth import GOAL, WALL, Labyrinth
from mru_rl.envs.popgym.labyrinth_escape import LabyrinthEscape
from mru_rl.envs.popgym.mine_sweeper import MineSweeper
from mru_rl.envs.popgym.multiarmed_bandit import MultiarmedBandit
from mru_rl.envs.popgym.pendulum import GRAVITY, MAX_TORQUE, Pendulum
from mru_rl.envs.popgym.quiz import Quiz


def _answers(env: Quiz) -> int:
    assert isinstance(env.action_space, spaces.Discrete), env.action_space
    return int(env.action_space.n)


def right_answers(env: Quiz, generator: torch.Generator) -> Act:
    """Answer every question right, as perfect memory can."""
    last = _answers(env) - 1
    return lambda obs: env._now(env.answers).long().clamp(max=last)


def best_constant(env: Quiz, generator: torch.Generator) -> Act:
    """Give one answer for ever, the one that is right most often over all episodes played."""
    counts = torch.bincount(env._deal(4096)[1].flatten().long(), minlength=256)[: _answers(env)]
    return lambda obs: counts.argmax().expand(env.num_envs)


def by_rank(env: HigherLower, generator: torch.Generator) -> Act:
    """HigherLower without memory: higher below the middle rank, lower from there on."""
    return lambda obs: torch.where(obs < deck.NUM_RANKS // 2, HIGHER, LOWER)


def count_cards(env: HigherLower, generator: torch.Generator) -> Act:
    """HigherLower with perfect memory: the side on which more cards are left in the deck."""
    left = torch.full((env.num_envs, deck.NUM_RANKS), env.num_cards // deck.NUM_RANKS)
    ranks = torch.arange(deck.NUM_RANKS)

    def act(obs: Tensor) -> Tensor:
        left.scatter_add_(1, obs[:, None], torch.full_like(obs, -1)[:, None])
        higher = (left * (ranks > obs[:, None])).sum(1)
        lower = (left * (ranks < obs[:, None])).sum(1)
        return torch.where(higher >= lower, HIGHER, LOWER)

    return act


def each_square_once(env: Battleship, generator: torch.Generator) -> Act:
    """Battleship in a random order of the squares, none of them twice."""
    order = torch.rand(env.num_envs, env.num_squares, generator=generator).argsort(1)
    squares = iter(order.T)
    return lambda obs: as_square(next(squares), env.board_size)


def likeliest_ship(env: Battleship, generator: torch.Generator) -> Act:
    """Battleship by the square that most ways to place a ship cover, far more so where they cover hits."""
    lines = [battleship.placements(env.board_size, size) for size in SHIP_SIZES]
    ways = torch.cat([torch.zeros(len(line), env.num_squares).scatter_(1, line, 1.0) for line in lines])
    hits, misses = torch.zeros(2, env.num_envs, env.num_squares)
    shots: list[Tensor] = []

    def act(obs: Tensor) -> Tensor:
        if shots:
            hits.scatter_add_(1, shots[-1], obs[:, None].float())
            misses.scatter_add_(1, shots[-1], 1.0 - obs[:, None])
        weight = torch.where(misses @ ways.T > 0, 0.0, 50.0 ** (hits @ ways.T))
        shot = ((weight @ ways).masked_fill(hits + misses > 0, -1)).argmax(1)
        shots.append(shot[:, None])
        return as_square(shot, env.board_size)

    return act


def oracle_ships(env: Battleship, generator: torch.Generator) -> Act:
    """Battleship with the board in sight."""
    return lambda obs: as_square((env.squares == battleship.SHIP).byte().argmax(1), env.board_size)


def perfect_memory(env: Concentration, generator: torch.Generator) -> Act:
    """Concentration with perfect memory: a pair that was seen, else a card not seen yet and, if known, its match."""
    known = torch.full((env.num_envs, env.num_cards), -1)  # the face of every card that was seen
    gone = torch.zeros(env.num_envs, env.num_cards, dtype=torch.bool)
    turn: list[Tensor] = []

    def act(obs: Tensor) -> Tensor:
        known.copy_(torch.where(obs < env.face.count, obs, known))
        unseen = (known < 0).byte()
        if len(turn) == 1:
            partners = (known == known.gather(1, turn[0])) & ~gone
            partners.scatter_(1, turn[0], False)
            card = torch.where(partners.any(1), partners.byte().argmax(1), unseen.argmax(1))
        else:
            if turn:
                match = known.gather(1, turn[0]) == known.gather(1, turn[1])
                gone.scatter_(1, torch.cat(turn, dim=1), match.expand(-1, 2))
                turn.clear()
            faces = known.masked_fill(gone, -1)
            twice = torch.stack([(faces == face).sum(1) >= 2 for face in range(env.face.count)], dim=1)
            paired = twice.gather(1, faces.clamp(min=0)) & (faces >= 0)
            card = torch.where(paired.any(1), paired.byte().argmax(1), unseen.argmax(1))
        turn.append(card[:, None])
        return card

    return act


def oracle_pairs(env: Concentration, generator: torch.Generator) -> Act:
    """Concentration with the faces in sight."""
    order = iter(env.faces[:, : env.num_cards].argsort(dim=1, stable=True).T)
    return lambda obs: next(order)


def deduce(env: MineSweeper, generator: torch.Generator) -> Act:
    """MineSweeper by what each number alone says: squares that are safe, else those least likely a mine."""
    rows, near = env.num_envs, env.near
    viewed = torch.zeros(rows, env.num_squares, dtype=torch.bool)
    number = torch.zeros(rows, env.num_squares)
    views: list[Tensor] = []

    def act(obs: Tensor) -> Tensor:
        if views:
            viewed.scatter_(1, views[-1], True)
            number.scatter_(1, views[-1], obs[:, None].float())
        mine, safe = torch.zeros(2, rows, env.num_squares, dtype=torch.bool)
        for _ in range(4):
            unknown = ~viewed & ~mine & ~safe
            hidden, around = number - mine.float() @ near, unknown.float() @ near
            mine |= unknown & ((viewed & (hidden == around) & (around > 0)).float() @ near > 0)
            safe |= unknown & ~mine & ((viewed & (hidden == 0)).float() @ near > 0)
        unknown = ~viewed & ~mine & ~safe
        hidden, around = number - mine.float() @ near, unknown.float() @ near
        says = torch.where(viewed & (around > 0), hidden / around.clamp(min=1), -1.0)
        risk = (says[:, None, :] * near - (1 - near)).amax(2)  # the largest of what the numbers around say, -1 for none
        rest = (env.num_mines - mine.sum(1)) / unknown.sum(1).clamp(min=1)
        risk = torch.where(risk < 0, rest[:, None].expand_as(risk), risk)
        risk = risk.masked_fill(safe & ~viewed, -1).masked_fill(viewed | mine, 2)
        views.append(risk.argmin(1)[:, None])
        return as_square(views[-1][:, 0], env.board_size)

    return act


def oracle_clear(env: MineSweeper, generator: torch.Generator) -> Act:
    """MineSweeper with the mines in sight."""
    return lambda obs: as_square((env.squares == mine_sweeper.CLEAR).byte().argmax(1), env.board_size)


def best_arm(env: MultiarmedBandit, generator: torch.Generator) -> Act:
    """The arm with the highest probability, known from the start."""
    return lambda obs: env.chances.argmax(1)


def thompson(env: MultiarmedBandit, generator: torch.Generator) -> Act:
    """Thompson sampling with a uniform prior: each arm as often as it is likely to be the best one."""
    rng = np.random.default_rng(generator.initial_seed())
    paid, pulled = torch.zeros(2, *env.chances.shape)
    pulls: list[Tensor] = []

    def act(obs: Tensor) -> Tensor:
        if pulls:
            paid.scatter_add_(1, pulls[-1], obs[:, None].float())
            pulled.scatter_add_(1, pulls[-1], torch.ones_like(obs[:, None], dtype=torch.float32))
        guess = torch.from_numpy(rng.beta(1 + paid.numpy(), 1 + (pulled - paid).numpy()))
        pulls.append(guess.argmax(1, keepdim=True))
        return pulls[-1][:, 0]

    return act


def balance(env: CartPole, generator: torch.Generator) -> Act:
    """Cartpole with its whole state in sight: push towards where the pole falls."""
    return lambda obs: (env.theta + 0.3 * env.theta_dot + 0.02 * env.x + 0.06 * env.x_dot > 0).long()


def swing_up(env: Pendulum, generator: torch.Generator) -> Act:
    """Pendulum with its whole state in sight: gather energy for the top, then hold it there."""

    def act(obs: Tensor) -> Tensor:
        cos, sin, speed = env.markov_state().T
        angle = torch.atan2(sin, cos)
        lacking = GRAVITY / 2 * (1 - cos) - speed.square() / 6  # energy of a rod of mass and length 1
        pump = torch.where(speed * lacking >= 0, MAX_TORQUE, -MAX_TORQUE)
        torque = torch.where(angle.abs() < 0.6, -12 * angle - 3 * speed, pump)
        return torque.clamp(-MAX_TORQUE, MAX_TORQUE)[:, None]

    return act


def shortest_way(env: Labyrinth, generator: torch.Generator) -> Act:
    """Labyrinths with the map in sight: to the goal, or to the nearest square not visited, by a shortest way."""
    ways, far, side = env.next_square.view(-1, 4), 10_000, env.stride

    def act(obs: Tensor) -> Tensor:
        wall = env.maze == WALL
        target = env.maze == GOAL if isinstance(env, LabyrinthEscape) else ~wall & ~env.seen
        steps = torch.full_like(env.maze, far, dtype=torch.int16).masked_fill_(target, 0)
        while steps.gather(1, env.position).max() == far:
            wave = steps.view(-1, side, side)  # it goes on by one square; all around are walls, so no roll leaks
            across = torch.minimum(wave.roll(1, 1), wave.roll(-1, 1))
            along = torch.minimum(wave.roll(1, 2), wave.roll(-1, 2))
            nearest = torch.minimum(across, along).view_as(steps) + 1
            spread = torch.minimum(steps, nearest).masked_fill_(wall, far)
            if torch.equal(spread, steps):  # a target that nobody can reach
                break
            steps = spread
        return steps.gather(1, ways[env.position[:, 0]]).argmin(1)

    return act


def as_square(index: Tensor, board_size: int) -> Tensor:
    """Return row and column, int64 [B, 2], of squares counted row by row."""
    return torch.stack((index // board_size, index % board_size), dim=1)


PLAYERS: dict[str, dict[str, Player]] = {
    "RepeatFirst": {"perfect memory": right_answers, "best constant": best_constant},
    "RepeatPrevious": {"perfect memory": right_answers, "best constant": best_constant},
    "Autoencode": {"perfect memory": right_answers, "best constant": best_constant},
    "CountRecall": {"perfect memory": right_answers, "best constant": best_constant},
    "HigherLower": {"counting cards": count_cards, "by the rank on show": by_rank},
    "Battleship": {"likeliest ship": likeliest_ship, "each square once": each_square_once, "oracle": oracle_ships},
    "Concentration": {"perfect memory": perfect_memory, "oracle": oracle_pairs},
    "MineSweeper": {"number by number": deduce, "oracle": oracle_clear},
    "MultiarmedBandit": {"best arm (oracle)": best_arm, "Thompson sampling": thompson},
    "PositionOnlyCartPole": {"balance (oracle)": balance},
    "VelocityOnlyCartpole": {"balance (oracle)": balance},
    "NoisyPositionOnlyCartPole": {"balance (oracle)": balance},
    "PositionOnlyPendulum": {"swing up (oracle)": swing_up},
    "NoisyPositionOnlyPendulum": {"swing up (oracle)": swing_up},
    "LabyrinthEscape": {"shortest way (oracle)": shortest_way},
    "LabyrinthExplore": {"shortest way (oracle)": shortest_way},
}
"""By family; the first player of each is the reference that normalized scores go by."""
