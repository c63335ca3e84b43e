"""The cost of a core, and the state size at which two cores cost the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mru_rl.blocks.core import MemoryCore, make_core
from mru_rl.blocks.spec import check_options, parse_layers
from mru_rl.cells.checks import check_size


def count_parameters(module: nn.Module) -> int:
    """How many numbers training changes."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def flops_per_step(core: MemoryCore) -> int:
    """Floating-point operations of the matrix products in one step of one row; elementwise operations are not counted."""
    parameter = core.encoder.weight
    x = parameter.new_zeros(1, core.input_size)
    is_init = torch.zeros(1, dtype=torch.bool, device=parameter.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        core.step(x, core.initial_state(1), is_init)
    return counter.get_total_flops()


def state_size_for_parameters(
    spec: str, input_size: int, hidden_size: int, parameters: int, *, largest: int = 4096, **options: Any
) -> int:
    """The state size at which a core of this spec and width comes nearest to a number of parameters.

    Raises ValueError if the spec's cost does not depend on its state, or no size up to `largest` can be built or has that
    many parameters.
    """
    for label, size in (("input_size", input_size), ("hidden_size", hidden_size), ("parameters", parameters)):
        check_size(label, size)
    if "state_size" in options:
        raise ValueError(f"the state size is the result, got state_size={options['state_size']!r}; leave it out")
    of_cells = {name: value for name, value in options.items() if name != "num_layers"}
    check_options([part.name for layer in parse_layers(spec) for part in layer], of_cells, "this core")

    def count(state_size: int) -> int:
        core = make_core(spec, input_size, hidden_size, state_size=state_size, **options)
        return count_parameters(core)

    grain = _grain(count, spec, largest)
    low, high = 1, largest // grain
    if count(grain) == count(2 * grain):
        raise ValueError(f"the parameters of {spec!r} do not depend on its state size; change hidden_size instead")
    while low < high:  # parameters grow with the state: bisect
        middle = (low + high) // 2
        if count(middle * grain) < parameters:
            low = middle + 1
        else:
            high = middle
    if low == largest // grain and (most := count(low * grain)) < parameters:
        raise ValueError(
            f"{spec!r} of width {hidden_size} has at most {most} parameters up to state size {largest}, fewer than "
            f"{parameters}; take a larger hidden_size or `largest`"
        )
    return min((low, max(low - 1, 1)), key=lambda n: abs(count(n * grain) - parameters)) * grain


def _grain(count: Any, spec: str, largest: int) -> int:
    """The smallest step in which this spec's state can grow: some cells need even sizes or multiples of a head size."""
    grain = 1
    while 3 * grain <= largest:
        try:
            for factor in (1, 2, 3):
                count(factor * grain)
        except ValueError:
            grain *= 2
            continue
        return grain
    raise ValueError(f"no state size up to {largest} fits {spec!r}; choose a larger `largest`")
