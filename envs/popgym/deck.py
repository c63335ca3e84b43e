"""Shuffled decks for the card games: popgym's numbering of cards, one deck per row.

A card is a number from 0 to 52 * num_decks - 1; suit, rank and color follow from it as in popgym/core/deck.py.
Upstream deals single cards from the end of its `Deck.idx`; here column t of a row is the card dealt t-th.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

DECK_SIZE = 52
NUM_COLORS = 2
NUM_SUITS = 4
NUM_RANKS = 13
FACE_BITS = 4


def suit(card: Tensor) -> Tensor:
    """Return 0..3: spades, diamonds, clubs, hearts."""
    return card % NUM_SUITS


def rank(card: Tensor) -> Tensor:
    """Return 0..12: ace to king."""
    return card // NUM_SUITS % NUM_RANKS


def color(card: Tensor) -> Tensor:
    """Return 0 for black, 1 for red, by upstream's numbering: every second card."""
    return card % NUM_COLORS


@dataclass(frozen=True)
class Face:
    """What a game looks at on a card, and how many different ones there are."""

    of: Callable[[Tensor], Tensor]
    count: int

    def deal(self, rows: int, num_cards: int, *, generator: torch.Generator) -> Tensor:
        """Shuffle the cards anew for every row; return their faces in the order they are dealt, uint8 [rows, N]."""
        return shuffled(rows, self.of(torch.arange(num_cards, device=generator.device)), generator=generator)


COLORS, SUITS, RANKS = Face(color, NUM_COLORS), Face(suit, NUM_SUITS), Face(rank, NUM_RANKS)
FACES = {"colors": COLORS, "suits": SUITS, "ranks": RANKS}


def shuffled(rows: int, faces: Tensor, *, generator: torch.Generator) -> Tensor:
    """Return the faces (int64 [N], each below 16) in a fresh uniform order per row, uint8 [rows, N].

    Each face sits in the low bits of a random number, so that sorting the numbers shuffles the faces. 59 bits are
    random: two cards of a row tie less than once in 10^12 rows. On a CPU numpy sorts several times faster than torch.
    """
    keys = torch.empty(rows, len(faces), dtype=torch.int64, device=faces.device).random_(generator=generator)
    keys.bitwise_left_shift_(FACE_BITS).bitwise_or_(faces)
    if keys.device.type == "cpu":
        keys.numpy().sort(axis=1)
    else:
        keys = keys.sort(dim=1).values
    return keys.to(torch.uint8) & ((1 << FACE_BITS) - 1)
