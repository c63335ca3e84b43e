"""MemoryModule: what torchrl's GRUModule is, around any memory core."""

from __future__ import annotations

from typing import Any, NoReturn, cast

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, dispatch
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import Unbounded
from torchrl.envs import TensorDictPrimer
from torchrl.modules import recurrent_mode

from mru_rl.blocks.core import MemoryCore
from mru_rl.blocks.spec import Spec
from mru_rl.torchrl.keys import IS_INIT, TRAJECTORY, memory_keys


class MemoryModule(TensorDictModuleBase):
    """A memory core in a torchrl pipeline, in the place of `torchrl.modules.GRUModule` (torchrl 0.14).

    core: a spec such as "bmru" or "bmru+mingru,lru" (see `mru_rl.make_core`), or a MemoryCore.
    input_size, hidden_size, num_layers, state_size, options: as in `mru_rl.make_core`; with a MemoryCore, sizes may be
        left out, must be its own if given, and there are no options.
    in_key, in_keys: the value to read; "x" stands for ["x", "recurrent_state", "is_init"], the last always that key.
    out_key, out_keys: the features to write; "y" stands for ["y", ("next", "recurrent_state")].
    device: the device the core is moved to.
    default_recurrent_mode: the mode outside `torchrl.modules.set_recurrent_mode`; None is False.

    sequential mode   every element of the batch is one step: value [*B, input_size] -> features [*B, hidden_size] and
                      the next state [*B, layers, S]. If is_init is true, zeros replace the incoming state
    recurrent mode    the last batch dimension is time: value [*B, T, input_size] -> features [*B, T, hidden_size]. The
                      state at step 0 is read, and that of every step where is_init is true: there the memory restarts
                      from the state stored at that index. Collected data holds zeros where episodes begin, and a
                      slice of a replay begins from the state the agent acted with

    The state is one float tensor (layers, S), float32 or wider; of a sequence in half precision, or under autocast, its
    values are as exact as the features there, and stepping is more exact. A missing state reads as zeros: an env without
    the primer drops it at every step, and the agent acts without memory. ("next", state) is the true state after every
    step of a sequence; GRUModule writes zeros except at the end of each trajectory. Inside `torch.vmap` and
    `torch.compile` nothing depends on the values of is_init.

    Traps that torchrl leaves, and the way round each:
    - Value estimators do not enter recurrent mode by themselves: wrap `GAE(...)(data)` in `set_recurrent_mode(True)`.
    - A plain `ReplayBuffer` drops the marks that SliceSampler makes of slice starts (is_init) and ends (truncated); it
      returns them beside the sample, with return_info=True; TensorDictReplayBuffer writes them into it.
      PrioritizedSliceSampler marks no starts at all. A flat sample then runs on with the state of the slice before: use
      TensorDictReplayBuffer, or `mru_rl.torchrl.replay.to_windows`. Such a sample is refused if it has torchrl's
      ("collector", "traj_ids") and they change at an unmarked step (not under vmap, compile or graph capture).
    - DQNLoss unrolls its targets from elsewhere: see `mru_rl.torchrl.dqn.next_values`.
    - BurnInTransform takes only flat strings as state keys, and hands the state of an episode that ends with the burn-in
      to the next one: let it end within episodes.

    Raises ValueError if keys or sizes do not fit; when called, KeyError if the value or is_init is missing, ValueError
    if shapes are of another width than the core's or a flat sample joins trajectories without a mark.
    """

    core: MemoryCore

    def __init__(
        self,
        core: Spec | MemoryCore,
        input_size: int | None = None,
        hidden_size: int | None = None,
        num_layers: int = 1,
        *,
        state_size: int | None = None,
        in_key: NestedKey | None = None,
        in_keys: list[NestedKey] | None = None,
        out_key: NestedKey | None = None,
        out_keys: list[NestedKey] | None = None,
        device: torch.device | str | int | None = None,
        default_recurrent_mode: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.in_keys, self.out_keys = memory_keys(in_key, in_keys, out_key, out_keys)
        if isinstance(core, MemoryCore):
            _check_own_sizes(
                core,
                options,
                input_size=input_size,
                hidden_size=hidden_size,
                state_size=state_size,
                num_layers=None if num_layers == 1 else num_layers,
            )
        elif input_size is None or hidden_size is None:
            raise ValueError(
                f"a core made from the spec {core!r} needs input_size and hidden_size, got {input_size} and "
                f"{hidden_size}; give both, or a MemoryCore"
            )
        else:
            core = MemoryCore(core, input_size, hidden_size, state_size=state_size, num_layers=num_layers, **options)
        self.core = core if device is None else core.to(device)
        self._recurrent_mode = default_recurrent_mode

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write features and next state into the tensordict: one step each, or a sequence in recurrent mode."""
        batch, rows = tensordict.shape, self._rows(tensordict.shape)
        x, state, is_init = self._read(tensordict, rows)
        if self.recurrent_mode:
            if len(batch) == 1:
                _refuse_unmarked_joins(tensordict, is_init[0])
            start = self.core.initial_state(rows[0]) if state is None else state[:, 0]
            features, states, _ = self.core.unroll(x, start, is_init, state)
            after = cast("Tensor", states)  # None only if not asked for
            after = after.to(torch.promote_types(after.dtype, torch.float32))
        else:
            features, after = self.core.step(x, self.core.initial_state(*rows) if state is None else state, is_init)
        features_key, state_key = self.out_keys_source
        tensordict.set(features_key, features.reshape(*batch, *features.shape[len(rows) :]))
        tensordict.set(state_key, after.reshape(*batch, *after.shape[len(rows) :]))
        return tensordict

    def _rows(self, batch: torch.Size) -> tuple[int, ...]:
        """[B, T] in recurrent mode, else [B]: the batch as the core takes it."""
        if not self.recurrent_mode:
            return (batch.numel(),)
        if not batch:
            raise ValueError(
                "in recurrent mode the last batch dimension is time, got a tensordict without batch dimensions; add one "
                "with td.unsqueeze(0), or leave recurrent mode for a single step"
            )
        return (batch[:-1].numel(), batch[-1])

    def _read(self, tensordict: TensorDictBase, rows: tuple[int, ...]) -> tuple[Tensor, Tensor | None, Tensor]:
        """Value [*rows, input_size], state [*rows, layers, S] or None if it is missing, and is_init [*rows]."""
        (value_key, _, init_key), core, batch = self.in_keys, self.core, tensordict.shape
        x, state, is_init = (tensordict.get(key, None) for key in self.in_keys)
        if x is None:
            raise KeyError(
                f"there is no {value_key!r} to read; the tensordict has {sorted(map(str, tensordict.keys()))}"
            )
        if is_init is None:
            raise KeyError(
                f"there is no {init_key!r}, which marks the first step of an episode; append torchrl.envs.InitTracker() "
                "to the env, or set it to zeros of dtype torch.bool"
            )
        if x.shape != (*batch, core.input_size):
            raise ValueError(
                f"{value_key!r} must be [*batch, input_size], here {[*batch, core.input_size]}, got {list(x.shape)}; "
                "build the module with the input_size of what it reads, and make observations vectors first"
            )
        if is_init.numel() != batch.numel():
            raise ValueError(
                f"{init_key!r} must be one flag per step, {list(batch)} or {[*batch, 1]}, got {list(is_init.shape)}; "
                "reduce it with is_init.any(-1, keepdim=True)"
            )
        if state is not None:
            if state.shape != (*batch, core.num_layers, core.state_size) or not state.is_floating_point():
                self._refuse_state(state, batch)
            state = state.to(torch.promote_types(state.dtype, core.initial_state(0).dtype))  # a replay may store halves
            state = state.reshape(*rows, *state.shape[-2:])
        return x.reshape(*rows, core.input_size), state, is_init.bool().reshape(rows)

    def _refuse_state(self, state: Tensor, batch: torch.Size) -> NoReturn:
        core = self.core
        raise ValueError(
            f"{self.in_keys[1]!r} must be floats [*batch, layers, S], here {[*batch, core.num_layers, core.state_size]} "
            f"for core {core.spec!r}, got {state.dtype} {list(state.shape)}; states stored by another core cannot be "
            "carried on: rebuild the core they came from, or drop them from the data and collect anew"
        )

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """Return the transform that makes an env carry the state, zeros at every reset.

        Raises RuntimeError if the next state is not written under ("next", state key).
        """
        state, after = (key if isinstance(key, tuple) else (key,) for key in (self.in_keys[1], self.out_keys_source[1]))
        if after != ("next", *state):
            raise RuntimeError(
                f"an env carries the state from ('next', key) to key, got in_keys={self.in_keys} and "
                f"out_keys={self.out_keys_source}; name the next state {('next', *state)}"
            )
        like = self.core.initial_state(0)
        return TensorDictPrimer({state: Unbounded(shape=like.shape[1:], dtype=like.dtype)}, expand_specs=True)

    @property
    def canonical_keys(self) -> list[NestedKey]:
        """Keys whose layout in memory matters here: all that are read and written."""
        return [*self.in_keys, *self.out_keys_source]

    def canonicalize(self, data: TensorDictBase, *, inplace: bool = False) -> TensorDictBase:
        """Return data with those of its tensors in row-major layout that this module reads or writes."""
        found = [key for key in self.canonical_keys if key in data.keys(include_nested=True)]
        out = data if inplace else data.copy()
        return out.update(data.select(*found).contiguous(canonical=True)) if found else out

    @property
    def recurrent_mode(self) -> bool:
        """True if a call is a sequence; set by `torchrl.modules.set_recurrent_mode`, else by the constructor."""
        mode = recurrent_mode()
        return bool(self._recurrent_mode if mode is None else mode)

    @recurrent_mode.setter
    def recurrent_mode(self, value: bool) -> None:
        raise RuntimeError(
            f"recurrent_mode is read only, got {value!r}; call inside torchrl.modules.set_recurrent_mode({bool(value)}), "
            "or give default_recurrent_mode when building the module"
        )

    @property
    def temporal_mode(self) -> NoReturn:
        """Removed from torchrl's modules; raises RuntimeError."""
        raise RuntimeError("temporal_mode was removed from torchrl's modules in 0.8; read recurrent_mode")

    def set_recurrent_mode(self, mode: bool = True) -> NoReturn:
        """Removed from torchrl's modules; raises RuntimeError."""
        raise RuntimeError(
            f"set_recurrent_mode as a method was removed from torchrl's modules in 0.8, got {mode!r}; use the context "
            "manager torchrl.modules.set_recurrent_mode, or default_recurrent_mode when building the module"
        )

    def make_python_based(self) -> MemoryModule:
        """Return self: a core has one implementation, which torch.compile and vmap take as it is."""
        return self

    def make_cudnn_based(self) -> MemoryModule:
        """Return self, as `make_python_based` does."""
        return self


def _refuse_unmarked_joins(data: TensorDictBase, is_init: Tensor) -> None:
    """Raise ValueError if flat data [T] goes from one trajectory to another at a step where is_init is False.

    Says nothing if the data has no trajectory ids, or if values cannot be looked at.
    """
    ids = data.get(TRAJECTORY, None)
    unreadable = (
        torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or (is_init.is_cuda and torch.cuda.is_current_stream_capturing())
    )
    if ids is None or unreadable:
        return
    ids = ids.reshape(len(is_init), -1)
    joins = (ids[1:] != ids[:-1]).any(-1) & ~is_init[1:].to(ids.device)
    if joins.any():
        at = int(joins.nonzero()[0]) + 1
        raise ValueError(
            f"a flat sample of slices needs {IS_INIT!r} at every slice start, got a sample that goes from trajectory "
            f"{ids[at - 1].tolist()} to {ids[at].tolist()} at step {at} without it, so that one would run on with the "
            "state of the other; draw it from a TensorDictReplayBuffer, which unlike ReplayBuffer keeps SliceSampler's "
            "marks, or give mru_rl.torchrl.replay.to_windows(sample, slice_len)"
        )


def _check_own_sizes(core: MemoryCore, options: dict[str, Any], **sizes: int | None) -> None:
    """Raise ValueError if sizes given beside a core are not its own, or options are given, which come too late."""
    other = [f"{name}={size}" for name, size in sizes.items() if size not in (None, getattr(core, name))]
    other += [f"{name}={value!r}" for name, value in options.items()]
    if other:
        own = ", ".join(f"{name}={getattr(core, name)}" for name in sizes)
        raise ValueError(
            f"the MemoryCore that was given has {own}, got {', '.join(other)}; leave those out, or give its spec "
            f"{core.spec!r} instead of the core to build another"
        )
