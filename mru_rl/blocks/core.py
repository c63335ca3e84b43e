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
from mru_rl.cells.checks import (
    check_batch_size,
    check_call,
    check_fraction,
    check_horizon,
    check_size,
    check_tensor,
    check_warm_up,
    step_fits,
)


class MemoryCore(nn.Module):
    """A stack of residual blocks, each around one cell or several side by side.

    core(x [B, T, input_size], state [B, layers, S], is_init bool [B, T]) -> (y [B, T, hidden_size], state)
    core.step(x [B, input_size], state [B, layers, S], is_init bool [B])  -> (y [B, hidden_size], state)

    Both give the same numbers. is_init marks the first step of an episode: the state found there is dropped. The
    state is a plain float tensor, zeros at the start; S is the widest layer's state, narrower layers are padded.
    Left out, state is zeros and is_init says that no episode starts.
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
        sizes = {"input_size": input_size, "hidden_size": hidden_size}
        for label, value in (sizes | {"state_size": state_size, "num_layers": num_layers}).items():
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

    def _cells(self) -> list[Cell]:
        return [cell for layer in self.cells_by_layer() for cell in layer]

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros [batch_size, layers, S] on the core's device, float32 or wider."""
        check_batch_size(batch_size)
        dtype = torch.promote_types(self.encoder.weight.dtype, torch.float32)
        return torch.zeros(batch_size, self.num_layers, self.state_size, dtype=dtype, device=self.encoder.weight.device)

    def forward(
        self, x: Tensor, state: Tensor | None = None, is_init: Tensor | None = None, restart: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run a sequence. x: [B, T, input_size] -> y: [B, T, hidden_size] and the last state [B, layers, S].

        state: [B, layers, S] or None for zeros.  is_init: bool [B, T] or None if no episode starts.
        restart: [B, T, layers, S] or None for zeros, the state an episode that begins at a step starts from.
        Raises ValueError if shapes, dtypes or devices do not fit, TypeError if an argument is not a tensor.
        """
        y, _, last = self.unroll(x, state, is_init, restart, keep_states=False)
        return y, last

    def unroll(
        self,
        x: Tensor,
        state: Tensor | None = None,
        is_init: Tensor | None = None,
        restart: Tensor | None = None,
        *,
        keep_states: bool = True,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """As forward, with the states after every step between: y, states [B, T, layers, S] or None, last state."""
        state, is_init = self._checked(x, state, is_init, restart)
        y, states, last = self.encoder(x), [], []
        for i, (block, size) in enumerate(zip(self._blocks(), self.state_sizes, strict=True)):
            y, out = block(y, state[:, i, :size], is_init, None if restart is None else restart[:, :, i, :size])
            last.append(self._pad(out.last))
            if keep_states:
                states.append(self._pad(out.states))
        return self.norm(y), torch.stack(states, dim=2) if keep_states else None, torch.stack(last, dim=1)

    def advance(self, x: Tensor, state: Tensor | None = None, is_init: Tensor | None = None) -> Tensor:
        """The last state of `forward` alone, for stretches of a sequence whose outputs nobody reads."""
        state, is_init = self._checked(x, state, is_init)
        y, last = self.encoder(x), []
        *before, top = zip(self._blocks(), self.state_sizes, strict=True)
        for i, (block, size) in enumerate(before):
            y, out = block(y, state[:, i, :size], is_init)
            last.append(self._pad(out.last))
        block, size = top
        last.append(self._pad(block.cell.advance(block.norm(y), state[:, -1, :size], is_init)))
        return torch.stack(last, dim=1)

    def step(self, x: Tensor, state: Tensor | None = None, is_init: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run one step. x: [B, input_size] -> y: [B, hidden_size] and the next state [B, layers, S].

        state: [B, layers, S] or None for zeros.  is_init: bool [B] or None if no episode starts. Raises as `forward`.
        """
        like = self.encoder.weight
        if (
            state is None
            or is_init is None
            or not step_fits(x, state, is_init, self.input_size, (self.num_layers, self.state_size))
            or like.dtype != x.dtype
            or like.device != x.device
        ):
            state, is_init = self._checked(x, state, is_init, steps=False)
        y, after = self.encoder(x), []
        for i, (block, size) in enumerate(zip(self._blocks(), self.state_sizes, strict=True)):
            y, s = block.step(y, state[:, i, :size], is_init)
            after.append(self._pad(s))
        return self.norm(y), torch.stack(after, dim=1)

    @torch.no_grad()
    def trace(self, x: Tensor, state: Tensor | None = None, is_init: Tensor | None = None) -> TensorDict:
        """What the memory did over a sequence, or over one step for x [B, input_size].

        Returns a TensorDict with, for layer i and each cell in it, ("layer_i", cell, "states") [B, T, units] and,
        for cells with a write gate, ("layer_i", cell, "writes") bool [B, T, units].
        """
        single = isinstance(x, Tensor) and x.dim() == 2
        state, is_init = self._checked(x, state, is_init, steps=not single)
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

    @property
    def has_gates(self) -> bool:
        """True if any cell says which unit writes when."""
        return any(cell.has_gates for cell in self._cells())

    def init_for_horizon(self, horizon: float) -> None:
        """Re-initialise the cells so that information survives up to `horizon` steps; see Cell.init_for_horizon.

        Raises ValueError unless `horizon` is a number of at least 1.
        """
        check_horizon(horizon)
        for cell in self._cells():
            cell.init_for_horizon(horizon)

    def set_progress(self, progress: float) -> None:
        """Set what the cells anneal over training to its value at `progress`, the fraction done.

        Raises ValueError unless `progress` is a number in [0, 1].
        """
        check_fraction("progress, the fraction of training done,", progress)
        for cell in self._cells():
            cell.set_progress(progress)

    def encode_state(self, state: Tensor) -> TensorDict:
        """States [..., layers, S] as a replay keeps them: a TensorDict [...] with ("layer_i", "part_k") for each cell.

        Units of a BMRU are signs, four to a byte, uint8 [..., ceil(units / 4)]; other cells stay as they are, float
        [..., units]. Raises TypeError if state is not a tensor, ValueError if its layers and S are not the core's.
        """
        if not isinstance(state, Tensor):
            raise TypeError(
                f"a state is a tensor, got {type(state).__name__}; give what the core returned as its state"
            )
        if state.shape[-2:] != (self.num_layers, self.state_size):
            raise ValueError(
                f"states of core {self.spec!r} end in [{self.num_layers}, {self.state_size}], got {list(state.shape)}; "
                "give what the core returned as its state"
            )
        codes = TensorDict(batch_size=state.shape[:-2])
        for i, cells in enumerate(self.cells_by_layer()):
            parts = state[..., i, : self.state_sizes[i]].split([cell.state_size for cell in cells], -1)
            for k, (cell, part) in enumerate(zip(cells, parts, strict=True)):
                codes[f"layer_{i}", f"part_{k}"] = cell.encode_state(part)
        return codes

    def decode_state(self, codes: TensorDict) -> Tensor:
        """States [..., layers, S] from `encode_state`; units of a BMRU take the level that the core has now.

        Raises ValueError if the states of another core were encoded.
        """
        layers = []
        for i, cells in enumerate(self.cells_by_layer()):
            parts = []
            for k, cell in enumerate(cells):
                code = codes.get((f"layer_{i}", f"part_{k}"), None)
                if code is None or code.shape[-1] != cell.code_size:
                    found = "nothing" if code is None else f"{code.shape[-1]} numbers"
                    raise ValueError(
                        f"core {self.spec!r} encodes layer {i}, {cell.name}, in {cell.code_size} numbers, found {found}; "
                        "these states were encoded by another core"
                    )
                parts.append(cell.decode_state(code))
            layers.append(self._pad(torch.cat(parts, dim=-1)))
        return torch.stack(layers, dim=-2)

    def require_exportable(self) -> None:
        """Raise ValueError with the names of the cells that ONNX cannot hold, if there are any."""
        names = sorted({cell.name for cell in self._cells() if not cell.exportable})
        if names:
            raise ValueError(f"ONNX has no complex numbers, which {', '.join(names)} needs; choose a core without it")

    @torch.no_grad()
    def warm_up(self, x: Tensor, is_init: Tensor | None, horizon: float) -> None:
        """Spread the write rates of all memory recurrent units over [1/2, 1/horizon] on real inputs x [B, T, D].

        is_init: bool [B, T] or None if no episode starts.
        Raises ValueError if inputs do not fit or are not finite, or `horizon` is not a number of at least 1.
        """
        state, is_init = self._checked(x, None, is_init)
        check_warm_up(x, horizon, self.input_size)
        y = self.encoder(x)
        for i, (block, size) in enumerate(zip(self._blocks(), self.state_sizes, strict=True)):
            block.warm_up(y, horizon)
            y, _ = block(y, state[:, i, :size], is_init)

    def _pad(self, state: Tensor) -> Tensor:
        missing = self.state_size - state.shape[-1]
        return nn.functional.pad(state, (0, missing)) if missing else state

    def _checked(
        self,
        x: Tensor,
        state: Tensor | None,
        is_init: Tensor | None,
        restart: Tensor | None = None,
        *,
        steps: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """state and is_init, zeros if left out; raises if anything does not fit."""
        check_tensor("x", x)
        if state is None:
            state = self.initial_state(x.shape[0] if x.dim() else 0)
        if is_init is None:
            is_init = torch.zeros(x.shape[:-1], dtype=torch.bool, device=self.encoder.weight.device)
        check_call(
            ("core", self.spec),
            x,
            state,
            is_init,
            restart,
            steps=steps,
            input_size=self.input_size,
            state_shape=(self.num_layers, self.state_size),
            parameter=self.encoder.weight,
        )
        return state, is_init


def make_core(
    spec: Spec, input_size: int, hidden_size: int, *, state_size: int | None = None, num_layers: int = 1, **options: Any
) -> MemoryCore:
    """Build a memory core from a spec.

    spec: cell names (`mru_rl.list_cells()`), "+" for side by side in one layer, "," one layer after the other, and per cell
        its own state size and options after colons: "bmru", "bmru+mingru", "bmru,lru", "bmru:48+mingru:16",
        "bmru:48:slope=2.0". Or lists, [["bmru", ("mingru", 16)], [("deltanet", 64, {"steps": 2})]].
    input_size, hidden_size: widths of x and y.  state_size: real numbers of state per layer, shared between cells
        side by side that have no size of their own; hidden_size by default.
    num_layers: how often the whole spec is repeated.
    options: passed to every cell that takes them and does not set them itself, such as read_before_write=False (all
        cells) or slope=4.0 (MRUs).
    Raises ValueError if the spec does not parse, a size is below 1 or no cell of the spec takes an option.
    """
    return MemoryCore(spec, input_size, hidden_size, state_size=state_size, num_layers=num_layers, **options)


def _unique(names: list[str]) -> list[str]:
    """The same cell twice in a layer gets a number: bmru, bmru_1."""
    return [f"{n}_{names[:i].count(n)}" if n in names[:i] else n for i, n in enumerate(names)]
