"""Shuffled decks for the card games: popgym's numbering of cards, one deck per row.

A card is a number from 0 to 52 * num_decks - 1; suit, rank and color follow from it as in popgym/core/deck.py.
Upstream deals single cards from the end of its `Deck.idx`; here column t of a row is the card dealt t-th.
"""

from __future__ import annotations

import torch
from torch import Tensor

DECK_SIZE = 52
NUM_SUITS = 4
NUM_RANKS = 13


def shuffled(rows: int, num_cards: int, *, generator: torch.Generator) -> Tensor:
    """Return a fresh uniform permutation of the cards per row, int64 [rows, num_cards], in the order they are dealt."""
    keys = torch.rand(rows, num_cards, dtype=torch.float64, generator=generator, device=generator.device)
    return keys.argsort(dim=1)


def suit(card: Tensor) -> Tensor:
    """Return 0..3: spades, diamonds, clubs, hearts."""
    return card % NUM_SUITS


def rank(card: Tensor) -> Tensor:
    """Return 0..12: ace to king."""
    return card // NUM_SUITS % NUM_RANKS


def color(card: Tensor) -> Tensor:
    """Return 0 for black, 1 for red, by upstream's numbering: every second card."""
    return card % 2


def dealt_from(upstream_idx: object) -> Tensor:
    """Return upstream's hidden `Deck.idx` as the cards dealt one by one, int64 [num_cards]."""
    return torch.as_tensor(upstream_idx).flip(0).long()
