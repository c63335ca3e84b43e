"""BMRU, the bistable memory recurrent unit."""

from __future__ import annotations

from mru_rl.cells.mru import MRU


class BMRU(MRU):
    """Bistable memory recurrent unit: a write sets the unit to +alpha or -alpha, and nothing else changes it.

        u[t]    = W x[t] + c                     candidate
        beta[t] = |W_b x[t] + c_b|               half-width of the bistable region
        z[t]    = 1 if |u[t]| > beta[t] else 0   write, surrogate gradient
        h[t]    = (1 - z[t]) h[t-1] + z[t] alpha sign(u[t]),   sign(0) = +1, alpha > 0 learned per unit

    The state is one of {-alpha, 0, +alpha}, 0 meaning "nothing written yet", and is held exactly.
    x: [B, T, D] -> h: [B, T, H].
    Source: after De Geeter, Lambrechts, Ernst, Drion 2026, arXiv:2601.09495. The full text was not at hand: these
    equations are this project's derivation from its abstract and the authors' summary. Departures: not known.
    """

    name = "bmru"
    carry = 0.0
