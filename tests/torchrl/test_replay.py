"""From acting over storing and slicing to replaying: the states of acting come back, step for step."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    PrioritizedSliceSampler,
    ReplayBuffer,
    Sequence,
    SliceSampler,
    TensorDictReplayBuffer,
)
from torchrl.envs.transforms import BurnInTransform
from torchrl.modules import set_recurrent_mode

from mru_rl.torchrl.replay import to_windows

STATE, NEXT_STATE = "recurrent_state", ("next", "recurrent_state")
SLICES = {"slice_len": 4, "traj_key": ("collector", "traj_ids")}
SPECS = ["bmru", "bmru,gru", "lru+carry-bmru"]


def replay(memory, data: TensorDict) -> TensorDict:
    """What the memory makes of inputs and stored states, in recurrent mode; data stays as it is."""
    with torch.no_grad(), set_recurrent_mode(True):
        return memory(data.select(*memory.in_keys).clone())


def assert_is_acting(replayed: TensorDict, acted: TensorDict, where: torch.Tensor | slice = slice(None)) -> None:
    assert acted[NEXT_STATE].abs().sum() > 0
    for key in ("features", NEXT_STATE):
        torch.testing.assert_close(replayed[key][where], acted[key][where], atol=1e-5, rtol=1e-5)


def buffer_of(data: TensorDict, **arguments) -> TensorDictReplayBuffer:
    buffer = TensorDictReplayBuffer(**({"storage": LazyTensorStorage(data.numel())} | arguments))
    buffer.extend(data.reshape(-1))
    return buffer


@pytest.mark.parametrize("spec", SPECS)
def test_a_rollout_replayed_gives_the_states_of_acting(spec, make_memory, make_actor, collect):
    memory = make_memory(spec)
    data = collect(make_actor(memory))
    assert data["is_init"].squeeze(-1).sum(1).tolist() == [5, 5, 5]
    assert_is_acting(replay(memory, data), data)


@pytest.mark.parametrize("storage", [LazyTensorStorage, LazyMemmapStorage])
@pytest.mark.parametrize("spec", SPECS)
def test_slices_of_a_replay_start_from_the_stored_state_flat_and_in_rows(
    spec, storage, make_memory, make_actor, collect
):
    memory = make_memory(spec)
    data = collect(make_actor(memory))
    buffer = buffer_of(data, storage=storage(data.numel()), sampler=SliceSampler(**SLICES), batch_size=32)
    sample = buffer.sample()
    rows = sample.reshape(8, 4)
    middle = (rows[STATE][:, 0].flatten(1) != 0).any(-1)
    assert middle.any()  # slices that begin in the middle of an episode
    assert rows["is_init"][:, 0].all()
    assert_is_acting(replay(memory, sample), sample)
    assert_is_acting(replay(memory, rows), rows)


def plain_sample(data: TensorDict) -> TensorDict:
    """8 slices of 4 steps from a plain ReplayBuffer, flat."""
    buffer = ReplayBuffer(storage=LazyTensorStorage(data.numel()), sampler=SliceSampler(**SLICES), batch_size=32)
    buffer.extend(data.reshape(-1))
    buffer.set_rng(torch.Generator().manual_seed(0))
    return buffer.sample()


def test_flat_slices_of_a_plain_replay_buffer_leak_and_are_refused(make_memory, make_actor, collect):
    memory = make_memory()
    sample = plain_sample(collect(make_actor(memory)))
    rows = to_windows(sample, 4)
    starts = rows["is_init"][:, 0].squeeze(-1)
    assert not starts.all()  # the trap: the sampler's marks stand in what return_info gives, not in the sample
    assert_is_acting(replay(memory, rows), rows)
    leaked = (replay(memory, sample)["features"].reshape(8, 4, -1) - rows["features"]).abs()
    assert leaked.max() > 0.1
    message = (
        r"needs 'is_init' at every slice start, got .* from trajectory \[\d+\] to \[\d+\] at step \d+ .*to_windows"
    )
    with set_recurrent_mode(True), pytest.raises(ValueError, match=message):
        memory(sample.clone())
    with set_recurrent_mode(True):
        memory(rows.clone())


def test_data_whose_trajectories_begin_with_a_mark_is_never_refused(make_memory, make_actor, collect):
    memory = make_memory()
    data = collect(make_actor(memory))
    sampler = SliceSampler(slice_len=7, traj_key=("collector", "traj_ids"), strict_length=False)
    samples = [buffer_of(data, sampler=sampler, batch_size=28).sample() for _ in range(20)]
    with set_recurrent_mode(True), torch.no_grad():
        for flat in (*samples, *data.unbind(0), data[0, 7:]):
            assert_is_acting(memory(flat.clone()), flat)


def test_trajectories_are_not_looked_at_where_values_cannot_be(make_memory, make_actor, collect):
    memory = make_memory()
    sample = plain_sample(collect(make_actor(memory))).select(*memory.in_keys, ("collector", "traj_ids"))
    both = torch.stack([sample, sample])
    with set_recurrent_mode(True), torch.no_grad():
        out = torch.vmap(lambda data: memory(data)["features"])(both)
        compiled = torch.compile(lambda data: memory(data)["features"], backend="eager", fullgraph=True)(sample.clone())
    assert torch.equal(out[0], out[1])
    torch.testing.assert_close(compiled, out[0])


def test_slices_shorter_than_asked_for_are_replayed_flat(make_memory, make_actor, collect):
    memory = make_memory()
    data = collect(make_actor(memory))
    sampler = SliceSampler(slice_len=7, traj_key=("collector", "traj_ids"), strict_length=False)
    sample = buffer_of(data, sampler=sampler, batch_size=28).sample()
    assert len(sample) < 28
    assert_is_acting(replay(memory, sample), sample)


def test_a_replay_of_another_width_is_refused_with_the_way_out(make_memory, make_actor, collect):
    data = collect(make_actor(make_memory("bmru")))
    sample = buffer_of(data, sampler=SliceSampler(**SLICES), batch_size=8).sample()
    with pytest.raises(
        ValueError,
        match=r"\[8, 1, 20\] for core 'bmru', got torch.float32 \[8, 1, 8\]; .*rebuild the core they came from",
    ):
        replay(make_memory("bmru", state_size=20), sample)


# prioritized slices


@pytest.fixture
def prioritized_sample(segment_trees, make_memory, make_actor, collect):
    """A memory and a flat sample of PrioritizedSliceSampler of its acting, 8 slices of 4 steps."""
    memory = make_memory()
    data = collect(make_actor(memory))
    sampler = PrioritizedSliceSampler(data.numel(), alpha=0.7, beta=0.5, **SLICES)
    buffer = buffer_of(data, sampler=sampler, batch_size=32)
    buffer.set_rng(torch.Generator().manual_seed(0))  # numpy's global one otherwise
    return memory, buffer.sample()


def test_prioritized_slices_leak_when_flat_and_do_not_in_rows(prioritized_sample):
    memory, sample = prioritized_sample
    rows = to_windows(sample, 4)
    starts = rows["is_init"][:, 0].squeeze(-1)
    assert not starts.all()  # the trap: unlike SliceSampler, it marks no slice starts
    assert_is_acting(replay(memory, rows), rows)
    flat = replay(memory, sample).reshape(8, 4)
    starts[0] = True  # the first slice has nothing before it
    assert_is_acting(flat, rows, starts)
    leaked = (flat[NEXT_STATE] - rows[NEXT_STATE]).abs().flatten(1).amax(1)
    assert (leaked[~starts] > 1e-3).all()


# sample units


@pytest.mark.parametrize("boundary", ["pad", "stop", "include_reset"])
def test_sequences_replay_the_states_of_acting_wherever_they_are_valid(boundary, make_memory, make_actor, collect):
    memory = make_memory()
    data = collect(make_actor(memory), rows=1, steps=40)[0, 7:]  # the oldest record is within an episode
    unit = Sequence(length=3, burn_in=2, bootstrap=1, episode_boundary=boundary)
    buffer = buffer_of(data, sample_unit=unit, batch_size=200)
    flat = buffer.sample()
    sample = to_windows(flat, 6)
    valid = sample["validity_mask"]
    assert valid.shape == sample.shape
    assert not valid.all()
    assert_is_acting(replay(memory, sample), sample, valid)
    bare = replay(memory, flat.reshape(-1, 6))
    twice = (bare[NEXT_STATE] - sample[NEXT_STATE]).abs().flatten(2).amax(2) > 1e-3
    assert (twice & valid).any()  # the oldest record, padded on the left, moves a memory twice
    assert torch.equal(flat["is_init"], buffer[flat["index"]]["is_init"])


def test_windows_need_a_flat_sample_of_whole_windows_with_flags():
    sample = TensorDict({"is_init": torch.zeros(12, 1, dtype=torch.bool)}, [12])
    for wrong, length in ((sample, 5), (sample.reshape(3, 4), 4), (sample, 0)):
        with pytest.raises(ValueError, match=r"whole windows of \d steps is needed, got .*slice_len"):
            to_windows(wrong, length)
    with pytest.raises(ValueError, match=r"restarts by 'is_init', got .*InitTracker"):
        to_windows(TensorDict({"x": torch.zeros(12)}, [12]), 4)


# burn-in


def test_burn_in_hands_the_rest_the_state_that_single_steps_reach(make_memory, make_actor, collect, play):
    memory = make_memory(default_recurrent_mode=True)
    with set_recurrent_mode(False):
        data = collect(make_actor(memory), rows=6, steps=10)
    learner = make_memory(default_recurrent_mode=True)  # has learned since: what is stored is stale
    buffer = ReplayBuffer(storage=LazyTensorStorage(6), batch_size=4, transform=BurnInTransform([learner], burn_in=7))
    buffer.extend(data.select(*memory.in_keys))
    torch.manual_seed(1)
    sample = buffer.sample()
    assert sample.shape == (4, 3)
    torch.manual_seed(1)
    buffer.transform[0].burn_in = 0
    whole = buffer.sample()
    with torch.no_grad(), set_recurrent_mode(False):
        want = play(learner, whole)
    torch.testing.assert_close(sample[STATE][:, 0], want[NEXT_STATE][:, 6], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(sample[STATE][:, 0], whole[STATE][:, 7], atol=1e-2)
    torch.testing.assert_close(replay(learner, sample)["features"], want["features"][:, 7:], atol=1e-5, rtol=1e-5)


def test_burn_in_that_ends_with_an_episode_hands_its_state_to_the_next_one(make_memory, make_actor, collect):
    memory = make_memory()
    data = collect(make_actor(memory), rows=2, steps=10)
    with set_recurrent_mode(True):
        rest = BurnInTransform([memory], burn_in=5)(data.select(*memory.in_keys).clone())
    assert data["is_init"][:, 5].all()
    assert (data[STATE][:, 5] == 0).all()
    torch.testing.assert_close(rest[STATE][:, 0], data[NEXT_STATE][:, 4])  # the trap: torchrl looks at no flags
