"""The cell contract: one recurrent unit, without norm, gate or residual (those live in blocks)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mru_rl.cells.checks import check_batch_size, check_call, check_size, step_fits
from mru_rl.scan.dispatch import linear_scan


class CellOutput(NamedTuple):
    """What a cell returns for a sequence.

    features: [B, T, feature_size], what the block reads
    states:   [B, T, state_size], the state after every step
    last:     [B, state_size], the state to carry on from, float32 or wider
    """

    features: Tensor
    states: Tensor
    last: Tensor


class Cell(nn.Module, ABC):
    """One recurrent unit behind the contract every block, test and benchmark relies on.

    A state is a flat real vector, float32 or wider, whatever the unit keeps inside (complex numbers are stored as
    pairs); zeros mean "nothing seen yet". At `is_init` the state found is replaced by `restart` (zeros by default)
    with a select, so that nothing of a finished episode, NaN and inf included, reaches the next one.

    Hooks that do nothing unless a cell overrides them: `init_for_horizon`, `warm_up`, `set_progress`, `encode_state`
    with `decode_state` and `code_size`, `gates` with `has_gates`.
    """

    name: str
    has_gates: bool = False
    """True if `gates` says which unit writes when."""
    complex_state: bool = False
    """True if the units are complex numbers, which a state holds as pairs."""

    def __init__(self, input_size: int, state_size: int, *, read_before_write: bool = True) -> None:
        super().__init__()
        check_size("input_size", input_size)
        check_size("state_size", state_size)
        if not isinstance(read_before_write, bool):
            raise ValueError(f"read_before_write must be True or False, got {read_before_write!r}")
        self.input_size = input_size
        self.state_size = state_size
        self.read_before_write = read_before_write

    @property
    def readout_size(self) -> int:
        """How many numbers are read of one state: all of it by default."""
        return self.state_size

    @property
    def feature_size(self) -> int:
        """Width of the features; twice the readout if the state before the step is read as well."""
        return self.readout_size * (2 if self.read_before_write else 1)

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros [batch_size, state_size] on the parameters' device, float32 or wider."""
        check_batch_size(batch_size)
        parameter = next(self.parameters())
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        return torch.zeros(batch_size, self.state_size, dtype=dtype, device=parameter.device)

    @abstractmethod
    def forward(self, x: Tensor, state: Tensor, is_init: Tensor, restart: Tensor | None = None) -> CellOutput:
        """Run a sequence. x: [B, T, D]; state: [B, S]; is_init: bool [B, T]; restart: [B, T, S] or None for zeros.

        Raises ValueError if shapes, dtypes or devices do not fit, TypeError if an argument is not a tensor.
        """

    @abstractmethod
    def step(self, x: Tensor, state: Tensor, is_init: Tensor) -> tuple[Tensor, Tensor]:
        """Run one step. x: [B, D]; state: [B, S]; is_init: bool [B] -> features [B, F] and the next state [B, S].

        Raises as `forward` does.
        """

    def features(self, state: Tensor, x: Tensor) -> Tensor:
        """What is read of a state at input x, [..., units] -> [..., readout_size] real. Default: all of it."""
        return self.pack(state)

    def readout(self, after: Tensor, before: Tensor, x: Tensor) -> Tensor:
        """Features [..., feature_size] from the states after and before a step (read before write), [..., units]."""
        if not self.read_before_write:
            return self.features(after, x).to(x.dtype)
        return torch.cat([self.features(after, x), self.features(before, x)], dim=-1).to(x.dtype)

    def pack(self, units: Tensor) -> Tensor:
        """Units as flat real numbers: complex [..., N] -> real [..., 2 N]; real units as they are."""
        return torch.stack([units.real, units.imag], dim=-1).flatten(-2) if self.complex_state else units

    def unpack(self, state: Tensor) -> Tensor:
        """Inverse of pack."""
        return torch.complex(*state.unflatten(-1, (-1, 2)).unbind(-1)) if self.complex_state else state

    def check(self, x: Tensor, state: Tensor, is_init: Tensor, restart: Tensor | None = None) -> None:
        """Raise for a sequence that does not fit."""
        self._check(x, state, is_init, restart, steps=True)

    def check_step(self, x: Tensor, state: Tensor, is_init: Tensor) -> None:
        """Raise for a step that does not fit."""
        if not step_fits(x, state, is_init, self.input_size, (self.state_size,)):
            self._check(x, state, is_init, None, steps=False)

    def _check(self, x: Tensor, state: Tensor, is_init: Tensor, restart: Tensor | None, *, steps: bool) -> None:
        parameter = next(self.parameters(), x)  # torchrl's losses swap in weights that are no parameters
        check_call(
            ("cell", self.name),
            x,
            state,
            is_init,
            restart,
            steps=steps,
            input_size=self.input_size,
            state_shape=(self.state_size,),
            parameter=parameter,
        )

    def advance(self, x: Tensor, state: Tensor, is_init: Tensor) -> Tensor:
        """The last state [B, S] of `forward` alone, for stretches whose features nobody reads."""
        return self(x, state, is_init).last

    def init_for_horizon(self, horizon: float) -> None:
        """Re-initialise so that information survives up to `horizon` steps; most cells have a way, each its own.

        For comparing cells over long delays: published initialisations are made for the lengths of their papers.
        horizon: at least 1.
        """

    def warm_up(self, x: Tensor, horizon: float) -> None:
        """Set from real inputs x [B, T, D], before training, what is set so, such as write rates down to 1/horizon."""

    def set_progress(self, progress: float) -> None:
        """Set what is annealed over training to its value at `progress`, the fraction done in [0, 1]."""

    @property
    def code_size(self) -> int:
        """How many numbers `encode_state` gives for one state."""
        return self.state_size

    def encode_state(self, state: Tensor) -> Tensor:
        """The code [..., code_size] in which a replay keeps states [..., S]; the states themselves by default."""
        return state

    def decode_state(self, code: Tensor) -> Tensor:
        """States [..., S] from what `encode_state` gave, with the parameters the cell has now."""
        return code

    def gates(self, x: Tensor) -> Tensor | None:
        """Write gates [..., state_size] for inputs [..., D], 1 where a unit writes; None if the cell has no gates."""
        return None

    @property
    def exportable(self) -> bool:
        """True if ONNX, which has no complex numbers, can hold the step."""
        return not self.complex_state


