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


class Large(SequenceReplay):
    """Takes all of its capacity at once."""

    def _reserve(self, slots: int) -> None:
        super()._reserve(self.capacity)


def use(replay: SequenceReplay, rounds: int, seed: int) -> list[torch.Tensor]:
    """Insert, draw and set priorities; all that was drawn."""
    generator = torch.Generator().manual_seed(seed)
    seen = []
    for n in range(rounds):
        replay.extend(items([float(seed * 1000 + n * 10 + k) for k in range(n % 4)]))
        if len(replay):
            drawn, slots, weight = replay.sample(6)
            seen += [drawn["observation"], drawn["next", "reward"], slots, weight]
            replay.update_priority(slots, torch.rand(6, generator=generator) * 3)
    return seen


def assert_same(mine: list[torch.Tensor], its: list[torch.Tensor]) -> None:
    assert len(mine) == len(its) > 0
    assert all(torch.equal(a, b) for a, b in zip(mine, its, strict=True))


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("rounds", [30, 60])  # not full, and full and around
def test_growth_changes_no_draw(tmp_path, rounds, on_disk):
    kind = {"priority_exponent": 0.9, "importance_exponent": 0.6}
    large = Large(61, generator=torch.Generator().manual_seed(0), **kind)
    grown = make_replay(61, folder=tmp_path / "replay" if on_disk else None)
    assert_same(use(grown, rounds, 5), use(large, rounds, 5))
    assert grown.sampler.greatest == large.sampler.greatest > 2
    assert torch.equal(grown.sampler.priority, large.sampler.priority)


def test_memory_is_taken_as_replay_fills():
    replay = make_replay(1000)
    taken = []
    for n in range(100):
        replay.extend(items([float(n)] * 10))
        taken.append(len(replay._buffer.storage._storage))
    assert taken[0] == 15
    assert sorted(set(taken)) == [15, 31, 62, 125, 250, 500, 1000]
    assert all(room >= 10 * (n + 1) for n, room in enumerate(taken))


def test_a_disk_holds_what_replay_has_filled_and_no_more(tmp_path):
    replay = make_replay(4000, folder=tmp_path / "replay")
    sequences = items([1.0] * 200, width=500)
    for count in (200, 400, 600):
        replay.extend(sequences)
        path = next((tmp_path / "replay").rglob("observation.memmap"))
        held, each = path.stat().st_blocks * 512, 4 * 500 * 4
        assert count * each <= held < (2 * count + 100) * each
    assert path.stat().st_size == 4000 * each


@pytest.mark.parametrize("rounds", [8, 10, 20, 40])  # part full, nearly, wrapped around
@pytest.mark.parametrize("larger", [17, 64])
def test_a_larger_replay_goes_on_with_a_saved_one(rounds, larger):
    small, large = make_replay(16), make_replay(larger)
    use(small, rounds, 1)
    large.load_state_dict(small.state_dict(), items([0.0]))
    held = small.column("observation")[:, 0, 0]
    if len(small) < 16:
        assert torch.equal(large.column("observation")[:, 0, 0], held)
        assert torch.equal(large.sampler.priority[:16], small.sampler.priority)
    assert large.column("observation")[:, 0, 0].tolist() == sorted(held.tolist()), "the oldest first"
    both = [
        dict(zip(r.column("observation")[:, 0, 0].tolist(), r.sampler.priority.tolist(), strict=False))
        for r in (small, large)
    ]
    assert both[0] == both[1]
    assert large.sampler.greatest == small.sampler.greatest
    large.extend(items([-1.0] * (larger - len(small) + 1)))
    assert large.column("observation")[:, 0, 0].tolist()[:2] == [-1.0, sorted(held.tolist())[1]], "the oldest goes"


def test_a_saved_part_of_replay_is_neither_copied_nor_larger_than_what_it_holds():
    replay = make_replay(64)
    replay.extend(items([float(n) for n in range(20)]))
    saved = replay.state_dict()["sequences"]["observation"]
    assert saved.data_ptr() == replay.column("observation").data_ptr()
    assert saved.untyped_storage().nbytes() == saved.numel() * 4


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
    with pytest.raises(ValueError, match="replay keeps 1 sequences, the saved one holds 2"):
        make_replay(1).load_state_dict(saved, items([0.0]))


def test_bytes_are_those_of_the_tensors():
    assert bytes_per_sequence(items([1.0, 2.0])) == 4 * 3 * 4 + 4 * 4
