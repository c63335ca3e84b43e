"""Samples of torchrl's replay buffers as windows that a memory can replay from stored states."""

from __future__ import annotations

from tensordict import TensorDictBase

from mru_rl.torchrl.keys import IS_INIT


def to_windows(sample: TensorDictBase, length: int) -> TensorDictBase:
    """A flat sample [n * length] as [n, length], with is_init where a window must start from the stored state.

    In recurrent mode the first step of a row always starts from the state stored there. That is all that samples without
    marked slice starts need, which flat would run on from slice to slice: those of a plain ReplayBuffer, and those of
    PrioritizedSliceSampler.

    sample_unit=Sequence repeats a record if an episode, or the buffer, ends before its window does. Stepped twice, a
    record before the first valid one would move the memory twice: if the sample has a "validity_mask", the first valid
    step of every window is marked too, even if it is not the first of its episode.

    Raises ValueError if the sample is not flat, not of whole windows, or without is_init.
    """
    if sample.ndim != 1 or length < 1 or sample.shape[0] % length:
        raise ValueError(
            f"a flat sample of whole windows of {length} steps is needed, got {list(sample.shape)}; give the sampler's "
            "slice_len (strict_length=True) or the sample unit's burn_in + length + bootstrap"
        )
    if sample.get(IS_INIT, None) is None:
        raise ValueError(
            f"a memory restarts by {IS_INIT!r}, got {sorted(map(str, sample.keys()))}; append "
            "torchrl.envs.InitTracker() to the env that fills the buffer"
        )
    windows = sample.reshape(-1, length)
    valid = windows.get("validity_mask", None)
    if valid is None:
        return windows
    valid = valid.reshape(windows.shape)
    first = valid.clone()
    first[:, 1:] &= ~valid[:, :-1]
    return windows.set(IS_INIT, windows[IS_INIT] | first.reshape(windows[IS_INIT].shape))
