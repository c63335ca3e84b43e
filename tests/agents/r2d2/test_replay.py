from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from mru_rl.agents.r2d2.replay import SequenceReplay, bytes_per_sequence


def items(numbers: list[float], width: int = 3) -> TensorDict:
    """A sequence per number, filled with it."""
    column = torch.tensor(numbers)[:, None, None].expand(-1, 4, width)
    return TensorDict({"observation": column.clone(), "next": {"reward": column[..., 0].clone()}}, [len(numbers)])


def make_replay(capacity: int = 8, seed: int = 0, folder: Path | None = None, **changes) -> SequenceReplay:
    exponents = {"priority_exponent": 0.9, "importance_exponent": 0.6} | changes
    return SequenceReplay(capacity, generator=torch.Generator().manual_seed(seed), folder=folder, **exponents)


def contents(replay: SequenceReplay) -> list[float]:
    return sorted(replay.column("observation")[:, 0, 0].tolist())


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_newest_sequences_are_kept(tmp_path, on_disk):
    replay = make_replay(5, folder=tmp_path / "replay" if on_disk else None)
    replay.extend(items([1.0, 2.0, 3.0]))
    replay.extend(items([4.0, 5.0, 6.0, 7.0]))
    assert len(replay) == 5
    assert contents(replay) == [3, 4, 5, 6, 7]
    replay.extend(items([float(n) for n in range(10, 22)]))  # more than it holds
    assert contents(replay) == [17, 18, 19, 20, 21]
    assert any(tmp_path.rglob("*.memmap")) == on_disk


def test_sequences_are_drawn_in_proportion_to_a_power_of_their_priority():
    replay = make_replay(4)
    replay.extend(items([0.0, 1.0, 2.0]))
    replay.update_priority(torch.tensor([0, 1, 2]), torch.tensor([1.0, 2.0, 4.0]))
    drawn, slots, weight = replay.sample(60_000)
    assert torch.equal(drawn["observation"][:, 0, 0], slots.float())
    share = torch.bincount(slots, minlength=3) / len(slots)
    expected = torch.tensor([1.0, 2.0, 4.0]) ** 0.9
    expected = expected / expected.sum()
    torch.testing.assert_close(share, expected, atol=0.01, rtol=0)
    torch.testing.assert_close(weight, (expected[slots] / expected[0]) ** -0.6)


def test_a_new_sequence_has_the_greatest_priority_seen_and_one_of_none_is_not_drawn():
    replay = make_replay(4)
    replay.extend(items([0.0, 1.0]))
    replay.update_priority(torch.tensor([0, 1]), torch.tensor([0.0, 9.0]))
    assert (replay.sample(100)[1] == 1).all()
    replay.extend(items([2.0]))
    share = (replay.sample(10_000)[1] == 2).float().mean()
    assert 0.45 < share < 0.55


def test_a_loaded_replay_goes_on_as_the_saved_one():
    replay, other = make_replay(seed=3), make_replay(seed=99)
    replay.extend(items([float(n) for n in range(11)]))  # wrapped around
    replay.update_priority(torch.arange(8), torch.arange(8) + 0.5)
    replay.sample(5)
    other.load_state_dict(replay.state_dict(), items([0.0]))
    for _ in range(3):
        for mine, its in zip(replay.sample(16), other.sample(16), strict=True):
            assert (mine == its).all()
        replay.extend(items([50.0, 51.0, 52.0]))
        other.extend(items([50.0, 51.0, 52.0]))
        replay.update_priority(torch.tensor([1]), torch.tensor([20.0]))
        other.update_priority(torch.tensor([1]), torch.tensor([20.0]))


def test_an_empty_replay_can_be_saved():
    other = make_replay()
    other.load_state_dict(make_replay().state_dict(), items([0.0]))
    assert len(other) == 0


def test_a_replay_of_other_shapes_or_size_is_refused_and_both_sides_are_named():
    replay = make_replay()
    replay.extend(items([1.0, 2.0]))
    saved = replay.state_dict()
    with pytest.raises(ValueError, match=r"observation of .* is float32 \[4, 5\] in this run and float32 \[4, 3\]"):
        make_replay().load_state_dict(saved, items([0.0], width=5))
    with pytest.raises(ValueError, match="replay keeps 9 sequences, the saved one kept 8"):
        make_replay(9).load_state_dict(saved, items([0.0]))


def test_bytes_are_those_of_the_tensors():
    assert bytes_per_sequence(items([1.0, 2.0])) == 4 * 3 * 4 + 4 * 4
