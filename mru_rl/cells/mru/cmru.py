"""CMRU, the cumulative memory recurrent unit."""

from __future__ import annotations

from mru_rl.cells.mru.base import MRU


class CMRU(MRU):
    """Cumulative memory recurrent unit: a write adds +alpha or -alpha to the state, and nothing else changes it.

        u[t], beta[t], z[t]   as in BMRU
        h[t] = h[t-1] + z[t] alpha sign(u[t]),   alpha > 0 learned per unit

    From zero the state is a multiple of alpha, unbounded, and is held exactly between writes. The gradient passes every
    write unchanged: dh[t] / dh[t-1] = 1.
    x: [B, T, D] -> h: [B, T, H].
    Source: after Brandoit, Fyon, Ernst, Drion 2026, arXiv:2605.11855. The full text was not at hand: these equations
    are this project's derivation from the authors' summary. Departures: not known.
    """

    name = "cmru"
    carry = 1.0
