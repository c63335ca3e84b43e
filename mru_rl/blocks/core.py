"""MemoryCore: the whole recurrent stack, from inputs to features, built from a spec such as "bmru+mingru,lru"."""

from __future__ import annotations

from typing import Any, cast

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from mru_rl.blocks.residual import ResidualBlock
from mru_rl.blocks.side_by_side import SideBySide, build_layer
from mru_rl.blocks.spec import Spec, check_options, format_spec, parse_layers
from mru_rl.cells.base import Cell
from mru_rl.cells.checks import check_batch_size, check_call, check_size, check_warm_up, step_fits


class MemoryCore(nn.Module):
    """A stack of residual blocks, each around one cell or several side by side.

    core(x [B, T, input_size], state [B, layers, S], is_init bool [B, T]) -> (y [B, T, hidden_size], state)
    core.step(x [B, input_size], state [B, layers, S], is_init bool [B])  -> (y [B, hidden_size], state)

    Both give the same numbers. is_init marks the first step of an episode: the state found there is dropped. The
    state is a plain float tensor, zeros at the start; S is the widest layer's state, narrower layers are padded.
    """

    def __init__(
        self,
        spec: Spec,
        input_size: int,
        hidden_size: int,
        *,
        state_size: int | None = None,
        num_layers: int = 1,
        **options: Any,
    ) -> None:
        super().__init__()
        layers = parse_layers(spec)
        state_size = hidden_size if state_size is None else state_size
        for label, value in (
            ("input_size", input_size), ("hidden_size", hidden_size), ("state_size", state_size),
            ("num_layers", num_layers),
        ):  # fmt: skip
            check_size(label, value)
        check_options([part.name for layer in layers for part in layer], options, "this core")
        self.spec = spec if isinstance(spec, str) else format_spec(layers)
        self.input_size, self.hidden_size = input_size, hidden_size
        layers = layers * num_layers
        self.encoder = nn.Linear(input_size, hidden_size)
        self.blocks = nn.ModuleList(
            ResidualBlock(hidden_size, build_layer(layer, hidden_size, state_size, options)) for layer in layers
        )
        self.norm = nn.LayerNorm(hidden_size)
        self.num_layers = len(layers)
        self.state_sizes: list[int] = [block.cell.state_size for block in self._blocks()]
        self.state_size: int = max(self.state_sizes)

    def _blocks(self) -> list[ResidualBlock]:
        return cast("list[ResidualBlock]", list(self.blocks))

    def cells_by_layer(self) -> list[list[Cell]]:
        """The cells of every layer, in the order of their states."""
        return [block.cell.cells() if isinstance(block.cell, SideBySide) else [block.cell] for block in self._blocks()]

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros [batch_size, layers, S] on the core's device, float32 or wider."""
        check_batch_size(batch_size)
        dtype = torch.promote_types(self.encoder.weight.dtype, torch.float32)
        return torch.zeros(batch_size, self.num_layers, self.state_size, dtype=dtype, device=self.encoder.weight.device)

    def forward(
        self, x: Tensor, state: Tensor, is_init: Tensor, restart: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """A sequence. x: [B, T, input_size] -> y: [B, T, hidden_size] and the last state [B, layers, S].

        restart: [B, T, layers, S] or None for zeros, the state an episode that begins at a step starts from.
        Raises ValueError where shapes, dtypes or devices do not fit, TypeError for what is no tensor.
        """
        y, _, last = self.unroll(x, state, is_init, restart, keep_states=False)
        return y, last

    def unroll(
        self, x: Tensor, state: Tensor, is_init: Tensor, restart: Tensor | None = None, *, keep_states: bool = True
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """As forward, with the states after every step between: y, states [B, T, layers, S] or None, last state."""
        self._check(x, state, is_init, restart)
        y, states, last = self.encoder(x), [], []
        for i, (block, size) in enumerate(zip(self._blocks(), self.state_sizes, strict=True)):
            y, out = block(y, state[:, i, :size], is_init, None if restart is None else restart[:, :, i, :size])
            last.append(self._pad(out.last))
            if keep_states:
                states.append(self._pad(out.states))
        return self.norm(y), torch.stack(states, dim=2) if keep_states else None, torch.stack(last, dim=1)

    def advance(self, x: Tensor, state: Tensor, is_init: Tensor) -> Tensor:
        """The last state of `forward` alone, for stretches of a sequence whose outputs nobody reads."""
        self._check(x, state, is_init)
        y, last = self.encoder(x), []
        *before, top = zip(self._blocks(), self.state_sizes, strict=True)
        for i, (block, size) in enumerate(before):
            y, out = block(y, state[:, i, :size], is_init)
            last.append(self._pad(out.last))
        block, size = top
        last.append(self._pad(block.cell.advance(block.norm(y), state[:, -1, :size], is_init)))
        return torch.stack(last, dim=1)

    def step(self, x: Tensor, state: Tensor, is_init: Tensor) -> tuple[Tensor, Tensor]:
        """One time step. x: [B, input_size] -> y: [B, hidden_size] and the next state [B, layers, S]."""
        fits = step_fits(x, state, is_init, self.input_size, (self.num_layers, self.state_size))
        if not fits or self.encoder.weight.dtype != x.dtype or self.encoder.weight.device != x.device:
            self._check(x, state, is_init, steps=False)
        y, after = self.encoder(x), []
        for i, (block, size) in enumerate(zip(self._blocks(), self.state_sizes, strict=True)):
            y, s = block.step(y, state[:, i, :size], is_init)
            after.append(self._pad(s))
        return self.norm(y), torch.stack(after, dim=1)

    @torch.no_grad()
    def trace(self, x: Tensor, state: Tensor, is_init: Tensor) -> TensorDict:
        """What the memory did over a sequence, or over one step for x [B, input_size].

        Returns a TensorDict with, for layer i and each cell in it, ("layer_i", cell, "states") [B, T, units] and,
        for cells with a write gate, ("layer_i", cell, "writes") bool [B, T, units].
        """
        single = isinstance(x, Tensor) and x.dim() == 2
        self._check(x, state, is_init, steps=not single)
        if single:
            return self.trace(x.unsqueeze(1), state, is_init.unsqueeze(1))[:, 0]
        y, found = self.encoder(x), TensorDict(batch_size=x.shape[:2])
        columns = zip(self._blocks(), self.cells_by_layer(), self.state_sizes, strict=True)
        for i, (block, parts, size) in enumerate(columns):
            inputs = block.norm(y)
            y, out = block(y, state[:, i, :size], is_init)
            names = _unique([part.name for part in parts])
            for name, part, states in zip(
                names, parts, out.states.split([p.state_size for p in parts], -1), strict=True
            ):
                found[f"layer_{i}", name, "states"] = states
                gates = part.gates(inputs)
                if gates is not None:
                    found[f"layer_{i}", name, "writes"] = gates > 0
        return found

    def remember(self, horizon: float) -> None:
        """Start the cells anew so that memories of up to `horizon` steps survive; see Cell.remember."""
        for module in self.modules():
            if isinstance(module, Cell):
                module.remember(horizon)

    @torch.no_grad()
    def warm_up(self, x: Tensor, is_init: Tensor, horizon: float) -> None:
        """Spread the write rates of all memory recurrent units over [1/2, 1/horizon] on real inputs x [B, T, D].

        Raises ValueError for inputs that do not fit or are not finite, and for a horizon below 1.
        """
        state = self.initial_state(x.shape[0] if isinstance(x, Tensor) and x.dim() else 0)
        self._check(x, state, is_init)
        check_warm_up(x, horizon, self.input_size)
        y = self.encoder(x)
        for i, (block, size) in enumerate(zip(self._blocks(), self.state_sizes, strict=True)):
            block.warm_up(y, horizon)
            y, _ = block(y, state[:, i, :size], is_init)

    def _pad(self, state: Tensor) -> Tensor:
        missing = self.state_size - state.shape[-1]
        return nn.functional.pad(state, (0, missing)) if missing else state

    def _check(
        self, x: Tensor, state: Tensor, is_init: Tensor, restart: Tensor | None = None, *, steps: bool = True
    ) -> None:
        check_call(
            "core", self.spec, x, state, is_init, restart, steps=steps, input_size=self.input_size,
            state_shape=(self.num_layers, self.state_size), parameter=self.encoder.weight,
        )  # fmt: skip


def make_core(
    spec: Spec, input_size: int, hidden_size: int, *, state_size: int | None = None, num_layers: int = 1, **options: Any
) -> MemoryCore:
    """Build a memory core from a spec.

    spec: cell names (`mru_rl.list_cells()`), "+" side by side in one layer, "," one layer after the other, and per cell
        its own state size and options after colons: "bmru", "bmru+mingru", "bmru,lru", "bmru:48+mingru:16",
        "bmru:48:slope=2.0". Or lists, [["bmru", ("mingru", 16)], [("deltanet", 64, {"steps": 2})]].
    input_size, hidden_size: widths of x and y.  state_size: real numbers of state per layer, shared between cells
        that stand side by side and have no size of their own; hidden_size where not given.
    num_layers: how often the whole spec is repeated.
    options: passed to every cell that takes them and does not set them itself, such as read_before_write=False (all
        cells) or slope=4.0 (MRUs).
    Raises ValueError for a spec that does not parse, a size below 1 and an option no cell of the spec takes.
    """
    return MemoryCore(spec, input_size, hidden_size, state_size=state_size, num_layers=num_layers, **options)


def _unique(names: list[str]) -> list[str]:
    """The same cell twice in a layer gets a number: bmru, bmru_1."""
    return [f"{n}_{names[:i].count(n)}" if n in names[:i] else n for i, n in enumerate(names)]
