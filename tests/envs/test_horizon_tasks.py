"""What each long-horizon task shows and pays, against its docstring, by plain Python."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats

from mru_rl.envs import make
from mru_rl.envs.horizon.contamination import normal
from mru_rl.envs.horizon.event_count import steps_at


def episodes(task: str, rows: int, **options):
    """One episode in every row: the env, all obs [B, T, D] and the function that pays."""
    env = make(f"mru_rl/{task}-v0", rows, **options)
    env.reset()
    stretch = env.unroll(env.horizon)
    assert stretch.ended
    return env, stretch


def uniform(numbers: torch.Tensor, count: int) -> bool:
    """Whether whole numbers look uniform on 0..count-1; seeded, so it does not change from run to run."""
    return count == 1 or stats.chisquare(torch.bincount(numbers.flatten(), minlength=count).numpy()).pvalue > 0.001


# RecallFirst


@pytest.mark.parametrize("ask", ["end", "always"])
def test_recall_first_marks_the_first_symbol_and_the_question_and_shows_a_symbol_at_every_step(ask):
    env, stretch = episodes("RecallFirst", 400, length=9, symbols=3, ask=ask)
    symbol, cue, question = stretch.obs.split([3, 1, 1], dim=2)
    assert env.horizon == stretch.obs.shape[1] == 10
    assert symbol.sum(2).eq(1).all()
    assert cue.squeeze(2).nonzero()[:, 1].eq(0).all()
    assert cue.sum() == 400
    assert question.squeeze(2).eq(torch.arange(10) == 9).all() if ask == "end" else question.eq(1).all()
    assert torch.equal(question.squeeze(2) == 1, stretch.asked)
    numbers = symbol.argmax(2)
    assert all(uniform(numbers[:, t], 3) for t in range(10))
    assert uniform(3 * numbers[:, 0] + numbers[:, 9], 9)  # the last tells nothing about the first
    first = numbers[:, :1].expand(-1, 10)
    share = 1.0 if ask == "end" else 1 / 10
    torch.testing.assert_close(stretch.pay(first).sum(1), torch.ones(400))
    torch.testing.assert_close(stretch.pay((first + 1) % 3)[:, -1], torch.full((400,), -share))


def test_every_symbol_is_inside_its_alphabet_for_the_largest_number_a_generator_gives():
    largest = torch.tensor(1 - 2**-24)
    for count in range(2, 2000):
        assert (largest * count).long() < count


# Contamination


def test_contamination_without_a_burst_plays_the_episodes_of_recall_first():
    for _, clean in zip(range(2), [{}, {"burst": 0, "scale": 3.0}], strict=True):
        (_, plain), (_, other) = (
            episodes("RecallFirst", 50, length=9, seed=3),
            episodes("Contamination", 50, length=9, seed=3, **clean),
        )
        assert torch.equal(plain.obs, other.obs)


@pytest.mark.parametrize(("length", "burst", "first"), [(10, 3, 4), (10, 4, 3), (10, 9, 1), (2, 1, 1)])
def test_contamination_replaces_every_channel_in_the_middle_by_normal_noise_and_nothing_else(length, burst, first):
    _, stretch = episodes("Contamination", 300, length=length, burst=burst, scale=5.0)
    assert 1 <= first <= first + burst - 1 < length
    inside = torch.zeros(length + 1, dtype=torch.bool)
    inside[first : first + burst] = True
    clean, noise = stretch.obs[:, ~inside], stretch.obs[:, inside]
    assert ((clean == 0) | (clean == 1)).all()
    assert clean[:, :, :4].sum(2).eq(1).all()
    assert clean[:, 0, 4].eq(1).all()
    assert clean[:, -1, 5].eq(1).all()
    assert stats.kstest(noise.flatten().numpy(), stats.norm(0, 5).cdf).pvalue > 0.001
    assert noise.unique().numel() > 0.99 * noise.numel()


def test_normal_numbers_are_finite_at_both_ends_and_symmetric():
    ends = normal(torch.tensor([0.0, 1 - 2**-24, 0.5 - 2**-24, 0.5]))
    assert ends.isfinite().all()
    assert ends[0] == -ends[1] < -5
    assert ends[2] == -ends[3]


# DelayedRecall


@pytest.mark.parametrize("numbered", [True, False])
def test_delayed_recall_shows_every_symbol_once_in_its_window_and_asks_in_order(numbered):
    env, stretch = episodes("DelayedRecall", 300, bits=6, symbols=4, delay=5, window=4, numbered=numbered, noise=0.5)
    assert env.horizon == 3 * 4 + 5 + 3
    symbol, cue, question, slot, noise = stretch.obs.split([4, 1, 1, 3 if numbered else 0, 1], dim=2)
    cue, question = cue.squeeze(2) == 1, question.squeeze(2) == 1
    assert torch.equal(symbol.sum(2) == 1, cue)
    assert cue[:, 12:].eq(False).all()
    windows = cue[:, :12].view(300, 3, 4)
    assert windows.sum(2).eq(1).all()
    assert uniform(windows.long().argmax(2), 4)
    assert question.eq(torch.arange(20) >= 17).all()
    assert torch.equal(question, stretch.asked)
    numbers = symbol.argmax(2)[cue].view(300, 3)
    assert uniform(numbers @ torch.tensor([16, 4, 1]), 64)
    if numbered:
        assert torch.equal(slot.sum(2) == 1, cue | question)
        assert slot.argmax(2)[cue].view(300, 3).eq(torch.arange(3)).all()
        assert slot.argmax(2)[question].view(300, 3).eq(torch.arange(3)).all()
    assert noise.abs().max() <= 0.5
    answers = torch.zeros(300, 20, dtype=torch.int64)
    answers[:, 17:] = numbers
    torch.testing.assert_close(stretch.pay(answers).sum(1), torch.ones(300))
    answers[:, 18] = (answers[:, 18] + 1) % 4
    torch.testing.assert_close(stretch.pay(answers).sum(1), torch.full((300,), 1 / 3))
    assert (stretch.pay(answers).sum(1) < env.success_return).all()  # one mistake is no success


# KeyDoor


@pytest.mark.parametrize("length", [1, 8, 9])
def test_key_door_has_one_key_in_the_first_half_among_things_of_all_colors(length):
    env, stretch = episodes("KeyDoor", 2000, length=length, colors=3, things=0.4)
    colour, thing, key, door = stretch.obs.split([3, 1, 1, 1], dim=2)
    thing, key, door = (flag.squeeze(2) == 1 for flag in (thing, key, door))
    assert key.sum(1).eq(1).all()
    assert uniform(key.long().argmax(1), (length + 1) // 2)
    assert not key[:, (length + 1) // 2 :].any()
    assert not (thing & key).any()
    assert torch.equal(colour.sum(2) == 1, thing | key)
    assert door.eq(torch.arange(length + 1) == length).all()
    assert not thing[:, length].any()
    assert uniform(colour.argmax(2)[key], 3)
    if length > 1:
        free = ~key[:, :length]
        assert stats.binomtest(int(thing.sum()), int(free.sum()), 0.4).pvalue > 0.001
        assert uniform(colour.argmax(2)[thing], 3)
    right = colour.argmax(2)[key][:, None].expand(-1, length + 1)
    assert stretch.pay(right).sum(1).eq(1).all()
    assert stretch.pay((right + 1) % 3).sum(1).eq(-1).all()
    assert env.reset().shape == (2000, 6)


# FlipFlop


def test_flip_flop_asks_for_what_the_last_pulse_of_each_bit_left():
    env, stretch = episodes("FlipFlop", 400, bits=2, hold=4, length=30, noise=0.3)
    pulse, noise = stretch.obs.split([2, 1], dim=2)
    assert pulse[:, 0].abs().eq(1).all()
    later = pulse[:, 1:]
    assert stats.binomtest(int(later.abs().sum()), later.numel(), 1 / 4).pvalue > 0.001
    assert stats.binomtest(int((pulse == 1).sum()), int(pulse.abs().sum()), 1 / 2).pvalue > 0.001
    assert noise.abs().max() <= 0.3
    bits = torch.zeros(400, 30, 2, dtype=torch.int64)
    held = torch.zeros(400, 2)
    for t in range(30):
        held = torch.where(pulse[:, t] != 0, pulse[:, t], held)
        bits[:, t] = (held == 1).long()
    torch.testing.assert_close(stretch.pay(bits), torch.full((400, 30), 1 / 30))
    torch.testing.assert_close(stretch.pay(1 - bits), torch.full((400, 30), -1 / 30))
    half = torch.stack((bits[..., 0], 1 - bits[..., 1]), dim=2)
    assert stretch.pay(half).eq(0).all()
    assert env.perfect_return == 1.0


# EventCount


def test_event_count_asks_for_the_pulses_so_far_this_one_included():
    _, stretch = episodes("EventCount", 400, modulus=3, gap=4, length=30, noise=0.3)
    pulse, noise = stretch.obs.unbind(2)
    assert stats.binomtest(int(pulse.sum()), pulse.numel(), 1 / 4).pvalue > 0.001
    assert noise.abs().max() <= 0.3
    count = torch.zeros(400, 30, dtype=torch.int64)
    for t in range(30):
        count[:, t] = (count[:, t - 1] if t else 0) + pulse[:, t].long()
    count %= 3
    torch.testing.assert_close(stretch.pay(count), torch.full((400, 30), 1 / 30))
    torch.testing.assert_close(stretch.pay((count + 1) % 3), torch.full((400, 30), -1 / 30))


@pytest.mark.parametrize(("modulus", "gap", "length"), [(2, 3.0, 2), (3, 4.0, 8), (4, 1.0, 9), (5, 2.0, 10)])
def test_memoryless_return_of_event_count_is_the_best_over_all_policies_and_all_pulse_sequences(modulus, gap, length):
    env = make("mru_rl/EventCount-v0", 1, modulus=modulus, gap=gap, length=length)
    chance = 1 / gap
    right = torch.zeros(2, modulus, dtype=torch.float64)  # mean number of steps with this pulse and this count
    for pulses in itertools.product((0, 1), repeat=length):
        weight, count = 1.0, 0
        for pulse in pulses:
            weight *= chance if pulse else 1 - chance
        for pulse in pulses:
            count = (count + pulse) % modulus
            right[pulse, count] += weight
    best = 2 * right.amax(1).sum().item() / length - 1  # for each of both obs the answer that is right most often
    assert env.memoryless_return == pytest.approx(best, abs=1e-12)


def test_event_count_without_memory_tends_to_guessing_in_long_episodes():
    for modulus in (2, 4):
        share = steps_at(0.1, modulus, 10**6) / 10**6
        assert share.sum() == pytest.approx(1)
        assert share == pytest.approx(1 / modulus, abs=1e-4)


# bad options


@pytest.mark.parametrize(
    ("task", "options", "error", "message"),
    [
        ("TMaze", {"rewards": "gold"}, ValueError, "option rewards must be one of turn, bakker, memory-rl, got 'gold'"),
        ("ActiveTMaze", {"back": -1}, ValueError, "ActiveTMaze's option back must be at least 0, got -1"),
        (
            "ActiveTMaze",
            {"noise": -1},
            ValueError,
            "ActiveTMaze's option noise must be a number from 0 to 1e.30, got -1",
        ),
        ("RecallFirst", {"length": 0}, ValueError, "RecallFirst's option length must be at least 1, got 0"),
        ("RecallFirst", {"symbols": 1}, ValueError, "RecallFirst's option symbols must be at least 2, got 1"),
        ("RecallFirst", {"ask": "never"}, ValueError, "option ask must be one of end, always, got 'never'"),
        ("Contamination", {"length": 0}, ValueError, "Contamination's option length must be at least 1, got 0"),
        ("Contamination", {"length": 9, "burst": 9}, ValueError, "at most length - 1 = 8 steps, got 9; make the burst"),
        ("Contamination", {"burst": -1}, ValueError, "Contamination's option burst must be at least 0, got -1"),
        ("Contamination", {"scale": float("inf")}, ValueError, "option scale must be a number >= 0, got inf"),
        ("DelayedRecall", {"bits": 3}, ValueError, "got bits=3 and symbols=4; try bits=4 and symbols=4"),
        ("DelayedRecall", {"symbols": 3}, ValueError, "symbols must be a power of two .* got bits=4 and symbols=3"),
        ("DelayedRecall", {"numbered": 1}, TypeError, "option numbered must be True or False, got 1"),
        ("DelayedRecall", {"delay": -1}, ValueError, "DelayedRecall's option delay must be at least 0, got -1"),
        ("DelayedRecall", {"window": 0}, ValueError, "DelayedRecall's option window must be at least 1, got 0"),
        (
            "KeyDoor",
            {"things": 1.5},
            ValueError,
            r"option things must be a number from 0 to 1, got 1\.5; it is a chance",
        ),
        ("KeyDoor", {"colors": 1}, ValueError, "KeyDoor's option colors must be at least 2, got 1"),
        (
            "FlipFlop",
            {"hold": 1},
            ValueError,
            "FlipFlop's option hold must be a number from 2 to 131072, got 1; it is the mean",
        ),
        ("FlipFlop", {"length": 1}, ValueError, "FlipFlop's option length must be at least 2, got 1"),
        ("EventCount", {"length": 1}, ValueError, "EventCount's option length must be at least 2, got 1"),
        ("FlipFlop", {"bits": 0}, ValueError, "FlipFlop's option bits must be at least 1, got 0"),
        ("FlipFlop", {"hold": 1e6}, ValueError, r"FlipFlop's option hold .* got 1000000\.0; .* and no rarer"),
        (
            "EventCount",
            {"gap": 0.5},
            ValueError,
            r"EventCount's option gap must be a number from 1 to 131072, got 0\.5",
        ),
        ("TMaze", {"pixels": 1}, TypeError, "TMaze's option pixels must be True or False, got 1"),
        (
            "KeyDoor",
            {"colors": 65, "pixels": True},
            ValueError,
            "KeyDoor's option colors is at most 64 with pixels=True, .* got 65; take fewer, or pixels=False",
        ),
        (
            "Contamination",
            {"symbols": 99, "pixels": True},
            ValueError,
            "Contamination's option symbols is at most 64 with pixels=True, .* got 99",
        ),
        ("EventCount", {"modulus": True}, TypeError, "EventCount's option modulus must be a whole number, got True"),
    ],
)
def test_bad_options_are_refused(task, options, error, message):
    with pytest.raises(error, match=message):
        make(f"mru_rl/{task}-v0", 2, **options)
