"""nBRC, the recurrently neuromodulated bistable recurrent cell."""

from __future__ import annotations

from torch import nn

from mru_rl.cells.brc import BRC


class NBRC(BRC):
    """Neuromodulated bistable recurrent cell, Vecoven, Ernst, Drion 2021, doi:10.1371/journal.pone.0252676.

        a[t] = 1 + tanh(W_a x[t] + c_a + U_a h[t-1])         U_a, U_c: matrices, where BRC has one number per unit
        c[t] = sigmoid(W_c x[t] + c_c + U_c h[t-1])
        h[t] = c[t] h[t-1] + (1 - c[t]) tanh(W x[t] + c_h + a[t] h[t-1])

    x: [B, T, D] -> h: [B, T, H]. Checked against torchrecurrent's NBRCell. Departures: biases.
    """

    name = "nbrc"

    def make_recurrent(self) -> nn.Module:
        recurrent = nn.Linear(self.state_size, 2 * self.state_size, bias=False)
        nn.init.orthogonal_(recurrent.weight)
        return recurrent
