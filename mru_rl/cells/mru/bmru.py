"""BMRU, the bistable memory recurrent unit."""

from __future__ import annotations

import torch
from torch import Tensor

from mru_rl.cells.checks import check_width
from mru_rl.cells.mru.base import MRU


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

    def pack_signs(self, state: Tensor, *, two_bit: bool = False) -> Tensor:
        """The signs of states [..., H], all that a BMRU remembers: for replay memories and for sending states.

        Returns int8 [..., H] of -1, 0, +1, or with two_bit four signs to a byte, uint8 [..., ceil(H / 4)].
        Raises TypeError if state is not a tensor of floats, ValueError if its last dimension is not H.
        """
        check_width(state, self.state_size)
        if not state.is_floating_point():
            raise TypeError(
                f"a state must be floating point, got {state.dtype}; give what the cell returned as its state"
            )
        signs = state.sign().to(torch.int8)
        if not two_bit:
            return signs
        codes = torch.nn.functional.pad(signs + 1, (0, -self.state_size % 4)).to(torch.uint8).unflatten(-1, (-1, 4))
        return codes[..., 0] | codes[..., 1] << 2 | codes[..., 2] << 4 | codes[..., 3] << 6

    def unpack_signs(self, codes: Tensor) -> Tensor:
        """States [..., H] from `pack_signs`, with the level the unit has now.

        Raises TypeError if codes are not int8 or uint8, ValueError if they are of another width or on another device.
        """
        packed = isinstance(codes, Tensor) and codes.dtype == torch.uint8
        check_width(codes, -(-self.state_size // 4) if packed else self.state_size)
        if codes.device != self.alpha.device:
            raise ValueError(
                f"codes are on {codes.device} but the unit is on {self.alpha.device}; move one of them with .to(device)"
            )
        if packed:
            bits = torch.stack([codes >> shift & 3 for shift in (0, 2, 4, 6)], dim=-1)
            codes = bits.flatten(-2)[..., : self.state_size].to(torch.int8) - 1
        elif codes.dtype != torch.int8:
            raise TypeError(
                f"packed signs must be int8 or, two bits each, uint8, got {codes.dtype}; give what pack_signs returned"
            )
        alpha = self.alpha.detach().abs()
        return codes * alpha.to(torch.promote_types(alpha.dtype, torch.float32))

    @property
    def _is_its_signs(self) -> bool:
        return type(self) is BMRU  # a unit derived from it may hold more than a sign

    @property
    def code_size(self) -> int:
        return -(-self.state_size // 4) if self._is_its_signs else super().code_size

    def encode_state(self, state: Tensor) -> Tensor:
        """Two bits a unit, uint8 [..., ceil(H / 4)], as `pack_signs`."""
        return self.pack_signs(state, two_bit=True) if self._is_its_signs else super().encode_state(state)

    def decode_state(self, code: Tensor) -> Tensor:
        """States [..., H] with the level the unit has now, as `unpack_signs`."""
        return self.unpack_signs(code) if self._is_its_signs else super().decode_state(code)