class ScanCell(Cell):
    """A unit of the form h[t] = a[t] h[t-1] + b[t] whose coefficients depend on the input alone.

    A new unit gives `coefficients` and, if its output is not its state, `features`; sequence and step follow.
    """

    @abstractmethod
    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """a, b: [..., units] for x: [..., D]; real [state_size] or complex [state_size / 2] per step."""

    def forward(self, x: Tensor, state: Tensor, is_init: Tensor, restart: Tensor | None = None) -> CellOutput:
        self.check(x, state, is_init, restart)
        h0 = self.unpack(state)
        start = None if restart is None else self.unpack(restart)
        h, last = self.solve(x, h0, is_init, start)
        features = self.readout(h, state_before(h, h0, is_init, start), x)
        return CellOutput(features, self.pack(h), self.pack(last))

    def advance(self, x: Tensor, state: Tensor, is_init: Tensor) -> Tensor:
        return self.pack(self.solve(x, self.unpack(state), is_init, None)[1])

    def solve(self, x: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None) -> tuple[Tensor, Tensor]:
        """States after every step [B, T, units] and the last one; a unit with a faster way overrides this."""
        return linear_scan(*alike(*self.coefficients(x)), h0, is_init, restart)

    def step(self, x: Tensor, state: Tensor, is_init: Tensor) -> tuple[Tensor, Tensor]:
        self.check_step(x, state, is_init)
        a, b = self.coefficients(x)
        h_before = self.unpack(torch.where(is_init[:, None], 0.0, state))
        h = torch.addcmul(b.to(h_before.dtype), a.to(h_before.dtype), h_before)
        return self.readout(h, h_before, x), self.pack(h)


def alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the wider dtype of the two: under autocast, a layer's output is narrower than a parameter."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)


def state_before(h: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None) -> Tensor:
    """The state each step found: h shifted by one step, with the restart state at episode starts. h: [B, T, ...]."""
    before = torch.cat([h0.unsqueeze(1).to(h.dtype), h[:, :-1]], dim=1)
    start = is_init.reshape(*is_init.shape, *[1] * (h.dim() - 2))
    return torch.where(start, torch.zeros((), dtype=h.dtype, device=h.device) if restart is None else restart, before)


def spread_spans(units: int, shortest: float, longest: float) -> Tensor:
    """Steps [units] that memories should last, log-uniform at random from `shortest` to `longest`."""
    return shortest * torch.exp(torch.rand(units) * math.log(longest / shortest))


def chrono_bias(units: int, horizon: float) -> Tensor:
    """Biases [units] under which a gate sigmoid(bias) keeps for 1 to `horizon` steps.

    Tallec, Ollivier 2018, arXiv:1804.11188: log(uniform(1, horizon - 1)).
    """
    return torch.log(1 + torch.rand(units) * (max(horizon, 3.0) - 2))
